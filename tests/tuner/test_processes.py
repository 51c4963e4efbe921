"""Several processes: one mask, the result of one process with the joint batch, and no process left waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from peft_fishdip.distributed import raise_on_all_ranks

from ..support.launched import launched
from ..support.models import base_bits, bert_classifier, classifier_examples, flat_of, snapshot, tied_t5, tuned
from ..support.processes import alone, outcome, start

SHARDED = "is sharded by {}, and Fish-Dip needs whole tensors on each process: train with DistributedDataParallel"


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_ddp_gives_what_one_process_does_with_the_joint_batch(tmp_path: Path) -> None:
    first, second = outcome("ddp", str(tmp_path))
    assert first["masks"] == second["masks"]
    assert len(first["masks"]) == 3
    assert first["masks"][1] != first["masks"][2]
    assert torch.equal(first["flat"], second["flat"])
    expected = alone("ddp")
    assert first["masks"] == expected["masks"]
    assert first["updates"] == expected["updates"]
    assert bool(expected["flat"].any())
    close(first["flat"], expected["flat"])
    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path))
    assert torch.equal(flat_of(loaded), first["flat"])


def test_masks_that_update_themselves_are_those_of_one_process_with_the_joint_batch(tmp_path: Path) -> None:
    first, second = outcome("auto", str(tmp_path))
    expected = alone("auto")
    for kind, chosen in (("losses", 4), ("gradients", 0)):
        assert first[kind]["updates"] == [(0, chosen), (0, chosen), (2, chosen), (2, chosen), (4, chosen)]
        assert first[kind]["masks"] == second[kind]["masks"] == expected[kind]["masks"]
        assert first[kind]["masks"][0] == first[kind]["masks"][1] != first[kind]["masks"][2]
        assert torch.equal(first[kind]["flat"], second[kind]["flat"])
        assert bool(expected[kind]["flat"].any())
        close(first[kind]["flat"], expected[kind]["flat"])


def test_processes_agree_that_examples_cannot_be_computed_one_by_one(tmp_path: Path) -> None:
    first, second = outcome("one_sided", str(tmp_path))
    reasons = {
        "nested": "'encoder_outputs' is a list",
        "raising": "ValueError: this is not a model for single examples",
    }
    for kind, reason in reasons.items():
        assert first[kind]["updates"] == second[kind]["updates"] == [None, (1, 0), (2, 0), (2, 0)]
        assert first[kind]["masks"] == second[kind]["masks"]
        for found in (first, second):
            [text] = found[kind]["told"]
            assert reason in text


def test_importance_functions_are_given_the_examples_of_all_processes(tmp_path: Path) -> None:
    first, second = outcome("functions", str(tmp_path))
    expected = alone("functions")
    for importance in ("gradient", "gallop", "lift"):
        assert first[importance] == second[importance] == expected[importance]
    assert first["error"].startswith("RuntimeError")
    for found in (first, second):
        assert "returned nan for 'shared.weight' at flat position 0" in found["error"]
        assert found["unchanged"]


def test_an_update_while_gradients_accumulate_loses_none(tmp_path: Path) -> None:
    first, second = outcome("accumulation", str(tmp_path))
    expected = alone("accumulation")
    for view in (False, True):
        before, kept, overlap = first[f"kept, {view}"]
        assert 0 < kept < before
        assert kept == pytest.approx(overlap * before, rel=0.1)
        for key in (f"gradient, {view}, 0", f"gradient, {view}, 1", f"flat, {view}"):
            assert torch.equal(first[key], second[key])
            close(first[key], expected[key])


def test_reentrant_checkpointing_gives_what_one_process_does_without_it(tmp_path: Path) -> None:
    first, second = outcome("reentrant", str(tmp_path))
    expected = alone("reentrant")
    assert first.keys() == second.keys() == expected.keys()
    for key, tensor in expected.items():
        assert bool(tensor.any())
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_gradients_of_checkpointed_blocks_that_ddp_did_not_get_are_an_error(tmp_path: Path) -> None:
    for found in outcome("late", str(tmp_path)):
        assert found["error"].startswith("ValueError: the gradients of checkpointed blocks did not reach")
        assert "use_reentrant" in found["error"]
        assert "ddp_static_graph=True" in found["error"]


def test_processes_may_have_unequal_numbers_of_examples_or_none(tmp_path: Path) -> None:
    first, second = outcome("unequal", str(tmp_path))
    expected = alone("unequal")
    assert first["ids"] == second["ids"] == expected["ids"]
    assert first["mask"] == second["mask"] == expected["mask"]
    assert (first["steps"], second["steps"]) == (3, 2)
    assert first["later"] == second["later"] != first["mask"]
    assert torch.equal(first["flat"], second["flat"])


def test_an_error_on_one_process_stops_both_unchanged_and_in_step(tmp_path: Path) -> None:
    first, second = outcome("errors", str(tmp_path))
    cases = {
        "no target": "ValueError: example 1: all labels of the example in row 0",
        "nan": "ValueError: the loss of example 1 is nan",
        "nan in the backward pass": "is nan; losses must be finite",
        "no memory": "MemoryError: no more memory",
        "another optimizer": "ValueError: AdamW does not train the adapter's vector",
        "merged": "ValueError: an adapter is merged",
        "nan scores": "at flat position 0 is nan",
        "no scores": "ValueError: scores must have one tensor for each targeted parameter",
    }
    assert first.keys() == second.keys() == cases.keys() | {f"{case}, afterwards" for case in cases}
    for case, message in cases.items():
        assert message in second[case]
        assert first[case] == f"RuntimeError: stopped, since process 1 did: {second[case]}"
        assert first[f"{case}, afterwards"] == second[f"{case}, afterwards"]


def test_a_process_that_dies_in_an_update_ends_the_other_with_an_error(tmp_path: Path) -> None:
    began = time.monotonic()
    processes = start("dies", str(tmp_path))
    for process in processes:
        process.join(timeout=60)
    assert time.monotonic() - began < 60
    assert [process.exitcode for process in processes] == [0, -9]
    found = torch.load(tmp_path / "dies.0.pt", weights_only=True)
    assert found["error"]
    assert found["unchanged"]


def test_fsdp2_is_refused_before_anything_has_changed(tmp_path: Path) -> None:
    for found in outcome("sharded", str(tmp_path)):
        assert found["same"]  # inference is exact
        assert found["forward"] is None
        assert found["blocks"] is None
        for case in ("update", "save", "injection"):
            assert SHARDED.format("fully_shard (FSDP2) or tensor parallelism") in found[case]
        assert found["files"] == []


def test_zero_3_is_refused_before_anything_has_changed() -> None:
    base = bert_classifier()
    before = snapshot(base)
    base.bert.pooler.dense.weight.ds_id = 7
    with pytest.raises(ValueError, match=r"'bert.pooler.dense.weight' " + SHARDED.format("DeepSpeed ZeRO-3")):
        tuned(base)
    assert all(torch.equal(bits, before[name]) for name, bits in base_bits(base).items())
    model = tuned(bert_classifier())
    mask = model.base_model.mask()
    flat_of(model).ds_id = 8
    with pytest.raises(ValueError, match=SHARDED.format("DeepSpeed ZeRO-3")):
        model.base_model.update_mask(classifier_examples(4))
    del flat_of(model).ds_id
    weight = next(p for name, p in model.named_parameters() if name.endswith("pooler.dense.base_layer.weight"))
    weight.data = weight.data[:0]  # what FSDP with use_orig_params leaves to a process
    with pytest.raises(ValueError, match=r"FSDP \(it is of shape \(0, 16\) here, and \(16, 16\) as a whole\)"):
        model.base_model.update_mask(classifier_examples(4))
    assert all(torch.equal(positions, mask[name]) for name, positions in model.base_model.mask().items())


def test_one_process_needs_no_collective_calls() -> None:
    def fail() -> None:
        raise KeyError("x")

    assert raise_on_all_ranks(lambda: nn.Identity) is nn.Identity
    with pytest.raises(KeyError):
        raise_on_all_ranks(fail)


@pytest.mark.slow
def test_trainer_and_accelerate_under_torchrun(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "tests.support.launched"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[2]
    with (tmp_path / "log").open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, *command, str(tmp_path)],
            env=environment,
            cwd=root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert launcher.wait(timeout=200) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    (tmp_path / "alone").mkdir()
    launched(str(tmp_path / "alone"))
    first, second, expected = (
        torch.load(tmp_path / name, weights_only=True) for name in ("2.0.pt", "2.1.pt", "alone/1.0.pt")
    )
    assert first["updates"] == second["updates"] == expected["updates"]
    assert [step for step, _ in first["updates"]] == [0, 2, 4]
    assert first["mask"] == second["mask"] == expected["mask"]
    assert torch.equal(first["flat"], second["flat"])
    close(first["flat"], expected["flat"])
    assert first["own mask"] == second["own mask"]
    assert first["own ids"] == second["own ids"]
    assert torch.equal(first["own flat"], second["own flat"])
    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path / "adapter"))
    assert torch.equal(flat_of(loaded), first["flat"])
