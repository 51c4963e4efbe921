"""A workbench at a tiny geometry."""

import gc

import pytest

from benchmarks.speed.models import Workbench

from .options import settings


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What the imports made is left out when garbage is collected, which is done before memory is measured."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def bench():
    return Workbench(settings())
