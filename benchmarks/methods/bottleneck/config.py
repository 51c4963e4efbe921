"""What a user can choose about a bottleneck adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig

from peft_fishdip.registration import extended_peft_type

SITES = ("self_attention", "feed_forward")
NON_LINEARITIES = ("gelu", "gelu_new", "relu", "swish", "tanh")


@dataclass
class BottleneckConfig(PeftConfig):
    """What the two methods have in common.

    Raises:
        ValueError: a field has a value of the wrong type, or outside of its range or choices; the message names field,
            value and remedy.
    """

    sites: list[str] = field(
        default_factory=lambda: list(SITES),
        metadata={
            "help": "Sublayers whose outputs are adapted, in every encoder and decoder block: 'self_attention', "
            "'feed_forward' or both. Cross-attention has no adapters."
        },
    )
    reduction_factor: int = field(
        default=16,
        metadata={"help": "Width of the model divided by the width of the bottleneck."},
    )
    non_linearity: str = field(
        default="swish",
        metadata={"help": f"Activation function of the bottleneck: one of {', '.join(NON_LINEARITIES)}."},
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Modules that are trained and saved whole; ['layer_norm'] are all layer norms of a T5."},
    )

    # PEFT looks for it; the sites say all that there is to choose
    target_modules: ClassVar[None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sites, (list, tuple)) or not self.sites or any(s not in SITES for s in self.sites):
            raise ValueError(f"sites={self.sites!r} must be a list of one or more of {', '.join(SITES)}.")
        self.sites = [site for site in SITES if site in self.sites]
        check_count("reduction_factor", self.reduction_factor, "16 for a bottleneck of a 16th of the model's width")
        if self.non_linearity not in NON_LINEARITIES:
            raise ValueError(
                f"non_linearity={self.non_linearity!r} is unknown; choose one of {', '.join(NON_LINEARITIES)}."
            )

    def bottleneck(self, width: int) -> int:
        """Width of the bottleneck in a model of that width.

        Raises:
            ValueError: the width is no multiple of `reduction_factor`.
        """
        if width % self.reduction_factor:
            raise ValueError(
                f"reduction_factor={self.reduction_factor} does not divide d_model={width}; choose a divisor of it."
            )
        return width // self.reduction_factor


@dataclass
class HoulsbyConfig(BottleneckConfig):
    """Configuration of a [`HoulsbyModel`]: A(s) = W_up f(W_down s + b_down) + b_up (Houlsby et al., ICML 2019, Fig. 2).

    `sites=["feed_forward"]` is the placement of Pfeiffer et al. (EACL 2021).
    """

    init_range: float = field(
        default=0.02,
        metadata={"help": "Standard deviation of the normal distribution of the initial weights; biases start at 0."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = extended_peft_type("HOULSBY")
        check_positive("init_range", self.init_range, "0.02")


@dataclass
class CompacterConfig(BottleneckConfig):
    """Configuration of a [`CompacterModel`]: Houlsby's adapter with weights W = Σ_i A_i ⊗ (L_i R_i).

    The n matrices A_i are shared by all layers, and by down and up projections (Karimi Mahabadi et al., NeurIPS 2021).
    `sites=["feed_forward"]` is Compacter++. The paper's T5 experiments also train the layer norms; see
    `modules_to_save`.
    """

    reduction_factor: int = field(
        default=32,
        metadata={"help": "Width of the model divided by the width of the bottleneck."},
    )
    non_linearity: str = field(
        default="gelu_new",
        metadata={"help": f"Activation function of the bottleneck: one of {', '.join(NON_LINEARITIES)}."},
    )
    phm_dim: int = field(
        default=4,
        metadata={"help": "n, the number of Kronecker products in a weight; divides d_model and the bottleneck."},
    )
    phm_rank: int = field(default=1, metadata={"help": "Rank of the products L_i R_i."})
    phm_init_range: float = field(
        default=1e-4,
        metadata={"help": "Standard deviation of the normal distribution of the initial A; so W is almost 0."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = extended_peft_type("COMPACTER")
        check_count("phm_dim", self.phm_dim, "4")
        check_count("phm_rank", self.phm_rank, "1")
        check_positive("phm_init_range", self.phm_init_range, "0.0001")

    def bottleneck(self, width: int) -> int:
        """As in BottleneckConfig.

        Raises:
            ValueError: `reduction_factor` does not divide the width, or `phm_dim` one of the two widths.
        """
        narrow = super().bottleneck(width)
        for name, size in (("d_model", width), ("the bottleneck's width", narrow)):
            if size % self.phm_dim:
                raise ValueError(
                    f"phm_dim={self.phm_dim} does not divide {name} {size}; choose a divisor of {width} and {narrow}, "
                    "or another reduction_factor."
                )
        return narrow


def check_count(name: str, value: Any, example: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a positive int, such as {example}.")


def check_positive(name: str, value: Any, example: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a positive number, such as {example}.")
