"""From training examples to a score per parameter: which examples the model gets most wrong (Eq. 2 of the paper),
and what these say about the parameters (Eq. 1)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..config import FishDipConfig
from ..distributed import gather_lists, raise_on_all_ranks, sum_in_place, world
from .examples import (
    MAX_OF_A_SHARE,
    Collator,
    Numbered,
    batches,
    is_indexed,
    length,
    number_to_pick,
    pick,
    row,
    to_device,
)
from .fisher import accumulate_importance
from .losses import Batch, EmptyExampleError, LossFn, evaluated, refuse_infinite
from .recent import RecentExamples

TOKENS_TOGETHER = 1024
"""Tokens, with padding, of examples that share a backward pass."""


class Scores(NamedTuple):
    """What [`score_parameters`] returns."""

    importance: dict[str, Tensor]
    """Per parameter a float32 tensor of its shape."""
    example_ids: tuple[int, ...]
    losses: tuple[float, ...]


class Candidate(NamedTuple):
    """An example that may come to score the parameters: those with the highest priority do."""

    priority: float
    number: int
    batch: Batch | None
    """Just this example; None where it can be picked by its number."""


@dataclass
class Scoring:
    """How examples are chosen and parameters scored; see FishDipModel.update_mask for the fields."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    config: FishDipConfig
    examples: Any
    collator: Collator
    batch_size: int
    loss_fn: LossFn
    shapes: Mapping[str, torch.Size]
    """Of the parameters."""
    seed: int
    """Of the choice of random examples."""

    def scores(self) -> Scores:
        """The mean importance of each parameter over the chosen examples.

        Several processes share the work: of a Dataset each takes every so-manieth example; a stream of batches is
        taken as the process's own part of the data. All processes return the same.

        Raises:
            ValueError: there are too few examples, one has no target, a loss is not finite, or all gradients are zero.
            RuntimeError: something stopped another process.
        """
        mine, count = self.choose()
        sums, losses = raise_on_all_ranks(
            lambda: accumulate_importance(
                self.model, self.parameters, self.groups(mine), self.loss_fn, self.config.importance, self.shapes
            )
        )
        sum_in_place(sums.values())
        if not any(bool(tensor.any()) for tensor in sums.values()):
            raise ValueError(
                "no targeted parameter has a gradient at the chosen examples, so these do not tell what to train: "
                "loss_fn must return losses that gradients flow from (not under torch.no_grad), and the targeted "
                "modules must take part in them."
            )
        for tensor in sums.values():
            tensor.div_(count)
        scored = sorted(gather_lists(list(losses.items())), key=lambda item: (-item[1], item[0]))
        return Scores(sums, tuple(number for number, _ in scored), tuple(loss for _, loss in scored))

    def choose(self) -> tuple[list[Candidate], int]:
        """The chosen examples that are this process's, and how many are chosen in all."""
        seen = 0

        def counted() -> Iterator[Candidate]:
            nonlocal seen
            for candidate in self.candidates():
                seen += 1
                yield candidate

        def rank(candidate: Candidate) -> tuple[float, int]:
            return candidate.priority, -candidate.number

        num_samples = self.config.num_samples
        recent = isinstance(self.examples, RecentExamples)
        most = MAX_OF_A_SHARE if isinstance(num_samples, float) else num_samples

        def best_of_mine() -> list[Candidate]:
            everything = self.config.sample_selection == "all"
            return list(counted()) if everything else heapq.nlargest(most, counted(), key=rank)

        kept = raise_on_all_ranks(best_of_mine)
        total = sum(gather_lists([self.examples.seen if recent else seen]))
        if recent and not total:
            raise ValueError(
                "no training step told its losses since the last update: call model.train(), and the model with "
                "labels=... by name; or update the mask by the examples themselves."
            )
        count = number_to_pick(total if self.config.sample_selection == "all" and total else num_samples, total)
        ranked = sorted(gather_lists([rank(candidate) for candidate in kept]), reverse=True)[:count]
        best = set(ranked)
        return [candidate for candidate in kept if rank(candidate) in best], count

    def candidates(self) -> Iterator[Candidate]:
        """This process's examples with their priorities: losses, random numbers, or zeros."""
        if isinstance(self.examples, RecentExamples):
            rank, processes = world()
            for loss, number, batch in self.examples.candidates():
                yield Candidate(loss, number * processes + rank, batch)
            return
        if self.config.sample_selection == "highest_loss":
            with tqdm(desc="Fish-Dip: losses", total=self.local_count(), delay=2, disable=world()[0] > 0) as bar:
                for numbered in self.numbered_batches():
                    losses = self.losses(numbered)
                    for index, (number, loss) in enumerate(zip(numbered.ids, losses.tolist(), strict=True)):
                        yield Candidate(loss, number, self.kept_row(numbered, index))
                    bar.update(len(numbered.ids))
            return
        rank, processes = world()
        random = self.config.sample_selection == "random"
        # one sequence of random numbers for each process's examples, whatever batches they come in
        generator = torch.Generator().manual_seed(self.seed * processes + rank)

        def priority() -> float:
            return float(torch.rand((), generator=generator, dtype=torch.float64)) if random else 0.0

        if is_indexed(self.examples):
            yield from (Candidate(priority(), number, None) for number in self.local_numbers())
            return
        for numbered in self.numbered_batches():
            for index, number in enumerate(numbered.ids):
                yield Candidate(priority(), number, self.kept_row(numbered, index))

    def local_numbers(self) -> range:
        rank, processes = world()
        return range(rank, len(self.examples), processes)

    def local_count(self) -> int | None:
        return len(self.local_numbers()) if is_indexed(self.examples) else None

    def numbered_batches(self) -> Iterator[Numbered]:
        if is_indexed(self.examples):
            yield from batches(self.examples, self.local_numbers(), self.batch_size, self.collator)
            return
        rank, processes = world()
        for numbered in batches(self.examples, None, self.batch_size, self.collator):
            yield Numbered([number * processes + rank for number in numbered.ids], numbered.batch)

    def kept_row(self, numbered: Numbered, index: int) -> Batch | None:
        return None if is_indexed(self.examples) else row(numbered.batch, index)

    def losses(self, numbered: Numbered) -> Tensor:
        """The losses of a batch: float32 (batch,) on the CPU."""
        try:
            losses = evaluated(self.model, to_device(numbered.batch, self.device), self.loss_fn)
        except EmptyExampleError as error:
            raise ValueError(f"example {numbered.ids[error.row]}: {error}") from error
        refuse_infinite(numbered.ids, losses)
        return losses

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def groups(self, chosen: list[Candidate]) -> Iterator[Numbered]:
        """The chosen examples in batches of similar length; those of a stream one by one."""
        with tqdm(total=len(chosen), desc="Fish-Dip: Fisher information", delay=2, disable=world()[0] > 0) as bar:
            for numbers in self.grouped(chosen):
                group = pick(self.examples, numbers, self.collator)
                yield Numbered(group.ids, to_device(group.batch, self.device))
                bar.update(len(numbers))
            for candidate in chosen:
                if candidate.batch is not None:
                    yield Numbered([candidate.number], to_device(candidate.batch, self.device))
                    bar.update()

    def grouped(self, chosen: list[Candidate]) -> Iterator[list[int]]:
        """Numbers of examples that are to share a pass: short ones, where its cost is not that of its products."""
        lengths = {c.number: length(self.examples[c.number]) for c in chosen if c.batch is None}
        group: list[int] = []
        for number in sorted(lengths, key=lambda number: (lengths[number], number)):
            if group and (len(group) == self.batch_size or (len(group) + 1) * lengths[number] > TOKENS_TOGETHER):
                yield group
                group = []
            group.append(number)
        if group:
            yield group
