"""What another library computes for Houlsby adapters and Compacter: writes bottleneck_oracle.json beside this file.

Run with adapters 1.3.0 (AdapterHub), transformers 4.57.6 and torch 2.13.0, which cannot be installed next to
transformers 5:

    pip install adapters==1.3.0 transformers==4.57.6 torch==2.13.0 && python adapters_oracle.py

Parameters are counted on the geometry of t5-small. The outputs are those of a tiny T5 in evaluation mode whose weights,
and those of its adapters, are given by fixed_weights.py; norms are of the gradients of the mean loss.
"""

import json
from pathlib import Path

import adapters
import torch
from adapters import CompacterConfig, DoubleSeqBnConfig
from fixed_weights import GEOMETRY, INPUT_IDS, LABELS, fixed
from transformers import T5Config, T5ForConditionalGeneration

CASES = {
    "houlsby": DoubleSeqBnConfig(),
    "houlsby_feed_forward": DoubleSeqBnConfig(mh_adapter=False),
    "compacter": CompacterConfig(),
    "compacter_gelu_new": CompacterConfig(non_linearity="gelu_new"),
    "compacter_feed_forward": CompacterConfig(mh_adapter=False),
    "compacter_rank_2": CompacterConfig(phm_rank=2, phm_dim=2),
}
PARTS = {
    "adapter_down.0.weight": "down.weight",
    "adapter_down.0.bias": "down.bias",
    "adapter_up.weight": "up.weight",
    "adapter_up.bias": "up.bias",
    "adapter_down.0.W_left": "down.left",
    "adapter_down.0.W_right": "down.right",
    "adapter_down.0.b": "down.bias",
    "adapter_up.W_left": "up.left",
    "adapter_up.W_right": "up.right",
    "adapter_up.b": "up.bias",
}


def common_name(name: str) -> str:
    """The name that fixed_weights.py is given for a parameter of this library."""
    name = name.removeprefix("transformer.").removeprefix("heads.")
    if name.endswith("phm_rule"):
        return "rule"
    if ".adapters." not in name:
        return name
    sublayer, _, part = name.partition(".adapters.test.")
    return f"{sublayer}.{PARTS[part]}"


def with_adapter(geometry: dict, config) -> T5ForConditionalGeneration:
    model = T5ForConditionalGeneration(T5Config(**geometry))
    adapters.init(model)
    model.add_adapter("test", config=config)
    model.train_adapter("test")
    return model.eval()


def outputs(config) -> dict:
    model = with_adapter(GEOMETRY, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(fixed(common_name(name), parameter.shape))
    input_ids = torch.tensor(INPUT_IDS)
    result = model(input_ids=input_ids, attention_mask=input_ids.ne(0).long(), labels=torch.tensor(LABELS))
    result.loss.backward()
    norms: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ".".join(common_name(name).split(".")[-2:])
            norms[part] = norms.get(part, 0.0) + parameter.grad.double().square().sum().item()
    return {
        "loss": result.loss.item(),
        "logits": [[[round(x, 7) for x in token] for token in row] for row in result.logits[:, :, ::8].tolist()],
        "gradient_norms": {part: square**0.5 for part, square in sorted(norms.items())},
    }


def trainable(config) -> int:
    small = {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6, "vocab_size": 40}
    return sum(p.numel() for p in with_adapter(small, config).parameters() if p.requires_grad)


if __name__ == "__main__":
    found = {name: {"t5_small_count": trainable(config), **outputs(config)} for name, config in CASES.items()}
    path = Path(__file__).with_name("bottleneck_oracle.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
