"""Fingerprints of the base weights that an adapter was trained on: saved with it, compared when it is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**24  # entries that are copied to the CPU and hashed at a time
SAMPLE = 2**14  # at least this many entries, or all, are compared across dtypes
WIDE = ("float32", "float64")
LINE = re.compile(r"(\w+) ([\dx]+) ([0-9a-f]{16}) ([0-9a-f]{8}) ([0-9a-f]{8})")


class TensorFingerprint(NamedTuple):
    """The fingerprint of one parameter; saved as the text of its fields, such as `float32 48x16 8c1f...`."""

    dtype: str
    shape: str
    exact: str  # first 16 hex digits of the SHA-256 of all bytes, in row-major order
    bfloat16: str  # first 8 hex digits for evenly spaced values in bfloat16, also those of a copy in a wider dtype
    float16: str  # first 8 hex digits for evenly spaced values in float16

    @classmethod
    def read(cls, line: str) -> TensorFingerprint:
        """The fingerprint of a saved line, which has passed [`checked_fingerprint`]."""
        return cls(*line.split())

    def line(self) -> str:
        """The text that is saved."""
        return " ".join(self)


class Difference(NamedTuple):
    """A base parameter that is not the one that an adapter was saved with."""

    name: str
    how: str
    harmless: bool  # whether these are the same weights in another dtype, or cannot be compared


def fingerprint_of(values: Tensor) -> TensorFingerprint:
    """Compute the fingerprint of a tensor, in about the time of SHA-256 over its bytes."""
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
    """SHA-256 of the bytes of a vector, as hex digits."""
    digest = hashlib.sha256()
    for chunk in flat.split(CHUNK):
        digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest(lines: Mapping[str, str]) -> str:
    """One SHA-256, as hex digits, of the fingerprints of all parameters."""
    return hashlib.sha256("\n".join(f"{name} {lines[name]}" for name in sorted(lines)).encode()).hexdigest()


def checked_fingerprint(lines: object) -> dict[str, str]:
    """A copy of the fingerprints in an adapter's config, one line of text per parameter name; raises a ValueError if
    `lines` is anything else, as in a damaged adapter_config.json."""
    if not isinstance(lines, dict) or not all(isinstance(name, str) for name in lines):
        raise ValueError(f"base_fingerprint={lines!r} must map base parameters to text; leave it to the tuner.")
    for name, text in lines.items():
        if not isinstance(text, str) or LINE.fullmatch(text) is None:
            raise ValueError(
                f"base_fingerprint[{name!r}]={text!r} is no fingerprint of a tensor; the adapter's config is damaged."
            )
    return dict(lines)


def differences(saved: Mapping[str, str], present: Mapping[str, str]) -> list[Difference]:
    """The parameters whose fingerprints differ, in the order of `saved`; those that only one side has are skipped."""
    pairs = [(name, TensorFingerprint.read(text), present[name]) for name, text in saved.items() if name in present]
    return [difference(name, was, TensorFingerprint.read(text)) for name, was, text in pairs if was.line() != text]


def difference(name: str, was: TensorFingerprint, now: TensorFingerprint) -> Difference:
    """How two fingerprints of one parameter, which are not equal, differ."""
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
    """A phrase for a message that counts the differences and names the first three."""
    found = list(found)
    named = "; ".join(f"{difference.name!r} {difference.how}" for difference in found[:3])
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{len(found)} of {total} targeted parameters differ: {named}{more}"
