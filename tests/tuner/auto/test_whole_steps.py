"""Steps whose examples cannot be computed one by one: training goes on, and whole gradients choose the mask."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    LlamaForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ...support.models import (
    IMAGE,
    VOCABULARY,
    WIDTH,
    bert_config,
    flat_of,
    gemma,
    llama,
    llava,
    scales_of,
    tied_t5,
)
from ...support.reference import global_top_k
from .loops import driven, loop, mask_of, overlap

Kwargs = dict[str, Any]


def tokens(count: int, length: int = 8) -> Tensor:
    return torch.randint(3, 40, (count, length), generator=torch.Generator().manual_seed(count))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def with_images(places: list[list[int]]) -> Kwargs:
    """A row for each list; at each of its places an image begins."""
    ids = tokens(len(places), 12)
    for row, starts in enumerate(places):
        for start in starts:
            ids[row, start : start + 4] = IMAGE
    labels = ids.masked_fill(ids == IMAGE, -100)
    return {"input_ids": ids, "pixel_values": images(sum(map(len, places))), "labels": labels}


def images_of_some(model: Any) -> Kwargs:
    return with_images([[1], [], [3]])


def both_images_in_one_row(model: Any) -> Kwargs:
    return with_images([[1, 6], []])


def masks_by_kind_of_layer(model: Any) -> Kwargs:
    ids = tokens(2)
    mask = torch.zeros(2, 1, 8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -1e9)
    return {"input_ids": ids, "labels": ids, "attention_mask": {"full_attention": mask, "sliding_attention": mask}}


def an_encoder_s_outputs(model: Any) -> Kwargs:
    return {"encoder_outputs": model.get_encoder()(input_ids=tokens(2)), "labels": tokens(2, 5)}


def embeddings(model: Any) -> Kwargs:
    ids = tokens(2)
    return {"inputs_embeds": model.get_input_embeddings()(ids), "labels": ids}


def embeddings_of_one(model: Any) -> Kwargs:
    ids = tokens(1)
    return {"inputs_embeds": model.get_input_embeddings()(ids), "labels": ids}


def qwen2_vl() -> Any:
    torch.manual_seed(7)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0}
    text = {
        "vocab_size": 64,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": rope,
        "initializer_range": 0.3,
    }
    vision = {"depth": 1, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
    tokens = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)).eval()


def patches_of_all_images(model: Any) -> Kwargs:
    ids = torch.tensor([[5 + i, 62, 60, 60, 60, 60, 63, 6, 7, 8] for i in range(4)])
    pixels = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    grid = torch.tensor([[1, 4, 4]] * 4)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids >= 60, -100),
        "pixel_values": pixels,
        "image_grid_thw": grid,
        "mm_token_type_ids": (ids == 60).long(),
    }


def three_positions_of_three_rows(model: Any) -> Kwargs:
    """Qwen2-VL's positions have three kinds first, and then rows: by chance, as many."""
    places = torch.stack([torch.arange(8), torch.arange(8) // 2, torch.arange(8) * 3])
    return {"input_ids": tokens(3), "labels": tokens(3), "position_ids": places[:, None].expand(3, 3, 8).contiguous()}


class ByPlaceForCausalLM(LlamaForCausalLM):
    """A decoder that is given a factor for each place."""

    def forward(self, labels: Any = None, factors: Any = None, **kwargs: Any) -> Any:
        output = super().forward(**kwargs)
        output.logits = output.logits * factors[:, None]
        output.loss = self.loss_function(output.logits, labels, VOCABULARY)
        return output


def by_place() -> Any:
    model = llama()
    model.__class__ = ByPlaceForCausalLM
    return model


def as_many_places_as_rows(model: Any) -> Kwargs:
    return {"input_ids": tokens(8), "labels": tokens(8), "factors": torch.linspace(1, 3, 8)}


class TwoLabelsForSequenceClassification(BertForSequenceClassification):
    """A class of somebody's own, with labels of its own."""

    def forward(self, labels: Any = None, **kwargs: Any) -> Any:
        logits = super().forward(**kwargs).logits
        loss = nn.functional.cross_entropy(logits, labels[:, 0]) * labels[:, 1].float().mean()
        return SequenceClassifierOutput(loss=loss, logits=logits)


def two_labels() -> Any:
    torch.manual_seed(2)
    return TwoLabelsForSequenceClassification(bert_config()).eval()


def of_two_labels(model: Any) -> Kwargs:
    return {"input_ids": tokens(2), "labels": torch.tensor([[0, 1], [2, 3]])}


CASES: dict[Any, tuple[Callable[[], Any], str]] = {  # by what makes a call's arguments: the model, and the warning
    images_of_some: (llava, r"'pixel_values' has the shape \(2, 3, 8, 8\), not one row for each of the 3 examples"),
    both_images_in_one_row: (llava, "ValueError: Image features and image tokens do not match"),
    masks_by_kind_of_layer: (gemma, "'attention_mask' is a dict, not a tensor with one row for each"),
    an_encoder_s_outputs: (tied_t5, "'encoder_outputs' holds tensors with gradients"),
    embeddings: (llama, "'inputs_embeds' was computed with gradients, which end there"),
    embeddings_of_one: (llama, "'inputs_embeds' was computed with gradients, which end there"),
    patches_of_all_images: (qwen2_vl, r"'pixel_values' has the shape \(64, 96\), not one row"),
    three_positions_of_three_rows: (qwen2_vl, "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    as_many_places_as_rows: (by_place, r"has a loss of .* in its batch and of .* by itself, so the rows"),
    of_two_labels: (two_labels, r"'labels' of a batch have the shape \(2, 2\)"),
}


def mask_of_a_step(model: Any, base: Any, call: Callable[[Any], Kwargs]) -> dict[str, list[int]]:
    """The entries with the highest squared gradient, in trained units, of a step of the base itself."""
    base(**call(base)).loss.backward()
    scale, parameters = scales_of(model), dict(base.named_parameters())
    gradients = {name: parameters[name].grad for name in scale}
    scores = {
        name: torch.zeros_like(parameters[name]) if gradient is None else (scale[name] * gradient).square()
        for name, gradient in gradients.items()
    }
    chosen = global_top_k(scores, flat_of(model).numel())
    return {name: mask.flatten().nonzero().squeeze(1).tolist() for name, mask in chosen.items()}


@pytest.mark.parametrize("call", CASES, ids=lambda call: call.__name__)
def test_the_mask_is_that_of_the_squared_gradient_of_a_step_with_one_warning(call: Any) -> None:
    build, message = CASES[call]
    model = driven(build())
    inner = model.base_model.model
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        course = loop(model, [{} for _ in range(6)], loss=lambda model, _: model(**call(inner)).loss)
    ours = [str(warning.message) for warning in told if "mask of adapter" in str(warning.message)]
    [text] = ours
    with pytest.warns(UserWarning, match=message):
        warnings.warn(text, stacklevel=1)
    assert "squared gradient of whole steps" in text
    assert course.steps == [1, 4]
    assert [update.example_ids for update in course.updates] == [(), ()]
    assert not course.values[1].any()
    assert course.values[-1].any()
    assert overlap(course.masks[1], mask_of_a_step(model, build(), call)) > 0.99


def test_an_image_for_each_row_is_an_example_s_own() -> None:
    """The oracle: the losses of the rows by themselves. Examples that differ in their images only are different."""
    batch = with_images([[2], [2], [2], [2]])
    for name in ("input_ids", "labels"):
        batch[name][:] = batch[name][0].clone()
    base = llava()
    own = [float(base(**{k: v[i : i + 1] for k, v in batch.items()}).loss.detach()) * 7 for i in range(4)]
    model = driven(llava(), num_samples=3)
    (update,) = loop(model, [batch]).updates
    worst = sorted(range(4), key=lambda i: -own[i])[:3]
    assert list(update.example_ids) == worst
    assert update.losses == pytest.approx([own[i] for i in worst], rel=1e-4)


def test_leaves_that_want_gradients_are_given_none_by_an_update() -> None:
    ids = tokens(2)
    leaf = llama().get_input_embeddings()(ids).detach().requires_grad_()
    model, plain = driven(llama()), llama()
    plain(inputs_embeds=leaf, labels=ids).loss.backward()
    gradient, leaf.grad = leaf.grad, None
    (update,) = loop(model, [{"inputs_embeds": leaf, "labels": ids}]).updates
    assert sorted(update.example_ids) == [0, 1]
    torch.testing.assert_close(leaf.grad, gradient)


@pytest.mark.parametrize("name", ["position_ids", "cache_position"])
def test_arguments_that_all_rows_share_may_come_first(name: str) -> None:
    """As many rows as tokens: what has no rows is not cut all the same."""
    ids = tokens(8)
    places = torch.arange(8)[None] if name == "position_ids" else torch.arange(8)
    first, second = driven(llama()), driven(llama())
    updates = [
        loop(first, [{name: places, "input_ids": ids, "labels": ids}]).updates[0],
        loop(second, [{"input_ids": ids, "labels": ids}]).updates[0],
    ]
    assert updates[0].example_ids == updates[1].example_ids
    assert updates[0].losses == pytest.approx(updates[1].losses, rel=1e-5)
    assert mask_of(first) == mask_of(second)


def test_texts_cost_no_forward_pass_beside_those_of_the_chosen_examples() -> None:
    """Only where rows may not be examples, their losses are compared, and only once."""
    counts = {}
    for name, make in {"texts": lambda: {"input_ids": tokens(4)}, "images": lambda: with_images([[2]] * 4)}.items():
        model = driven(llava(), update_interval=2)
        calls: list[int] = []
        inner = model.base_model.model
        inner.register_forward_pre_hook(
            lambda module, args, calls=calls: None if torch.is_grad_enabled() else calls.append(1)
        )
        batch = make()
        loop(model, [{**batch, "labels": batch["input_ids"]} for _ in range(5)])
        counts[name] = len(calls)
    assert counts == {"texts": 0, "images": 3}
