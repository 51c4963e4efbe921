"""Makes the default config of any architecture a tiny one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 64
WIDTH = 32
HEADS = 2

UNCHANGED = re.compile(
    r"kernel|stride|ratio|rate$|_factor|scale|expan|token_type|temperature|theta|_range|stages$|encoder_blocks$"
)
ABSENT = {
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": VOCABULARY,
    "moe_intermediate_size": 48,
}
"""Fields that are None by default and that the models cannot do without."""
RULES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r"vocab|num_embeddings$|codebook_size|num_embeds$", VOCABULARY),
        (r"type_vocab_size|num_labels", 2),
        (r"mask_\w+_length$|groups?$", 2),
        (r"_offset$", 1),
        (r"key_value_heads|num_key_value|kv_heads", 1),
        (r"attention_heads$|num_heads$|_heads$|n_head$|n_heads$|^heads$", HEADS),
        (r"head_dim$|d_kv$|dim_head$|head_size$|d_head$|rotary_dim$|kv_channels$", WIDTH // HEADS),
        (r"experts_per_tok|_topk$|top_k$|moe_k$|num_experts_per", 2),
        (r"num_(local_|routed_)?experts$|n_routed_experts|moe_num_experts|zero_expert_num", 4),
        (r"layers$|num_blocks$|n_layer$|^depth$|_depth$|num_stages$|_blocks$|interval$|_period$", 2),
        (r"image_size$|img_size$|crop_size$", 32),
        (r"patch_size$", 8),
        (r"max_\w*position|n_positions|_positions$|max_seq|seq_len|n_ctx|max_\w*len|_length$", 128),
        (r"num_queries|num_query|num_latents|n_latents|num_proposals|num_denoising|proposals$|num_points", 6),
        (r"mel|num_frames|window|bins$", 16),
        (r"intermediate|ffn|mlp|d_ff$|feedforward|n_inner|dff$|dim_ff$|linear_units$", 48),
        (r"(size|dim|dims|channels|features|hidden|width|rank|units|d_model|n_embd|planes|filters|latents)$", WIDTH),
    )
)
"""The first pattern that a field's name matches tells the largest value that it keeps."""


class Shrinking:
    """One tiny config; token ids that stand for the same in several of its parts stay the same."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}

    def shrunk(self, config_class: type[PreTrainedConfig], given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a tiny config of this class, whose other fields have their defaults, or what is `given`."""
        fields: dict[str, Any] = {}
        specs = getattr(config_class, "sub_configs_defaults", {})
        names = {field.name for field in dataclasses.fields(config_class)}
        for field in dataclasses.fields(config_class):
            if field.name in specs:
                continue
            value = given.get(field.name, default_of(field))
            if field.name == "num_key_value_heads" and "kv_lora_rank" in names:
                fields[field.name] = HEADS  # as many as there are attention heads
                continue
            small = self.smaller(field.name, value)
            if small is not value or field.name in given:
                fields[field.name] = small
        for name, spec in specs.items():
            part = {**spec.init_kwargs, **(given.get(name) or {})}
            fields[name] = {"model_type": spec.model_type, **self.shrunk(class_of(spec), part)}
        return fields

    def smaller(self, name: str, value: Any) -> Any:
        """The value of a field, made small if it is a size or a number of things."""
        if value is None:
            return ABSENT.get(name)
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return self.smaller_number(name, value)
        if isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
            return type(value)(self.smaller_list(name, list(value)))
        return value

    def smaller_number(self, name: str, value: int) -> int:
        if re.search(r"_id$|token_index$|_token$", name) and value >= VOCABULARY:
            return self.tokens.setdefault(value, VOCABULARY - 1 - len(self.tokens))
        if UNCHANGED.search(name):
            return value
        limit = next((limit for pattern, limit in RULES if pattern.search(name)), None)
        return value if limit is None else min(value, limit)

    def smaller_list(self, name: str, values: list[int]) -> list[int]:
        """Widths keep their ratios; numbers of layers and heads become those of all other fields."""
        if UNCHANGED.search(name) or re.search(r"_id$|_ids$|indices|index", name):
            return values
        if re.search(r"depths|layers|blocks", name):
            return [min(value, 1) for value in values]
        if re.search(r"heads", name):
            return [min(value, HEADS) for value in values]
        if re.search(r"image_size|img_size", name):
            return [min(value, 32) for value in values]
        if re.search(r"patch|window|length", name):
            return [min(value, 8) for value in values]
        least = min(value for value in values)
        if least >= 16 and re.search(r"size|dim|channels|features|hidden|width|filters", name):
            return [max(value * 4 // least, 1) * 4 for value in values]
        return values


def class_of(spec: Any) -> type[PreTrainedConfig]:
    """The config class of a part, from transformers' description of it."""
    try:
        return CONFIG_MAPPING[spec.model_type]
    except KeyError:
        return spec.config_class


def default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def tiny_config(config_class: type[PreTrainedConfig], overrides: Mapping[str, Any]) -> PreTrainedConfig:
    """A tiny config of this class; `overrides` has fields, with "vision_config.depth" for those of a part."""
    fields = Shrinking().shrunk(config_class, {})
    for name, value in overrides.items():
        *parts, last = name.split(".")
        place = fields
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return config_class(**fields)
