"""Run an experiment of PEFT's own comparison of methods, on stub data and a CPU.

    .venv-integrations/bin/python -m tests.integrations.comparison PATH_OF_A_PEFT_CHECKOUT

`method_comparison/MetaMathQA/run.py` of https://github.com/huggingface/peft is no part of PEFT's packages. It is run as
it is, after `import peft_fishdip`, in a copy of its folder; data sets, the memory of an accelerator and the branch of
PEFT's checkout are stubs. Prints the result file, and fails if it lacks a field that PEFT's own result for LoRA has, if
the mask has not moved, if the code of PEFT's Gradio app does not make a row of a data frame of it, or if the runner
does not take the experiments in `benchmarks/metamathqa`.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import peft
import peft.utils
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_fishdip import FishDipConfig

RUNNER = Path("method_comparison", "MetaMathQA")
EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "metamathqa" / "experiments"
"""Of ours, in the layout of the runner."""
SPECIAL = ["<s>", "</s>", "<unk>"]
DIGITS = ["1", "2"]
"""With so few words, the loss of an untrained model is between 1 and 2, which the runner demands of its base."""


def save_model(folder: Path) -> None:
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(SPECIAL) + len(DIGITS), bos_token_id=0, eos_token_id=1, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *DIGITS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)


def save_experiment(folder: Path, model: Path) -> None:
    """The two files of an experiment."""
    FishDipConfig(task_type="CAUSAL_LM", density=0.05, update_interval=2).save_pretrained(folder)
    settings = {
        "model_id": str(model),
        "dtype": "float32",
        "max_seq_length": 64,
        "batch_size_eval": 5,
        "max_steps": 6,
        "eval_steps": 3,
        "optimizer_kwargs": {"lr": 1e-3, "weight_decay": 0.0},
        "generation_kwargs": {"max_length": 80, "max_new_tokens": 4},
    }
    (folder / "training_params.json").write_text(json.dumps(settings))


def sums(count: int) -> dict[str, list[str]]:
    """Questions and answers of one or two words each."""
    digits = [DIGITS[i * i % 3 % 2] for i in range(count)]
    questions = [" ".join(digits[: 1 + i % 7]) for i in range(count)]
    return {"query": questions, "response": [f"The answer is: {digit}" for digit in digits]}


class Streamed:
    def take(self, count: int) -> list[dict[str, str]]:
        return [{"text": text} for text in sums(8)["query"] if " " in text]


def load_dataset(name: str, *args: Any, **kwargs: Any) -> Any:
    """The three data sets of the runner, as stubs."""
    rows = sums(40)
    if name == "meta-math/MetaMathQA":
        others = {"type": rows["query"], "original_question": rows["query"]}
        return {"train": datasets.Dataset.from_dict({**rows, **others})}
    if name == "openai/gsm8k":
        few = {"question": rows["query"][:10], "answer": [f"#### {text[-1]}" for text in rows["response"][:10]]}
        return datasets.DatasetDict({part: datasets.Dataset.from_dict(few) for part in ("train", "test")})
    assert name == "HuggingFaceFW/finewiki"
    return Streamed()


def stub_machine() -> None:
    for name in ("reset_peak_memory_stats", "manual_seed_all", "empty_cache"):
        setattr(torch.cpu, name, lambda *_: None)
    for name in ("memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(torch.cpu, name, lambda *_: 2**20)
    torch.cpu.get_device_name = lambda *_: "CPU"  # type: ignore[attr-defined]
    datasets.load_dataset = load_dataset
    if sys.version_info < (3, 12):  # which the runner requires, for the option that is left out here
        whole = tempfile.TemporaryDirectory
        tempfile.TemporaryDirectory = lambda *args, delete=True, **kwargs: whole(*args, **kwargs)  # type: ignore


def run(checkout: Path, folder: Path) -> dict[str, Any]:
    """Run the experiment `fishdip/tiny`, and return what its result file says."""
    runner = folder / "runner"
    shutil.copytree(checkout / RUNNER, runner)
    save_model(folder / "model")
    save_experiment(runner / "experiments" / "fishdip" / "tiny", folder / "model")
    stub_machine()
    sys.path.insert(0, str(runner))
    peft.utils.infer_device = lambda: "cuda"  # which the runner demands
    utils: Any = import_module("utils")
    peft.utils.infer_device = utils.infer_device = lambda: "cpu"
    utils.device = "cpu"
    utils.get_peft_branch, utils.get_peft_worktree_is_dirty = lambda: "main", lambda: False
    sys.argv = ["run.py", "-v", "experiments/fishdip/tiny"]
    os.chdir(runner)
    runpy.run_path("run.py", run_name="__main__")
    os.chdir("/")
    result: dict[str, Any] = json.loads((runner / "results" / "fishdip--tiny.json").read_text())
    return result


def check_experiments(folder: Path) -> None:
    """Have the runner's own code take our experiments, in the copy of its folder that has run already."""
    utils: Any = import_module("utils")
    shutil.copytree(EXPERIMENTS, folder / "runner" / "experiments", dirs_exist_ok=True)
    os.chdir(folder / "runner")
    for experiment in sorted(path.name for path in (EXPERIMENTS / "fishdip").iterdir()):
        path = os.path.join("experiments", "fishdip", experiment)
        assert utils.validate_experiment_path(path) == f"fishdip/{experiment}"
        settings = utils.get_train_config(os.path.join(path, utils.FILE_NAME_TRAIN_PARAMS))
        assert (settings.model_id, settings.max_steps) == ("meta-llama/Llama-3.2-3B", 5000)  # those of all others
        assert isinstance(peft.PeftConfig.from_pretrained(path), FishDipConfig)
    os.chdir("/")


def check_app(checkout: Path, folder: Path, result: dict[str, Any]) -> None:
    """Have the code behind PEFT's Gradio app read our result beside all of PEFT's own."""
    shutil.copytree(checkout / RUNNER / "results", folder / "results")
    sys.path.insert(0, str(checkout / RUNNER.parent))
    processing: Any = import_module("processing")
    before = processing.load_df(str(folder / "results"), "MetaMathQA")
    (folder / "results" / "fishdip--tiny.json").write_text(json.dumps(result))
    skipped: list[str] = []
    frame = processing.load_df(str(folder / "results"), "MetaMathQA", print_fn=skipped.append)
    assert not skipped
    assert list(frame.columns) == list(before.columns)
    assert list(frame.dtypes) == list(before.dtypes)
    assert len(frame) == len(before) + 1
    [row] = frame[frame["peft_type"] == "FISHDIP"].to_dict("records")
    last = result["train_info"]["metrics"][-1]
    assert row["experiment_name"] == "fishdip/tiny"
    assert row["test_accuracy"] == last["test accuracy"]
    assert row["forgetting*"] == last["forgetting"]
    assert row["file_size"] == result["train_info"]["file_size"]
    model = result["run_info"]["train_config"]["model_id"]
    shown = processing.filter_data("MetaMathQA", model, frame)
    preferences = processing.get_metric_preferences("MetaMathQA")
    assert len(processing.compute_pareto_frontier(shown, "accelerator_memory_max", "test_accuracy", preferences)) == 1
    assert "fishdip/tiny" in processing.format_df(shown).to_html()


def fields(entry: Any, path: str = "") -> set[str]:
    """The paths of all fields of a result file, those of the adapter's own config left out."""
    if isinstance(entry, list):
        return set().union(*(fields(part, f"{path}[]") for part in entry))
    if not isinstance(entry, dict) or path == ".run_info.peft_config":
        return {path}
    return set().union({path}, *(fields(part, f"{path}.{name}") for name, part in entry.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a checkout of huggingface/peft")
    checkout = parser.parse_args().checkout.resolve()
    of_lora = json.loads((checkout / RUNNER / "results" / "lora--llama-3.2-3B-rank32.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        result = run(checkout, Path(temporary))
        check_experiments(Path(temporary))
        check_app(checkout, Path(temporary), result)
    print(json.dumps(result, indent=2))
    assert not fields(of_lora) - fields(result), fields(of_lora) - fields(result)
    assert result["train_info"]["status"] == "success"
    support = sum(result["run_info"]["peft_config"]["support_sizes"].values())
    assert support > result["train_info"]["num_trainable_params"]  # entries of several masks


if __name__ == "__main__":
    main()
