"""Every example of README.md and docs/ runs as it is printed; links, command lines and figures are checked too."""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
import yaml
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch.distributed.run import get_args_parser
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import peft_fishdip
from peft_fishdip.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
CHECKED = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]
MAX_LINES, MAX_WORDS = 150, 1200
REPORT = ROOT / "benchmarks" / "reports" / "study" / "report.md"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    """Number of the line before its first line."""
    code: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[Block]:
    text = text_of(page)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(match[1], text.count("\n", 0, match.start(2)), match[2]) for match in found]
    return [block for block in every if block.language == language]


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command line, without comments and assignments of environment variables."""
    for block in blocks(page, "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                yield words


def tokenizer_of_bytes() -> PreTrainedTokenizerFast:
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "</s>", *sorted(ByteLevel.alphabet())])}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


@pytest.fixture(scope="module")
def folder_of_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models in folders that are named as those on the Hub, which from_pretrained prefers to the Hub."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 384, "pad_token_id": 0, "eos_token_id": 1}
    t5 = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, **sizes)
    bert = BertConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **sizes)
    generating = T5ForConditionalGeneration(t5)
    generating.generation_config.max_length = 24
    qwen = Qwen3Config(
        hidden_size=16, head_dim=8, intermediate_size=32, num_hidden_layers=2, num_key_value_heads=2, **sizes
    )
    models = {
        "google-t5/t5-base": (generating, ByT5Tokenizer()),
        "google-bert/bert-base-uncased": (BertForSequenceClassification(bert), ByT5Tokenizer()),
        "FacebookAI/roberta-base": (BertModel(bert), tokenizer_of_bytes()),
        "Qwen/Qwen3-0.6B": (Qwen3ForCausalLM(qwen), tokenizer_of_bytes()),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    data = folder / "path" / "to" / "data" / "wnut17"
    data.mkdir(parents=True)
    (data / "train.conll").write_text("Ann\tB-person\nleft\tO\n\n", encoding="utf-8")
    return folder


@pytest.fixture
def reader(folder_of_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of somebody who tries a page."""
    shutil.copytree(folder_of_models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.filterwarnings(r"ignore:.*\(output_cut\):UserWarning")  # random models do not end their texts
def test_python_blocks_run_in_order(page: str, reader: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        assert not any(getattr(node, "value", None) is ... for node in ast.walk(ast.parse(block.code)))
        exec(compile("\n" * block.line + block.code, str(ROOT / page), "exec"), namespace)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "FacebookAI/roberta-base"])
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.filterwarnings(r"ignore:.*\(output_cut\):UserWarning")
def test_the_example_of_the_readme_needs_no_more_than_another_name(name: str, reader: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = "\n".join(block.code for block in blocks("README.md", "python"))
    exec(code.replace('name = "google-t5/t5-base"', f'name = "{name}"'), namespace)
    assert namespace["name"] == name
    assert namespace["result"].text_spans is not None


def test_peft_does_not_know_the_method_before_the_import(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "FISHDIP"}', encoding="utf-8")
    code = """
from peft import PeftConfig
try:
    PeftConfig.from_pretrained(".")
except KeyError as error:
    print(error)
import peft_fishdip
print(type(PeftConfig.from_pretrained(".")).__name__)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["'FISHDIP'", "FishDipConfig"]


class Parsed(BaseException):
    """The command line was accepted."""


def run_until_parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a module as `python -m` does, up to the point where its argument parser has accepted the arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse_args(self, *args, **kwargs)
        raise Parsed

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy warns of modules that other tests have imported
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises((Parsed, SystemExit)) as stopped:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert stopped.type is Parsed or stopped.value.code == 0, f"{module} {arguments} is refused"


@pytest.mark.parametrize("page", CHECKED)
def test_command_lines_are_accepted(page: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(page):
        match words:
            case ["python", "-m", module, *arguments]:
                run_until_parsed(module, arguments, monkeypatch)
            case ["fishdip", verb, *arguments]:
                command: Any = typer.main.get_command(app)
                arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
                command.commands[verb].make_context(verb, arguments)  # which parses them
            case ["torchrun", *arguments]:
                script = get_args_parser().parse_args(arguments).training_script
                assert f"`{script}`" in text_of(page), f"{page} does not say what {script} holds"
            case ["make", *targets]:
                assert all(re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE) for target in targets)
            case ["pip", "install", *what]:
                extras = set(re.findall(r"[\w-]+", " ".join(re.findall(r"\.\[(.+)\]", " ".join(what)))))
                assert extras <= set(importlib.metadata.metadata("peft-fishdip").get_all("Provides-Extra", []))
            case _:
                pytest.fail(f"{page}: no check is known for the command {shlex.join(words)}")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", CHECKED)
def test_links_lead_somewhere(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short(page: str) -> None:
    assert len(text_of(page).splitlines()) <= MAX_LINES
    assert page != "README.md" or len(text_of(page).split()) <= MAX_WORDS


def test_readme_links_to_every_page() -> None:
    assert all(f"]({page})" in text_of("README.md") for page in PAGES[1:])


def cells(line: str) -> list[str]:
    return [cell.strip(" *").replace("\\", "") for cell in line.strip().strip("|").split("|")]


def table_after(report: str, caption: str) -> dict[str, dict[str, str]]:
    """The first table after a caption, by the first cell of its rows and by column."""
    lines = [cells(line) for line in report.partition(caption)[2].lstrip().split("\n\n")[0].splitlines()]
    return {row[0]: dict(zip(lines[0], row, strict=True)) for row in lines[2:]}


def test_results_in_readme_are_those_of_the_report() -> None:
    section = text_of("README.md").partition("## Results")[2].partition("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| ")][1:]
    report = REPORT.read_text(encoding="utf-8")
    fewer, cell = (f"minilm, {count} sentences (3 data sets)" for count in (16, 64))
    scores = table_after(report, "**Entity F1 on test sentences**")
    costs = table_after(report.partition("## Losses and costs")[2], f"**{cell}**")
    of = {name: float(row[cell].split()[0]) for name, row in scores.items() if row[cell] != "–"}
    names = [row[0] for row in rows]
    assert names == sorted(names, key=lambda name: -of[name])
    assert names[0] == max(of, key=of.__getitem__)
    for name, few, score, difference, loss, entries, size in rows:
        assert few == scores[name][fewer].split()[0]
        assert scores[name][cell] == (f"{score} ({difference})" if difference else score)
        assert loss == costs[name]["test loss"]
        assert float(entries.removesuffix(" %")) == pytest.approx(float(costs[name]["entries, %"]), rel=0.03)
        assert size == f"{costs[name]['MiB on disk']} MiB"
    pairs = table_after(report, "**The same optimizer, or as many changed entries**")
    ours = "Fish-Dip 5 % (SparseAdafactor) minus"
    named = [f"Fish-Dip 1 % minus {mask} mask 2 %" for mask in ("fixed Fisher", "random")]
    named += [f"{ours} LoRA r8 (Adafactor)", f"{ours} random mask 10 % (SparseAdafactor) at 1e-2"]
    assert all(pairs[name][cell].partition(", not")[0] in " ".join(section.split()) for name in named)


def test_ratios_of_speed_are_those_of_the_reports() -> None:
    rows = re.findall(r"^\| \[.+\]\(\.\./(.+)\) \| (\S+) \| (\S+) \|$", text_of("docs/comparison.md"), re.MULTILINE)
    assert len(rows) == 2
    for report, to_lora, to_full in rows:
        for other, ratio in (("lora", to_lora), ("full", to_full)):
            assert re.search(rf"^\| step, uniform mask, to {other} .*\| {ratio} \(", text_of(report), re.MULTILINE)


@pytest.mark.slow
def test_figure_can_be_drawn(tmp_path: Path) -> None:
    figure = tmp_path / "mask.svg"
    command = [sys.executable, "-m", "docs.mask_figure", "--steps", "1", "--to", str(figure)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert "after 1 steps" in figure.read_text(encoding="utf-8")


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == peft_fishdip.__version__
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert f"## [{peft_fishdip.__version__}]" in text_of("CHANGELOG.md")
    paper = citation["preferred-citation"]
    assert paper["doi"] == "10.18653/v1/2023.emnlp-main.433"
    assert len(paper["authors"]) == 5
    assert all(author["family-names"] and author["given-names"] for author in paper["authors"])
