"""Masks as training makes them: of a trained adapter, or by Fisher information after a short training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor

from peft_fishdip import FishDipConfig
from peft_fishdip.selection import num_active, top_k

from ..settings import SettingsError, one_line
from .data import collate, make_examples
from .phases import Phases
from .settings import Settings

TRAINING_RATE = 1e-3


class RealMasks:
    """Made when the first one is asked for; only positions are kept."""

    def __init__(self, make_model: Callable[[], Any], settings: Settings) -> None:
        self.make_model = make_model
        self.settings = settings
        self.cache: dict[float, dict[str, Tensor]] = {}

    @property
    def density(self) -> float | None:
        """Of the adapter's mask; None without an adapter, where any density can be had."""
        if self.settings.adapter is None:
            return None
        try:
            config: Any = PeftConfig.from_pretrained(str(Path(self.settings.adapter)))
            return float(config.density)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SettingsError(f"adapter={self.settings.adapter!r} is none of Fish-Dip: {one_line(error)}") from error

    def positions(self, density: float) -> dict[str, Tensor]:
        """The mask of that density.

        Raises:
            SettingsError: the adapter has another density, or does not fit the model.
        """
        if not self.cache and self.settings.adapter is not None:
            own = self.density
            assert own is not None
            self.cache[own] = self.of_adapter(self.settings.adapter)
        elif not self.cache:
            wanted = {self.settings.density, *self.settings.densities, density}
            self.cache.update(self.after_training(sorted(wanted)))
        if density not in self.cache:
            have = ", ".join(f"{known:g}" for known in sorted(self.cache))
            raise SettingsError(f"there is no real mask of density {density:g}; there are {have}")
        return self.cache[density]

    def of_adapter(self, folder: str) -> dict[str, Tensor]:
        try:
            model: Any = PeftModel.from_pretrained(self.make_model(), folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise SettingsError(f"adapter={folder!r} does not fit the model: {one_line(error)}") from error
        mask: dict[str, Tensor] = model.base_model.mask()
        return mask

    def after_training(self, densities: list[float]) -> dict[float, dict[str, Tensor]]:
        """Train on a few examples of random tokens, score the parameters, and choose by these scores."""
        own = self.settings
        model: Any = get_peft_model(self.make_model(), FishDipConfig(task_type="SEQ_2_SEQ_LM", density=own.density))
        examples = make_examples(max(own.batch, 25), own.source, own.target, model.config.vocab_size, own.seed + 1)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=TRAINING_RATE)
        device = own.torch_device
        model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer)
        model.train()
        for step in range(own.real_steps):
            chosen = [examples[(step * own.batch + i) % len(examples)] for i in range(own.batch)]
            batch = {key: value.to(device) for key, value in collate(chosen).items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=own.autocast):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with Phases(device) as phases:
            model.base_model.update_mask(examples, data_collator=collate, optimizer=optimizer)
        return {density: chosen_by(phases.scores, density) for density in densities}


def chosen_by(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    total = sum(score.numel() for score in scores.values())
    return {name: found.cpu() for name, found in top_k(scores, num_active(density, total)).positions.items()}
