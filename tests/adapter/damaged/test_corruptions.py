"""A thousand damages of kinds that disks, networks and editors do."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn

from ...support.models import assert_base_is, bert_classifier, snapshot
from ..compact.saved import layers
from .clean import assert_clean


@st.composite
def corrupted(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with a few damages of kinds that disks, networks and editors do."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["bit", "byte", "cut", "zeros", "drop", "insert", "swap"]))
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 64))
        if kind == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "zeros":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data[at : at + 2 * length] = data[at + length : at + 2 * length] + data[at : at + length]
    return bytes(data)


@pytest.mark.parametrize(("file", "build"), [("good", bert_classifier), ("good_compact", layers)])
def test_a_thousand_corruptions_are_refused_or_load_to_the_same_bits(
    file: str, build: Callable[[], nn.Module], request: pytest.FixtureRequest
) -> None:
    good: Path = request.getfixturevalue(file)
    names = ("adapter_model.safetensors", "adapter_config.json")
    contents = {name: (good / name).read_bytes() for name in names}
    base = build()
    before = snapshot(base)
    expected = PeftModel.from_pretrained(build(), str(good)).base_model.delta()
    tried = {"refused": 0, "unreadable": 0, "loaded": 0}

    @settings(
        max_examples=1000,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def corrupt(data: st.DataObject) -> None:
        nonlocal base
        # twice as often the tensors
        name = data.draw(st.sampled_from([names[0], *names]))
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another base, of unknown fields
            for other in names:
                content = data.draw(corrupted(contents[name])) if other == name else contents[other]
                (Path(folder) / other).write_bytes(content)
            try:
                model = PeftModel.from_pretrained(base, folder)
            except SafetensorError:  # PEFT reads the file when the adapter is in; the next try takes it out
                tried["unreadable"] += 1
                assert_base_is(base, before)
                base = build()
            except (ValueError, TypeError, KeyError):
                tried["refused"] += 1
            else:
                for key, (positions, values) in model.base_model.delta().items():
                    assert torch.equal(positions, expected[key][0])
                    assert torch.equal(values, expected[key][1])
                tried["loaded"] += 1
                model.unload()
                base.__dict__.pop("peft_config", None)
        assert_clean(base, before)

    corrupt()
    assert sum(tried.values()) >= 1000
    assert min(tried.values()) > 10
