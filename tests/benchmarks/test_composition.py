"""A language delta and a task delta, on tiny models and generated sentences."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model

from benchmarks import toy
from benchmarks.composition.__main__ import main
from benchmarks.composition.language import Language, masked_loss
from benchmarks.composition.measure import Settings, overlap, tagger_of
from benchmarks.composition.sentences import COMMON, LABELS, LANGUAGES, load_source, load_target, mapped
from benchmarks.settings import SettingsError, read_json
from peft_fishdip.tasks import NerExample, Span, spans_to_tags

from . import tiny

OF_TOY = {"Peop": "PER", "Org": "ORG", "Loc": "LOC"}
ARMS = ("task", "sum", "other")


def of_conll04(example, number):
    """A sentence in the format of CoNLL04: BILOU tags."""
    tags = ["O"] * len(example.tokens)
    for span in example.spans:
        last = span.end - 1
        inner = {span.start: "B", last: "L"} if span.start < last else {last: "U"}
        for place in range(span.start, span.end):
            tags[place] = f"{inner.get(place, 'I')}-{span.label}"
    return {"tokens": [*example.tokens], "tags": tags, "relations": [], "orig_id": number}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder whose tokenizer knows a mask, and data sets."""
    root = tmp_path_factory.mktemp("composition")
    words = tiny.tokenizer()
    words.add_special_tokens({"mask_token": "<mask>"})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    tiny.saved(root / "base", lambda size: tiny.bert(size, **sizes), words)
    for number, part in enumerate(("train", "dev")):
        path = root / "conll04" / f"conll04_{part}.json"
        path.parent.mkdir(exist_ok=True)
        content = [of_conll04(example, i) for i, example in enumerate(toy.sentences(20, number))]
        path.write_text(json.dumps(content), encoding="utf-8")
        for seed, language in enumerate(LANGUAGES):
            lines = []
            for example in toy.sentences(20, 10 * seed + number):
                spans = [Span(span.start, span.end, OF_TOY[span.label]) for span in example.spans]
                lines.append(zip(example.tokens, spans_to_tags(spans, len(example.tokens)), strict=True))
            path = root / "masakhaner" / language / f"{part}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n\n".join("\n".join(map(" ".join, x)) for x in lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def options(folder, tmp_path):
    """Of a measurement with two steps for each delta."""
    numbers = {"num-train": 8, "num-raw": 8, "num-validation": 6, "task-steps": 2, "language-steps": 2}
    more = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    common = ["measure", "--data", str(folder), "--model", str(folder / "base"), "--output", str(tmp_path / "runs")]
    return [*common, *more, "--density", "0.2", "--seeds", "0"]


def test_runs_are_made_once_and_reported(options, tmp_path, capsys):
    assert main([*options, "--languages", "hau", "swa"]) == 0
    output = tmp_path / "runs"
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    names = {str(path.relative_to(output)) for path in files if path.suffix == ".json" and path.stem.endswith("-0")}
    deltas = {f"adapters/{name}-seed-0.json" for name in ("task", "hau", "swa", "yor")}
    assert names == {"hau/seed-0.json", "swa/seed-0.json", *deltas}
    run = read_json(output / "hau" / "seed-0.json")
    assert set(run["f1"]) == set(ARMS)
    assert all(0 <= f1 <= 1 for f1 in run["f1"].values())
    assert 0 < run["overlap"] < 1
    assert run["other_language"] == "swa"
    assert read_json(output / "adapters" / "hau-seed-0.json")["loss"] > 0

    (output / "hau" / "seed-0.json").unlink()
    capsys.readouterr()
    assert main([*options, "--languages", "hau", "swa"]) == 0
    assert capsys.readouterr().err.count("F1") == 1
    again = read_json(output / "hau" / "seed-0.json")
    assert {key: again[key] for key in ("f1", "overlap")} == {key: run[key] for key in ("f1", "overlap")}
    kept = [path for path in files if path != output / "hau" / "seed-0.json"]
    assert all(path.read_bytes() == files[path] for path in kept)

    assert main([*options, "--languages", "hau", "--task-steps", "3"]) == 2
    assert "was made with other settings" in capsys.readouterr().err

    assert main(["report", "--output", str(output), "--to", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert text.count("\n| Hausa ") == 4
    assert "--task-steps 2" in text
    assert str(tmp_path) not in text
    assert len(read_json(tmp_path / "report" / "results.json")["runs"]) == 2


def test_a_report_needs_a_seed_of_each_language(tmp_path, capsys):
    assert main(["report", "--output", str(tmp_path), "--to", str(tmp_path / "report")]) == 2
    assert "no seed has a run of each language yet" in capsys.readouterr().err


def test_labels_are_those_that_all_data_sets_have(folder):
    sentences = load_source("conll04-ner", folder, 8, 24, 6, seed=0)
    assert {span.label for example in sentences.train for span in example.spans} == set(LABELS)
    assert sentences.tags == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    example = NerExample(("Mira", "left", "Oslo", "today"), (Span(0, 1, "Peop"), Span(3, 4, "Other")))
    assert mapped([example], COMMON["conll04-ner"])[0].spans == (Span(0, 1, "PER"),)
    target = load_target("yor", folder, 8, 6, 4, seed=1)
    assert (len(target.raw), len(target.validation), len(target.held_out)) == (8, 6, 4)
    assert target.held_out == [[*example.tokens] for example in target.validation[:4]]
    assert load_target("yor", folder, 8, 6, 4, seed=2).raw != target.raw
    with pytest.raises(SettingsError, match="'hau' has 20 training sentences; 21 are needed"):
        load_target("hau", folder, 21, 6, 4, seed=0)


def test_the_loss_of_masked_tokens_is_that_of_the_whole_model(folder):
    lm = Language(str(folder / "base"), 32)
    model = get_peft_model(lm.base, Settings("base", density=0.2).adapter_config(lm.base, 0)).eval()
    batch = lm.collator(3)(lm.features([example.tokens for example in toy.sentences(5, 0)]))
    with torch.no_grad():
        torch.testing.assert_close(masked_loss(model, batch), model(**batch).loss)


def test_a_language_delta_is_of_the_encoder_alone_and_fits_the_tagger(folder, tmp_path):
    lm, own = Language(str(folder / "base"), 32), Settings("base", density=0.2, num_samples=4)
    before = {name: parameter.detach().clone() for name, parameter in lm.base.named_parameters()}
    raw = [[*example.tokens] for example in toy.sentences(8, 0)]
    model = lm.trained(raw, own.adapter_config(lm.base, 0), own.params(3), seed=0)
    delta = model.base_model.delta()
    assert all(name.startswith("bert.") for name in delta)
    assert any(values.any() for _, values in delta.values())
    found = {name.replace(".base_layer", ""): parameter for name, parameter in lm.base.named_parameters()}
    for name, values in before.items():
        moved = not torch.equal(found[name].detach(), values)
        assert moved == (name.startswith("cls.predictions.") and "decoder.weight" not in name), name
    model.save_pretrained(str(tmp_path))
    tagger = tagger_of(str(folder / "base"), load_source("conll04-ner", folder, 8, 24, 6, seed=0))
    loaded = PeftModel.from_pretrained(tagger.model, str(tmp_path))
    for name, (places, values) in loaded.base_model.delta().items():
        assert torch.equal(places, delta[name][0])
        assert torch.equal(values, delta[name][1])


def test_the_overlap_is_a_share_of_the_smaller_mask():
    mask = {"a": torch.tensor([1, 4, 6]), "b": torch.tensor([0])}
    other = {"a": torch.tensor([4, 5]), "b": torch.tensor([0])}
    assert overlap(mask, other) == pytest.approx(2 / 3)
    assert overlap(mask, mask) == 1


def test_a_model_without_masks_and_one_that_is_missing_are_named(options, tmp_path, capsys):
    tiny.saved(tmp_path / "plain", tiny.bert, tiny.tokenizer())
    with pytest.raises(SettingsError, match="its tokenizer has no mask token"):
        Language(str(tmp_path / "plain"), 32)
    place = options.index("--model") + 1
    assert main([*options[:place], str(tmp_path / "none"), *options[place + 1 :]]) == 2
    assert f"--model '{tmp_path / 'none'}'" in capsys.readouterr().err
