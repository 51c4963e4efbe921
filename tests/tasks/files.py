"""What tests of readers share."""

from __future__ import annotations

import pytest

from peft_fishdip.tasks import DataFormatError


def refused(reader, path, *parts, **options):
    with pytest.raises(DataFormatError) as error:
        reader(path, **options)
    for part in (str(path), "expected", *parts):
        assert part in str(error.value)
