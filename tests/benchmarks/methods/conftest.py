"""The kinds of prefixes, and of attention that they are put into."""

import pytest

from .prefixed import BOTTLENECK


@pytest.fixture(params=[None, BOTTLENECK], ids=["direct", "mlp"])
def bottleneck(request):
    return request.param


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param
