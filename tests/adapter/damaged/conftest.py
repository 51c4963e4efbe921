"""An adapter to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...support.models import bert_classifier, classifier_examples, randomise, tuned
from ..compact.saved import finished, layers, saved


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter, with inactive entries, of the classifier."""
    path = tmp_path_factory.mktemp("good")
    model = tuned(bert_classifier(), density=0.05)
    for start in (0, 3):
        model.base_model.update_mask(classifier_examples(6)[start : start + 3])
        randomise(model, seed=start)
    model.save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def good_compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with inactive entries of a few layers in bfloat16, in a compact file."""
    return saved(finished(layers, density=0.1), tmp_path_factory.mktemp("compact"))
