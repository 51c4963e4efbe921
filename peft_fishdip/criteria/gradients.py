"""What an importance function is given of the examples: their gradients at one parameter, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

FROM_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda gradient: gradient,
    "mean_square": Tensor.square_,
    "mean_absolute": Tensor.abs_,
}
"""The averages there are, and what makes each of them of a single gradient, in place."""


@dataclass(frozen=True)
class ExampleGradients:
    """The gradients of the chosen examples' losses by the entries of one parameter, as averages over the examples.

    Each average is float32, of the parameter's shape, and costs one float32 per targeted parameter and one pass over
    the examples. So only those are there that the function was registered with: `mean`, if nothing else was said.

    Attributes:
        count: number of examples; 0 if there is one gradient alone, that of a whole training step (see `auto_update`),
            of which `mean_square` is then the square, and `mean_absolute` the magnitude.
        unit: the unit of the trained values (`delta_scale`): the gradient by a trained value is `unit` times the one
            by the parameter's value.
    """

    averages: Mapping[str, Tensor]
    count: int
    unit: float

    @property
    def mean(self) -> Tensor:
        """Mean gradient of the examples."""
        return self._average("mean")

    @property
    def mean_square(self) -> Tensor:
        """Mean squared gradient of single examples, the empirical Fisher information."""
        return self._average("mean_square")

    @property
    def mean_absolute(self) -> Tensor:
        """Mean magnitude of the gradients of single examples."""
        return self._average("mean_absolute")

    def _average(self, name: str) -> Tensor:
        if name not in self.averages:
            needs = (*self.averages, name)
            raise ValueError(
                f"gradients.{name} has not been computed: register the function with what it needs, "
                f"register_importance(name, function, needs={needs!r})."
            )
        return self.averages[name]


def of_one(gradient: Tensor, needs: Sequence[str]) -> dict[str, Tensor]:
    """The averages of a single gradient, which is given up for them."""
    return {name: FROM_ONE[name](gradient if len(needs) == 1 else gradient.clone()) for name in needs}
