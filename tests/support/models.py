"""Tiny random models and examples for them, and what most tests do with these."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    CLIPVisionConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from peft_fishdip import FishDipConfig, tuner_of

VOCABULARY = 48
WIDTH = 16
IMAGE = 47
"""The token of `llava` that an image takes the place of, four times."""

ANY_RATE = "ignore:(the learning rate|Adafactor trains the vector|modules that are trained whole):UserWarning"
"""For pytest.mark.filterwarnings: any optimizer and learning rate is fine."""

UNSCORED = "ignore:Adapter .* is being trained on its data-free:UserWarning"
"""For pytest.mark.filterwarnings: training a mask that no example has scored is fine."""


def tied_t5(**overrides: Any) -> T5ForConditionalGeneration:
    """An encoder-decoder whose embedding serves encoder, decoder and output; with relative position biases."""
    torch.manual_seed(1)
    settings = {
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "dropout_rate": 0.0,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "initializer_factor": 0.3,
        **overrides,
    }
    return T5ForConditionalGeneration(T5Config(**settings)).eval()


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )


def bert_classifier() -> BertForSequenceClassification:
    torch.manual_seed(2)
    return BertForSequenceClassification(bert_config()).eval()


def bert_tagger() -> BertForTokenClassification:
    torch.manual_seed(2)
    return BertForTokenClassification(bert_config()).eval()


def gpt2() -> GPT2LMHeadModel:
    """A decoder-only LM with transformers' Conv1D, and an embedding that is tied to the output."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        n_positions=24,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def llama(**overrides: Any) -> LlamaForCausalLM:
    """A decoder-only LM with RMSNorm, grouped queries and an output of its own."""
    torch.manual_seed(4)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "initializer_range": 0.2,
        **overrides,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def gemma() -> Gemma3ForCausalLM:
    """A decoder-only LM whose embedding scales the rows that it looks up, and is tied to the output."""
    torch.manual_seed(5)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        initializer_range=0.2,
    )
    return Gemma3ForCausalLM(config).eval()


def llava() -> LlavaForConditionalGeneration:
    """A decoder that reads images of 4 tokens each, `IMAGE`, wherever they stand."""
    torch.manual_seed(6)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        initializer_range=0.5,
    )
    config = LlavaConfig(vision_config=vision, text_config=llama().config, image_token_index=IMAGE)
    config.vision_feature_layer = -1
    return LlavaForConditionalGeneration(config).eval()


class Convolutions(nn.Module):
    """1d and 2d convolutions, batch and group norm, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(2, 6, 3, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 6)
        self.conv1d = nn.Conv1d(6, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv2d(x)).relu().mean(2)
        return self.head(self.conv1d(hidden).relu().mean(2))


class Attention(nn.Module):
    """nn.MultiheadAttention between an embedding and a head."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **kwargs)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def text(count: int, seed: int = 0, low: int = 2) -> list[list[int]]:
    """`count` sequences of tokens, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
    return [torch.randint(low, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def seq2seq_examples(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    pairs = zip(text(count, seed), text(count, seed + 100), strict=True)
    return [{"input_ids": source, "labels": [*target, 1]} for source, target in pairs]


def classifier_examples(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": ids, "labels": sum(ids) % 3} for ids in text(count, seed)]


def tagger_examples(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": ids, "labels": [-100, *(i % 3 for i in ids[1:])]} for ids in text(count, seed)]


def lm_examples(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in text(count, seed)]


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[..., list[dict[str, Any]]]]] = {
    "t5": (tied_t5, seq2seq_examples),
    "bert": (bert_classifier, classifier_examples),
    "gpt2": (gpt2, lm_examples),
    "llama": (llama, lm_examples),
    "gemma": (gemma, lm_examples),
}


def padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded on the right by hand: ids with 0, labels with -100."""

    def stack(rows: list[Any], fill: int) -> Tensor:
        if isinstance(rows[0], int):
            return torch.tensor(rows)
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": stack(ids, 0),
        "attention_mask": stack([[1] * len(row) for row in ids], 0),
        "labels": stack([example["labels"] for example in examples], -100),
    }


def tuned(base: nn.Module, **settings: Any) -> Any:
    """`base` with a Fish-Dip adapter, whose mask only the test updates. Random deltas with init_weights=False."""
    settings = {"density": 0.05, "auto_update": False, "delta_scale": "none", **settings}
    return get_peft_model(base, FishDipConfig(**settings))


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes, so that equality is that of bits: -0.0 differs from 0.0, NaN equals itself."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).clone()


def snapshot(base: nn.Module) -> dict[str, Tensor]:
    """The bits of all parameters and buffers of a model that has no adapter."""
    return {name: bits(tensor) for name, tensor in base.state_dict().items()}


def base_bits(model: nn.Module) -> dict[str, Tensor]:
    """The bits of all base parameters of a model with adapters, under their names without them."""
    return {
        name.replace("base_model.model.", "").replace(".base_layer", ""): bits(tensor)
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if ".fishdip_" not in name
    }


def assert_base_is(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, found in base_bits(model).items():
        assert torch.equal(found, before[name]), name


def flat_of(model: Any, adapter: str | None = None) -> nn.Parameter:
    """The trainable vector of an adapter, by default of the one that is being trained."""
    vectors = {name: tensor for name, tensor in model.named_parameters() if "fishdip_values" in name.split(".")}
    if adapter is not None:
        vectors = {name: tensor for name, tensor in vectors.items() if name.split(".")[-2] == adapter}
    elif len(vectors) > 1:
        vectors = {name: tensor for name, tensor in vectors.items() if tensor.requires_grad}
    [vector] = vectors.values()
    return vector


def base_parameters(model: Any) -> dict[str, nn.Parameter]:
    """All base parameters of a model with adapters, under their names without them."""
    return {
        name.replace(".base_layer", ""): tensor
        for name, tensor in tuner_of(model).model.named_parameters(remove_duplicate=False)
        if ".fishdip_" not in name
    }


def shapes_of(model: Any, adapter: str | None = None) -> dict[str, torch.Size]:
    """The shape of each base parameter that an adapter targets, in its order."""
    tensors = base_parameters(model)
    return {name: tensors[name].shape for name in tuner_of(model).mask(adapter)}


def random_scores(model: Any, seed: int = 0, adapter: str | None = None) -> dict[str, Tensor]:
    """Scores for `set_mask`."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes_of(model, adapter).items()}


def support_size(model: Any, adapter: str | None = None) -> int:
    """Number of entries that have a delta."""
    return sum(len(positions) for positions, _ in tuner_of(model).delta(adapter).values())


def num_updates(model: Any, adapter: str = "default") -> int:
    """Mask updates that an adapter has been through, as its checkpoint tells it."""
    key = f".fishdip_summary.{adapter}."
    [summary] = [tensor for name, tensor in model.state_dict().items() if key in name]
    return int(summary[-1])


def scales_of(model: Any, adapter: str = "default") -> dict[str, float]:
    """What the trained values of each parameter are multiplied by to give deltas: with `delta_scale="rms"` the RMS of
    the base parameter, or 1e-3 if that is larger, rounded to a power of two; with "auto" 8 times that (T5: 64)."""
    tuner, tensors = tuner_of(model), base_parameters(model)
    if tuner.peft_config[adapter].delta_scale == "none":
        return dict.fromkeys(tuner.mask(adapter), 1.0)
    rms = {name: float(tensors[name].detach().double().square().mean().sqrt()) for name in tuner.mask(adapter)}
    of_auto = 64.0 if "T5" in type(tuner.model).__name__ else 8.0
    unit = of_auto if tuner.peft_config[adapter].delta_scale == "auto" else 1.0
    return {name: unit * 2.0 ** round(math.log2(max(value, 1e-3))) for name, value in rms.items()}


def num_hooks(model: nn.Module) -> int:
    """Number of forward hooks in a model, of which torch has no public list."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def randomise(model: Any, seed: int = 0, scale: float = 0.1, adapter: str | None = None) -> None:
    """Give the active entries random deltas, as training would."""
    generator = torch.Generator().manual_seed(seed)
    flat = flat_of(model, adapter)
    with torch.no_grad():
        flat.copy_(torch.randn(flat.shape, generator=generator) * scale)


def train(model: Any, examples: list[dict[str, Any]], steps: int, optimizer: Any, update: Any = None) -> None:
    """A plain loop over slices of the examples; `update(step)` is called before each step."""
    model.train()
    for step in range(steps):
        if update is not None:
            update(step)
        chunk = [examples[(3 * step + i) % len(examples)] for i in range(3)]
        model(**padded(chunk)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def scored(model: Any, examples: list[dict[str, Any]], **kwargs: Any) -> Any:
    return model.base_model.update_mask(examples, **kwargs)


class ignoring_unscored_mask(warnings.catch_warnings):
    """Within, training a mask that no example has scored is fine."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message=".*data-free.*")
        return entered


def enable_checkpointing(model: Any, options: dict[str, bool]) -> None:
    """Gradient checkpointing, by the name that the installed transformers has for it."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)(options)
