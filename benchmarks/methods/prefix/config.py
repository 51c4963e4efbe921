"""What a user can choose about a prefix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from peft_fishdip.config import is_count
from peft_fishdip.registration import extended_peft_type

PEFT_TYPE = extended_peft_type("FULL_PREFIX")

SITES = {
    "encoder": r"(.*\.)?encoder\.block\.\d+\.layer\.0\.SelfAttention",
    "decoder": r"(.*\.)?decoder\.block\.\d+\.layer\.0\.SelfAttention",
    "cross": r"(.*\.)?decoder\.block\.\d+\.layer\.1\.EncDecAttention",
}
"""For each kind of attention a regex of the modules' names in T5."""


@dataclass
class FullPrefixConfig(PeftConfig):
    """Configuration of a [`FullPrefixModel`]: trainable keys and values before those of every attention.

    Prefix tuning in its full form (Li & Liang, ACL 2021, section 4): encoder self-attention, decoder self-attention
    and cross-attention have prefixes of their own, and for training these are the output of an MLP. PEFT's
    PrefixTuningConfig reaches only the decoder's self-attention of T5.

    T5's relative position bias: the prefix has none (0), and the words keep the one they have in the base model.

    Raises:
        ValueError: a field has a value outside of its range or choices; the message names field, value and remedy.
    """

    num_virtual_tokens: int = field(default=30, metadata={"help": "Keys (and values) per attention and layer."})
    bottleneck_size: int | None = field(
        default=512,
        metadata={
            "help": "Hidden size of the MLP that makes the prefix from an embedding of its positions; each site has "
            "one for all its layers. None: keys and values are trained directly."
        },
    )
    sites: list[str] = field(
        default_factory=lambda: list(SITES),
        metadata={"help": "Which attentions have a prefix: any of 'encoder', 'decoder' and 'cross'."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if not is_count(self.num_virtual_tokens):
            raise ValueError(f"num_virtual_tokens={self.num_virtual_tokens!r} must be a positive int, such as 30.")
        if self.bottleneck_size is not None and not is_count(self.bottleneck_size):
            raise ValueError(
                f"bottleneck_size={self.bottleneck_size!r} must be a positive int, such as 512, or None for a prefix "
                "that is trained directly."
            )
        self.sites = checked_sites(self.sites)

    @property
    def target_modules(self) -> str:
        """The regex by which PEFT finds the modules of the chosen sites."""
        return "|".join(SITES[site] for site in self.sites)


def checked_sites(sites: Any) -> list[str]:
    """The sites in the order of SITES.

    Raises:
        ValueError: no collection of one or more of them.
    """
    if isinstance(sites, str) or not isinstance(sites, Collection) or not sites or not set(sites) <= SITES.keys():
        raise ValueError(f"sites={sites!r} must be a list of one or more of {', '.join(map(repr, SITES))}.")
    return [site for site in SITES if site in sites]
