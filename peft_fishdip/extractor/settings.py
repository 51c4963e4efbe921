"""The file task.json of an adapter: what it finds, and what it needs to be loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from ..tasks.checks import as_path, shown
from ..tasks.joint import JointTask
from ..tasks.ner import NerTask
from .data import Example, labels_of, overlaps, relations_of
from .names import natural_names

FILE = "task.json"
VERSION = 1
TASK_TYPES = ("SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """What belongs to an adapter besides its weights.

    Attributes:
        task: "ner" for entities, "joint" for entities and relations.
        labels: of spans, with the words that the model writes for them.
        relation_labels: the same of relations.
        base_model: Hub id, or a folder; a relative folder begins with "./" or "../".
        task_type: of PEFT.
        dtype: of the base weights in training.
        template: the prompt of a decoder-only model, with `{source}`; None is the default one.
        chat: whether it is asked in its chat template.
        max_source_length: tokens that are read at once; longer texts are read in windows. It is that of the longest
            example of the training, but at least 32: a model that knows single sentences does not do well on pages.
        flat: whether no span stands inside another; only where there are no relations.
    """

    task: str
    labels: dict[str, str]
    relation_labels: dict[str, str]
    base_model: str
    task_type: str = ""
    dtype: str = "float32"
    template: str | None = None
    chat: bool = False
    flat: bool = False
    max_source_length: int = 512

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        base_model: str | PathLike[str],
        names: Mapping[str, str] | None = None,
        template: str | None = None,
        chat: bool = False,
    ) -> Settings:
        """Task and labels that examples call for.

        Raises:
            TypeError: the base model, the names or the template are of another type.
            ValueError: there is nothing to learn, a name is given for a label that does not occur, or the template has
                no `{source}`.
        """
        _check_names(names)
        labels, relations = labels_of(examples), relations_of(examples)
        if not labels:
            raise ValueError(f"none of the {len(examples)} examples has a labelled span; annotate some first")
        for label in names or {}:
            if label not in labels | relations:
                raise ValueError(
                    f"the label {label!r} does not occur in the examples, whose labels are "
                    f"{', '.join(map(repr, sorted(labels | relations)))}"
                )
        if template is not None and not isinstance(template, str):
            raise TypeError(f"template={shown(template)}: give a text, and put {{source}} where the text is to stand")
        if template is not None and "{source}" not in template:
            raise ValueError(f"template={template!r}: put {{source}} where the text is to stand")
        found = cls(
            "joint" if relations else "ner",
            natural_names(labels, _only(names, labels)),
            natural_names(relations, _only(names, relations)),
            base_name(base_model),
            template=template,
            chat=chat,
            flat=not relations and not overlaps(examples),
        )
        found.make_task()  # which checks the names
        return found

    def make_task(self) -> NerTask | JointTask:
        """The task of these labels."""
        if self.task == "ner":
            return NerTask(self.labels, flat=self.flat)
        return JointTask(self.labels, self.relation_labels)

    def write(self, folder: Path) -> None:
        """Write task.json."""
        content = {"format_version": VERSION, **asdict(self)}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read task.json and check it.

        Raises:
            ValueError: the folder is no adapter of an Extractor, or the file is damaged or of another version.
        """
        path = folder / FILE
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder; give the one that `fishdip train` has written")
        if not path.is_file():
            raise ValueError(
                f"{folder} has no file {FILE}: it is no adapter of `fishdip train` or Extractor.save; load those of "
                "other programs with peft.PeftModel"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON in UTF-8 ({error}); get the file again") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds {type(content).__name__}, not an object; get the file again")
        version = content.pop("format_version", None)
        if version != VERSION:
            raise ValueError(
                f"{path}: format_version is {version!r}, and this release reads {VERSION}; install the release of "
                "peft_fishdip that wrote it"
            )
        for name, fits, expected in _CHECKS:
            if name not in content or not fits(content[name]):
                raise ValueError(f"{path}: {name} is {content.get(name)!r}; expected {expected}")
        if unknown := sorted(content.keys() - {field.name for field in fields(cls)}):
            raise ValueError(f"{path}: unknown entries {', '.join(unknown)}; get the file again")
        found = cls(**content)
        try:
            found.make_task()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return found


def base_name(name: str | PathLike[str]) -> str:
    """A name that stands for the same base model later: a relative folder is marked, so that it is no id of the Hub."""
    path = as_path(name, "model", "the id of a model on the Hub, or its folder")
    expanded, name = path.expanduser(), name if isinstance(name, str) else str(path)
    if not expanded.is_dir():
        return name
    if expanded.is_absolute() or name.startswith(("./", "../")):
        return str(expanded) if name.startswith("~") else name
    return f"./{name}"


def _check_names(names: object) -> None:
    if names is None:
        return
    example = "a dict from labels to words, such as {'PER': 'person'}"
    if not isinstance(names, Mapping):
        raise TypeError(f"labels={shown(names)}: give {example}")
    for label, name in names.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"labels={shown(names)}: {name!r} cannot stand for {label!r}; give {example}")


def _only(names: Mapping[str, str] | None, labels: set[str]) -> dict[str, str]:
    return {label: name for label, name in (names or {}).items() if label in labels}


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


_CHECKS: Any = (
    ("task", lambda value: value in ("ner", "joint"), "'ner' or 'joint'"),
    ("labels", lambda value: _is_names(value) and value, "an object of labels and their names"),
    ("relation_labels", _is_names, "an object of labels and their names"),
    ("base_model", lambda value: isinstance(value, str) and value, "the name or folder of a model"),
    ("task_type", lambda value: value in TASK_TYPES, f"one of {', '.join(TASK_TYPES)}"),
    ("dtype", lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    ("template", lambda v: v is None or (isinstance(v, str) and "{source}" in v), "null, or a text with {source}"),
    ("chat", lambda value: isinstance(value, bool), "true or false"),
    ("flat", lambda value: isinstance(value, bool), "true or false"),
    ("max_source_length", lambda value: type(value) is int and value >= 32, "a number of tokens from 32 on"),
)
