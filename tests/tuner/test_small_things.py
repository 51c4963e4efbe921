"""What goes wrong rarely: tied modules that are trained whole, shared memory, default dtypes, dropped graphs."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertModel, RwkvConfig, RwkvModel

from peft_fishdip import FishDipConfig

from ..support.models import (
    FAMILIES,
    UNSCORED,
    bert_classifier,
    flat_of,
    gpt2,
    llama,
    lm_examples,
    padded,
    random_scores,
    tied_t5,
    tuned,
)

pytestmark = pytest.mark.filterwarnings(UNSCORED, "ignore:the learning rate:UserWarning")

# ----- tied modules that PEFT trains whole ---------------------------------------------------------------------------


def test_a_tied_module_that_is_trained_whole_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        tuned(gpt2(), modules_to_save=["lm_head"], target_modules=["c_fc"])


def test_tied_targets_and_untied_modules_are_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tuned(gpt2(), target_modules=["wte"])
        tuned(tied_t5())
        tuned(llama(tie_word_embeddings=False), modules_to_save=["lm_head"], target_modules=["q_proj"])


# ----- memory that processes share -----------------------------------------------------------------------------------


def call(model: Any, found: Any) -> None:
    try:
        model(**padded(lm_examples(2)))
    except ValueError as error:
        found.put(str(error))
    else:
        found.put("")


def test_a_model_that_is_handed_to_another_process_refuses_to_be_called_in_both() -> None:
    model, batch = tuned(llama(), init_weights=False), padded(lm_examples(2))
    model(**batch)
    context = mp.get_context("spawn")
    found = context.SimpleQueue()
    process = context.Process(target=call, args=(model, found))
    process.start()
    message = found.get()
    process.join()
    assert "is in memory that several processes share" in message
    for action in (lambda: model(**batch), model.merge_adapter, lambda: model.base_model.update_mask(lm_examples(4))):
        with pytest.raises(ValueError, match=r"several processes share.*copy.deepcopy the base"):
            action()


def test_a_private_copy_of_a_shared_base_works() -> None:
    base, batch = llama().share_memory(), padded(lm_examples(2))
    with pytest.raises(ValueError, match="several processes share"):
        tuned(base, init_weights=False)(**batch)
    found = tuned(copy.deepcopy(llama().share_memory()), init_weights=False)(**batch).logits
    assert torch.equal(found, tuned(llama(), init_weights=False)(**batch).logits)


def test_norms_and_merged_models_may_be_shared() -> None:
    model, batch = tuned(llama(), init_weights=False, target_modules=["norm"], density=0.5), padded(lm_examples(2))
    expected = model(**batch).logits
    assert torch.equal(model.share_memory()(**batch).logits, expected)
    merged = tuned(llama(), init_weights=False).merge_and_unload()
    assert torch.equal(merged.share_memory()(**batch).logits, merged(**batch).logits)


# ----- modules that rewrite their weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_tables_that_renormalise_themselves_are_refused_by_name(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"the embedding '0' has max_norm=0.5 and rewrites its own weight"):
        tuned(nn.Sequential(kind(9, 4, max_norm=0.5), nn.Linear(4, 2)), density=0.5)
    model = tuned(nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2)), density=0.5, init_weights=False)
    ids = torch.arange(6).view(2, 3)
    expected = model(ids)
    model.merge_adapter()
    torch.testing.assert_close(model(ids), expected)


# ----- Rprop ----------------------------------------------------------------------------------------------------------


def test_new_entries_start_with_the_rate_of_rprop() -> None:
    model = tuned(llama(), density=0.05).train()
    optimizer = torch.optim.Rprop([flat_of(model)], lr=0.02, step_sizes=(1e-6, 1.0))

    def step() -> Tensor:
        before = flat_of(model).detach().clone()
        model(**padded(lm_examples(3))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return flat_of(model).detach() - before

    for seed in (1, 2):
        model.base_model.set_mask(random_scores(model, seed), optimizer=optimizer)
        moved = step()
    sizes = moved[moved != 0].abs().unique()
    # those that are new move by the rate; those that stay have adapted theirs once, by 0.5 or 1.2
    assert all(min(abs(float(size) - rate) for rate in (0.02, 0.01, 0.024)) < 1e-6 for size in sizes)
    assert float((moved.abs() > 0.019).float().mean()) > 0.5


# ----- values that float32 cannot hold --------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "scale"), [(1e300, "none"), (3e38, "rms"), (float("nan"), "none")])
def test_a_value_that_would_not_be_finite_is_refused(value: float, scale: str, tmp_path: Path) -> None:
    tuned(llama(), init_weights=False, delta_scale=scale).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "q_proj.fishdip_values" in name and tensors[name].numel())
    tensors = {n: t.double() if "fishdip_values" in n else t for n, t in tensors.items()}
    tensors[name][0] = value
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"q_proj.*the value at position \d+ is"):
        PeftModel.from_pretrained(llama(), str(tmp_path))


# ----- strict sees changes through .data ------------------------------------------------------------------------------


def test_strict_sees_a_change_of_the_base_through_data(tmp_path: Path) -> None:
    model = tuned(llama(), init_weights=False)
    model.save_pretrained(str(tmp_path))  # fingerprints are computed, and kept
    with torch.no_grad():
        model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match=r"strict=True.*up_proj.weight' has other values"):
        model.add_adapter("again", FishDipConfig.from_pretrained(str(tmp_path), strict=True))


# ----- a default dtype other than float32 -----------------------------------------------------------------------------


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    yield request.param
    torch.set_default_dtype(torch.float32)


def course(build: Callable[[], Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Two masks and steps, inactive entries, several adapters, saved tensors; the base is float32."""
    model = tuned(build(), init_weights=False, num_samples=3, delta_scale="rms")
    torch.set_default_dtype(dtype)
    model.add_adapter("other", FishDipConfig(density=0.03, init_weights=False, auto_update=False))
    optimizer = torch.optim.AdamW([flat_of(model, "default")], lr=0.01)
    for _ in range(2):
        model.base_model.update_mask(lm_examples(5), optimizer=optimizer)
        model.train()(**padded(lm_examples(3))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.base_model.set_adapter(["default", "other"])
    with torch.no_grad():
        found = {"logits": model.eval()(**padded(lm_examples(3))).logits}
    found |= {key: tensor for key, tensor in model.state_dict().items() if "fishdip" in key}
    torch.set_default_dtype(torch.float32)
    return found


@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_default_dtype_changes_nothing(build: Callable[[], Any], default_dtype: torch.dtype) -> None:
    found, expected = course(build, default_dtype), course(build, torch.float32)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        if tensor.is_floating_point() and default_dtype != torch.bfloat16:
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)


# ----- graphs whose backward pass never runs --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_that_is_dropped_is_freed_at_once(family: str) -> None:
    build, make = FAMILIES[family]
    model = tuned(build(), init_weights=False).train()
    kept: list[weakref.ref[Tensor]] = []
    for part in model.modules():
        part.register_forward_hook(
            lambda *call: kept.append(weakref.ref(call[2])) if isinstance(call[2], Tensor) else None
        )
    model(**padded(make(3))).loss.backward()
    gc.collect()
    kept.clear()
    gc.disable()
    try:
        output = model(**padded(make(3)))
        assert sum(reference() is not None for reference in kept) > 3
        del output
        assert not any(reference() is not None for reference in kept)
    finally:
        gc.enable()


def test_models_that_rescale_their_weights_in_place_are_refused_by_name() -> None:
    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2, "context_length": 16}
    with pytest.raises(ValueError, match="RwkvModel with rescale_every=2 rescales its weights"):
        tuned(RwkvModel(RwkvConfig(rescale_every=2, **sizes)))
    assert tuned(RwkvModel(RwkvConfig(rescale_every=0, **sizes)), density=0.1).base_model.mask()


def test_parameters_without_entries_are_left_alone() -> None:
    base = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    base[0].register_parameter("registers", nn.Parameter(torch.zeros(1, 0, 4)))
    model = tuned(base, density=1.0)
    assert set(model.base_model.mask()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert model(torch.ones(1, 3)).shape == (1, 2)


def test_a_model_without_token_embeddings_takes_adapters() -> None:
    class Seeing(BertModel):
        def get_input_embeddings(self) -> Any:
            raise NotImplementedError

    model = tuned(Seeing(bert_classifier().config), density=0.1)
    model.add_adapter("other", FishDipConfig(density=0.1))
    assert model.peft_config["other"].trainable_token_indices == {}
