"""Tiny base models and adapters on disk, and a reader of patches that knows nothing of the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SiglipVisionConfig,
)

from ..support.models import bits, flat_of, gemma, gpt2, llama, random_scores, randomise, tied_t5, tuned

SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}


def qwen2() -> Any:
    """With biases of queries, keys and values, and an output that is tied to the embedding."""
    torch.manual_seed(6)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)).eval()


def qwen3() -> Any:
    torch.manual_seed(7)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).eval()


def qwen3_moe() -> Any:
    """Whose experts are matrices of their own on disk, and one tensor for all of them in the model."""
    torch.manual_seed(8)
    sizes = {**SIZES, "head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).eval()


def gemma_with_images() -> Any:
    """Whose language model has another name on disk than in the model."""
    torch.manual_seed(9)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**SIZES, head_dim=8),
        vision_config=SiglipVisionConfig(**vision, image_size=8, patch_size=4),
        mm_tokens_per_image=4,
        image_token_index=47,
        boi_token_index=46,
        eoi_token_index=45,
    )
    return Gemma3ForConditionalGeneration(config).eval()


BUILDERS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "t5": (tied_t5, AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "llama": (llama, AutoModelForCausalLM, "CAUSAL_LM"),
    "qwen2": (qwen2, AutoModelForCausalLM, "CAUSAL_LM"),
    "qwen3": (qwen3, AutoModelForCausalLM, "CAUSAL_LM"),
    "qwen3_moe": (qwen3_moe, AutoModelForCausalLM, "CAUSAL_LM"),
    "gemma": (gemma, AutoModelForCausalLM, "CAUSAL_LM"),
    "gemma_with_images": (gemma_with_images, AutoModelForCausalLM, "CAUSAL_LM"),
    "gpt2": (gpt2, AutoModelForCausalLM, "CAUSAL_LM"),
}


def save_base(folder: Path, family: str, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """A base model in a folder, with `options` of save_pretrained."""
    BUILDERS[family][0]().to(dtype).save_pretrained(folder, **options)
    return folder


def adapted(base: Path, family: str, seed: int = 0, **settings: Any) -> Any:
    """A model with an adapter of random deltas, half of them inactive; most of the active ones are zero."""
    _, auto, task = BUILDERS[family]
    model = tuned(auto.from_pretrained(base), task_type=task, seed=seed, **settings)
    randomise(model, seed)
    model.base_model.set_mask(random_scores(model, seed + 1))
    flat = flat_of(model)
    with torch.no_grad():
        flat[::3] += 0.125
    return model


def save_adapter(folder: Path, base: Path, family: str, **settings: Any) -> Any:
    """The same, saved in a folder."""
    model = adapted(base, family, **settings)
    model.save_pretrained(folder)
    return model


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors in the files of a model folder, by their names there."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(bits(found[name]), bits(tensor)), name


def apply_patch(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint with a patch applied: what a server does with one."""
    patched = {name: tensor.clone() for name, tensor in tensors.items()}
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        assert metadata["encoding"] == "raw"
        for name, shape in json.loads(metadata["shapes"]).items():
            positions, values = (opened.get_tensor(name + end) for end in (".idx", ".val"))
            tensor = patched[name]
            assert list(tensor.shape) == shape
            assert values.dtype == tensor.dtype
            assert positions.dtype == torch.int32
            for position, value in zip(positions.tolist(), values, strict=True):
                tensor.view(-1)[position] = value
    return patched
