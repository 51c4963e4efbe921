"""What two processes do in test_processes.py: each function is run by both of them, and returns what it found."""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .models import (
    VOCABULARY,
    bert_classifier,
    classifier_examples,
    enable_checkpointing,
    flat_of,
    padded,
    shapes_of,
    tied_t5,
    tuned,
)

EPS = 1e-3
"""Of AdamW: at 1e-8 its first steps are signs of gradients, which rounding can turn round."""


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sequence-to-sequence examples whose targets are of one length, so that means of means are means."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (count, 11), generator=generator).tolist()
    return [{"input_ids": row[: 4 + i % 3], "labels": [*row[7:], 1]} for i, row in enumerate(ids)]


def mask_of(model: Any) -> dict[str, list[int]]:
    return {name: positions.tolist() for name, positions in model.base_model.mask().items()}


def mine(batch: list[Any], rank: int, world: int) -> list[Any]:
    """This process's share of a joint batch."""
    return batch[rank::world]


def wrapped(model: Any, world: int, **settings: Any) -> Any:
    return DistributedDataParallel(model, **settings) if world > 1 else model


def ddp(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Training with three masks."""
    examples = pairs(12)
    model = tuned(tied_t5(), delta_scale="rms", num_samples=4)
    outer = wrapped(model, world)
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02, eps=EPS)
    masks, updates = [], []
    for step in range(6):
        if step % 2 == 0:
            update = model.base_model.update_mask(examples, optimizer=optimizer)
            updates.append((update.example_ids, update.overlap))
            masks.append(mask_of(model))
        batch = [examples[(4 * step + i) % 12] for i in range(4)]
        outer(**padded(mine(batch, rank, world))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        model.save_pretrained(directory)
    return {"masks": masks, "updates": updates, "flat": flat_of(model).detach().clone()}


def accumulation(rank: int, world: int, directory: str) -> dict[str, Any]:
    """An update between the two halves of a step, for both ways in which DDP holds gradients."""
    examples = pairs(12)
    found: dict[str, Any] = {}
    for view in (False, True):
        model = tuned(tied_t5(), num_samples=4)
        model.base_model.update_mask(examples[:4])
        outer = wrapped(model, world, **({"gradient_as_bucket_view": view} if world > 1 else {}))
        optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02, eps=EPS)
        for step in range(2):
            if world > 1:
                with outer.no_sync():
                    outer(**padded(mine(examples[:4], rank, world))).loss.backward()
            else:
                outer(**padded(examples[:4])).loss.backward()
            if step == 1:
                before = flat_of(model).grad.count_nonzero()  # type: ignore[union-attr]
                update = model.base_model.update_mask(examples[4:], optimizer=optimizer)
                kept = flat_of(model).grad.count_nonzero()  # type: ignore[union-attr]
                found[f"kept, {view}"] = (int(before), int(kept), update.overlap)
            outer(**padded(mine(examples[4:8], rank, world))).loss.backward()
            found[f"gradient, {view}, {step}"] = flat_of(model).grad.clone()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        found[f"flat, {view}"] = flat_of(model).detach().clone()
    return found


REENTRANT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "unused parameters looked for": ({"find_unused_parameters": True}, {}),
    "buckets as gradients": ({"gradient_as_bucket_view": True}, {}),
    "static graph": ({"static_graph": True}, {}),
    "only what is checkpointed": ({}, {"target_modules": ["q", "wo"]}),
    "nothing that is checkpointed": ({}, {"target_modules": ["final_layer_norm", "shared"]}),
}
"""Settings of DDP, and of the adapter."""


def reentrant(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Training with two masks and checkpointed blocks, each of which has a backward pass of its own."""
    examples = pairs(12)
    found: dict[str, Any] = {}
    for case, (of_ddp, settings) in REENTRANT.items():
        model = tuned(
            tied_t5(), **{"num_samples": 4, "density": 0.3, "delta_scale": "rms", "init_weights": False, **settings}
        ).train()
        if world > 1:
            enable_checkpointing(model, {"use_reentrant": True})
            model.get_base_model().enable_input_require_grads()
        outer = wrapped(model, world, **of_ddp)
        optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02, eps=EPS)
        for step in range(4):
            if step % 2 == 0:
                model.base_model.update_mask(examples, optimizer=optimizer)
            batch = padded(mine([examples[(4 * step + i) % 12] for i in range(4)], rank, world))
            if case == "as it is" and step == 1:  # a tuple, a loss of one's own
                logits = outer(**batch, return_dict=False, use_cache=False)[1]
                loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"])
            else:
                loss = outer(**batch, use_cache=False).loss
            loss.backward()
            found[f"{case}, gradient {step}"] = flat_of(model).grad.clone()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            found[f"{case}, logits"] = model(**padded(examples), use_cache=False).logits
        model(**padded(examples), use_cache=False).loss.backward()  # without DDP, as one process
        found[f"{case}, alone"] = flat_of(model).grad.clone()  # type: ignore[union-attr]
    return found


def late(rank: int, world: int, directory: str) -> dict[str, Any]:
    """A loss that is computed from what a hook has taken out of the model, not from its output."""
    model = tuned(bert_classifier(), density=0.3).train()
    enable_checkpointing(model, {"use_reentrant": True})
    taken: list[Tensor] = []
    model.get_base_model().bert.register_forward_hook(lambda *call: taken.append(call[2].pooler_output))
    outer = DistributedDataParallel(model)
    outer(**padded(classifier_examples(4)))
    taken[0].sum().backward()
    try:
        outer(**padded(classifier_examples(4)))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None}


def unequal(rank: int, world: int, directory: str) -> dict[str, Any]:
    """A process without any example, and one with fewer batches to train on."""
    examples = pairs(7)
    model = tuned(tied_t5(), num_samples=3)
    own = [padded(examples[:4]), padded(examples[4:])] if rank == 0 else []
    update = model.base_model.update_mask(iter(own))
    found: dict[str, Any] = {"ids": [number // world for number in update.example_ids], "mask": mask_of(model)}
    if world > 1:
        outer = DistributedDataParallel(model)
        optimizer = torch.optim.SGD([flat_of(model)], lr=0.1)
        steps = 0
        with outer.join():
            for start in range(3 - rank):
                outer(**padded(examples[2 * start : 2 * start + 2])).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                steps += 1
        model.base_model.update_mask(examples, optimizer=optimizer)
        found |= {"steps": steps, "later": mask_of(model), "flat": flat_of(model).detach().clone()}
    return found


def auto(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Training in which each process hears its own share of the batches; masks are updated by themselves."""
    examples = pairs(12)
    found: dict[str, Any] = {}
    for kind in ("losses", "gradients"):
        model = tuned(tied_t5(), delta_scale="auto", auto_update=True, num_samples=4, update_interval=2)
        outer = wrapped(model, world)
        optimizer = torch.optim.AdamW([flat_of(model)], lr=1e-3, eps=EPS)
        model.train()
        masks, updates = [], []
        for step in range(5):
            batch = padded(mine([examples[(4 * step + i) % 12] for i in range(4)], rank, world))
            if kind == "losses":
                loss = outer(**batch).loss
            else:  # of a call that is given no labels
                inputs = {key: value for key, value in batch.items() if key != "labels"}
                logits = outer(**inputs, decoder_input_ids=model.base_model.model._shift_right(batch["labels"])).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            masks.append(mask_of(model))
            updates.append((model.base_model.last_update().step, len(model.base_model.last_update().example_ids)))
        found[kind] = {"masks": masks, "updates": updates, "flat": flat_of(model).detach().clone()}
    return found


def one_sided(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Training in which the first process alone has examples that cannot be computed one by one."""
    examples = pairs(8)
    found: dict[str, Any] = {}
    for kind in ("nested", "raising"):
        model = tuned(tied_t5(), delta_scale="auto", auto_update=True, num_samples=4, update_interval=2)
        outer = wrapped(model, world)
        optimizer = torch.optim.AdamW([flat_of(model)], lr=1e-3, eps=EPS)
        inner = model.base_model.model

        def refuse(module: Any, args: Any) -> None:
            if not module.training:
                raise ValueError("this is not a model for single examples")

        if rank == 0 and kind == "raising":
            inner.register_forward_pre_hook(refuse)
        masks, updates = [], []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for step in range(4):
                model.train()
                batch = padded(mine([examples[(4 * step + i) % 8] for i in range(4)], rank, world))
                if rank == 0 and kind == "nested":
                    batch = {"encoder_outputs": [inner.encoder(batch["input_ids"])[0].detach()], **batch}
                outer(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                masks.append(mask_of(model))
                last = model.base_model.last_update()
                updates.append(None if last is None else (last.step, len(last.example_ids)))
        texts = [str(warning.message) for warning in told if "one by one" in str(warning.message)]
        found[kind] = {"masks": masks, "updates": updates, "told": texts}
    return found


def functions(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Masks by importance functions; one of them goes wrong on process 1 alone."""
    found: dict[str, Any] = {}
    for importance in ("gradient", "gallop", "lift"):
        model = tuned(tied_t5(), delta_scale="rms", num_samples=4, importance=importance)
        model.base_model.update_mask(pairs(12))
        found[importance] = mask_of(model)

    def on_one(parameter: Tensor, gradients: Any) -> Tensor:
        return gradients.mean.abs() if rank == 0 else gradients.mean.abs() * float("nan")

    model = tuned(tied_t5(), importance=on_one)
    before = mask_of(model)
    try:
        model.base_model.update_mask(pairs(12))
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found["unchanged"] = mask_of(model) == before
    return found


class OnOne:
    """A loss that goes wrong on process 1, at its call number `at`."""

    def __init__(self, rank: int, at: int, what: Callable[[Tensor], Tensor]) -> None:
        self.calls, self.rank, self.at, self.what = 0, rank, at, what

    def __call__(self, model: Any, batch: Any) -> Tensor:
        logits = model(**batch).logits
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        self.calls += 1
        return self.what(losses) if self.rank == 1 and self.calls >= self.at else losses


def fails(losses: Tensor) -> Tensor:
    raise MemoryError("no more memory")


def killed(losses: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return losses


def errors(rank: int, world: int, directory: str) -> dict[str, Any]:
    """What is wrong on process 1 alone; each time both must stop, unchanged and in step."""
    examples = classifier_examples(8)
    model = tuned(bert_classifier(), num_samples=4)
    optimizer = torch.optim.AdamW([flat_of(model)])
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    empty = [{**example, "labels": -100} for example in examples]
    scores = {name: torch.ones(shape) for name, shape in shapes_of(model).items()}
    spoilt = {name: tensor * (float("nan") if rank == 1 else 1) for name, tensor in scores.items()}
    update, set_mask = model.base_model.update_mask, model.base_model.set_mask
    cases: dict[str, Callable[[], Any]] = {
        "no target": lambda: update(empty if rank == 1 else examples),
        "nan": lambda: update(examples, loss_fn=OnOne(rank, 1, lambda losses: losses * float("nan"))),
        "nan in the backward pass": lambda: update(
            examples, loss_fn=OnOne(rank, 2, lambda losses: losses * float("nan")), batch_size=8
        ),
        "no memory": lambda: update(examples, loss_fn=OnOne(rank, 1, fails)),
        "another optimizer": lambda: update(examples, optimizer=other if rank == 1 else optimizer),
        "merged": lambda: update(examples),
        "nan scores": lambda: set_mask(spoilt),
        "no scores": lambda: set_mask({} if rank == 1 else scores),
    }
    found: dict[str, Any] = {}
    for name, case in cases.items():
        before = mask_of(model)
        if name == "merged" and rank == 1:
            model.merge_adapter()
        try:
            case()
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        if name == "merged" and rank == 1:
            model.unmerge_adapter()
        assert mask_of(model) == before
        update(examples)
        found[f"{name}, afterwards"] = mask_of(model)
    return found


def dies(rank: int, world: int, directory: str) -> dict[str, Any]:
    """Process 1 is killed while it scores."""
    model = tuned(bert_classifier(), num_samples=4)
    before = mask_of(model)
    try:
        model.base_model.update_mask(classifier_examples(8), loss_fn=OnOne(rank, 2, killed), batch_size=2)
    except RuntimeError as error:
        return {"error": str(error), "unchanged": mask_of(model) == before}
    return {"error": None}


def sharded(rank: int, world: int, directory: str) -> dict[str, Any]:
    """FSDP2: what is refused, and that it is before anything has changed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    examples = classifier_examples(8)
    found: dict[str, Any] = {}

    def attempt(name: str, action: Callable[[], Any]) -> None:
        try:
            action()
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    whole = tuned(bert_classifier(), num_samples=4, init_weights=False)
    expected = whole(**padded(examples)).logits
    root = tuned(bert_classifier(), num_samples=4, init_weights=False)
    fully_shard(root, mesh=mesh)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        attempt("forward", lambda: found.update(same=torch.equal(root(**padded(examples)).logits, expected)))
    attempt("update", lambda: root.base_model.update_mask(examples))
    attempt("save", lambda: root.save_pretrained(str(Path(directory) / "sharded")))
    found["files"] = [path.name for path in Path(directory).glob("sharded/*") if path.suffix != ".md"]
    blocks = tuned(bert_classifier(), num_samples=4, init_weights=False)
    for block in blocks.base_model.model.bert.encoder.layer:
        fully_shard(block, mesh=mesh)
    fully_shard(blocks, mesh=mesh)
    with torch.no_grad():
        attempt("blocks", lambda: found.update(same=torch.equal(blocks(**padded(examples)).logits, expected)))
    base = bert_classifier()
    fully_shard(base, mesh=mesh)
    attempt("injection", lambda: tuned(base))
    return found


def work(scenario: str, rank: int, world: int, directory: str) -> None:
    torch.set_num_threads(1)
    address = f"file://{directory}/{scenario}.store"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.save(globals()[scenario](rank, world, directory), Path(directory) / f"{scenario}.{rank}.pt")
    dist.destroy_process_group()


def start(scenario: str, directory: str) -> list[Any]:
    """Two processes at work, which share one import of torch."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=work, args=(scenario, rank, 2, directory)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def outcome(scenario: str, directory: str) -> list[dict[str, Any]]:
    """What both processes have found."""
    processes = start(scenario, directory)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(Path(directory) / f"{scenario}.{rank}.pt", weights_only=True) for rank in range(2)]


def alone(scenario: str) -> dict[str, Any]:
    """What one process finds."""
    with tempfile.TemporaryDirectory() as directory:
        found: dict[str, Any] = globals()[scenario](0, 1, directory)
    return found
