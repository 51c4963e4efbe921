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
    "static/gradient": "fixed gradient mask 1 %",
    "static/lift": "LIFT 1 %",
    "static/gallop": "GaLLoP 1 %",
    "static/fisher-10-adafactor": "fixed Fisher mask 10 % (SparseAdafactor)",
    "static/random-10-adafactor": "random mask 10 % (SparseAdafactor)",
    "static/fisher-10-1e-2": "fixed Fisher mask 10 % (SparseAdafactor) at 1e-2",
    "static/random-10-1e-2": "random mask 10 % (SparseAdafactor) at 1e-2",
    "lora/adafactor": "LoRA r8 (Adafactor)",
    "full/own-head": "full fine-tuning, classifier at 1e-3",
    "ia3/all": "(IA)3",
    "shira/rank-8": "SHiRA r8",
    "supertuning/density-1": "Super-Tuning 1 %",
    "full/adamw": "full fine-tuning",
    "full/rate-5e-5": "full fine-tuning",
    "variant/unbounded": "no bound of the support",
    "variant/max-support-1.5": "at most 1.5 K entries with a delta",
    "variant/reset": "at most K: what leaves the mask is reset",
    "variant/density-5": "5 % of the parameters",
    "variant/adafactor-5": "SparseAdafactor and 5 %",
    "variant/adafactor": "SparseAdafactor at 1e-2, unit of 1 RMS",
    "variant/adafactor-5-3e-2": "SparseAdafactor at 3e-2 and 5 %",
    "variant/num-samples-25": "importance of 25 examples (default: 6)",
    "variant/random-examples": "importance of random examples",
    "variant/all-examples": "importance of all 64 examples",
    "variant/one-mask": "the first mask stays",
    "variant/interval-20": "a mask every 20 steps",
    "variant/interval-100": "a mask every 100 steps",
    "variant/mean-loss": "mean loss of an example's words",
    "variant/unit-rms": "unit of 1 RMS, AdamW at 1e-2",
    "variant/unit-none": "no unit (the paper's), AdamW at 1e-3",
}
"""Of methods and of variants, in words."""
ADAFACTOR = ("fishdip/adafactor-5", "full/adafactor")
FEW = ("fishdip/default", "fishdip/density-5-auto", "lora/rank-8", "full/adamw", *ADAFACTOR)
MORE = (*FEW, "static/fisher", "static/random")
CONTROLS = ("static/fisher-2", "static/random-2", "lora/rate-2e-3", "lora/rank-32")
"""Masks that stay, with as many entries as Fish-Dip has changed in the end; LoRA at another rate, and a larger one."""
ADAPTERS = ("shira/rank-8", "ia3/all", "supertuning/density-1")
MASKS = ("static/gradient", "static/lift", "static/gallop")
OF_10 = ("static/fisher-10-adafactor", "static/random-10-adafactor")
"""As many entries as Fish-Dip at 5 % has changed in the end, by its optimizer."""
OF_10_AT_ITS_RATE = ("static/fisher-10-1e-2", "static/random-10-1e-2")
"""Also at the rate of Fish-Dip at 5 %, which is higher than the one that was chosen for them."""
ABLATIONS = (
    *("num-samples-25", "random-examples", "all-examples", "one-mask", "interval-20", "interval-100", "mean-loss"),
    *("unit-rms", "unit-none", "adafactor-5-3e-2"),
)
VARIANTS = ("unbounded", "max-support-1.5", "reset", "density-5", "adafactor", "adafactor-5")
ENTITIES = ("conll04-ner", "masakhaner-swa", "masakhaner-hau")
OF_SENTENCES = ("conll04-ner", "conll04", "woz2", "ewt_srl")
RATES = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
LOWER = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
HIGHER = ("1e-3", "3e-3", "1e-2", "3e-2", "1e-1")
HIGHEST = ("1e-2", "3e-2", "1e-1", "3e-1", "1")
"""Five of each, around where a method of its kind usually is; for Adafactor shares of a tensor's RMS."""


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


def nano(
    name: str,
    num_train: int,
    tasks: tuple[str, ...],
    *more: str,
    methods: tuple[str, ...] = ("fishdip/default", "lora/rate-0.01", "full/adamw"),
    shown_with: str = "",
) -> Cell:
    """Augmented text by nano, at rates that suit it."""
    cell = Cell(f"nano-{name}", NANO.name, num_train, tasks, methods, NANO_RATES, seeds=2, more=more)
    return replace(cell, max_test=60, max_plain=16, shown_with=shown_with)


def minilm(num_train: int, methods: tuple[str, ...], rates_from: str = "minilm-64") -> Cell:
    cell = Cell(f"minilm-{num_train}", "minilm", num_train, ENTITIES, methods, STUDY / "methods")
    return replace(cell, rates=RATES, rates_from=rates_from)


def beside(name: str, methods: tuple[str, ...], rates: tuple[str, ...]) -> Cell:
    """Other methods on the data of minilm-64."""
    cell = Cell(f"minilm-64-{name}", "minilm", 64, ENTITIES, methods, STUDY / "methods")
    return replace(cell, rates=rates, shown_with="minilm-64")


def variants(name: str, titles: tuple[str, ...], *methods: str, shown_with: str = "") -> Cell:
    """Of the default recipe, on validation sentences."""
    found = (*methods, *(f"variant/{title}" for title in titles))
    cell = Cell(name, "minilm", 64, ENTITIES, found, STUDY / "variants")
    return replace(cell, part="validation", seeds=2, shown_with=shown_with)


CELLS = {
    cell.name: cell
    for cell in (
        minilm(16, FEW),
        minilm(64, MORE, rates_from=""),
        minilm(256, FEW),
        beside("controls", CONTROLS, ("own",)),
        beside("adapters", ADAPTERS, HIGHER),
        beside("masks", MASKS, RATES),
        beside("masks-10", OF_10, HIGHER),
        beside("masks-10-rate", OF_10_AT_ITS_RATE, ("own",)),
        beside("lora", ("lora/adafactor",), HIGHEST),
        beside("full", ("full/own-head",), LOWER),
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
        nano("64", 64, OF_SENTENCES),
        nano("64-adafactor", 64, OF_SENTENCES, methods=ADAFACTOR, shown_with="nano-64"),
        nano("relation", 384, ("fewrel",), "--episodes", "2", "--meta-steps", "150"),
        variants("minilm-variants", VARIANTS, "fishdip/default"),
        variants("minilm-ablations", ABLATIONS, shown_with="minilm-variants"),
    )
}
