"""Names of contestants: method, pattern of the mask, density."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import SettingsError
from .settings import PATTERNS, Settings

WITHOUT_DENSITY = ("frozen", "lora", "full")
WITH_DENSITY = ("shira", "supertuning", "masked")
TITLES = {
    "frozen": "frozen: forward and input gradients (the floor)",
    "lora": "LoRA r8, all-linear",
    "full": "full fine-tuning, AdamW",
    "shira": "SHiRA",
    "supertuning": "Super-Tuning",
    "masked": "dense gradients times a mask, dense AdamW",
    "fishdip": "Fish-Dip",
}


@dataclass(frozen=True)
class Spec:
    """One contestant, as `fishdip-uniform@0.01` or `lora`."""

    method: str
    pattern: str = ""
    density: float = 0.0

    @property
    def name(self) -> str:
        pattern = f"-{self.pattern}" if self.pattern else ""
        return f"{self.method}{pattern}{f'@{self.density}' if self.density else ''}"

    @property
    def title(self) -> str:
        words = [TITLES[self.method]]
        if self.density:
            words.append(f"{100 * self.density:g} %")
        if self.pattern:
            words.append(f"{self.pattern} mask")
        return ", ".join(words)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read a contestant's name.

        Raises:
            SettingsError: it is none.
        """
        head, at, tail = text.partition("@")
        method, dash, pattern = head.partition("-")
        try:
            density = float(tail) if at else 0.0
        except ValueError:
            density = -1.0
        known = (
            (method in WITHOUT_DENSITY and not at and not dash)
            or (method in WITH_DENSITY and not dash and 0 < density <= 1)
            or (method == "fishdip" and pattern in PATTERNS and 0 < density <= 1)
        )
        if not known:
            raise SettingsError(
                f"contestant {text!r} is unknown; there are {', '.join(WITHOUT_DENSITY)}, "
                f"{', '.join(f'{name}@DENSITY' for name in WITH_DENSITY)} and fishdip-PATTERN@DENSITY, with a pattern "
                f"of {', '.join(PATTERNS)} and a density in (0, 1]"
            )
        return cls(method, pattern, density)


def specs_of(settings: Settings, *, real: float | None = None) -> list[Spec]:
    """The contestants that were asked for, or the usual ones.

    Args:
        real: the one density of the real mask, if it is that of an adapter.
    """
    if settings.contestants:
        specs = [Spec.parse(text) for text in settings.contestants]
    else:
        ours = []
        for pattern in settings.patterns:
            densities = settings.densities if pattern != "real" or real is None else (real,)
            ours += [Spec("fishdip", pattern, density) for density in densities]
        peers = [Spec(method, "", settings.density) for method in ("shira", "supertuning", "masked")]
        specs = [Spec("frozen"), *ours, Spec("lora"), *peers, Spec("full")]
    return list(dict.fromkeys(specs))
