import pytest

from . import tiny


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return tiny.tiny_shards(tmp_path_factory.mktemp("text"))
