"""The bases to quantise, as files; and none of the warnings of bitsandbytes and torchao."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.models import llama, tied_t5


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="bitsandbytes|torchao")
        warnings.filterwarnings("ignore", message="MatMul8bitLt")
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decoder and an encoder-decoder wide enough to be quantised in blocks, as files."""
    folder = tmp_path_factory.mktemp("bases")
    llama(hidden_size=64, intermediate_size=96, attention_bias=True).save_pretrained(folder / "llama")
    tied_t5(d_model=64, d_kv=32, d_ff=96).save_pretrained(folder / "t5")
    return {name: folder / name for name in ("llama", "t5")}
