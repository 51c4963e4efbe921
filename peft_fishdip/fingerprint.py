"""Which base weights an adapter was made for: a line of text for each targeted parameter, saved with the adapter and
compared when it is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**24
"""Entries that are hashed, and fetched from an accelerator, at a time."""

SAMPLE = 2**14
"""Of at least this many entries, or all, the values are compared across dtypes."""

WIDE = ("float32", "float64")
LINE = re.compile(r"(\w+) ([\dx]+) ([0-9a-f]{16}) ([0-9a-f]{8}) ([0-9a-f]{8})")


class TensorFingerprint(NamedTuple):
    """What is known of one parameter.

    As text: `float32 48x16 8c1f...`, with the digests in the order of the fields.
    """

    dtype: str
    shape: str
    exact: str
    """Of all bytes, row by row: the start of their SHA-256."""
    bfloat16: str
    """Of evenly spaced values in bfloat16; the same for a copy of the weights in a wider dtype."""
    float16: str
    """... in float16."""

    @classmethod
    def read(cls, line: str) -> TensorFingerprint:
        found = LINE.fullmatch(line)
        assert found is not None  # checked_fingerprint has seen it
        return cls(*found.groups())

    def line(self) -> str:
        return " ".join(self)


class Difference(NamedTuple):
    """How a base parameter differs from the one that an adapter was saved with."""

    name: str
    how: str
    harmless: bool
    """The same weights in another dtype, or values that cannot be compared."""


def fingerprint_of(values: Tensor) -> TensorFingerprint:
    """The fingerprint of a tensor. Takes about as long as SHA-256 over its bytes."""
    flat = values.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    return TensorFingerprint(
        str(values.dtype).removeprefix("torch."),
        "x".join(str(size) for size in values.shape) or "1",
        sha256(flat)[:16],
        sha256(sample.to(torch.bfloat16))[:8],
        sha256(sample.to(torch.float16))[:8],
    )


def sha256(flat: Tensor) -> str:
    """Hex digest of the bytes of a vector."""
    digest = hashlib.sha256()
    for chunk in flat.split(CHUNK):
        digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest(lines: Mapping[str, str]) -> str:
    """One SHA-256 for a whole fingerprint."""
    return hashlib.sha256("\n".join(f"{name} {lines[name]}" for name in sorted(lines)).encode()).hexdigest()


def checked_fingerprint(lines: object) -> dict[str, str]:
    """`lines` as a fingerprint.

    Raises:
        ValueError: they are anything else, as in a damaged adapter_config.json.
    """
    if not isinstance(lines, dict) or not all(isinstance(name, str) for name in lines):
        raise ValueError(f"base_fingerprint={lines!r} must map base parameters to text; leave it to the tuner.")
    for name, text in lines.items():
        if not isinstance(text, str) or LINE.fullmatch(text) is None:
            raise ValueError(
                f"base_fingerprint[{name!r}]={text!r} is no fingerprint of a tensor; the adapter's config is damaged."
            )
    return dict(lines)


def differences(saved: Mapping[str, str], present: Mapping[str, str]) -> list[Difference]:
    """What is not as it was, in the order of `saved`. Parameters that only one of them has are not comparable."""
    pairs = [(name, TensorFingerprint.read(text), present[name]) for name, text in saved.items() if name in present]
    return [difference(name, was, TensorFingerprint.read(text)) for name, was, text in pairs if was.line() != text]


def difference(name: str, was: TensorFingerprint, now: TensorFingerprint) -> Difference:
    if was.shape != now.shape:
        return Difference(name, f"is {now.shape} instead of {was.shape}", False)
    if was.dtype == now.dtype:
        return Difference(name, "has other values", False)
    how = f"is {now.dtype} instead of {was.dtype}"
    if was.bfloat16 == now.bfloat16 or was.float16 == now.float16:
        return Difference(name, how + ", the same weights otherwise", True)
    if was.dtype in WIDE or now.dtype in WIDE:
        return Difference(name, how + ", and has other values", False)
    return Difference(name, how + ", which cannot be compared", True)


def described(found: Iterable[Difference], total: int) -> str:
    """Differences as part of a sentence, the first few by name."""
    found = list(found)
    named = "; ".join(f"{difference.name!r} {difference.how}" for difference in found[:3])
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{len(found)} of {total} targeted parameters differ: {named}{more}"
