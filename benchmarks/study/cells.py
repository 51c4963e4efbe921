"""The comparisons that the study is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..data_sets import DATA_SETS

REPORTS = Path(__file__).parents[1] / "reports"
STUDY = REPORTS / "study"
NANO = REPORTS.parent / "nano"
NANO_RATES = REPORTS.parent / "nano_rates"
NAMES = {
    "fishdip/default": "Fish-Dip 1 %",
    "fishdip/density-5-auto": "Fish-Dip 5 %",
    "fishdip/adafactor-5": "Fish-Dip 5 % (SparseAdafactor)",
    "full/adafactor": "full fine-tuning (Adafactor)",
    "static/fisher": "fixed Fisher mask 1 %",
    "static/random": "random mask 1 %",
    "lora/rank-8": "LoRA r8",
    "lora/rate-1e-3": "LoRA r8",
    "lora/rate-0.01": "LoRA r8",
    "lora/rate-2e-3": "LoRA r8 at 2e-3",
    "lora/rank-32": "LoRA r32",
    "static/fisher-2": "fixed Fisher mask 2 %",
    "static/random-2": "random mask 2 %",
    "full/adamw": "full fine-tuning",
    "full/rate-5e-5": "full fine-tuning",
    "variant/unbounded": "no bound of the support",
    "variant/max-support-1.5": "at most 1.5 K entries with a delta",
    "variant/reset": "at most K: what leaves the mask is reset",
    "variant/density-5": "5 % of the parameters",
    "variant/adafactor-5": "SparseAdafactor and 5 %",
    "variant/adafactor": "SparseAdafactor at 1e-2, unit of 1 RMS",
}
"""Of methods and of variants, in words."""
ADAFACTOR = ("fishdip/adafactor-5", "full/adafactor")
FEW = ("fishdip/default", "fishdip/density-5-auto", "lora/rank-8", "full/adamw", *ADAFACTOR)
MORE = (*FEW, "static/fisher", "static/random")
CONTROLS = ("static/fisher-2", "static/random-2", "lora/rate-2e-3", "lora/rank-32")
"""Masks that stay, with as many entries as Fish-Dip has changed in the end; LoRA at another rate, and a larger one."""
VARIANTS = ("unbounded", "max-support-1.5", "reset", "density-5", "adafactor", "adafactor-5")
ENTITIES = ("conll04-ner", "masakhaner-swa", "masakhaner-hau")
RATES = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")


@dataclass(frozen=True)
class Cell:
    """One comparison; its runs lie in a folder of its name."""

    name: str
    model: str
    """Its folder among the models; or nano, which is here."""
    num_train: int
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    experiments: Path
    """Those that are not among the benchmarks' own."""
    rates: tuple[str, ...] = ("own",)
    """To choose from, by the validation part of the first data set."""
    shown_with: str = ""
    """The cell in whose tables its methods stand, if it has none of its own; with the same data sets and seeds."""
    rates_from: str = ""
    """The cell that chose them, if it is another one."""
    part: str = "test"
    seeds: int = 3
    steps: int = 200
    batch_size: int = 4
    max_test: int = 200
    max_plain: int = 0
    bf16: bool = False
    more: tuple[str, ...] = ()
    """Other options of `python -m benchmarks compare`."""
    root: Path = STUDY

    @property
    def folder(self) -> Path:
        """Of its runs."""
        return self.root / self.name

    @property
    def finds_entities(self) -> bool:
        """Whether its scores are F1 of entities alone, so that their mean tells something."""
        return all(DATA_SETS[name].kind == "ner" for name in self.tasks)

    def arguments(self, data: Path, models: Path) -> list[str]:
        """Of `python -m benchmarks`."""
        chosen = ["--rate-task", self.tasks[0], "--rates-by", "validation"] if self.rates != ("own",) else []
        if self.rates_from:
            chosen += ["--rates-from", str(STUDY / self.rates_from)]
        return [
            *("compare", "--data", str(data), "--model", str(NANO if self.model == NANO.name else models / self.model)),
            *("--experiments", str(self.experiments), "--methods", *self.methods, "--tasks", *self.tasks),
            *("--rates", *self.rates, *chosen, "--part", self.part),
            *("--fractions", "1.0", "--max-train", str(self.num_train), "--max-test", str(self.max_test)),
            *("--steps", str(self.steps), "--batch-size", str(self.batch_size), "--max-length", "128"),
            *("--max-plain", str(self.max_plain), *(["--bf16"] if self.bf16 else []), *self.more),
            *("--seeds", *map(str, range(self.seeds)), "--output", str(self.folder)),
        ]


def nano(name: str, num_train: int, tasks: tuple[str, ...], *more: str) -> Cell:
    """Augmented text by nano, at rates that suit it."""
    methods = ("fishdip/default", "lora/rate-0.01", "full/adamw")
    cell = Cell(f"nano-{name}", NANO.name, num_train, tasks, methods, NANO_RATES, seeds=2, more=more)
    return replace(cell, max_test=60, max_plain=16)


def minilm(num_train: int, methods: tuple[str, ...], rates_from: str = "minilm-64") -> Cell:
    cell = Cell(f"minilm-{num_train}", "minilm", num_train, ENTITIES, methods, STUDY / "methods")
    return replace(cell, rates=RATES, rates_from=rates_from)


CELLS = {
    cell.name: cell
    for cell in (
        minilm(16, FEW),
        minilm(64, MORE, rates_from=""),
        minilm(256, FEW),
        Cell(
            *("minilm-64-controls", "minilm", 64, ENTITIES, CONTROLS, STUDY / "methods"),
            shown_with="minilm-64",
        ),
        Cell(
            *("gemma-64", "gemma-3-270m", 64, ("conll04-ner",)),
            *(("fishdip/default", "lora/rate-1e-3", "full/rate-5e-5"), REPORTS / "decoder" / "methods"),
            seeds=2,
            steps=60,
            batch_size=8,
            max_test=100,
            max_plain=16,
            bf16=True,
        ),
        nano("64", 64, ("conll04-ner", "conll04", "woz2", "ewt_srl")),
        nano("relation", 384, ("fewrel",), "--episodes", "2", "--meta-steps", "150"),
        Cell(
            *("minilm-variants", "minilm", 64, ENTITIES),
            *(("fishdip/default", *(f"variant/{name}" for name in VARIANTS)), STUDY / "variants"),
            part="validation",
            seeds=2,
        ),
    )
}
