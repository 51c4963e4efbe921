"""Scores of parameters: their importance (Eq. 1 of the paper) to the examples with the highest losses (Eq. 2)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..config import FishDipConfig
from ..criteria import Criterion, ExampleGradients, criterion_of
from ..distributed import gather_lists, raise_on_all_ranks, sum_in_place, world
from .examples import REMEDY, Candidate, ExampleSource, Numbered, Priorities, max_to_pick, number_to_pick, to_device
from .fisher import accumulate_importance
from .losses import LossFn, example_losses
from .rows import RowsError, same_losses


class Scores(NamedTuple):
    """The importance of each parameter, and the examples that it was computed from."""

    importance: Mapping[str, Tensor]  # per parameter a float32 tensor of its shape
    example_ids: tuple[int, ...]  # highest loss first
    losses: tuple[float, ...]


class Weights(NamedTuple):
    """What an importance function is given of the parameters, besides gradients."""

    values: Callable[[str], Tensor]  # a float32 copy of the effective values of a parameter, by its name
    units: Mapping[str, float]  # of the trained values of each parameter, in the order of an adapter's deltas


@dataclass
class Scoring:
    """Chooses examples and scores the parameters by them."""

    model: nn.Module  # in scoring_mode, with effective weights in place
    parameters: Mapping[str, nn.Parameter]
    config: FishDipConfig
    source: ExampleSource
    loss_fn: LossFn
    shapes: Mapping[str, torch.Size]  # of each parameter's values, which quantized storage does not have
    seed: int  # of the choice of random examples
    weights: Weights

    def scores(self) -> Scores:
        """The mean importance of each parameter over the chosen examples; the same on all ranks.

        Raises:
            ValueError: there are too few examples, one has no target, a loss is not finite, or all gradients are zero.
            RowsError: the examples of a batch cannot be computed one by one.
            RuntimeError: an error on another rank.
        """
        criterion = criterion_of(self.config.importance)
        raise_on_all_ranks(lambda: self.source.check(self.model))
        mine, count = self.choose()
        averages: dict[str, dict[str, Tensor]] = {}
        for need in criterion.needs:  # one after the other, each with passes of its own
            averages[need], losses = self.average(need, mine, count)
        losses = {number: loss for number, loss in losses.items() if loss > -math.inf}
        scored = sorted(gather_lists(list(losses.items())), key=lambda item: (-item[1], item[0]))
        importance = scores_of(criterion, self.weights, averages, count)
        return Scores(importance, tuple(number for number, _ in scored), tuple(loss for _, loss in scored))

    def average(self, need: str, mine: list[Candidate], count: int) -> tuple[dict[str, Tensor], dict[int, float]]:
        """One average of the gradients of the chosen examples by parameter, and the losses of those of this rank."""

        def accumulated() -> tuple[dict[str, Tensor], dict[int, float]]:
            autocast = self.source.autocast
            groups = self.groups(mine)
            found = accumulate_importance(
                self.model, self.parameters, groups, self.loss_fn, need, self.shapes, autocast
            )
            self.compare(mine, found[1])
            return found

        sums, losses = raise_on_all_ranks(accumulated)
        sum_in_place(sums.values())
        if not any(bool(tensor.any()) for tensor in sums.values()):
            raise ValueError(
                "no targeted parameter has a gradient at the chosen examples, so they cannot score the parameters: "
                "loss_fn must return losses that gradients flow from (not under torch.no_grad), and the targeted "
                "modules must take part in them."
            )
        for tensor in sums.values():
            tensor.div_(count)
        return sums, losses

    def compare(self, chosen: list[Candidate], losses: Mapping[int, float]) -> None:
        """Raise RowsError if an example that was cut from a batch has another loss than it had in the batch."""
        if self.source.heard or self.config.sample_selection != "highest_loss":
            return
        for candidate in chosen:
            alone, autocast = losses[candidate.number], self.source.autocast
            if candidate.batch is not None and not same_losses(self.model, candidate.priority, alone, autocast):
                raise RowsError(
                    f"example {candidate.number} has a loss of {candidate.priority} in its batch and of {alone} by "
                    f"itself, so the rows of the batch are not its examples; {REMEDY}."
                )

    def choose(self) -> tuple[list[Candidate], int]:
        """The chosen examples of this rank, and the number of chosen examples on all ranks together."""
        everything = self.config.sample_selection == "all"
        num_samples = self.config.num_samples

        def order(candidate: Candidate) -> tuple[float, int]:
            return candidate.priority, -candidate.number

        def best_of_this_rank() -> list[Candidate]:
            with progress("losses", self.source.seen or None) as bar:  # the length of a stream is unknown
                found = (c for c in self.source.candidates(self.priorities(bar)) if c.priority > -math.inf)
                return list(found) if everything else heapq.nlargest(max_to_pick(num_samples), found, key=order)

        kept = raise_on_all_ranks(best_of_this_rank)
        total = sum(gather_lists([self.source.seen]))
        if not total:
            raise ValueError(self.source.empty_message)
        count = total if everything else number_to_pick(num_samples, total, self.source.may_be_few)
        best = set(sorted(gather_lists([order(candidate) for candidate in kept]), reverse=True)[:count])
        if not best:
            raise ValueError(
                "no example has a target: all labels are -100. Raise the data_collator's mlm_probability, or give "
                "longer examples."
            )
        return [candidate for candidate in kept if order(candidate) in best], len(best)

    def priorities(self, bar: Any) -> Priorities:
        """The function that gives examples their priorities: losses, random numbers or 0, as `sample_selection` says.

        The random numbers of a rank are one sequence, whatever the sizes of the batches.
        """
        selection = self.config.sample_selection
        rank, ranks = world()
        generator = torch.Generator().manual_seed(self.seed * ranks + rank)

        @torch.no_grad()
        def priorities(numbered: Numbered) -> list[float]:
            if selection == "random":
                return [
                    float(torch.rand((), generator=generator, dtype=torch.float64, device="cpu")) for _ in numbered.ids
                ]
            if selection == "all":
                return [0.0] * len(numbered.ids)
            numbered = to_device(numbered, self.device)
            losses = example_losses(self.model, numbered, self.loss_fn, self.source.autocast)
            bar.update(len(losses))
            return losses.float().tolist()

        return priorities

    def groups(self, chosen: list[Candidate]) -> Iterator[Numbered]:
        """The chosen examples in batches on the model's device, with a progress bar."""
        with progress("gradients", len(chosen)) as bar:
            for group in self.source.groups(chosen):
                yield to_device(group, self.device)
                bar.update(len(group.ids))

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device


def scores_of(
    criterion: Criterion, weights: Weights, averages: dict[str, dict[str, Tensor]], count: int
) -> dict[str, Tensor]:
    """The scores of all parameters; `averages`, by kind and parameter, are given up one after the other.

    Raises:
        ValueError: the importance function failed, returned no scores for a parameter, or only zeros for all of them.
    """
    if criterion.function is None:
        (scores,) = averages.values()
        return scores

    def scores_of_all() -> dict[str, Tensor]:
        scores = {}
        for name, unit in weights.units.items():
            gradients = ExampleGradients({kind: all_.pop(name) for kind, all_ in averages.items()}, count, unit)
            scores[name] = criterion.scores(name, weights.values(name), gradients)
        if not any(bool(tensor.any()) for tensor in scores.values()):
            raise ValueError(f"importance {criterion.name!r} returned only zeros, so no entry comes before another.")
        return scores

    return raise_on_all_ranks(scores_of_all)


def progress(what: str, total: int | None) -> Any:
    """A progress bar over examples that rank 0 shows if it takes more than 2 seconds."""
    return tqdm(desc=f"Fish-Dip: {what}", total=total, delay=2, disable=world()[0] > 0)
