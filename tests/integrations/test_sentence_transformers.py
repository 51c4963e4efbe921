"""sentence-transformers: `model.add_adapter(FishDipConfig(...))` in place of LoraConfig, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from transformers import BertConfig, BertModel

from .tiny import QUIET, STEPS, assert_trained, config, recorded, sentence, tokenizer

pytestmark = QUIET

TEXTS = [sentence(i) for i in range(4)]
PAIRS = [{"anchor": sentence(i), "positive": sentence(i + 1)} for i in range(36)]
SCORED = [{**pair, "score": (i % 5) / 4} for i, pair in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny sentence encoder."""
    folder = str(tmp_path_factory.mktemp("encoder"))
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    bert = BertConfig(vocab_size=32, max_position_embeddings=32, initializer_range=0.2, **sizes)
    BertModel(bert).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("rows", "loss", "accumulation"),
    [
        (PAIRS, MultipleNegativesRankingLoss, 1),
        (PAIRS, partial(CachedMultipleNegativesRankingLoss, mini_batch_size=2), 1),
        (SCORED, CoSENTLoss, 1),
        (PAIRS, MultipleNegativesRankingLoss, 2),
    ],
    ids=["ranking", "cached", "scores", "accumulation"],
)
def test_it_trains_the_masks_that_the_gradients_of_its_batches_choose(
    tmp_path: Path, base: str, rows: list[dict[str, Any]], loss: Callable[..., Any], accumulation: int
) -> None:
    model = SentenceTransformer(base, device="cpu")
    before = model.encode(TEXTS)
    model.add_adapter(config(task_type="FEATURE_EXTRACTION"))
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(model, arguments, Dataset.from_list(rows), loss=loss(model))
    with recorded(model) as steps:
        trainer.train()
    assert_trained(steps, by_losses=False, first=1)  # it calls the encoder's `forward` itself

    after = model.encode(TEXTS)
    assert abs(after - before).max() > 1e-3
    model.save_pretrained(str(tmp_path / "saved"))
    assert (SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS) == after).all()
