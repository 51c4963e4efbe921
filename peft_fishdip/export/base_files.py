"""The files of a base model: safetensors, and what a model folder holds beside them."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

SHARDS = "model-*.safetensors"
BESIDE = (
    *("config.json", "generation_config.json", SAFE_WEIGHTS_INDEX_NAME),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("chat_template*", "preprocessor_config.json", "processor_config.json", "LICENSE*", "NOTICE*"),
)
"""Names of files that belong to a model folder beside its weights; no code is among them."""


class BaseFiles(NamedTuple):
    """Where the tensors of a base model are on disk."""

    name: str
    folder: Path
    tensors: dict[str, Path]
    """The file of each tensor, by the tensor's name there."""

    def shards(self) -> list[Path]:
        """The files with tensors, each once."""
        return sorted(set(self.tensors.values()))

    def beside(self) -> list[Path]:
        """The other files of the model's folder: config, tokenizer, index, licence."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        return [path for path in files if any(fnmatch(path.name, pattern) for pattern in BESIDE)]


def find_base(name: str, revision: str | None = None) -> BaseFiles:
    """The files of a model, of which those of the Hub are downloaded.

    Args:
        name: a folder, or an id of the Hub.
        revision: branch, tag or commit of the Hub.

    Raises:
        ValueError: there is no such model, it has no safetensors, they are damaged, or its weights are quantized.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = download(name, revision)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; pass the folder or id of the base model as model (--model)")
    if "quantization_config" in read_json(folder / "config.json"):
        raise ValueError(
            f"the weights of {name!r} are quantized on disk, and a delta has no place there; pass the model that they "
            "were quantized from as model (--model)"
        )
    tensors: dict[str, Path] = {}
    for path in weight_files(name, folder):
        tensors |= dict.fromkeys(names_in(path), path)
    return BaseFiles(name, folder, tensors)


def download(name: str, revision: str | None) -> Path:
    """The folder of a model of the Hub, with the files that are needed here."""
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=[SAFE_WEIGHTS_NAME, SHARDS, *BESIDE], ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the base model {name!r} is no folder, and the Hub does not give it ({why}); pass its folder or id as "
            "model (--model)"
        ) from error
    return Path(found)


def weight_files(name: str, folder: Path) -> list[Path]:
    """The safetensors of a model folder, as transformers chooses them."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        raise ValueError(
            f"the model {name!r} has no {SAFE_WEIGHTS_NAME}: load it with transformers, call save_pretrained, and pass "
            "the new folder as model (--model)"
        )
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; get the file again")
    found = [folder / file for file in sorted(set(files.values()))]
    for path in found:
        if path.parent != folder or not path.is_file():
            raise ValueError(f"{index} names the file {path.name!r}, which is not beside it; get the files again")
    return found


def names_in(path: Path) -> list[str]:
    """The names of the tensors in a file; ValueError if it is no safetensors file."""
    try:
        with safe_open(path, "pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}); get the file again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; ValueError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON in UTF-8 ({error}); get the file again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not an object; get the file again")
    return found


def read_tensor(base: BaseFiles, name: str) -> Tensor:
    """A tensor of a base model. Its file is closed again, so that no more of it stays in memory than this."""
    with safe_open(base.tensors[name], "pt") as opened:
        found: Tensor = opened.get_tensor(name)
    return found
