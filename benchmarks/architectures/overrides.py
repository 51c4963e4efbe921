"""What the generic way of making tiny configs does not know about some architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
"""Rotary embeddings of time, height and width, for heads of 16."""
HGNET = {
    "stem_channels": [3, 16, 16],
    "hidden_sizes": [16, 16, 16, 16],
    "stage_in_channels": [16, 16, 16, 16],
    "stage_mid_channels": [16, 16, 16, 16],
    "stage_out_channels": [16, 16, 16, 16],
}

CONFIGS: dict[str, Mapping[str, Any]] = {
    "bros": {"hidden_size": 64},
    "codegen": {"n_head": 4, "rotary_dim": 8},
    "colqwen2": {"vlm_config.text_config.rope_parameters": SECTIONS},
    "deformable_detr": {"d_model": 64},
    "grounding-dino": {"d_model": 64},
    "mm-grounding-dino": {"d_model": 64},
    "donut-swin": {"window_size": 2, "image_size": [64, 64]},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "esm": {"pad_token_id": 1, "mask_token_id": 32},
    "glm46v": {"text_config.rope_parameters": SECTIONS},
    "glm4v": {"text_config.rope_parameters": SECTIONS},
    "glm4v_moe": {"text_config.rope_parameters": SECTIONS},
    "glm_ocr": {"text_config.rope_parameters": SECTIONS},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hgnet_v2": HGNET,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 4},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl": {"text_config.rope_parameters": SECTIONS},
    "qwen2_5_vl": {"text_config.rope_parameters": SECTIONS},
    "qwen2_vl": {"text_config.rope_parameters": SECTIONS},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "wav2vec2-bert": {"vocab_size": 64, "feature_projection_input_dim": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "layers_block_type": ["mamba", "hybrid"]},
}
"""By model type, fields of its config; "vision_config.depth" is a field of a part."""

NEVER_REENTRANT = ("wavlm",)
"""Model types whose backward pass never ends with `use_reentrant=True`, with or without an adapter."""
