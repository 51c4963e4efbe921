"""Models in the middle of training, and all that an operation may change of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from peft_fishdip import FishDipConfig, FishDipLayer
from peft_fishdip.optim.adafactor import SparseAdafactor

from ...support.models import base_bits, bits, lm_examples, padded, randomise, seq2seq_examples, tied_t5, tuned

Bits = dict[str, Any]


def small_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=48,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=12,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def small_t5() -> nn.Module:
    return tied_t5(num_layers=1)


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[..., list[dict[str, Any]]]]] = {
    "gpt2": (small_gpt2, lm_examples),
    "t5": (small_t5, seq2seq_examples),
}


class Subject(NamedTuple):
    """A model in the middle of training."""

    model: Any
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]
    family: str


def scores_for(model: Any, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    build, _ = FAMILIES["gpt2" if "transformer.wte.weight" in model.base_model.mask() else "t5"]
    shapes = {name: tensor.shape for name, tensor in build().named_parameters()}
    return {name: torch.rand(shapes[name], generator=generator) for name in model.base_model.mask()}


def made(family: str, optimizer: str = "adamw", merged: tuple[str, ...] = ()) -> Subject:
    """Two adapters with inactive entries; the first one has an optimizer's state, and a gradient that accumulates."""
    build, examples = FAMILIES[family]
    model, batch = tuned(build(), density=0.05), padded(examples(3))
    for seed in (1, 2):
        model.base_model.set_mask(scores_for(model, seed))
        randomise(model, seed=seed)
    vector = model.base_model._state("default").flat
    model.add_adapter("other", FishDipConfig(density=0.03, init_weights=False, seed=5))
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW([vector], lr=0.01),
        "adafactor": lambda: SparseAdafactor(model, lr=0.01),
    }
    trainer = kinds[optimizer]()
    for _ in range(2):
        model(**batch).loss.backward()
        trainer.step()
        trainer.zero_grad()
    model(**batch).loss.backward()
    if merged:
        model.merge_adapter(list(merged))
    return Subject(model, trainer, batch, family)


def state_of(subject: Subject) -> Bits:
    """The bits of all that an operation may change."""
    model, optimizer = subject.model, subject.optimizer
    tuner = model.base_model
    found: Bits = {f"state dict {key}": bits(tensor) for key, tensor in model.state_dict().items()}
    for layer in model.modules():  # of layers, so that an adapter that is half gone is seen
        if isinstance(layer, FishDipLayer):
            found["merged"] = [*found.get("merged", []), *layer.merged_adapters]
            found["active"] = [*found.get("active", []), *layer.active_adapters]
    found["names"] = [*model.peft_config, *tuner.active_adapters]
    for adapter in model.peft_config:
        for name, positions in tuner.mask(adapter).items():
            found[f"{adapter} mask {name}"] = bits(positions)
        for name, (positions, values) in tuner.delta(adapter).items():
            found[f"{adapter} delta {name}"] = torch.cat([bits(positions), bits(values)])
    for name, parameter in model.named_parameters():
        found[f"gradient {name}"] = None if parameter.grad is None else bits(parameter.grad)
        found[f"trainable {name}"] = parameter.requires_grad
    for number, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            found[f"optimizer {number} {key}"] = bits(value) if isinstance(value, Tensor) else value
    return found


def differing(a: Bits, b: Bits) -> list[str]:
    return sorted(a.keys() ^ b.keys()) + [key for key in a.keys() & b.keys() if not same(a[key], b[key])]


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b


def continued(subject: Subject) -> Bits:
    """What the model computes, and what one more step of training makes of it; its base is bitwise that of before."""
    model = subject.model
    with torch.no_grad():
        found: Bits = {"logits": bits(model(**subject.batch).logits)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing to unmerge
        model.unmerge_adapter()
    expected = {name: bits(tensor) for name, tensor in FAMILIES[subject.family][0]().named_parameters()}
    assert [n for n, found in base_bits(model).items() if n in expected and not torch.equal(found, expected[n])] == []
    if "default" in model.peft_config:
        model.set_adapter("default")
        loss = model(**subject.batch).loss
        loss.backward()
        subject.optimizer.step()
        with torch.no_grad():
            found["logits after a step"] = bits(model(**subject.batch).logits)
    return found | state_of(subject)
