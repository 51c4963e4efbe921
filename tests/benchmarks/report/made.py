"""Results as a comparison leaves them, and the tables of a report."""

import itertools
import math
import random
import re

from benchmarks.problems import METRICS

TASKS = {"conll04": "joint", "wnut17": "ner", "fewrel": "relation", "ewt_srl": "srl", "woz2": "dst"}
EVIL = "<script>alert(1)</script>|[x](y)$a_b$/&"
METHODS = ("fishdip/density-1", "lora/rank-8", "full/adamw", EVIL)


def make_result(
    method="lora/rank-8",
    dataset="conll04",
    seed=0,
    *,
    scores=None,
    fraction=0.1,
    protocol=None,
    error="",
    trainable=10_000,
    masks=None,
    rates=(0.001, 0.01, 0.1),
    rate=0.01,
    model="google-t5/t5-small",
):
    task = TASKS[dataset]
    chance = random.Random(f"{method} {dataset} {seed} {fraction}")
    if scores is None:
        scores = {name: chance.uniform(0.2, 0.8) for name in METRICS[task]}
    if task == "relation" and protocol is None:
        fraction, protocol = None, "5-way 1-shot"
    steps = range(0, 200, 50)
    if masks is None:
        masks = method.startswith("fishdip")
    updates = [
        {
            "step": step,
            "mask_overlap": 0.01 if step == 0 else chance.uniform(0.4, 0.7),
            "mask_support": trainable + 30 * step,
            "shares": {"attention": 0.4, "feed_forward": 0.3, "embedding": 0.25, "norm": 0.04, "relative_bias": 0.01},
        }
        for step in steps
    ]
    trace = [{"step": step + 50, "train loss": 3 * math.exp(-step / 100) * chance.uniform(0.9, 1.1)} for step in steps]
    return {
        "run_info": {
            "created_at": "2026-01-01T00:00:00+00:00",
            "total_time": 20.0,
            "experiment_name": method,
            "git_revision": "0123456789abcdef",
            "error_msg": error,
            "peft_config": None,
            "train_config": {
                "learning_rate": rate,
                "steps": 200,
                "meta_steps": 100,
                "num_episodes": 4,
                "batch_size": 8,
                "optimizer": "adamw",
                "model_id": model,
                "seed": seed,
                "task": task,
                "dataset": dataset,
                "protocol": protocol or f"{100 * fraction:g} % of the training examples",
                "fraction": fraction,
                "num_train_examples": 92 if fraction is None else round(920 * fraction),
                "num_test_examples": 288,
            },
            "rate_choice": [
                {"learning_rate": r, "scores": {}, "loss": 1.0, "held_out": 18, "error": ""} for r in rates
            ],
        },
        "train_info": {
            "accelerator_memory_max": chance.uniform(2e8, 9e8),
            "memory_after_fit": chance.uniform(1e8, 2e8),
            "train_time": chance.uniform(20, 300),
            "mask_update_time": chance.uniform(2, 8) if masks else 0.0,
            "eval_time": 5.0,
            "file_size": trainable * 8,
            "num_trainable_params": trainable,
            "num_base_params": 1_000_000,
            "num_total_params": 1_000_000 + trainable,
            "stopped_at": 200,
            "status": "failed" if error else "success",
            "metrics": [] if error else [*trace, {"step": 200, **{f"test {k}": v for k, v in scores.items()}}],
            "mask_updates": updates if masks and not error else [],
            "fit_begins": [0],
            "in_context_shown": None,
        },
        "meta_info": {
            "package_info": {"peft-version": "0.21.2"},
            "system_info": {
                "system": "Linux",
                "machine": "x",
                "python": "3.11",
                "num_threads": 1,
                "accelerator": "none",
            },
        },
    }


def various():
    """Two seeds of four methods, two data sets, one of them at two fractions; a method fails, one lacks a seed."""
    results = []
    for method, seed in itertools.product(METHODS, range(2)):
        trainable = 10_000 * (1 + METHODS.index(method))
        results += [make_result(method, seed=seed, fraction=share, trainable=trainable) for share in (0.01, 0.1)]
        error = "RuntimeError: out\nof <b>memory</b>" if method == "lora/rank-8" else ""
        if (method, seed) != ("full/adamw", 1):
            results.append(make_result(method, "wnut17", seed, error=error, trainable=trainable))
    return results


def counted(method, seed=0, *, dataset="wnut17", metric="f1", examples=(), **options):
    """A result with (correct, predicted, gold) of each example of a test set, and the score that they give."""
    correct, predicted, gold = (sum(column) for column in zip(*examples, strict=True))
    result = make_result(method, dataset, seed, scores={metric: 2 * correct / (predicted + gold)}, **options)
    columns = zip(("correct", "predicted", "gold"), zip(*examples, strict=True), strict=True)
    result["train_info"]["test_counts"] = {metric: [{name: " ".join(map(str, column)) for name, column in columns}]}
    return result


def forgetful(result, value, reason="", **changes):
    """A result with what was measured on plain text."""
    plain = {"origin": "wiki.txt", "digest": "0a", "num_texts": 64, "num_tokens": 1234, "num_cut": 0, "num_short": 0}
    plain |= {"loss_before": 2.5, "losses_after": [] if reason or value is None else [2.5 + value], "reason": reason}
    result["train_info"]["plain_text"] = plain | changes
    result["train_info"]["metrics"][-1]["forgetting"] = None if reason else value
    return result


def of_relation(method, **info):
    result = make_result(method, "fewrel", **{"trainable": 0} if method.startswith("in_context") else {})
    result["train_info"].update(info)
    return result


def markdown_tables(text):
    """Header and lines of each table, cells stripped."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.M)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in line] for i, line in enumerate(block) if i != 1] for block in split]


def table_with(text, *titles):
    return next(table for table in markdown_tables(text) if set(titles) <= set(table[0]))
