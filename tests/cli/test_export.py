"""The verb export: what is written and said, and that nothing is half-written."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from peft_fishdip.cli.app import app

from ..export.saved import apply_patch, assert_same_bits, save_adapter, save_base, tensors_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base model, an adapter and the merged model, as the tuner makes it."""
    folder = tmp_path_factory.mktemp("place")
    model = save_adapter(folder / "adapter", save_base(folder / "base", "llama"), "llama")
    model.merge_and_unload().save_pretrained(folder / "expected")
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["export", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return run


def test_a_patch_and_its_inverse(run, place):
    result = run(place / "adapter", "out.safetensors", "--to", "vllm-patch", "--inverse", "back.safetensors")
    base, merged = tensors_of(place / "base"), tensors_of(place / "expected")
    changed = [name for name, tensor in merged.items() if (tensor != base[name]).any()]
    entries = sum(int((merged[name] != base[name]).sum()) for name in changed)
    assert result.stdout == f"saved in out.safetensors: {entries} changed entries in {len(changed)} tensors\n"
    assert result.stderr == ""
    assert sorted(os.listdir()) == ["back.safetensors", "out.safetensors"]
    assert_same_bits(apply_patch(base, "out.safetensors"), merged)
    assert_same_bits(apply_patch(merged, "back.safetensors"), base)


def test_a_merged_folder(run, place, tmp_path):
    os.rename(place / "base", place / "moved")
    try:
        run(place / "adapter", "out", "--to", "merged", "--model", place / "moved")
    finally:
        os.rename(place / "moved", place / "base")
    assert_same_bits(tensors_of(tmp_path / "out"), tensors_of(place / "expected"))


def test_a_folder_for_llama_cpp(run, place, tmp_path):
    result = run(place / "adapter", "out", "--to", "gguf-ready")
    assert result.stdout.splitlines()[1:] == ["with llama.cpp: python convert_hf_to_gguf.py out --outfile out.gguf"]
    assert_same_bits(tensors_of(tmp_path / "out"), tensors_of(place / "expected"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{adapter}", "out", "--to", "onnx"], "--to onnx: choose one of vllm-patch, merged, gguf-ready"),
        (["{adapter}", "out", "--to", "merged", "--inverse", "back"], "--inverse back: only a patch has an inverse"),
        (["{adapter}", "none/out", "--to", "merged"], "none/out: there is no folder none; create it first"),
        (["{adapter}", "{adapter}", "--to", "merged"], "exists; give another name"),
        (["{adapter}", "out", "--to", "merged", "--model", "./none"], "the base model './none' is no folder"),
        (["none", "out", "--to", "vllm-patch"], "none has no adapter_config.json; pass the folder"),
        (["{base}", "out", "--to", "vllm-patch"], "has no adapter_config.json; pass the folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, place, arguments, message):
    names = {name: str(place / name) for name in ("adapter", "base")}
    result = run(*(word.format(**names) for word in arguments), code=2)
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert os.listdir() == []
