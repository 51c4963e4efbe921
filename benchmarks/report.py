"""What the results of a comparison say, as a table and a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

HEADER = ("method", "seeds", "entity F1", "trainable", "share", "adapter", "training", "of it mask updates")


@dataclass
class Row:
    """The runs of one method on one data set."""

    task: str
    title: str
    results: list[dict[str, Any]]

    @property
    def successes(self) -> list[dict[str, Any]]:
        return [result for result in self.results if result["train_info"]["status"] == "success"]

    @property
    def f1(self) -> list[float]:
        return [100 * result["train_info"]["metrics"][-1]["test accuracy"] for result in self.successes]

    def cells(self) -> tuple[str, ...]:
        if not self.successes:
            return (self.title, "0", f"failed: {self.results[0]['run_info']['error_msg']}", "", "", "", "", "")
        info = self.successes[0]["train_info"]
        trainable, total = info["num_trainable_params"], info["num_total_params"]
        seconds = mean(result["train_info"]["train_time"] for result in self.successes)
        updates = mean(result["train_info"]["mask_update_time"] for result in self.successes)
        return (
            self.title,
            str(len(self.successes)),
            f"{mean(self.f1):.1f} ± {pstdev(self.f1):.1f}",
            f"{trainable:,}",
            f"{100 * trainable / total:.2f} %",
            f"{info['file_size'] / 1024:,.0f} KiB",
            f"{seconds:.1f} s",
            f"{updates:.1f} s",
        )


def rows(results: Iterable[dict[str, Any]]) -> list[Row]:
    """Results by data set and method, in the order in which they come."""
    grouped: dict[tuple[str, str], Row] = {}
    for result in results:
        task, title = result["run_info"]["train_config"]["task"], result["run_info"]["experiment_name"]
        grouped.setdefault((task, title), Row(task, title, [])).results.append(result)
    return list(grouped.values())


def table(results: Iterable[dict[str, Any]]) -> str:
    """A markdown table per data set: mean and standard deviation over seeds, best score first."""
    by_task: dict[str, list[Row]] = {}
    for row in rows(results):
        by_task.setdefault(row.task, []).append(row)
    parts = []
    for task, task_rows in by_task.items():
        task_rows.sort(key=lambda row: -mean(row.f1 or [-1.0]))
        config = task_rows[0].results[0]["run_info"]["train_config"]
        cells = [HEADER, *(row.cells() for row in task_rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        parts.append(
            f"{task}: {config['num_train_examples']} training sentences, {config['steps']} steps of "
            f"{config['batch_size']}, {config['num_test_examples']} test sentences\n\n" + "\n".join(lines)
        )
    return "\n\n".join(parts) + "\n"


def picture(results: Iterable[dict[str, Any]], path: Path) -> None:
    """Score by method, and the loss by step with the mask updates marked."""
    all_rows = [row for row in rows(results) if row.successes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    tasks = list(dict.fromkeys(row.task for row in all_rows))
    for i, row in enumerate(all_rows):
        label = row.title if len(tasks) == 1 else f"{row.title} ({row.task})"
        left.bar(i, mean(row.f1), yerr=pstdev(row.f1), capsize=4, label=label)
        left.plot([i] * len(row.f1), row.f1, "k.", markersize=4)
        trace = row.successes[0]["train_info"]["metrics"][:-1]
        right.plot([point["step"] for point in trace], [point["train loss"] for point in trace], label=label)
        for update in row.successes[0]["train_info"]["mask_updates"]:
            right.axvline(update["step"], color=f"C{i}", linewidth=0.6, linestyle=":")
    left.set_xticks(range(len(all_rows)), [row.title.replace("/", "\n") for row in all_rows])
    left.set_ylabel("entity F1 (dots: seeds)")
    left.set_ylim(bottom=0)
    left.set_title(", ".join(tasks))
    right.set_xlabel("step (dotted: mask updates)")
    right.set_ylabel("training loss")
    right.set_yscale("log")
    right.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
