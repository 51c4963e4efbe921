"""Parts that an adapter has itself load; a vector alone, and tensors that were cast one by one, are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

from ...support.models import bert_classifier
from .damages import TENSORS
from .trained import assert_same_everything, everything, receiver, trained


def test_a_vector_alone_is_refused_unless_it_is_the_adapter_s_own() -> None:
    model = receiver()
    before = everything(model)
    vector = {key: tensor for key, tensor in trained().state_dict().items() if key.endswith(".flat")}
    assert len(vector) == 1
    with pytest.raises(RuntimeError, match="only a part of adapter 'default': no fishdip_summary"):
        model.load_state_dict(vector, strict=False)
    assert_same_everything(everything(model), before)
    own = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.endswith(".flat")}
    model.load_state_dict(own, strict=False)
    assert_same_everything(everything(model), before)


def test_modules_load_their_own_state_dicts() -> None:
    model, twin = receiver(), receiver()
    before = everything(model)
    for path in ("bert.encoder.layer.0", "bert.pooler", "classifier"):
        part, same = (each.base_model.model.get_submodule(path) for each in (model, twin))
        part.load_state_dict(part.state_dict())
        part.load_state_dict(same.state_dict(), strict=False)
    assert_same_everything(everything(model), before)


def test_a_value_tensor_that_was_cast_does_not_switch_the_checksum_off(good: Path, tmp_path: Path) -> None:
    tensors = load_file(good / TENSORS)
    (tmp_path / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    values = sorted((key for key in tensors if "fishdip_values" in key), key=lambda key: tensors[key].numel())
    positions = values[-1].replace("values", "indices")
    tensors[values[0]] = tensors[values[0]].double()
    save_file(tensors, tmp_path / TENSORS)
    PeftModel.from_pretrained(bert_classifier(), str(tmp_path))  # the same numbers
    tensors[positions][0] = (
        int(tensors[positions][1]) - 1 if int(tensors[positions][0]) + 1 < int(tensors[positions][1]) else 0
    )
    damaged = load_file(good / TENSORS)
    assert not torch.equal(tensors[positions], damaged[positions])
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(ValueError, match=r"by their SHA-256"):
        PeftModel.from_pretrained(bert_classifier(), str(tmp_path))


def test_a_refused_adapter_leaves_the_base_trainable(good: Path, tmp_path: Path) -> None:
    tensors = load_file(good / TENSORS)
    next(tensor for key, tensor in sorted(tensors.items()) if "fishdip_values" in key and tensor.numel())[0] += 1
    save_file(tensors, tmp_path / TENSORS)
    (tmp_path / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    for load in (PeftModel.from_pretrained, lambda base, path: base.load_adapter(path)):
        base = bert_classifier()
        with pytest.raises(ValueError, match=r"by their SHA-256"):
            load(base, str(tmp_path))
        assert all(parameter.requires_grad for parameter in base.parameters())


def test_a_full_load_completes_what_a_load_by_attributes_began() -> None:
    model, other = receiver(), trained()
    key = next(key for key in other.state_dict() if "fishdip_values" in key and not key.endswith("flat"))
    path, _, name = key.rpartition(".")
    setattr(model.get_submodule(path), name, other.state_dict()[key])
    model.load_state_dict(other.state_dict())
    assert_same_everything(everything(model), everything(other))


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # FSDP1 is deprecated, but in use
@pytest.mark.usefixtures("process_group")
def test_fsdp_with_wrapped_blocks_loads_its_own_state_dict() -> None:
    def wrapped(module: torch.nn.Module) -> FullyShardedDataParallel:
        return FullyShardedDataParallel(
            module,
            device_id=torch.device("cpu"),
            use_orig_params=True,
            sharding_strategy=ShardingStrategy.NO_SHARD,
        )

    models = receiver(), trained()
    expected = everything(models[1])
    for model in models:
        layers = model.base_model.model.bert.encoder.layer
        layers[0] = wrapped(layers[0])
    parallel, other = map(wrapped, models)
    parallel.load_state_dict({key: tensor.clone() for key, tensor in other.state_dict().items()})
    assert_same_everything(everything(parallel), expected)
