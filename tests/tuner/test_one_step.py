"""A change happens as a whole or not at all, wherever memory runs out or the user interrupts."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from peft.tuners import tuners_utils
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

import peft_fishdip
from peft_fishdip import FishDipConfig, FishDipLayer
from peft_fishdip.optim.adafactor import SparseAdafactor

from ..support.models import base_bits, bits, lm_examples, padded, randomise, seq2seq_examples, tied_t5, tuned

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


# ----- operations ---------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    make: Callable[[str], Subject]
    run: Callable[[Subject, Path], object]
    can_stop_between: bool = False
    """Whether PEFT's own part may leave a new adapter that has not been loaded, and has no effect, until the retry."""


def update_mask(subject: Subject, folder: Path) -> None:
    examples = FAMILIES[subject.family][1](4)
    subject.model.base_model.update_mask(examples, optimizer=subject.optimizer, batch_size=2)


def set_mask(subject: Subject, folder: Path) -> None:
    subject.model.base_model.set_mask(scores_for(subject.model, 7), optimizer=subject.optimizer)


def load_over(subject: Subject, folder: Path) -> None:
    subject.model.load_adapter(str(folder / subject.family), "default", is_trainable=True)


def load_state_dict(subject: Subject, folder: Path) -> None:
    subject.model.load_state_dict(torch.load(folder / f"{subject.family}.pt", weights_only=True))


def load_new(subject: Subject, folder: Path) -> None:
    subject.model.load_adapter(str(folder / subject.family), "new")


def add_adapter(subject: Subject, folder: Path) -> None:
    if "new" not in subject.model.peft_config:
        subject.model.add_adapter("new", FishDipConfig(density=0.04, init_weights=False, delta_scale="rms"))


def add_weighted_adapter(subject: Subject, folder: Path) -> None:
    if "new" not in subject.model.peft_config:
        subject.model.base_model.add_weighted_adapter(["default", "other"], [0.5, 2.0], "new")


def merge(subject: Subject, folder: Path) -> None:
    subject.model.merge_adapter(["default"])


def merge_safely(subject: Subject, folder: Path) -> None:
    subject.model.merge_adapter(["default"], safe_merge=True)


def unmerge(subject: Subject, folder: Path) -> None:
    subject.model.unmerge_adapter()


def delete(subject: Subject, folder: Path) -> None:
    if "default" in subject.model.peft_config:
        with pytest.warns(UserWarning, match="Setting active adapter to other"):
            subject.model.delete_adapter("default")


OPERATIONS = {
    "update_mask": Operation(made, update_mask),
    "update_mask, SparseAdafactor": Operation(lambda family: made(family, "adafactor"), update_mask),
    "set_mask": Operation(made, set_mask),
    "load_adapter over the same name": Operation(made, load_over),
    "load_state_dict": Operation(made, load_state_dict),
    "load_adapter as a new one": Operation(made, load_new, can_stop_between=True),
    "add_adapter": Operation(made, add_adapter),
    "add_weighted_adapter": Operation(made, add_weighted_adapter),
    "merge_adapter": Operation(made, merge),
    "merge_adapter, safely": Operation(made, merge_safely),
    "merge_adapter on top of another": Operation(lambda family: made(family, merged=("other",)), merge),
    "unmerge_adapter": Operation(lambda family: made(family, merged=("other", "default")), unmerge),
}
DELETE = Operation(made, delete)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family an adapter on disk, and a state dict of a model with two."""
    path = tmp_path_factory.mktemp("adapters")
    for family in FAMILIES:
        model = made(family).model
        for adapter in ("default", "other"):
            model.base_model.set_mask(scores_for(model, 20), adapter_name=adapter)
            randomise(model, seed=20, adapter=adapter)
        torch.save(model.state_dict(), path / f"{family}.pt")
        model.delete_adapter("other")
        model.save_pretrained(str(path / family))
    return path


# ----- failing ------------------------------------------------------------------------------------------------------


class FailAt(TorchDispatchMode):
    """Within, the n-th tensor operation fails: before it is done for want of memory, or interrupted just after it."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left = n
        self.error = error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left == 0 and self.error is MemoryError:
            raise MemoryError
        result = func(*args, **(kwargs or {}))
        if self.left == 0:
            raise self.error
        return result


def outcome(subject: Subject) -> tuple[Bits, Bits]:
    return state_of(subject), continued(subject)


def check_sweep(
    family: str, operation: Operation, folder: Path, error: type[BaseException], numbers: Any, thorough: int = 1
) -> set[str]:
    """Fail at the numbers in turn, until an attempt completes.

    A model that is bitwise as before is failed again; every `thorough`-th one is trained on, or the operation retried.

    Returns:
        Which outcomes were seen.
    """
    before = outcome(operation.make(family))
    changed = operation.make(family)
    operation.run(changed, folder)
    after = outcome(changed)
    assert differing(before[0], after[0])  # the operation does something
    seen: set[str] = set()
    subject = None
    for index, n in enumerate(numbers):
        subject, mode = subject or operation.make(family), FailAt(n, error)
        try:
            with mode:
                operation.run(subject, folder)
        except BaseException:  # torch and safetensors raise errors of their own from it
            if mode.left > 0:
                raise
        else:
            assert mode.left > 0  # no failure was swallowed
            seen.add("completed")
        now = state_of(subject)
        if not differing(now, after[0]):
            kind = "after"
        elif not differing(now, before[0]):
            kind = "before"
        elif operation.can_stop_between and "new" in subject.model.peft_config:
            kind = "not loaded"
            assert [key for key in differing(now, before[0]) if "new" not in key and key != "names"] == [], n
        else:
            raise AssertionError((n, differing(now, before[0])[:5], differing(now, after[0])[:5]))
        assert kind == "after" or "completed" not in seen
        seen.add(kind)
        if index % thorough and kind == "before":
            continue
        if index // thorough % 2 and kind != "not loaded":
            assert differing(continued(subject), {"before": before, "after": after}[kind][1]) == [], n
        elif kind != "after":
            operation.run(subject, folder)  # the next try
            assert differing(state_of(subject), after[0]) == [], n
        subject = None
        if "completed" in seen:
            return seen
    return seen


class Count(TorchDispatchMode):
    """Counts tensor operations, and notes which ones write into vectors of adapters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.total = 0
        self.vectors = {tensor.data_ptr() for name, tensor in model.named_parameters() if "fishdip" in name}
        self.writes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        if func is torch.ops.aten.copy_.default and args[0].data_ptr() in self.vectors:
            self.writes.append(self.total)
        return func(*args, **(kwargs or {}))


def some_operations(operation: Operation, folder: Path) -> list[int]:
    """Numbers all over the operation, around the first writes, at the end, and beyond it."""
    subject = operation.make("gpt2")
    with Count(subject.model) as count:
        operation.run(subject, folder)
    total = count.total
    around = {n + by for n in count.writes[:3] for by in (-1, 0, 1)}
    return sorted({*range(1 + total % 7, total, max(1, total // 12)), *around, *range(total - 6, total + 2), 2 * total})


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_leaves_all_as_before_or_the_change_complete(
    name: str, error: type[BaseException], folder: Path
) -> None:
    operation = OPERATIONS[name]
    seen = check_sweep("gpt2", operation, folder, error, some_operations(operation, folder), thorough=5)
    assert "completed" in seen


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stride"), [("gpt2", 1), ("t5", 11)])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_anywhere_leaves_all_as_before_or_the_change_complete(
    name: str, error: type[BaseException], family: str, stride: int, folder: Path
) -> None:
    numbers = itertools.count(1, stride)
    assert "completed" in check_sweep(family, OPERATIONS[name], folder, error, numbers, thorough=50)


# ----- interrupted between lines ------------------------------------------------------------------------------------

ROOT = Path(peft_fishdip.__file__).parent


CHANGES = (str(ROOT / "adapter"), str(ROOT / "tuner" / "mask_update.py"))
DELETION = (str(ROOT / "layers" / "layer.py"), tuners_utils.__file__)


class Interrupt:
    """Within, KeyboardInterrupt is raised before the k-th line in files whose names begin like one of `files`."""

    def __init__(self, k: int, files: tuple[str, ...]) -> None:
        self.left = k
        self.files = files

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Interrupt:
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)


def check_lines(operation: Operation, folder: Path, numbers: Any, files: tuple[str, ...] = CHANGES) -> set[str]:
    """Interrupt before these lines in turn, until an attempt completes; returns the outcomes that were seen."""
    before = state_of(operation.make("gpt2"))
    changed = operation.make("gpt2")
    operation.run(changed, folder)
    after = state_of(changed)
    seen: set[str] = set()
    subject = None
    for k in numbers:
        subject, interrupt = subject or operation.make("gpt2"), Interrupt(k, files)
        try:
            with interrupt:
                operation.run(subject, folder)
        except KeyboardInterrupt:
            assert interrupt.left <= 0
        else:
            assert interrupt.left > 0
            return seen | {"completed"}
        now = state_of(subject)
        assert not differing(now, before) or not differing(now, after), (k, differing(now, before)[:5])
        seen.add("after" if differing(now, before) else "before")
        if differing(now, before):
            if "default" not in subject.model.peft_config:
                subject.model.set_adapter("other")  # PEFT had no time to choose another active one
            continued(subject)
            subject = None
    return seen


def number_of_lines(operation: Operation, folder: Path) -> int:
    subject, interrupt = operation.make("gpt2"), Interrupt(10**9, CHANGES)
    with interrupt:
        operation.run(subject, folder)
    return 10**9 - interrupt.left


def test_an_interrupt_between_lines_leaves_all_as_before_or_the_new_mask(folder: Path) -> None:
    operation = OPERATIONS["set_mask"]
    total = number_of_lines(operation, folder)
    # the writes are made near the end
    some = {*range(1, total, total // 20), *range(total - 200, total, 7), *range(total - 8, total + 2)}
    assert check_lines(operation, folder, sorted(some)) == {"before", "after", "completed"}


@pytest.mark.parametrize("stride", [53, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupt_within_a_deletion_leaves_the_adapter_whole_or_gone(stride: int, folder: Path) -> None:
    seen = check_lines(DELETE, folder, itertools.count(1, stride), DELETION)
    assert seen == {"before", "after", "completed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set_mask", "load_adapter over the same name", "load_state_dict", "merge_adapter"])
def test_an_interrupt_between_more_lines_leaves_all_as_before_or_the_change_complete(name: str, folder: Path) -> None:
    numbers = itertools.count(1, 1 if name == "set_mask" else 13)
    assert "completed" in check_lines(OPERATIONS[name], folder, numbers)


# ----- what is tried once per model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")],
    ids=["accelerator", "CPU"],
)
def test_an_out_of_memory_in_the_trial_of_shared_passes_is_not_remembered(error: RuntimeError) -> None:
    model, examples = tuned(small_gpt2(), density=0.05, num_samples=4), lm_examples(4)
    reference = tuned(small_gpt2(), density=0.05, num_samples=4)
    passes: list[int] = []
    failing = True

    def loss_fn(module: Any, batch: dict[str, Tensor]) -> Tensor:
        rows = batch["input_ids"].shape[0]
        if torch.is_grad_enabled():
            passes.append(rows)
            if rows > 1 and failing:
                raise error
        logits, labels = module(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return losses.sum(1)

    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert passes[0] > 1  # the trial
    assert passes[1:] == [1, 1, 1, 1]  # each alone: the update itself succeeds
    failing = False
    reference.base_model.update_mask(examples, loss_fn=loss_fn)
    for name, positions in reference.base_model.mask().items():
        assert torch.equal(model.base_model.mask()[name], positions)
    passes.clear()
    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert passes[0] > 1  # tried again
    assert sum(passes[-2:]) > 2  # and examples share passes
    passes.clear()
    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert 1 not in passes  # a success is remembered
