"""The folder that is shipped: bfloat16 weights, tokenizer, configuration, a model card made of the run's own files."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from ..settings import SettingsError, read_json
from ..vocabulary import EOS, PAD
from .checkpoint import latest_checkpoint, load_weights, read_tensors
from .evaluation import weights_digest
from .loop import run_record
from .model import FINE_TUNING_DROPOUT, new_model
from .settings import MAX_BYTES, RunSettings
from .shards import Shards

CARD_NAME = "README.md"
COLUMNS = ("source", "repo", "commit", "licence", "bytes_in_corpus")


def export(
    run: Path,
    shards: Shards,
    folder: Path,
    *,
    sources: Path,
    evaluation: Path | None,
    untrained: bool = False,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Write the model of a run's latest checkpoint for `AutoModelForSeq2SeqLM` and `AutoTokenizer`.

    Args:
        run: folder of the run.
        folder: must not exist; it is there only when it is complete and small enough.
        sources: tab-separated table of the texts with the columns of `COLUMNS`.
        evaluation: what `evaluate` wrote of this run; None: the card says that there is none.
        untrained: the model as it was before the first step, to compare with.
        max_bytes: of all files together.

    Returns:
        bytes of the folder.

    Raises:
        SettingsError: nothing was written; the message says why.
    """
    if folder.exists():
        raise SettingsError(f"{folder} is there already; choose another --output, or remove it")
    record = run_record(run)
    if record["shards"]["fingerprint"] != shards.fingerprint:
        raise SettingsError(f"{run} was trained on other shards than {shards.folder}")
    settings = RunSettings.from_dict(record["settings"], str(run / "run.json"))
    table = read_sources(sources)

    model = new_model(settings, shards.vocab_size)
    if not untrained:
        path = latest_checkpoint(run) / "model.safetensors"
        load_weights(dict(model.named_parameters()), read_tensors(path), str(path))
    model = model.to(torch.bfloat16)  # type: ignore[arg-type]
    figures = None if evaluation is None or untrained else read_evaluation(evaluation, weights_digest(model))
    model.config.dropout_rate = FINE_TUNING_DROPOUT
    model.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)

    work = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    model.save_pretrained(work)
    AutoTokenizer.from_pretrained(shards.tokenizer_folder).save_pretrained(work)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(folder.name, record, table, figures, parameters, untrained, sources.name)
    (work / CARD_NAME).write_text(card, encoding="utf-8")
    (work / "pretraining.json").write_text(
        json.dumps({**record, "log": record["log"][-2:], "evaluation": figures}, indent=2) + "\n", encoding="utf-8"
    )
    size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    if size > max_bytes:
        shutil.rmtree(work)
        raise SettingsError(
            f"model and tokenizer together have {size} bytes, more than {max_bytes}; nothing is written"
        )
    os.replace(work, folder)
    return size


def read_sources(path: Path) -> list[dict[str, str]]:
    """The rows of a table of texts; a SettingsError if a column is missing or there is no row."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise SettingsError(f"{path} names no source")
    for number, row in enumerate(rows, start=2):
        for column in COLUMNS:
            if not row.get(column):
                raise SettingsError(f"{path}, line {number} has no {column}")
        if not row["bytes_in_corpus"].isdecimal():
            raise SettingsError(f"{path}, line {number}: bytes_in_corpus={row['bytes_in_corpus']!r} is no number")
    return rows


def read_evaluation(path: Path, weights: str) -> dict[str, Any]:
    """What `evaluate` wrote, if it is of the model with this `weights_digest`."""
    figures = read_json(path)
    if not {"weights", "model", "random", "unigram", "seen_sentences"} <= set(figures):
        raise SettingsError(f"{path} is not what `evaluate` writes; evaluate the run again")
    if figures["weights"] != weights:
        raise SettingsError(f"{path} has the figures of other weights than the run's latest; evaluate the run again")
    return figures


def model_card(
    name: str,
    record: Mapping[str, Any],
    table: list[dict[str, str]],
    figures: Mapping[str, Any] | None,
    parameters: int,
    untrained: bool,
    sources: str,
) -> str:
    """Markdown; every figure is from the run's files or the evaluation's."""
    settings, progress, shards = record["settings"], record["progress"], record["shards"]
    licences = sorted({row["licence"] for row in table})
    lines = [
        f"# {name}",
        "",
        f"A small T5 for experiments on CPUs: {parameters / 1e6:.1f} million parameters "
        f"({settings['num_layers']} + {settings['num_layers']} layers, d_model {settings['d_model']}, "
        f"d_ff {settings['d_ff']}, {settings['num_heads']} heads of {settings['d_kv']}), bfloat16, English.",
        "",
    ]
    if untrained:
        lines += ["**Not trained**: random initialisation, to compare with the trained model of the same run.", ""]
    else:
        if progress["tokens"] < settings["max_tokens"] and not settings["max_minutes"]:
            lines += [f"**The run is not over**: {settings['max_tokens']:,} tokens were planned.", ""]
        lines += training_section(settings, progress, shards)
    lines += ["## Vocabulary", ""]
    lines += [
        f"SentencePiece unigram, {shards['pieces']} pieces; bytes to fall back on; `[`, `]`, `|`, `=` are pieces; "
        f"0 padding, 1 end, 2 unknown (never met); `<extra_id_i>` is id {record['vocab_size'] - 1} - i. The embedding "
        f"has {-(-record['vocab_size'] // 64) * 64} rows; those from {record['vocab_size']} on mean nothing.",
        "",
    ]
    if figures is not None:
        lines += figures_section(figures)
    elif not untrained:
        lines += ["## Held-out figures", "", "Not measured.", ""]
    lines += commands_section(name, record, figures, untrained, sources)
    lines += [
        "## What it cannot do",
        "",
        "It knows little of the world, writes no sensible text of its own, answers no questions and follows no "
        "instructions; it has seen one language. It was made to be fine-tuned, so that methods of fine-tuning can be "
        "compared where no larger model is at hand; figures obtained with it say nothing about larger models. What its "
        "sources get wrong or leave out, it has learned with them.",
        "",
        "## Text",
        "",
        "| source | repository | commit | licence | bytes |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['source']} | {row['repo']} | {row['commit'][:12]} | {row['licence']} "
        f"| {int(row['bytes_in_corpus']):,} |"
        for row in table
    ]
    lines += ["", f"Licences of the texts: {'; '.join(licences)}. No text is part of this folder.", ""]
    return "\n".join(lines)


def training_section(settings: Mapping[str, Any], progress: Mapping[str, Any], shards: Mapping[str, Any]) -> list[str]:
    train = shards["splits"]["train"]
    machines = sorted({(s["device"], s["threads"], s["torch"]) for s in progress["sessions"]})
    where = "; ".join(f"{device}, {threads} threads, torch {version}" for device, threads, version in machines)
    share = settings["denoising_share"]
    precision = "bfloat16 autocast" if settings["bf16"] else "float32"
    return [
        "## Training",
        "",
        f"- {progress['tokens']:,} tokens seen in {progress['step']:,} steps, those of random pieces among them: "
        f"{progress['tokens'] / train['tokens']:.2f} times the text of {train['tokens']:,} tokens.",
        f"- {progress['seconds'] / 60:.0f} minutes on {where}; {precision}, "
        f"{progress['tokens'] / max(progress['training_seconds'], 1e-9):,.0f} tokens a second.",
        f"- Span corruption (Raffel et al. 2020): {settings['noise_density']:.0%} of the tokens, mean length "
        f"{settings['mean_span']:g}, {settings['length']} source tokens.",
        f"- {share:.0%} of the places of a step, padding included: whole sentences as targets, up to "
        f"{settings['denoising_length']} tokens; {settings['copy_share']:.0%} of these rows are copies "
        f"({settings['scrambled_share']:.0%} of the copies of random pieces), the others lose up to "
        f"{settings['corruption']:.0%} of their tokens: dropped, masked one by one, or masked in spans.",
        f"- AdamW, rates scaled by the RMS of each tensor: peak {settings['learning_rate']:g}, "
        f"falling in the last {settings['decay_share']:.0%} of the run, "
        f"{settings['batch_size']} x {settings['length']} places for source tokens a step, seed {settings['seed']}.",
        "",
    ]


def commands_section(
    name: str, record: Mapping[str, Any], figures: Mapping[str, Any] | None, untrained: bool, sources: str
) -> list[str]:
    """What made the folder, from text to this card; settings that have their default are left out."""
    shards = record["shards"]
    default = RunSettings().as_dict()
    train = ["train --shards shards --run run"]
    for key, value in record["settings"].items():
        if value != default[key]:
            flag = key.replace("_", "-")
            train.append(f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {value}")
    for session in record["progress"]["sessions"][:1]:
        train.append(f"--device {session['device'].split()[0]}")
        train += [f"--compile {session['compile']}"] if session["compile"] else []
    vocabulary = (
        f"--vocab-size {shards['pieces']} --vocabulary-lines {shards['vocabulary_lines']} --seed {shards['seed']}"
        if shards["vocabulary_lines"]
        else "--tokenizer path/to/tokenizer"
    )
    text, heldout = (shlex.join(shards["sources"][part]) for part in ("train", "heldout"))
    commands = [
        f"tokenize --text {text} --heldout {heldout} --output shards {vocabulary} "
        f"--shard-tokens {shards['shard_tokens']}",
        " ".join(train),
    ]
    if figures:
        commands.append(
            f"evaluate --shards shards --run run --windows {figures['windows']} --sentences {figures['sentences']} "
            f"--copy-steps {figures['copy_steps']} --copy-rate {figures['copy_rate']}"
        )
    commands.append(
        f"export --shards shards --run run --sources {shlex.quote(sources)} --output {shlex.quote(name)}"
        f"{' --untrained' if untrained else ''}"
    )
    lines = ["## Commands", "", "```bash", *(f"python -m benchmarks.pretrain {line}" for line in commands), "```", ""]
    digests = [f"- `{name}`: {value}" for name, value in shards["source_digests"].items()]
    return [*lines, "SHA-256 of the texts:", "", *digests, ""]


def figures_section(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Held-out figures",
        "",
        f"{figures['windows']:,} windows of held-out text, loss in nats per target token; {figures['sentences']:,} of "
        f"its sentences to be copied exactly by greedy decoding, before and after {figures['copy_steps']:,} steps of "
        f"training to copy other sentences. {figures['seen_sentences']:,} held-out sentences stand somewhere in the "
        "training text, too: they are left out, with the windows that they are in.",
        "",
        "| model | span corruption | ... of text tokens alone | copied before | copied after |",
        "|---|---|---|---|---|",
    ]
    for title, key in (("this model", "model"), ("random initialisation", "random"), ("unigram", "unigram")):
        row = figures[key]
        copied = [f"{row[k]:.1%}" if k in row else "" for k in ("exact_copies_before", "exact_copies_after")]
        lines.append(f"| {title} | {row['loss']:.3f} | {row['text_loss']:.3f} | {copied[0]} | {copied[1]} |")
    return [*lines, ""]
