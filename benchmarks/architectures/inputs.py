"""Inputs for any model, by the names of the parameters of its forward."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .shrink import VOCABULARY

BATCH, LENGTH = 2, 12
MAIN = (
    "input_ids",
    "bbox",
    "visual_feats",
    "visual_pos",
    "pixel_values",
    "input_values",
    "input_features",
    "decoder_input_ids",
    "pixel_values_videos",
)
Inputs = dict[str, Any]


def possible_inputs(model: Any, config: PreTrainedConfig) -> Iterator[Inputs]:
    """Inputs that the model may take, the fullest first: which of them it does take shows when it is called."""
    parameters = inspect.signature(model.forward).parameters
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    main = [name for name in MAIN if name in parameters]
    if "decoder_input_ids" in main and not config.is_encoder_decoder:
        main.remove("decoder_input_ids")
    first = model.main_input_name
    first = [name for name in ([first] if isinstance(first, str) else first) if name in parameters]
    with_decoder = [*first, *(["decoder_input_ids"] if "decoder_input_ids" in main else [])]
    seen: set[tuple[str, ...]] = set()
    for chosen in (main, [n for n in main if n != "pixel_values_videos"], with_decoder, first, *([n] for n in main)):
        names = tuple(dict.fromkeys([*chosen, *required]))
        if names and names not in seen:
            seen.add(names)
            makers = [candidates(name, config) for name in names]
            for values in itertools.islice(itertools.product(*makers), 12):
                yield dict(zip(names, values, strict=True))


def candidates(name: str, config: PreTrainedConfig) -> list[Tensor]:
    """Tensors that an input of this name may be."""
    generator = torch.Generator().manual_seed(0)
    if name in ("pixel_values", "pixel_values_videos"):
        size, channels = image_size(config), setting(config, "num_channels", "in_channels", default=3)
        frames = setting(config, "num_frames", default=2)
        shapes = [(BATCH, channels, *size), (BATCH, frames, channels, *size), (BATCH, 2, channels, *size)]
        shapes += [(BATCH, channels, 64, 64)]
        return [torch.randn(shape, generator=generator) for shape in shapes]
    if name in ("input_features", "input_values", "inputs"):
        width = setting(config, "num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", default=16)
        length = setting(config, "max_source_positions", "max_length", default=64)
        shapes = [(BATCH, 3200), (BATCH, 1, 3200), (BATCH, width, 2 * length), (BATCH, width, length)]
        shapes += [(BATCH, length, width), (BATCH, 1, length, width)]
        if name == "input_features":
            shapes = shapes[2:] + shapes[:2]
        return [torch.randn(shape, generator=generator) for shape in shapes]
    if name in ("past_values", "states", "actions", "rewards", "returns_to_go"):
        return [torch.randn(BATCH, LENGTH, generator=generator)]
    if name == "bbox":
        corner = torch.randint(0, 8, (BATCH, LENGTH, 2), generator=generator)
        return [torch.cat([corner, corner + 4], dim=-1)]
    if name in ("visual_feats", "visual_pos"):
        return [
            torch.rand(
                BATCH, 4, setting(config, name.replace("feats", "feat") + "_dim", default=32), generator=generator
            )
        ]
    if name.endswith("mask"):
        return [torch.ones(BATCH, LENGTH, dtype=torch.int64)]
    if name == "token_type_ids":
        return [torch.zeros(BATCH, LENGTH, dtype=torch.int64)]
    length = LENGTH // 2 if name.startswith("decoder") else LENGTH
    return [torch.randint(6, VOCABULARY // 2, (BATCH, length), generator=generator)]


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The config and all configs within it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from parts(value)


def setting(config: PreTrainedConfig, *names: str, default: Any) -> Any:
    """The first of these fields that the config, or one within it, has."""
    for name in names:
        for part in parts(config):
            value = getattr(part, name, None)
            if value is not None:
                return value
    return default


def image_size(config: PreTrainedConfig) -> tuple[int, int]:
    size = setting(config, "image_size", "img_size", default=32)
    if isinstance(size, dict):
        size = [size["height"], size["width"]]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height, width
