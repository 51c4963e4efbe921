"""Tiny models with prefixes that cannot be overlooked, and a batch for them."""

import torch
from peft import get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks.methods import FullPrefixConfig

from .. import tiny

LAYERS, D_MODEL, HEADS, D_KV, TOKENS, BOTTLENECK = 2, 32, 4, 6, 3, 5
INNER = HEADS * D_KV


def t5_config(kind=T5Config, **changes):
    own = {"d_model": D_MODEL, "d_kv": D_KV, "num_layers": LAYERS, "num_heads": HEADS, "dropout_rate": 0.0}
    return tiny.t5_config(kind, **(own | changes))


def base_model(kind=T5ForConditionalGeneration, config=None, attention="sdpa"):
    """Random weights, such that positions matter and that the generated words differ."""
    torch.manual_seed(1)
    model = kind(config or t5_config()).eval()
    model.set_attn_implementation(attention)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data.normal_()
        elif name.endswith((".o.weight", ".wo.weight")):
            parameter.data.mul_(12)  # or the model would repeat its last word
    return model


def prefixed(model=None, **options):
    torch.manual_seed(2)
    config = FullPrefixConfig(**({"num_virtual_tokens": TOKENS, "bottleneck_size": BOTTLENECK} | options))
    model = get_peft_model(model or base_model(), config).eval()
    enlarge(model)
    return model


def enlarge(model):
    """Prefixes that cannot be overlooked."""
    for name, parameter in model.named_parameters():
        if name.endswith("default.keys_values"):
            parameter.data.mul_(50)
        elif ".full_prefix_tokens." in name:
            parameter.data.mul_(5)


def batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 40, (3, 7), generator=generator)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    labels = torch.randint(2, 40, (3, 6), generator=generator)
    labels[1, 4:] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def sources():
    return {key: batch()[key] for key in ("input_ids", "attention_mask")}


@torch.no_grad()
def logits_of(model):
    return model.eval()(**batch()).logits
