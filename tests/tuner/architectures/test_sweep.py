"""An adapter is exact on every architecture that transformers can build, or is refused by name; the page says which."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, CLIPConfig

from benchmarks.architectures.catalogue import architectures
from benchmarks.architectures.isolated import last_report
from benchmarks.architectures.page import listed, page
from benchmarks.architectures.shrink import VOCABULARY, tiny_config
from benchmarks.architectures.sweep import EXACT, NOT_BUILT, REFUSED, WRONG, Outcome, outcome_of, sweep

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"
BATCHES = 10


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5", "wav2vec2", "vit"])
def test_adapters_are_exact_on_the_best_known_architectures(model_type: str) -> None:
    outcome = outcome_of(architectures()[model_type])
    assert (outcome.kind, outcome.reason) == (EXACT, "")
    assert outcome.parameters > 10_000
    assert outcome.checkpointed


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_architecture_is_wrong_and_the_page_lists_what_is_found(batch: int) -> None:
    every = list(architectures().values())
    outcomes = sweep(every[batch::BATCHES])
    assert not [str(outcome) for outcome in outcomes if outcome.kind == WRONG]
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if f"transformers {importlib.metadata.version('transformers')}," in text:
        on_page = listed(text)
        assert on_page.keys() == {architecture.model_type for architecture in every}
        assert {x.model_type: x.kind for x in outcomes} == {x.model_type: on_page[x.model_type] for x in outcomes}


def test_a_page_lists_each_model_type_once_under_its_outcome() -> None:
    outcomes = [
        Outcome("one", "One", EXACT, group="text", frozen=["a.weight"]),
        Outcome("two", "Two", REFUSED, "its weights | are odd"),
        Outcome("three", "Three", WRONG, "another gradient: a.weight"),
        Outcome("four", "Four", NOT_BUILT, heading="No inputs are known"),
        Outcome("five", "Five", EXACT, group="audio"),
    ]
    text = page(outcomes)
    assert listed(text) == {outcome.model_type: outcome.kind for outcome in outcomes}
    assert "`one` (`a.weight`)" in text


def test_sizes_become_small_and_other_settings_stay() -> None:
    config = tiny_config(BertConfig, {})
    assert config.hidden_size % config.num_attention_heads == 0
    assert max(config.hidden_size, config.num_hidden_layers, config.vocab_size) <= VOCABULARY
    assert config.hidden_act == BertConfig().hidden_act
    assert tiny_config(CLIPConfig, {"vision_config.hidden_size": 48}).vision_config.hidden_size == 48


def test_a_process_that_hangs_or_dies_is_ended_and_its_last_report_counts() -> None:
    def hang(report: Callable[[str], None]) -> None:
        report("begun")
        threading.Event().wait()

    def die(report: Callable[[str], None]) -> None:
        os._exit(1)

    assert last_report(hang, 0.5, "nothing") == "begun"
    assert last_report(die, 20.0, "nothing") == "nothing"
    assert last_report(lambda report: report("done"), 20.0, "nothing") == "done"
