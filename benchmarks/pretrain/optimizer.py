"""AdamW in which each tensor moves by the same share of its own size.

Adafactor (Shazeer and Stern 2018, section 8) multiplies the learning rate of each tensor by max(0.001, RMS of the
tensor). T5's initialisation needs it: embeddings begin with an RMS of 1, query matrices with 1/128; with one rate for
both, either the embeddings stand still or attention breaks. Here AdamW's step of about one unit per entry is
multiplied so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .settings import RunSettings

FLOOR = 1e-3
"""Least RMS that counts, so that a tensor of zeros can leave zero."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class ScaledAdamW:
    """torch's AdamW with a parameter group, and so a rate, for each tensor.

    Args:
        parameters: name -> tensor; float32.
        settings: rates and moments.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: RunSettings) -> None:
        self.parameters = dict(parameters)
        self.interval = settings.rms_interval
        self.scales: dict[str, float] = {}
        self.inner = torch.optim.AdamW(
            [{"params": [parameter]} for parameter in self.parameters.values()],
            lr=0.0,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def step(self, number: int, rate: float) -> None:
        """One update of the tensors by their gradients, which are then gone.

        Args:
            number: of the step, from 0; every `rms_interval` steps each RMS is measured anew.
            rate: share of its RMS by which a tensor moves.
        """
        if number % self.interval == 0 or not self.scales:
            self.measure()
        for group, scale in zip(self.inner.param_groups, self.scales.values(), strict=True):
            group["lr"] = rate * scale
        self.inner.step()
        self.inner.zero_grad()

    @torch.no_grad()
    def measure(self) -> None:
        """max(FLOOR, RMS) of each tensor."""
        roots = torch.stack([parameter.square().mean().sqrt() for parameter in self.parameters.values()])
        self.scales = {
            name: max(FLOOR, value) for name, value in zip(self.parameters, roots.double().tolist(), strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        """Moments and step count of each tensor as `<name>.<moment>`, and `scales` (float64, in order of the names)."""
        tensors = {
            f"{name}.{moment}": self.inner.state[parameter][moment]
            for name, parameter in self.parameters.items()
            for moment in MOMENTS
            if parameter in self.inner.state
        }
        tensors["scales"] = torch.tensor(list(self.scales.values()), dtype=torch.float64)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave; KeyError if it is of other parameters."""
        self.scales = dict(zip(self.parameters, tensors["scales"].tolist(), strict=False))
        for name, parameter in self.parameters.items():
            if f"{name}.step" in tensors:
                state = self.inner.state[parameter]
                for moment in MOMENTS:
                    value = tensors[f"{name}.{moment}"]
                    # fused kernels read the step count, too, on the device
                    state[moment] = value.to(parameter.device).clone()


def schedule(tokens: int, progress: float, settings: RunSettings) -> float:
    """Rate after so many tokens, at a share 0..1 of the run: up along a line, level, down along a line.

    A level rate (Hu et al. 2024, MiniCPM, section 4) leaves it open how long the run is until it falls.
    """
    peak, low = settings.learning_rate, settings.final_share
    up = min(1.0, tokens / settings.warmup_tokens) if settings.warmup_tokens else 1.0
    down = min(1.0, (1 - progress) / settings.decay_share) if settings.decay_share else 1.0
    return peak * min(up, low + (1 - low) * down)
