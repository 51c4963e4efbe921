"""What is relied on of private names of torch and PEFT: a release that changes it fails here, with what to look at."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import FunctionType

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from peft_fishdip import FishDipConfig, FishDipLayer, FishDipModel, private
from peft_fishdip.adapter.containers import Container

OVERRIDDEN_OF_THE_TUNER = {
    "_cast_adapter_dtype",
    "_get_module_names_tied_with_embedding",
    "_check_merge_allowed",
    "_check_target_module_exists",
    "_check_tied_modules",
    "_create_and_replace",
    "_enable_peft_forward_hooks",
    "_get_adapter_state_dict",
    "_prepare_adapter_config",
    "_remap_adapter_state_dict_for_load",
    "_unload_and_optionally_merge",
}
OVERRIDDEN_OF_THE_LAYER = {"_move_adapter_to_device_of_base_layer"}
OVERRIDDEN_OF_MODULES = {"_apply"}
ATTRIBUTES_OF_THE_LAYER = {"_active_adapter", "_disable_adapters"}
METHODS = (FunctionType, classmethod, staticmethod, property)


def overridden(cls: type, base: type) -> set[str]:
    """Private methods of the package's classes from `cls` up that a class of another package defines, too."""
    parts = [part for part in cls.__mro__ if part.__module__.startswith("peft_fishdip")]
    own = {name for part in parts for name, value in vars(part).items() if isinstance(value, METHODS)}
    return {name for name in own if name.startswith("_") and not name.startswith("__") and hasattr(base, name)}


def test_private_methods_of_peft_that_are_overridden_exist() -> None:
    for name in OVERRIDDEN_OF_THE_TUNER - {"_enable_peft_forward_hooks"}:  # PEFT asks whether a tuner has this one
        assert hasattr(BaseTuner, name), f"BaseTuner has no {name} any more; see FishDipModel"
    for name in OVERRIDDEN_OF_THE_LAYER | ATTRIBUTES_OF_THE_LAYER:
        assert hasattr(BaseTunerLayer, name), f"BaseTunerLayer has no {name} any more; see FishDipLayer"


def test_transformers_notes_whether_a_model_has_adapters() -> None:
    assert GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8))._hf_peft_config_loaded is False


def test_transforms_of_torch_func_are_noticed() -> None:
    seen: list[bool] = []

    def square(x: torch.Tensor) -> torch.Tensor:
        seen.append(private.is_transformed())
        return x.square()

    torch.func.grad(square)(torch.tensor(1.0))
    square(torch.tensor(1.0))
    assert seen == [True, False], "torch tells otherwise whether torch.func transforms a call; see is_transformed"


def test_no_other_private_method_is_overridden() -> None:
    assert overridden(FishDipModel, BaseTuner) <= OVERRIDDEN_OF_THE_TUNER
    assert overridden(FishDipLayer, BaseTunerLayer) <= OVERRIDDEN_OF_THE_LAYER | {
        "_active_adapter",
        "_disable_adapters",
    }
    for container in Container.__subclasses__():
        assert overridden(container, nn.Module) <= OVERRIDDEN_OF_MODULES


def test_parameters_are_found_behind_what_stands_in_their_place() -> None:
    module = nn.Linear(2, 2)
    weight = module.weight
    module.__dict__["weight"] = torch.zeros(2, 2)
    assert private.own_parameter(module, "weight") is weight
    assert private.own_parameter(module, "bias") is module.bias
    assert private.own_parameter(module, "nothing") is None
    assert module(torch.ones(1, 2)).tolist() == [module.bias.tolist()], "a call no longer reads what stands in __dict__"


def test_children_are_found_by_name_and_in_modules_without_any() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assert private.own_submodule(module, "0") is module[0]
    assert dict(private.own_submodules(module)) == {"0": module[0]}
    assert not private.own_submodules(nn.Module.__new__(nn.Linear))


@pytest.mark.parametrize(
    "register",
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_hooks_of_all_kinds_are_seen(register: object) -> None:
    assert callable(register)
    module = nn.Linear(2, 2)
    assert not private.has_hooks(module)
    handle = register(module)
    assert private.has_hooks(module)
    handle.remove()
    assert not private.has_hooks(module)


def test_an_rnn_reads_its_weights_from_a_list() -> None:
    module = nn.LSTM(2, 2)
    weights, names = private.rnn_weights(module)
    assert [id(weight) for weight in weights] == [id(getattr(module, name)) for name in names]
    x = torch.ones(1, 1, 2)
    before = module(x)[0]
    weights[names.index("weight_ih_l0")] = torch.zeros(8, 2)
    assert not torch.equal(module(x)[0], before), "nn.LSTM no longer reads its list of weights"
    assert private.rnn_weights(nn.Linear(2, 2)) == ([], [])


def test_replicas_of_data_parallel_are_known() -> None:
    module = nn.Linear(2, 2)
    replica = module._replicate_for_data_parallel()
    assert not private.is_replica(module)
    assert private.is_replica(replica), "nn.DataParallel no longer marks its replicas"
    assert private.own_parameter(replica, "weight") is None


def test_hooks_of_accelerate_are_known() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert not private.moved_by_accelerate(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert private.moved_by_accelerate(model), "accelerate keeps its hooks elsewhere now"
    assert model[0].weight.is_meta


def test_the_forward_pass_of_ddp_is_known(tmp_path: Path) -> None:
    found = []

    class Inside(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found.append(private.active_ddp())
            return super().forward(x)

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        outer = nn.parallel.DistributedDataParallel(Inside(2, 2))
        outer(torch.ones(1, 2))
        outer.module(torch.ones(1, 2))
    finally:
        torch.distributed.destroy_process_group()
    assert found == [outer, None], "DistributedDataParallel no longer tells which one is running"
    assert outer.static_graph is False


def test_versions_tell_changes_in_place() -> None:
    tensor = torch.zeros(2)
    first = private.version_of(tensor)
    tensor.add_(1)
    assert private.version_of(tensor) != first
    with torch.inference_mode():
        assert private.version_of(torch.zeros(2)) is None


def test_a_dispatch_mode_sees_products_of_backward_passes() -> None:
    seen = []

    class Mode(private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    weight = torch.ones(2, 2, requires_grad=True)
    with Mode():
        (torch.ones(2, 2) @ weight).sum().backward()
    assert seen.count(torch.ops.aten.mm.default) == 2


def test_the_enum_of_methods_has_a_whole_member() -> None:
    member = PeftType.FISHDIP
    assert member is PeftType("FISHDIP") is PeftType["FISHDIP"] is FishDipConfig().peft_type
    assert member == "FISHDIP" == member.value
    assert (member.name, str.__str__(member)) == ("FISHDIP", "FISHDIP")
    assert member in list(PeftType)
    assert isinstance(member, PeftType)
    assert pickle.loads(pickle.dumps(member)) is member
    assert len({kind.value for kind in PeftType}) == len(PeftType)
