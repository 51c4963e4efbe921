"""Frozen bases that bitsandbytes (8 and 4 bit) or torchao (int8) have quantised."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM, PeftModel, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
)

from peft_fishdip import FishDipCallback, FishDipConfig
from peft_fishdip.importance.losses import default_loss_fn
from peft_fishdip.layers.quantized import FishDipQuantizedLinear
from peft_fishdip.quantization import keep_readable

from ..support.models import (
    VOCABULARY,
    flat_of,
    ignoring_unscored_mask,
    llama,
    lm_examples,
    num_updates,
    padded,
    randomise,
    seq2seq_examples,
    shapes_of,
    support_size,
    tied_t5,
    train,
    tuned,
)

bitsandbytes = pytest.importorskip("bitsandbytes")
quantization = pytest.importorskip("torchao.quantization")

KINDS: dict[str, Any] = {
    "8bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "torchao": lambda: TorchAoConfig(quantization.Int8WeightOnlyConfig()),
}
WEIGHT_ONLY = ["nf4", "torchao"]
"""Whose products are those of the dequantised weights; LLM.int8() rounds the activations too."""
EXAMPLES = lm_examples(8)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="bitsandbytes|torchao")
        warnings.filterwarnings("ignore", message="MatMul8bitLt")
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decoder and an encoder-decoder wide enough to be quantised in blocks, as files."""
    folder = tmp_path_factory.mktemp("bases")
    llama(hidden_size=64, intermediate_size=96, attention_bias=True).save_pretrained(folder / "llama")
    tied_t5(d_model=64, d_kv=32, d_ff=96).save_pretrained(folder / "t5")
    return {name: folder / name for name in ("llama", "t5")}


def quantised(folder: Path, kind: str) -> Any:
    auto = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(
        folder, quantization_config=KINDS[kind](), device_map="cpu", dtype=torch.float32
    ).eval()
    for module in model.modules():
        keep_readable(module)  # what an adapter makes of its base, so that both compute the same on every CPU
    return model


def dequantised(model: Any, folder: Path) -> Any:
    """A plain model with the values of a quantised one: those its own libraries give for the packed weights."""
    auto = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    plain = auto.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module.weight) is nn.Parameter:
            continue
        weight = module.weight
        if type(weight).__name__ == "Params4bit":
            values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        elif type(weight).__name__ == "Int8Params":
            values = weight.data.float() * weight.SCB.view(-1, 1) / 127
        else:
            values = weight.dequantize()
        plain.get_submodule(name).weight = nn.Parameter(values.detach().float().clone())
    return plain


def stored_bits(model: nn.Module) -> dict[str, Tensor]:
    """The bits of all base tensors, by name; of subclasses of Tensor those of their parts."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".fishdip_" in name:
            continue
        parts = getattr(parameter, "tensor_data_names", None)
        for part in parts or [""]:
            tensor = getattr(parameter, part) if part else parameter.data
            plain = torch.Tensor(tensor) if tensor.dtype == torch.float32 else tensor
            found[f"{name}.{part}"] = plain.detach().contiguous().reshape(-1).view(torch.uint8).clone()
    return found


def assert_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@torch.no_grad()
def logits(model: Any, examples: Any = EXAMPLES) -> Tensor:
    return model.eval()(**padded(examples[:4])).logits


def adapted(folder: Path, kind: str, **settings: Any) -> Any:
    """A quantised base with an adapter that was trained over two masks."""
    examples = seq2seq_examples(8) if folder.name == "t5" else EXAMPLES
    model = tuned(quantised(folder, kind), **{"density": 0.05, "num_samples": 4, **settings})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    def update(step: int) -> None:
        if step % 3 == 0:
            model.base_model.update_mask(examples, optimizer=optimizer)

    train(model, examples, 6, optimizer, update)
    assert support_size(model) > flat_of(model).numel()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_zeros_changes_no_bit(saved: dict[str, Path], kind: str) -> None:
    base = quantised(saved["llama"], kind)
    expected, before = logits(base), stored_bits(base)
    model = tuned(base)
    assert any(isinstance(module, FishDipQuantizedLinear) for module in model.modules())
    assert torch.equal(logits(model), expected)
    model.base_model.unload()
    assert torch.equal(logits(base), expected)
    assert_same(before, stored_bits(base))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_adds_the_product_of_its_delta(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    positions, values = model.base_model.delta()["model.layers.1.mlp.down_proj.weight"]
    dense = torch.zeros(64 * 96).index_put((positions,), values).view(64, 96)
    assert values.abs().max() > 0.01
    x = torch.randn(2, 5, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.base_layer(x) + F.linear(x, dense), rtol=1e-6, atol=1e-6)
    assert not torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("base", ["llama", "t5"])
@pytest.mark.parametrize("kind", WEIGHT_ONLY)
def test_masks_and_gradients_are_those_of_the_dequantised_model(saved: dict[str, Path], kind: str, base: str) -> None:
    examples = seq2seq_examples(8) if base == "t5" else EXAMPLES
    model = quantised(saved[base], kind)
    settings = {"density": 0.1, "num_samples": 4}
    plain = tuned(dequantised(model, saved[base]), **settings)
    model = tuned(model, **settings)
    for step in range(2):
        updates = [one.base_model.update_mask(examples) for one in (model, plain)]
        assert updates[0].example_ids == updates[1].example_ids
        masks = [
            {(name, position) for name, positions in one.base_model.mask().items() for position in positions.tolist()}
            for one in (model, plain)
        ]
        assert len(masks[0] & masks[1]) >= 0.995 * len(masks[0])
        scores = {name: torch.zeros(shape) for name, shape in shapes_of(plain).items()}
        for name, positions in plain.base_model.mask().items():
            scores[name].view(-1)[positions] = 1.0
        model.base_model.set_mask(scores)
        gradients = []
        for one in (model, plain):
            one.zero_grad()
            one(**padded(examples[:4])).loss.backward()
            gradients.append(flat_of(one).grad.clone())
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
        assert gradients[0].abs().max() > 0
        if step == 0:
            for one in (model, plain):
                randomise(one, seed=5, scale=0.05)
            torch.testing.assert_close(logits(model, examples), logits(plain, examples), rtol=1e-4, atol=1e-4)


def test_eight_bit_masks_are_close_to_those_of_the_dequantised_model(saved: dict[str, Path]) -> None:
    """LLM.int8() rounds activations in its forward pass, so gradients differ by about a percent."""
    model = quantised(saved["llama"], "8bit")
    plain = tuned(dequantised(model, saved["llama"]), density=0.1, num_samples=4)
    model = tuned(model, density=0.1, num_samples=4)
    for one in (model, plain):
        one.base_model.update_mask(EXAMPLES)
    same = sum(
        torch.isin(positions, plain.base_model.mask()[name]).sum()
        for name, positions in model.base_model.mask().items()
    )
    assert same >= 0.9 * flat_of(model).numel()


@pytest.mark.parametrize("kind", KINDS)
def test_examples_that_share_a_pass_score_as_they_do_alone(saved: dict[str, Path], kind: str) -> None:
    alone, together = (tuned(quantised(saved["t5"], kind), density=0.1, num_samples=4) for _ in range(2))
    examples = seq2seq_examples(8)
    alone.base_model.update_mask(examples, batch_size=1)
    together.base_model.update_mask(examples, batch_size=4)
    same = sum(
        torch.isin(positions, alone.base_model.mask()[name]).sum()
        for name, positions in together.base_model.mask().items()
    )
    # what LLM.int8() rounds an example's activations to may depend on its neighbours' padding
    assert same >= (0.95 if kind == "8bit" else 0.995) * flat_of(alone).numel()


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_leaves_the_base(saved: dict[str, Path], kind: str) -> None:
    base = prepare_model_for_kbit_training(quantised(saved["llama"], kind), use_gradient_checkpointing=False)
    before, loss_before = stored_bits(base), float(base(**padded(EXAMPLES)).loss)
    model = tuned(base, density=0.05, num_samples=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)

    def update(step: int) -> None:
        if step % 10 == 0:
            model.base_model.update_mask(EXAMPLES, optimizer=optimizer)

    train(model, EXAMPLES, 30, optimizer, update)
    with torch.no_grad():
        assert float(model(**padded(EXAMPLES)).loss) < 0.7 * loss_before
    with model.disable_adapter(), torch.no_grad():
        assert float(model(**padded(EXAMPLES)).loss) == loss_before
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): t for name, t in stored_bits(model).items()
    }
    assert_same(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_updates_and_saves_an_adapter_of_a_quantised_base(
    saved: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    model = tuned(quantised(saved["llama"], kind), density=0.05, num_samples=4, update_interval=2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_steps=2
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=EXAMPLES,
        data_collator=padded,
        callbacks=[FishDipCallback()],
    )
    trainer.train()
    assert num_updates(model) == 2
    assert (tmp_path / "checkpoint-4" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("base", ["llama", "t5"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_bitwise(saved: dict[str, Path], kind: str, base: str, tmp_path: Path) -> None:
    examples = seq2seq_examples(8) if base == "t5" else EXAMPLES
    model = adapted(saved[base], kind)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(quantised(saved[base], kind), tmp_path)
    assert torch.equal(logits(loaded, examples), logits(model, examples))
    for name, (positions, values) in model.base_model.delta().items():
        found = loaded.base_model.delta()[name]
        assert torch.equal(found[0], positions)
        assert torch.equal(found[1], values)


def test_auto_model_takes_the_quantisation(saved: dict[str, Path], tmp_path: Path) -> None:
    model = adapted(saved["llama"], "nf4")
    model.save_pretrained(tmp_path)
    loaded = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=KINDS["nf4"](), device_map="cpu", dtype=torch.float32
    )
    assert torch.equal(logits(loaded), logits(model))


def test_an_adapter_moves_between_a_plain_and_a_quantised_base(saved: dict[str, Path], tmp_path: Path) -> None:
    """As LoRA's do: train on 4 bit, use on full precision."""
    model = adapted(saved["llama"], "nf4")
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(saved["llama"], dtype=torch.float32), tmp_path
    )
    for name, (positions, values) in model.base_model.delta().items():
        assert torch.equal(plain.base_model.delta()[name][0], positions)
        assert torch.equal(plain.base_model.delta()[name][1], values)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_restored_bitwise(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    before, expected = stored_bits(model), logits(model)
    with model.disable_adapter():
        base = logits(model)
    for _ in range(2):
        model.merge_adapter()
        merged = logits(model)
        # quantising rounds, so merging is only nearly right
        assert (merged - expected).norm() < 0.5 * (base - expected).norm()
        changed = stored_bits(model)
        assert any(not torch.equal(changed[name], tensor) for name, tensor in before.items() if "_proj.base" in name)
        model.unmerge_adapter()
        assert torch.equal(logits(model), expected)
        assert_same(before, stored_bits(model))
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert_same(before, stored_bits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_unload_leaves_a_quantised_model(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    expected = logits(model)
    with model.disable_adapter():
        base = logits(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    kinds = type(layer), type(layer.weight)
    plain = model.merge_and_unload()
    found = plain.model.layers[0].mlp.up_proj
    assert (type(found), type(found.weight)) == kinds
    assert (logits(plain) - expected).norm() < 0.5 * (base - expected).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_add_up_and_merge_together(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    model.add_adapter("other", FishDipConfig(density=0.05, init_weights=False, seed=3))
    one = logits(model)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not torch.allclose(one, both)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        wanted = layer.get_base_weight().clone().float()
        for name in ("default", "other"):
            positions, values = model.base_model.delta(name)["model.layers.0.mlp.up_proj.weight"]
            wanted.view(-1)[positions] += values
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    assert layer.merged_adapters == ["default", "other"]
    step = wanted.abs().max(1, keepdim=True).values / (3 if kind == "nf4" else 127)
    assert ((layer.get_base_weight().float() - wanted).abs() <= step).all()
    model.unmerge_adapter()
    assert torch.equal(logits(model), both)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(logits(model), one)


def test_safe_merge_finds_what_is_not_finite(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    before = stored_bits(model)
    with torch.no_grad():
        flat_of(model)[-1] = torch.inf
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert_same(before, stored_bits(model))


def test_torchao_without_its_config_trains_but_refuses_to_merge(saved: dict[str, Path]) -> None:
    base = AutoModelForCausalLM.from_pretrained(saved["llama"], dtype=torch.float32).eval()
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    model = tuned(base, density=0.05, num_samples=4)
    train(
        model,
        EXAMPLES,
        2,
        torch.optim.AdamW(model.parameters(), 0.01),
        lambda _: model.base_model.update_mask(EXAMPLES),
    )
    before, expected = stored_bits(model), logits(model)
    with pytest.raises(ValueError, match="TorchAoConfig"):
        model.merge_adapter()
    assert_same(before, stored_bits(model))
    assert torch.equal(logits(model), expected)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match="TorchAoConfig"):
        layer.merge()
    assert_same(before, stored_bits(model))
    assert torch.equal(logits(model), expected)


def test_autocast_computes_the_delta_in_its_dtype(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    batch = padded(EXAMPLES[:4])
    model(**batch).loss.backward()
    exact = flat_of(model).grad.clone()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert (flat_of(model).grad - exact).norm() < 0.1 * exact.norm()


def test_quantised_storage_of_another_kind_is_refused(saved: dict[str, Path]) -> None:
    base = nn.Sequential(bitsandbytes.nn.Embedding4bit(VOCABULARY, 64), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"'0\.weight' is a Params4bit.*exclude_modules"):
        tuned(base, density=0.3)
    assert type(base[0]) is bitsandbytes.nn.Embedding4bit


def test_scoring_leaves_quantised_weights_as_they_are(saved: dict[str, Path]) -> None:
    """Same objects, no gradients."""
    model = tuned(quantised(saved["llama"], "nf4"), density=0.05, num_samples=2)
    weights = {name: (id(p), p.requires_grad) for name, p in model.named_parameters() if ".fishdip_" not in name}
    model.base_model.update_mask(EXAMPLES, loss_fn=default_loss_fn(model.base_model.model, "sum"))
    after = {name: (id(p), p.requires_grad) for name, p in model.named_parameters() if ".fishdip_" not in name}
    assert after == weights
    assert all(p.grad is None for p in model.parameters())


def test_a_deep_copy_is_another_model(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    with ignoring_unscored_mask():
        other = copy.deepcopy(model)
    expected = logits(model)
    assert torch.equal(logits(other), expected)
    randomise(other, scale=0.5)
    assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(other), expected)


def test_a_four_bit_layer_stays_readable_on_every_cpu() -> None:
    """bitsandbytes packs the weight anew at the first call in eval mode, on CPUs with AVX512-BF16."""
    layers = [bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32) for _ in range(2)]
    base = nn.Sequential(*layers).to("cpu").eval()
    for layer in layers:
        layer.weight = layer.weight.to("cpu")
    with torch.no_grad():
        base(torch.randn(2, 64))  # packs it, where the CPU has what it takes
    model = tuned(base, density=0.1, target_modules=["0"])
    x = torch.randn(2, 64)
    model.eval()
    model(x)
    for layer in layers:
        assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
    with ignoring_unscored_mask():
        model(x.requires_grad_()).sum().backward()
    weights = [bitsandbytes.functional.dequantize_4bit(y.weight.data, y.weight.quant_state) for y in layers]
    expected = torch.ones(2, 64) @ weights[1] @ weights[0]
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-4)
