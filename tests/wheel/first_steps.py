"""What a newcomer does with the installed package, outside of any checkout: `make test-wheel` runs this.

    python -I first_steps.py MODEL EXAMPLES

Nothing but the package and its dependencies may be installed, so that a module that needs more does not import.
"""

import argparse
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import AutoPeftModelForSeq2SeqLM, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Trainer, TrainingArguments

import peft_fishdip
from peft_fishdip import FishDipConfig

SENTENCES = ("Ann Lee left Oslo for Acme Ltd.", "Northwind opens an office in Turku.", "Bo Dahl works for Acme Ltd.")


def check_files() -> None:
    """The installed package is tested, and it is whole."""
    folder = Path(peft_fishdip.__file__).parent
    assert "site-packages" in folder.parts, f"{folder} is not the installed package"
    assert (folder / "py.typed").is_file()
    for module in pkgutil.walk_packages(peft_fishdip.__path__, "peft_fishdip."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def check_tuner(model: Path, output: Path) -> None:
    """Train with transformers' Trainer, save, load, merge, and undo."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForSeq2SeqLM.from_pretrained(model)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    rows = [{**tokenizer(text), "labels": tokenizer(text)["input_ids"]} for text in SENTENCES]
    tuned = get_peft_model(base, FishDipConfig(task_type="SEQ_2_SEQ_LM"))
    settings = TrainingArguments(
        output_dir=str(output / "trainer"),
        max_steps=4,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(tuned, settings, train_dataset=rows).train()
    tuned.eval().save_pretrained(output / "adapter")
    batch = {name: torch.tensor([row]) for name, row in rows[0].items()}
    with torch.no_grad():
        expected = tuned(**batch).logits
        loaded = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(model), output / "adapter").eval()
        assert torch.equal(loaded(**batch).logits, expected)
        assert torch.equal(
            AutoPeftModelForSeq2SeqLM.from_pretrained(output / "adapter").eval()(**batch).logits, expected
        )
        assert torch.equal(loaded.merge_and_unload()(**batch).logits, expected)
    restored = tuned.unload().state_dict()
    assert restored.keys() == before.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in before.items())


def check_commands(model: Path, examples: Path, output: Path) -> None:
    """The command line, from a user's file to predictions."""
    adapter, program = str(output / "entities"), str(Path(sys.executable).with_name("fishdip"))
    texts = output / "texts.txt"
    texts.write_text("\n".join(SENTENCES), encoding="utf-8")
    steps = ["train", str(examples), "--model", str(model), "--output", adapter, "--steps", "4"]
    for command in (steps, ["predict", adapter, str(texts), "--lines", "--output", str(output / "found.jsonl")]):
        subprocess.run([program, *command], check=True, cwd=output)
    assert len((output / "found.jsonl").read_text(encoding="utf-8").splitlines()) == len(SENTENCES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("examples", type=Path)
    options = parser.parse_args()
    model, examples = options.model.resolve(), options.examples.resolve()
    check_files()
    with tempfile.TemporaryDirectory() as folder:
        check_tuner(model, Path(folder))
        check_commands(model, examples, Path(folder))
    print(f"peft_fishdip {peft_fishdip.__version__} works as it is installed.")


if __name__ == "__main__":
    main()
