"""Programs that exporters make of a model with live adapters compute the same, in any process, or are refused."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peft_fishdip import FishDipConfig
from peft_fishdip.adapter.handles import named

from ..support.models import (
    Convolutions,
    bert_classifier,
    gpt2,
    llama,
    random_scores,
    randomise,
    support_size,
    tied_t5,
    tuned,
)


class Called(nn.Module):
    """A model with tensors as inputs and output, as exporters like it."""

    def __init__(self, model: Any, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.model, x)


IDS = torch.arange(2, 8)[None]
Built = tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor], Tensor]
SUBJECTS: dict[str, Built] = {
    "t5": (tied_t5, lambda m, x: m(input_ids=x, decoder_input_ids=x, use_cache=False).logits, IDS),
    "bert": (bert_classifier, lambda m, x: m(input_ids=x).logits, IDS),
    "gpt2": (gpt2, lambda m, x: m(input_ids=x, use_cache=False).logits, IDS),
    "llama, norms": (llama, lambda m, x: m(input_ids=x, use_cache=False).logits, IDS),
    "convolutions": (Convolutions, lambda m, x: m(x), torch.linspace(-1, 1, 128).view(1, 2, 8, 8)),
}
SETTINGS: dict[str, dict[str, Any]] = {"llama, norms": {"target_modules": ["norm"], "density": 0.5}}


def made(subject: str, init_weights: bool = False) -> tuple[Called, Tensor]:
    build, call, x = SUBJECTS[subject]
    torch.manual_seed(0)
    model = tuned(build().eval(), **{"init_weights": init_weights, "density": 0.2, **SETTINGS.get(subject, {})})
    return Called(model, call).eval(), x


def exported(model: nn.Module, x: Tensor, strict: bool = False) -> Callable[[Tensor], Tensor]:
    """Saved and loaded, as another process would have it."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), strict=strict), file)
    file.seek(0)
    return torch.export.load(file).module()


def traced(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(model, (x,), check_trace=False), file)
        file.seek(0)
        return torch.jit.load(file)


def strictly(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="While compiling, we found certain side effects")
        return exported(model, x, strict=True)


EXPORTERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "torch.export": exported,
    "torch.jit.trace": traced,
    "torch.export, strict": strictly,
}
ALL = [(subject, exporter) for subject in SUBJECTS if subject != "bert" for exporter in list(EXPORTERS)[:2]]


@pytest.mark.parametrize(("subject", "exporter"), [*ALL, ("convolutions", "torch.export, strict")])
def test_a_program_computes_what_the_adapter_did_and_needs_nothing_of_it(subject: str, exporter: str) -> None:
    model, x = made(subject)
    with torch.no_grad():
        expected = model(x)
        program = EXPORTERS[exporter](model, x)
        assert torch.equal(model(x), expected)
        with model.model.disable_adapter():
            assert not torch.allclose(model(x), expected)
        randomise(model.model, seed=7)  # a program does not change with the model
        model.model.base_model.set_mask(random_scores(model.model))
        torch.testing.assert_close(program(x), expected)
        del model
        torch.testing.assert_close(program(x), expected)
        other = x.flip(1)
        torch.testing.assert_close(program(other), made(subject)[0](other))


@pytest.mark.parametrize("exporter", list(EXPORTERS)[:2])
def test_a_program_has_all_active_adapters_scales_and_inactive_entries(exporter: str) -> None:
    model, x = made("gpt2")
    peft = model.model
    peft.base_model.set_mask(random_scores(peft))
    randomise(peft)
    peft.add_adapter("other", FishDipConfig(density=0.1, init_weights=False, delta_scale="rms", auto_update=False))
    peft.base_model.set_adapter(["default", "other"])
    with torch.no_grad():
        expected = model(x)
        assert (support_size(peft, "default"), peft.base_model.active_adapters) > (0, [])
        torch.testing.assert_close(EXPORTERS[exporter](model, x)(x), expected)


@pytest.mark.parametrize("exporter", list(EXPORTERS)[:2])
def test_a_program_of_a_model_that_computes_gradients_is_right_too(exporter: str) -> None:
    model, x = made("llama, norms")
    expected = model(x).detach()
    torch.testing.assert_close(EXPORTERS[exporter](model, x)(x).detach(), expected)


@pytest.mark.parametrize("exporter", list(EXPORTERS)[:2])
def test_what_is_merged_or_disabled_is_exported_as_it_computes(exporter: str) -> None:
    model, x = made("bert")
    with torch.no_grad():
        expected = model(x)
        with model.model.disable_adapter():
            torch.testing.assert_close(EXPORTERS[exporter](model, x)(x), model(x))
        model.model.merge_adapter()
        torch.testing.assert_close(EXPORTERS[exporter](model, x)(x), expected)
        model.model.unmerge_adapter()
        merged = Called(model.model.merge_and_unload(), model.call)
        torch.testing.assert_close(EXPORTERS[exporter](merged, x)(x), expected)


def test_another_process_runs_a_program_beside_a_model_of_its_own(tmp_path: Path) -> None:
    model, x = made("bert")
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (x,)), tmp_path / "program.pt2")
        torch.save(model(x), tmp_path / "expected.pt")
    script = f"""
import torch
from tests.tuner.test_exports import made
other, x = made("bert")  # whose numbers are those of the first process
found = torch.export.load("{tmp_path}/program.pt2").module()(x)
torch.testing.assert_close(found.detach(), torch.load("{tmp_path}/expected.pt"))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.filterwarnings("ignore")  # of the exporter itself
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_computes_what_the_adapter_did(dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model, x = made("bert")
    path = str(tmp_path / "model.onnx")
    with torch.no_grad():
        torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False, input_names=["x"], opset_version=18)
        [found] = reference.ReferenceEvaluator(path).run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)


def test_symbolic_tracing_is_refused_with_the_remedy() -> None:
    model = tuned(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), density=0.5)
    with pytest.raises(ValueError, match=r"torch.fx cannot trace.*merge_and_unload\(\) first"):
        torch.fx.symbolic_trace(model.base_model.model)
    model.merge_adapter()
    torch.fx.symbolic_trace(model.base_model.model)


def test_numbers_of_another_process_are_refused() -> None:
    with pytest.raises(ValueError, match=r"belongs to another process.*merge_and_unload"):
        named(10**12)
