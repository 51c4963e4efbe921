"""Figures of a model, the folder that is shipped, and the command line from text to that folder."""

import json
import lzma
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from benchmarks.jobs import lock
from benchmarks.pretrain.__main__ import main
from benchmarks.pretrain.batches import Sentences, part
from benchmarks.pretrain.checkpoint import latest_checkpoint
from benchmarks.pretrain.corruption import SpanShape
from benchmarks.pretrain.evaluation import (
    HeldOut,
    chosen_sentences,
    exact_copies,
    seen,
    span_losses,
    span_parts,
    unigram_losses,
)
from benchmarks.pretrain.export import export
from benchmarks.pretrain.loop import run_record
from benchmarks.pretrain.model import new_model
from benchmarks.pretrain.shards import Split, make_shards, open_shards
from benchmarks.settings import SettingsError

from .tiny import lines, tiny_settings, write_text

SOURCES = "source\trepo\tcommit\tlicence\tbytes_in_corpus\na\tu/a\tab12\tCC0\t1200\nb\tu/b\tcd34\tCC BY 4.0\t7\n"
TINY = [
    *["--d-model", "32", "--d-kv", "8", "--d-ff", "64", "--num-layers", "1", "--batch-size", "8", "--length", "32"],
    *["--denoising-length", "48", "--max-tokens", "4000", "--checkpoint-every", "5", "--log-every", "2"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards, a run and its evaluation, all made by the command line."""
    folder = tmp_path_factory.mktemp("commands")
    train, heldout = write_text(folder)
    (folder / "SOURCES.tsv").write_text(SOURCES, encoding="utf-8")
    shards, run = ["--shards", str(folder / "shards")], ["--run", str(folder / "run")]
    tokenize = ["--text", str(train), "--heldout", str(heldout), "--output", str(folder / "shards")]
    assert main(["tokenize", *tokenize, "--vocab-size", "420", "--vocabulary-lines", "200"]) == 0
    assert main(["train", *shards, *run, *TINY, "--device", "cpu"]) == 0
    assert main(["evaluate", *shards, *run, "--copy-steps", "3", "--sentences", "12", "--device", "cpu"]) == 0
    return folder


def exported(place, output, *more):
    folders = ["--shards", place / "shards", "--run", place / "run", "--sources", place / "SOURCES.tsv"]
    return main(["export", *map(str, folders), "--output", str(output), *more])


def test_the_unigram_figures_by_hand():
    counts = np.array([0, 0, 0, 5, 1, 0])  # plus one: 6, 2, 1 of 9
    labels = np.array([[105, 3, 4, 104, 1], [105, 5, 3, 104, 1]])
    figures = unigram_losses(counts, [part(np.zeros((2, 3), dtype=int), labels)], SpanShape(5, 2, 1, 5, 5))
    text = -(2 * math.log(6 / 9) + math.log(2 / 9) + math.log(1 / 9))
    assert figures["text_loss"] == pytest.approx(text / 4 - math.log(2 / 5))
    # two of five targets are text, each other one is a fifth
    assert figures["loss"] == pytest.approx((text - 4 * math.log(2 / 5) + 6 * math.log(5)) / 10)


def test_span_losses_are_means_over_all_windows_and_leave_out_marks(place):
    shards = open_shards(place / "shards")
    settings = tiny_settings()
    parts = list(span_parts(shards.heldout, HeldOut(shards.heldout, settings, 520).shape, 520, 40))
    assert [len(x.labels) for x in parts] == [32, 8]
    model = new_model(settings, 520).eval()
    figures = span_losses(model, parts, 420)
    every, text = [], []
    for corrupted in parts:
        for source, target in zip(corrupted.input_ids, corrupted.labels, strict=True):
            with torch.no_grad():
                logits = model(input_ids=source[None], labels=target[None]).logits[0].double()
            for place_, token in enumerate(target.tolist()):
                loss = -torch.log_softmax(logits[place_], 0)[token].item()
                every.append(loss)
                if token < 420 and token != 1:
                    text.append(loss)
    assert figures["loss"] == pytest.approx(np.mean(every), rel=1e-5)
    assert figures["text_loss"] == pytest.approx(np.mean(text), rel=1e-5)


class Parrot(torch.nn.Module):
    """Writes its source again, but for sources that hold a certain token."""

    def __init__(self, spoilt):
        super().__init__()
        self.spoilt, self.one = spoilt, torch.nn.Parameter(torch.zeros(1))

    def generate(self, input_ids, attention_mask, generation_config):
        written = torch.nn.functional.pad(input_ids, (1, 0))
        bad = (input_ids == self.spoilt).any(dim=1)
        written[bad, 1] += 1
        return written


def test_exact_copies_counts_sentences_that_are_right_as_a_whole():
    tokens = np.arange(3, 83, dtype=np.uint16)
    ends = np.array([10, 20, 25, 40, 60, 63, 80], dtype=np.uint32)
    sentences = Sentences(Split("heldout", [tokens], [ends]), 16, 1, 0)
    chosen = chosen_sentences(sentences, 100)
    # the lengths are 10, 10, 5, 15, 20, 3, 17; with the end at most 16, and at least 4 without
    assert sorted(chosen.tolist()) == [0, 1, 2, 3]
    assert sentences.length[chosen].tolist() == sorted(sentences.length[chosen].tolist())
    assert exact_copies(Parrot(spoilt=2000), sentences, chosen) == 1.0
    assert exact_copies(Parrot(spoilt=3 + 22), sentences, chosen) == 0.75


def test_a_model_that_copies_is_told_from_one_that_does_not(place):
    """Copying with the true prefix: the share of argmax tokens that are right, counted by hand."""
    shards = open_shards(place / "shards")
    held = HeldOut(shards.heldout, tiny_settings(), 520, windows=32, sentences=5)
    model = new_model(tiny_settings(), 520)
    figure = held.scores(model, False)["copied_tokens"]
    right = count = 0
    for number in held.chosen.tolist():
        start, length = held.sentences.start[number], held.sentences.length[number]
        ids = [*shards.heldout.tokens[0][start : start + length].tolist(), 1]
        with torch.no_grad():
            best = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).logits[0].argmax(-1)
        right += sum(a == b for a, b in zip(best.tolist(), ids, strict=True))
        count += len(ids)
    assert figure == pytest.approx(right / count)


def test_the_evaluation_has_all_figures(place):
    figures = json.loads((place / "run" / "evaluation.json").read_text())
    for name in ("model", "random"):
        assert set(figures[name]) == {"loss", "text_loss", "exact_copies_before", "exact_copies_after"}
    assert figures["model"]["loss"] < figures["random"]["loss"]
    assert set(figures["unigram"]) == {"loss", "text_loss"}
    assert figures["sentences"] == 12
    assert len(figures["weights"]) == 64


def test_what_is_shipped_is_the_run_in_bfloat16(place, tmp_path):
    assert exported(place, tmp_path / "nano") == 0
    stored = load_file(tmp_path / "nano" / "model.safetensors")
    trained = load_file(latest_checkpoint(place / "run") / "model.safetensors")
    assert set(stored) == set(trained)
    assert all(torch.equal(stored[name], value.to(torch.bfloat16)) for name, value in trained.items())
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "nano", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "nano")
    assert model.config.dropout_rate == 0.1
    assert model.lm_head.weight is model.shared.weight
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 519
    written = model.generate(**tokenizer("Zoë was here.", return_tensors="pt"), max_new_tokens=3)
    assert written.shape[1] <= 4
    # the run's figures are those of what is exported
    output = tmp_path / "again.json"
    folders = ["--shards", place / "shards", "--run", place / "run", "--model", tmp_path / "nano", "--output", output]
    assert main(["evaluate", *map(str, folders), "--copy-steps", "0", "--sentences", "4"]) == 0
    before = json.loads((place / "run" / "evaluation.json").read_text())
    assert json.loads(output.read_text())["model"]["loss"] == before["model"]["loss"]


def test_the_commands_of_the_card_make_the_same_model(place, tmp_path, monkeypatch):
    assert exported(place, tmp_path / "nano", "--evaluation", str(place / "run" / "evaluation.json")) == 0
    card = (tmp_path / "nano" / "README.md").read_text(encoding="utf-8")
    commands = card.split("```bash\n")[1].split("\n```")[0].splitlines()
    assert [command.split()[3] for command in commands] == ["tokenize", "train", "evaluate", "export"]
    again = tmp_path / "again"
    write_text(again)
    (again / "SOURCES.tsv").write_text(SOURCES, encoding="utf-8")
    monkeypatch.chdir(again)
    for command in commands:
        assert main(command.split()[3:]) == 0
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / "nano" / name).read_bytes() == (tmp_path / "nano" / name).read_bytes()
    figures = [
        json.loads(path.read_text()) for path in (again / "run" / "evaluation.json", place / "run" / "evaluation.json")
    ]
    assert figures[0] == figures[1]


def test_the_card_has_the_figures_of_the_run(place, tmp_path):
    assert exported(place, tmp_path / "nano") == 0
    card = (tmp_path / "nano" / "README.md").read_text(encoding="utf-8")
    record = run_record(place / "run")
    figures = json.loads((place / "run" / "evaluation.json").read_text())
    assert f"{record['progress']['tokens']:,} tokens seen in {record['progress']['step']:,} steps" in card
    assert f"| this model | {figures['model']['loss']:.3f} |" in card
    assert f"| unigram | {figures['unigram']['loss']:.3f} |" in card
    assert "| b | u/b | cd34 | CC BY 4.0 | 7 |" in card
    assert "CC BY 4.0; CC0" in card
    assert "cannot do" in card
    assert "cpu" in card
    assert json.loads((tmp_path / "nano" / "pretraining.json").read_text())["settings"] == record["settings"]


def test_the_untrained_model_is_the_one_before_the_first_step(place, tmp_path):
    assert exported(place, tmp_path / "random", "--untrained") == 0
    settings = tiny_settings(**run_record(place / "run")["settings"])
    expected = new_model(settings, 520).shared.weight.to(torch.bfloat16)
    assert torch.equal(load_file(tmp_path / "random" / "model.safetensors")["shared.weight"], expected)
    card = (tmp_path / "random" / "README.md").read_text(encoding="utf-8")
    assert "**Not trained**" in card
    assert "tokens seen" not in card


def test_a_folder_that_is_too_large_is_not_written(place, tmp_path):
    shards = open_shards(place / "shards")
    options = {"sources": place / "SOURCES.tsv", "evaluation": None}
    size = export(place / "run", shards, tmp_path / "fits", **options)
    assert size == sum(path.stat().st_size for path in (tmp_path / "fits").iterdir())
    with pytest.raises(SettingsError, match=rf"together have \d+ bytes, more than {size - 500}"):
        export(place / "run", shards, tmp_path / "small", **options, max_bytes=size - 500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fits"]
    assert "Not measured" in (tmp_path / "fits" / "README.md").read_text()


def test_the_default_model_fits():
    """9.5 million parameters in bfloat16, with room for the tokenizer."""
    settings = tiny_settings(d_model=256, d_kv=64, d_ff=1024, num_layers=4)
    model = new_model(settings, 8292)
    count = sum(parameter.numel() for parameter in model.parameters())
    # embedding; self attention and feed-forward of 8 layers; cross attention of 4; norms; two relative biases
    by_hand = 8320 * 256 + 8 * (4 * 256**2 + 2 * 256 * 1024) + 4 * 4 * 256**2 + (4 * 2 + 4 * 3 + 2) * 256 + 2 * 32 * 4
    assert count == by_hand
    assert 2 * count < 20_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source\trepo\n", "names no source"),
        ("source\trepo\tcommit\tlicence\tbytes_in_corpus\na\tb\tc\t\t5\n", "line 2 has no licence"),
        ("source\trepo\tcommit\tlicence\tbytes_in_corpus\na\tb\tc\td\tmany\n", "bytes_in_corpus='many'"),
    ],
)
def test_odd_tables_of_sources_are_refused(place, tmp_path, capsys, text, message):
    (tmp_path / "odd.tsv").write_text(text)
    assert exported(place, tmp_path / "nano", "--sources", str(tmp_path / "odd.tsv")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "odd.tsv" in error
    assert not (tmp_path / "nano").exists()


def test_figures_of_other_weights_are_refused(place, tmp_path, capsys):
    """Of a run that differs in its seed alone."""
    folders = ["--shards", str(place / "shards"), "--run", str(tmp_path / "other")]
    assert main(["train", *folders, *TINY, "--seed", "1", "--device", "cpu"]) == 0
    assert main(["evaluate", *folders, "--copy-steps", "0", "--sentences", "4", "--device", "cpu"]) == 0
    assert exported(place, tmp_path / "nano", "--evaluation", str(tmp_path / "other" / "evaluation.json")) == 2
    assert "the figures of other weights" in capsys.readouterr().err
    assert not (tmp_path / "nano").exists()


def test_a_run_is_trained_by_one_process_at_a_time(place, tmp_path, capsys):
    command = ["train", "--shards", str(place / "shards"), "--run", str(tmp_path / "run"), *TINY, "--device", "cpu"]
    with lock(tmp_path / "run", "training"):
        assert main(command) == 2
    assert "is being trained by another process" in capsys.readouterr().err
    assert main(command) == 0


def test_an_unfinished_run_says_so_on_its_card(place, tmp_path):
    folders = ["--shards", str(place / "shards"), "--run", str(tmp_path / "run")]
    assert main(["train", *folders, *TINY, "--device", "cpu", "--stop-after-minutes", "0"]) == 0
    export(
        tmp_path / "run", open_shards(place / "shards"), tmp_path / "m", sources=place / "SOURCES.tsv", evaluation=None
    )
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert "**The run is not over**: 4,000 tokens were planned." in card


def test_held_out_sentences_that_stand_in_the_training_part_are_not_evaluated(tmp_path):
    """As part of another line, where leaving out whole lines does not find them."""
    train, heldout = write_text(tmp_path)
    sentence = lines(60, 2)[3].split(". ")[0].rstrip(".") + "."
    with lzma.open(train, "at", encoding="utf-8") as file:
        file.write(f"Something else was said before. {sentence}\n")
    made = make_shards(
        [train], [heldout], tmp_path / "s", vocab_size=420, vocabulary_lines=200, shard_tokens=6000, seed=0
    )
    assert made.meta["dropped_lines"] == 0
    known = seen(made.heldout, made.train)
    tokenizer = AutoTokenizer.from_pretrained(made.tokenizer_folder)
    tokens, ends = made.heldout.tokens[0], made.heldout.ends[0].astype(int)
    texts = [tokenizer.decode(tokens[a:b].tolist()) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    expected = [text == sentence for text in texts]
    assert known[0].tolist() == expected
    assert 0 < sum(expected) < len(expected)

    sentences = Sentences(made.heldout, 48, 1, 0)
    all_of_them, kept = chosen_sentences(sentences, 10**6), chosen_sentences(sentences, 10**6, known)
    assert set(all_of_them.tolist()) - set(kept.tolist()) == {i for i, bad in enumerate(expected) if bad}
    shape = HeldOut(made.heldout, tiny_settings(), 520).shape
    bad_tokens = {t for i, bad in enumerate(expected) if bad for t in range([0, *ends][i], ends[i])}
    windows = range(0, len(tokens) - shape.window + 1, shape.window)
    fine = [start for start in windows if not bad_tokens & set(range(start, start + shape.window))]
    assert 0 < len(fine) < len(windows)
    assert sum(len(x.labels) for x in span_parts(made.heldout, shape, 520, None, known)) == len(fine)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--shards", "{p}/shards", "--run", "{t}/r", "--batch-size", "0"], "batch_size=0"),
        (["train", "--shards", "{t}/none", "--run", "{t}/r"], "none holds no shards"),
        (["train", "--shards", "{p}/shards", "--run", "{t}/r", "--compile", "nonesuch"], "'nonesuch'"),
        (["train", "--shards", "{p}/shards", "--run", "{t}/r", "--device", "abacus"], "device 'abacus'"),
        (["train", "--shards", "{p}/shards", "--run", "{t}/r", "--stop-after-minutes", "-1"], "stop_after_minutes=-1"),
        (["evaluate", "--shards", "{p}/shards", "--run", "{t}/r"], "is no run"),
        (["evaluate", "--shards", "{p}/shards", "--run", "{p}/run", "--model", "{t}"], "name an --output"),
        (
            ["evaluate", "--shards", "{p}/shards", "--run", "{p}/run", "--model", "{t}", "--output", "{t}/e.json"],
            "neither a run nor a model",
        ),
        (["evaluate", "--shards", "{p}/shards", "--run", "{p}/run", "--output", "{t}/no/e.json"], "there is no folder"),
        (["evaluate", "--shards", "{p}/shards", "--run", "{p}/run", "--copy-rate", "nan"], "copy_rate=nan"),
        (["evaluate", "--shards", "{p}/shards", "--run", "{p}/run", "--sentences", "0"], "sentences=0 is too small"),
        (["tokenize", "--text", "{t}/x.txt", "--heldout", "{t}/x2.txt", "--output", "{t}/s"], "x2.txt cannot be read"),
    ],
)
def test_bad_input_is_one_line(place, tmp_path, capsys, arguments, message):
    filled = [argument.format(p=place, t=tmp_path) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
