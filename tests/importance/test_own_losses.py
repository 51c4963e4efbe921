"""The losses of examples against those that transformers' models return themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from peft_fishdip.importance.losses import default_loss_fn

from ..support.models import VOCABULARY, WIDTH, bert_config, gpt2, llama, tied_t5, tuned

SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, Any] = {
    **SMALL,
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "init_std": 0.3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


def of_bart_s_kind(name: str) -> Callable[[], Any]:
    config = getattr(transformers, f"{name}Config")
    return lambda: getattr(transformers, f"{name}ForCausalLM")(config(**DECODER))


def xlnet() -> Any:
    config = transformers.XLNetConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_layer=1, n_head=2, d_inner=24, initializer_range=0.3, dropout=0.0
    )
    return transformers.XLNetLMHeadModel(config)


def xlm() -> Any:
    config = transformers.XLMConfig(
        vocab_size=VOCABULARY, emb_dim=WIDTH, n_layers=1, n_heads=2, n_langs=1, embed_init_std=0.3, init_std=0.3
    )
    return transformers.XLMWithLMHeadModel(config)


def whisper() -> Any:
    return transformers.WhisperForCausalLM(transformers.WhisperConfig(**DECODER, max_target_positions=32))


LMS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "gpt2": gpt2,
    "t5": tied_t5,
    "xlnet": xlnet,
    "xlm": xlm,
    "whisper": whisper,
    **{name: of_bart_s_kind(name) for name in ("Bart", "MBart", "Marian", "Pegasus", "Blenderbot", "PLBart", "Mvp")},
}


def batch_of(model: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=generator)
    labels = ids.roll(-1, 1)
    labels[0, 5:] = labels[1, :3] = labels[2, 2] = -100
    return {"input_ids": ids, "labels": labels}


def own_losses(model: Any, batch: dict[str, Tensor]) -> list[float]:
    """The mean losses that the model returns for each row by itself."""
    return [float(model(**{key: value[i : i + 1] for key, value in batch.items()}).loss.detach()) for i in range(4)]


@pytest.mark.parametrize("name", LMS)
@pytest.mark.parametrize("together", [1, 4])
def test_labels_are_shifted_where_the_model_shifts_them(name: str, together: int) -> None:
    torch.manual_seed(0)
    model = LMS[name]().eval()
    batch = batch_of(model)
    given = {**batch, "num_items_in_batch": torch.tensor(3 * 27)} if together > 1 and name == "llama" else batch
    loss_fn = default_loss_fn(model, "mean", checked=False)
    found = [
        loss_fn(model, {key: value[i : i + together] if value.dim() else value for key, value in given.items()})
        for i in range(0, 4, together)
    ]
    assert torch.cat(found).tolist() == pytest.approx(own_losses(model, batch), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "Bart", "xlnet"])
def test_masks_are_chosen_by_the_model_s_own_loss(name: str) -> None:
    torch.manual_seed(0)
    base = LMS[name]().eval()
    batch = batch_of(base)
    own = own_losses(base, batch)
    worst = sorted(range(4), key=lambda i: -own[i])[:2]
    model = tuned(base, example_loss="mean", num_samples=2)
    scanned = model.base_model.update_mask(iter([batch]))
    recent = model.base_model.recent_examples()
    model.train()(**batch)
    for update in (scanned, model.base_model.update_mask(recent)):
        assert list(update.example_ids) == worst
        assert update.losses == pytest.approx([own[i] for i in worst], rel=1e-4)


def classifier(num_labels: int, problem_type: str | None) -> Any:
    torch.manual_seed(2)
    config = bert_config()
    config.num_labels, config.problem_type = num_labels, problem_type
    return transformers.BertForSequenceClassification(config).eval()


PROBLEMS: dict[str, tuple[int, str | None, Tensor]] = {
    "one number": (1, None, torch.tensor([1.0, -2.0, 0.5, 3.0])),
    "one number in a row": (1, "regression", torch.tensor([[1.0], [-2.0], [0.5], [3.0]])),
    "three numbers": (3, "regression", torch.arange(12.0).view(4, 3) - 5),
    "classes": (3, None, torch.tensor([0, 2, 1, 1])),
    "classes in a column": (3, "single_label_classification", torch.tensor([[0], [2], [1], [1]])),
    "several classes": (3, None, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
    "one class or none": (1, "multi_label_classification", torch.tensor([[0.0], [1.0], [1.0], [0.0]])),
}


@pytest.mark.parametrize("case", PROBLEMS)
@pytest.mark.parametrize("called_before", [True, False])
def test_a_classifier_s_loss_is_that_of_its_problem_type(case: str, called_before: bool) -> None:
    """transformers writes the type that it finds into the config with the first loss."""
    num_labels, problem_type, labels = PROBLEMS[case]
    model, again = classifier(num_labels, problem_type), classifier(num_labels, problem_type)
    batch = {"input_ids": torch.arange(3, 27).view(4, 6), "labels": labels}
    if called_before:
        model(**batch)
    found = default_loss_fn(model, "sum")(model, batch).detach()
    each = labels.numel() // 4  # the model's own loss is a mean, that of an example is a sum over its labels
    rows = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(4)]
    expected = [each * float(again(**row).loss.detach()) for row in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 3, 1)])
def test_labels_that_do_not_fit_the_problem_type_are_refused(labels: Tensor) -> None:
    model = tuned(classifier(3, "regression"))
    batch = {"input_ids": torch.ones(4, 6).long(), "labels": labels}
    with pytest.raises(ValueError, match=rf"the shape \({labels.shape[0]},.*4 examples need floats of shape \(4, 3\)"):
        model.base_model.update_mask(iter([batch]))


def test_the_classification_head_of_an_encoder_decoder_classifies() -> None:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**DECODER, num_mel_bins=4, max_source_positions=8, num_labels=3)
    model = transformers.WhisperForAudioClassification(config).eval()
    batch = {"input_features": torch.randn(4, 4, 16), "labels": torch.tensor([0, 2, 1, 1])}
    found = default_loss_fn(model, "sum")(model, batch).tolist()
    assert found == pytest.approx(own_losses(model, batch), rel=1e-5)
