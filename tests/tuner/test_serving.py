"""Many adapters over one base, used by threads in turn; and what happens to threads that take no turns."""

from __future__ import annotations

import copy
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from peft_fishdip import FishDipConfig, tuner_of

from ..support.models import base_bits, flat_of, llama, lm_examples, padded, tied_t5
from ..support.threads import run_together

THREADS, REQUESTS = 8, 1000
NAMES = [f"adapter-{i}" for i in range(5)]


def config(seed: int, **settings: Any) -> FishDipConfig:
    return FishDipConfig(
        task_type="CAUSAL_LM", density=0.05, init_weights=False, auto_update=False, seed=seed, **settings
    )


@pytest.fixture
def model() -> Any:
    """A model in evaluation mode with several adapters of random deltas."""
    model = get_peft_model(llama(num_hidden_layers=1), config(0), NAMES[0])
    for seed, name in enumerate(NAMES[1:], 1):
        model.add_adapter(name, config(seed))
    return model.eval()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Within, threads take turns at nearly every line."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


BATCHES = [padded(lm_examples(2, seed)) for seed in range(4)]


@torch.no_grad()
def logits(model: Any, batch: int = 0) -> Tensor:
    found: Tensor = model(**BATCHES[batch]).logits
    return found


def expected_of(model: Any) -> dict[tuple[str, int], Tensor]:
    """The outputs of one thread alone."""
    found = {}
    for name in NAMES:
        model.set_adapter(name)
        found |= {(name, batch): logits(model, batch) for batch in range(len(BATCHES))}
    return found


@pytest.mark.usefixtures("frequent_switches")
def test_a_thousand_requests_of_eight_threads(model: Any) -> None:
    before, expected = base_bits(model), expected_of(model)
    assert len({tuple(tensor[0, 0].tolist()) for tensor in expected.values()}) == len(expected)
    order = random.Random(0)
    requests = [(order.choice(NAMES), order.randrange(len(BATCHES))) for _ in range(REQUESTS)]
    found: list[Tensor | None] = [None] * REQUESTS

    def serve(thread: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(thread, REQUESTS, THREADS):
                name, batch = requests[number]
                with model.base_model.using_adapter(name):
                    found[number] = logits(model, batch)

        return run

    run_together([serve(thread) for thread in range(THREADS)])
    assert all(torch.equal(a, expected[request]) for a, request in zip(found, requests, strict=True) if a is not None)
    assert not any(output is None for output in found)
    assert all(torch.equal(a, before[name]) for name, a in base_bits(model).items())


def test_generation_takes_turns_too(model: Any) -> None:
    ids = BATCHES[0]["input_ids"]
    expected, found = {}, {}
    for name in NAMES[:3]:
        model.set_adapter(name)
        expected[name] = model.generate(input_ids=ids, max_new_tokens=6).tolist()

    def serve(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(3):
                with model.base_model.using_adapter(name):
                    found[name] = model.generate(input_ids=ids, max_new_tokens=6).tolist()
                    assert found[name] == expected[name]

        return run

    run_together([serve(name) for name in expected])
    assert found == expected


class Waits(nn.Module):
    """A layer in whose call a thread waits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            self.inside.set()
            assert self.go_on.wait(60)
        return self.head(x)


@pytest.fixture
def waiting() -> Iterator[Any]:
    """A model with two adapters that another thread is calling."""
    model = get_peft_model(Waits(), FishDipConfig(density=0.5, init_weights=False, auto_update=False, seed=1))
    model.add_adapter("other", FishDipConfig(density=0.5, init_weights=False, auto_update=False, seed=2))
    found: list[Tensor] = []
    expected = model(torch.ones(1, 4))
    thread = threading.Thread(target=lambda: found.append(model(torch.ones(1, 4))))
    thread.start()
    base = model.base_model.model
    assert base.inside.wait(60)
    yield model
    base.go_on.set()
    thread.join()
    assert torch.equal(found[0], expected)


def test_no_thread_switches_while_another_one_calls(waiting: Any) -> None:
    before = flat_of(waiting, "default").requires_grad
    with pytest.raises(RuntimeError, match=r"set_adapter\(\['other'\]\) while another thread calls the model.*using_a"):
        waiting.base_model.set_adapter("other")
    with (
        pytest.raises(RuntimeError, match="while another thread calls"),
        waiting.base_model.using_adapter("other"),
    ):
        pass
    assert waiting.base_model.active_adapters == ["default"]
    assert flat_of(waiting, "default").requires_grad == before
    with waiting.base_model.using_adapter("default"):
        pass  # this one is active: nothing is switched


def test_no_thread_calls_after_the_switch_of_another_one(model: Any) -> None:
    model.set_adapter(NAMES[1])
    expected = logits(model)
    run_together([lambda: model.set_adapter(NAMES[2])])
    with pytest.raises(RuntimeError, match=rf"this thread has activated \['{NAMES[1]}'\].*another thread .*{NAMES[2]}"):
        logits(model)
    model.set_adapter(NAMES[1])
    assert torch.equal(logits(model), expected)
    run_together([lambda: model.set_adapter(NAMES[1])])
    assert torch.equal(logits(model), expected)


def test_a_lock_of_a_server_is_enough_if_each_call_is_preceded_by_its_switch(model: Any) -> None:
    lock = threading.Lock()

    def answer(name: str) -> Tensor:
        with lock:
            model.set_adapter(name)
            return logits(model)

    expected = [answer(name) for name in NAMES[:2]]
    found: list[Tensor] = []
    run_together([lambda: found.append(answer(NAMES[0]))])
    assert torch.equal(answer(NAMES[0]), expected[0])
    run_together([lambda: found.append(answer(NAMES[1]))])
    assert torch.equal(answer(NAMES[1]), expected[1])
    model.set_adapter(NAMES[0])
    run_together([lambda: model.set_adapter(NAMES[1])])
    with pytest.raises(
        RuntimeError, match="call set_adapter before each call, also where its adapter is active already"
    ):
        logits(model)


def test_threads_that_never_switch_use_what_is_active(model: Any) -> None:
    model.set_adapter(NAMES[3])
    expected, found = logits(model), []
    run_together([lambda: found.append(logits(model))] * 3)
    assert all(torch.equal(output, expected) for output in found)


def test_one_thread_deletes_adds_and_switches_as_it_likes(model: Any) -> None:
    model.set_adapter(NAMES[0])
    with pytest.warns(UserWarning, match="was active which is now deleted"):
        model.delete_adapter(NAMES[0])
    logits(model)
    model.add_adapter("new", config(9))
    logits(model)
    with model.base_model.using_adapter([NAMES[1], NAMES[2]]):
        assert model.base_model.active_adapters == [NAMES[1], NAMES[2]]
        model.set_adapter(NAMES[4])
        logits(model)


def test_a_call_that_fails_has_ended(model: Any) -> None:
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        model(input_ids=None)
    run_together([lambda: model.set_adapter(NAMES[2])])


def test_copies_are_called_by_nobody(waiting: Any) -> None:
    base = waiting.base_model.model
    base.inside, events = None, base.inside  # events cannot be copied
    base.go_on, go_on = None, base.go_on
    copied = copy.deepcopy(waiting)
    pickled = pickle.loads(pickle.dumps(waiting))
    base.inside, base.go_on = events, go_on
    for other in (copied, pickled):
        other.set_adapter("other")
        assert other.base_model.active_adapters == ["other"]


def test_unloading_leaves_no_trace(model: Any) -> None:
    with model.base_model.using_adapter(NAMES[1]):
        logits(model)
    assert not [name for name in model.unload().__dict__ if "fishdip" in name]


def test_adapters_that_transformers_has_added() -> None:
    model = llama()
    model.add_adapter(config(1), "one")
    with pytest.warns(UserWarning, match="multiple adapters"):
        model.add_adapter(config(2), "two")
    found = {}
    for name in ("one", "two", "one"):
        with tuner_of(model).using_adapter(name):
            assert model.active_adapters() == [name]
            output = logits(model)
        assert torch.equal(found.setdefault(name, output), output)
    assert not torch.equal(found["one"], found["two"])


@pytest.mark.parametrize("whole", [False, True], ids=["deltas alone", "modules trained whole"])
def test_a_switch_trains_the_active_adapter_alone(whole: bool) -> None:
    settings: dict[str, Any] = {"modules_to_save": ["final_layer_norm"]} if whole else {}
    model = get_peft_model(tied_t5(), config(0, target_modules=["q"], **settings), "a")
    model.add_adapter("b", config(1, target_modules=["q"], **settings))

    def trained() -> set[str]:
        return {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad and "fishdip" in name}

    for chosen in ("b", "a"):
        model.set_adapter(chosen)
        assert trained() == {chosen}
        saved = {name for name, p in model.named_parameters() if p.requires_grad and "modules_to_save" in name}
        assert all(f".{chosen}." in name for name in saved)
        assert bool(saved) == whole
    model.set_adapter("b", inference_mode=True)
    assert trained() == set()
    if not whole:
        model.base_model.set_adapter(["a", "b"])
        assert trained() == {"a", "b"}
    model.set_adapter("a")
    model.merge_adapter()
    with pytest.warns(UserWarning, match="merged"):
        model.set_adapter("b")
    assert not model.base_model.model.encoder.block[0].layer[0].SelfAttention.q.merged
