"""Invariant 7: the same seed and data give the same masks and values, on one process or on several."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..support.models import (
    FAMILIES,
    bert_classifier,
    classifier_examples,
    flat_of,
    padded,
    random_scores,
    seq2seq_examples,
    tied_t5,
    train,
    tuned,
)

SELECTIONS = ["highest_loss", "random", "all"]


def trained(family: str, global_seed: int, **settings: Any) -> Any:
    build, make = FAMILIES[family]
    model = tuned(build(), **settings)
    torch.manual_seed(global_seed)
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02)

    def update(step: int) -> None:
        if step % 2 == 0:
            model.base_model.update_mask(make(9), optimizer=optimizer)

    train(model, make(9), 4, optimizer, update)
    return model


@pytest.mark.parametrize(("family", "selection"), [("t5", "highest_loss"), ("gpt2", "random"), ("bert", "all")])
def test_two_runs_with_one_seed_are_bitwise_the_same_whatever_the_global_seed(family: str, selection: str) -> None:
    first = trained(family, 1, sample_selection=selection, seed=5)
    second = trained(family, 2, sample_selection=selection, seed=5)
    assert torch.equal(flat_of(first), flat_of(second))
    for name, (positions, values) in first.base_model.delta().items():
        found = second.base_model.delta()[name]
        assert torch.equal(found[0], positions)
        assert torch.equal(found[1], values)


def test_neither_making_nor_updating_an_adapter_uses_the_global_random_numbers() -> None:
    base = bert_classifier()
    before = torch.get_rng_state()
    model = tuned(base, sample_selection="random", init_weights=False)
    model.base_model.update_mask(classifier_examples(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_give_different_first_masks() -> None:
    masks = [tuned(bert_classifier(), seed=seed).base_model.mask() for seed in (0, 0, 1)]
    assert all(torch.equal(masks[1][name], positions) for name, positions in masks[0].items())
    assert not all(torch.equal(masks[2][name], positions) for name, positions in masks[0].items())


def test_dropout_is_off_while_scoring_and_the_batch_size_changes_no_mask() -> None:
    def mask(training: bool, batch_size: int) -> dict[str, torch.Tensor]:
        model = tuned(tied_t5(dropout_rate=0.5))
        model.train(training)
        model.base_model.update_mask(seq2seq_examples(7), batch_size=batch_size)
        assert model.training == training
        return model.base_model.mask()

    expected = mask(False, 8)
    for other in (mask(True, 8), mask(False, 1), mask(True, 3)):
        assert all(torch.equal(other[name], positions) for name, positions in expected.items())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def results_of(rank: int, world: int, port: int) -> dict[str, Any]:
    """What each process finds, in every way of giving examples."""
    torch.set_num_threads(1)
    if world > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    found: dict[str, Any] = {}
    examples = classifier_examples(11)
    for selection in SELECTIONS:
        for kind in ("dataset", "batches") if selection != "random" else ("batches",):
            model = tuned(bert_classifier(), sample_selection=selection, num_samples=5)
            own: Any = examples
            if kind == "batches":  # unequal parts: 7 examples in batches of 3, 3 and 1, and 4 in one of 4
                part = examples if world == 1 else [examples[:7], examples[7:]][rank]
                size = 3 if rank == 0 else 4
                own = iter([padded(part[i : i + size]) for i in range(0, len(part), size)])
            update = model.base_model.update_mask(own, batch_size=2)
            mask = {name: positions.tolist() for name, positions in model.base_model.mask().items()}
            found[f"{selection}, {kind}"] = (update.example_ids, update.losses, mask)
    model = tuned(bert_classifier())
    model.base_model.set_mask(random_scores(model, seed=rank))
    found["scores that differ"] = ((), (), {name: p.tolist() for name, p in model.base_model.mask().items()})
    if world > 1:
        dist.destroy_process_group()
    return found


def worker(rank: int, world: int, port: int, directory: str) -> None:
    torch.save(results_of(rank, world, port), Path(directory) / f"{rank}.pt")


def test_two_processes_hold_the_same_mask_after_every_update(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    port = free_port()
    processes = [context.Process(target=worker, args=(rank, 2, port, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    alone = results_of(0, 1, 0)
    for case in ("highest_loss, dataset", "all, dataset"):
        assert first[case][0] == alone[case][0]
        assert first[case][1] == pytest.approx(alone[case][1], rel=1e-4)
        assert first[case][2] == alone[case][2]
    for case, (ids, _, mask) in first.items():
        assert sum(map(len, mask.values())) == sum(map(len, alone[case][2].values()))
        if case.startswith("random"):
            assert len(set(ids)) == 5
        if case == "all, batches":
            assert len(set(ids)) == 11
    assert first["highest_loss, batches"][2] == alone["highest_loss, dataset"][2]
    assert first["all, batches"][2] == alone["all, dataset"][2]
