"""The steps of teachers and students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..collator import TaskCollator
from .losses import distillation_losses, example_losses, predicted
from .options import SelfTrainingOptions
from .weights import alignments, batch_weights, trainable

Features = Sequence[Mapping[str, Any]]
MAX_GRAD_NORM = 1.0


class Learner:
    """Trains the active adapter of a model for a number of steps, at a rate that falls linearly to 0.

    Args:
        model: with an active adapter.
        tokenizer: that of the model.
        options: of the self-training.
        steps: all that are to come.
        seed: of the order of examples.
        title: of the progress bar.
        progress: show one on stderr.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: SelfTrainingOptions,
        steps: int,
        seed: int,
        title: str,
        progress: bool,
    ) -> None:
        self.model = model
        self.options = options
        self.collator = TaskCollator(tokenizer, model)
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(trainable(model), lr=options.learning_rate, weight_decay=0.0)
        self.steps, self.done = steps, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.bar = tqdm(total=steps, desc=title, delay=2, disable=not progress)
        model.train()

    def close(self) -> None:
        """End the progress bar, and leave the model in eval mode."""
        self.bar.close()
        self.model.eval()

    def batch(self, features: Features) -> dict[str, Any]:
        made = self.collator(features)
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in made.items()}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16)

    def draws(self, size: int) -> Iterator[list[int]]:
        """Positions of the examples of each step, without end, in a new order for each pass."""
        while True:
            order = torch.randperm(size, generator=self.generator).tolist()
            yield from (order[i : i + self.options.batch_size] for i in range(0, size, self.options.batch_size))

    def step(self, loss: Tensor | None) -> None:
        """One step of the optimizer; with None one that changes nothing, since there is nothing to learn from."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * (self.steps - self.done) / self.steps
        if loss is not None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable(self.model), MAX_GRAD_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.done += 1
        self.bar.update()

    def learn(self, features: Features, steps: int) -> None:
        """From labelled examples, which all count alike."""
        draws = self.draws(len(features))
        for _ in range(steps):
            with self.autocast():
                loss = example_losses(self.model, self.batch([features[i] for i in next(draws)])).mean()
            self.step(loss)

    def distil(self, features: Features, teacher: str, student: str, steps: int) -> None:
        """From the probabilities that the teacher gives to each target of pseudo-labelled texts.

        Args:
            teacher, student: names of adapters, of which the student is active.
        """
        draws = self.draws(len(features))
        for _ in range(steps):
            batch = self.batch([features[i] for i in next(draws)])
            self.model.set_adapter(teacher)
            self.model.eval()
            with torch.no_grad(), self.autocast():
                wanted, _ = predicted(self.model, batch)
            self.model.set_adapter(student)
            self.model.train()
            with self.autocast():
                logits, labels = predicted(self.model, batch)
                loss = distillation_losses(logits, wanted, labels).mean()
            self.step(loss)

    def learn_weighted(self, features: Features, held_out: Features, steps: int) -> tuple[list[float | None], int]:
        """From pseudo-labelled texts, weighed by the meta-gradient on a batch of held-out examples in each step.

        Texts of weight 0 do not go through the model: a tuner that looks at the losses of training, as Fish-Dip does to
        choose its mask, does not see them either.

        Returns:
            Of each text its mean weight times the size of its batch, and the number of steps without any weight.
        """
        draws, held = self.draws(len(features)), self.draws(len(held_out))
        weights: list[list[float]] = [[] for _ in features]
        skipped = 0
        for _ in range(steps):
            numbers = next(draws)
            rows = [features[i] for i in numbers]
            found = torch.full((len(rows),), 1 / len(rows), device=self.device)
            if self.options.reweight:
                wanted = self.batch([held_out[i] for i in next(held)])
                each = [self.batch([row]) for row in rows]
                found = batch_weights(alignments(self.model, each, wanted, self.options.bf16))
            values = found.tolist()
            for number, value in zip(numbers, values, strict=True):
                weights[number].append(value * len(rows))
            kept = [i for i, value in enumerate(values) if value > 0]
            skipped += not kept
            if kept:
                with self.autocast():
                    losses = example_losses(self.model, self.batch([rows[i] for i in kept]))
                    loss = (losses * found[kept]).sum()
            self.step(loss if kept else None)
        return [sum(some) / len(some) if some else None for some in weights], skipped
