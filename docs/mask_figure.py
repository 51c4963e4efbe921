"""Draws docs/mask.svg: the share of each matrix that the first and the last mask of a training run make trainable.

Run `python -m docs.mask_figure` in the repository; it takes about a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

from benchmarks import toy
from peft_fishdip import FishDipConfig, SparseAdafactor
from peft_fishdip.tasks import NerTask, to_features

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MODEL = Path(__file__).parents[1] / "benchmarks" / "nano"
LABELS = {"Peop": "person", "Org": "organization", "Loc": "location"}
MATRICES = [f"{part}.{matrix}" for part in ("SelfAttention", "EncDecAttention") for matrix in "qkvo"]
MATRICES += ["DenseReluDense.wi", "DenseReluDense.wo"]


def train(steps: int, interval: int) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """The mask after each update, and the size of each tensor."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    base = AutoModelForSeq2SeqLM.from_pretrained(MODEL, dtype=torch.float32)
    sizes = {name: parameter.numel() for name, parameter in base.named_parameters()}
    dataset = to_features(NerTask(LABELS), tokenizer, toy.sentences(96, seed=1))
    collator = DataCollatorForSeq2Seq(tokenizer)
    model = get_peft_model(base, FishDipConfig(task_type="SEQ_2_SEQ_LM", density=0.01, delta_scale="rms"))
    optimizer = SparseAdafactor(model, lr=0.1)
    masks = []
    model.train()
    for step in range(steps + 1):
        if step % interval == 0 or step == steps:
            model.base_model.update_mask(dataset, data_collator=collator, optimizer=optimizer, step=step)
            masks.append(model.base_model.mask())
        if step == steps:
            break
        chosen = torch.randint(len(dataset), (8,)).tolist()
        model(**collator([dataset[i] for i in chosen])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return masks, sizes


def shares(mask: Mapping[str, Tensor], sizes: Mapping[str, int]) -> tuple[Tensor, list[str]]:
    """Percentage of each matrix that is trainable, (matrices, layers), and the names of the layers."""
    found = {name: re.fullmatch(r"((?:en|de)coder)\.block\.(\d+)\.layer\.\d\.(.+)\.weight", name) for name in mask}
    layers = sorted({(match[1] == "decoder", int(match[2])) for match in found.values() if match})
    result = torch.full((len(MATRICES), len(layers)), torch.nan)
    for name, match in found.items():
        if match and match[3] in MATRICES:
            column = layers.index((match[1] == "decoder", int(match[2])))
            result[MATRICES.index(match[3]), column] = 100 * len(mask[name]) / sizes[name]
    return result, [f"{'decoder' if decoder else 'encoder'} {number}" for decoder, number in layers]


def draw(masks: list[dict[str, Tensor]], sizes: Mapping[str, int], steps: int, path: Path) -> None:
    plt.rcParams |= {"svg.hashsalt": "mask", "svg.fonttype": "none", "font.size": 9}
    first, columns = shares(masks[0], sizes)
    last, _ = shares(masks[-1], sizes)
    highest = torch.stack([first, last]).nan_to_num().max().item()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
    for ax, values, title in zip(axes, (first, last), ("before training", f"after {steps} steps"), strict=True):
        image = ax.imshow(values, cmap="viridis", vmin=0, vmax=highest)
        ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        ax.set_title(f"mask {title}")
    axes[0].set_yticks(range(len(MATRICES)), MATRICES)
    figure.colorbar(image, ax=axes, label="trainable entries, %")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws where the first and the last mask of a training run lie.")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps")
    parser.add_argument("--interval", type=int, default=50, help="steps between two masks")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("mask.svg"), help="SVG file to write")
    options = parser.parse_args()
    masks, sizes = train(options.steps, options.interval)
    draw(masks, sizes, options.steps, options.to)


if __name__ == "__main__":
    main()
