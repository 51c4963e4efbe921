"""Base parameters that are unfrozen by hand: those of tuned modules get no gradient, which is told."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.models import UNSCORED, llama, lm_examples, padded, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


def with_unfrozen_norms_and_head(**settings: Any) -> Any:
    model = tuned(llama(), density=0.1, **settings)
    for name, parameter in model.named_parameters():
        if ("norm" in name or "lm_head" in name) and "fishdip" not in name:
            parameter.requires_grad_(True)
    return model


def test_those_of_tuned_modules_are_warned_of_once_in_training() -> None:
    model, batch = with_unfrozen_norms_and_head(), padded(lm_examples(2))
    model.eval()(**batch)
    model.train()
    with pytest.warns(UserWarning, match=r"requires_grad=True of .*layernorm.* has no effect.*modules_to_save"):
        model(**batch)
    model(**batch)  # told once, or this warning would be an error


def test_those_of_other_modules_are_trained() -> None:
    model = with_unfrozen_norms_and_head(exclude_modules=r".*(norm|lm_head)")
    model.train()(**padded(lm_examples(2))).loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert len(trained) == 1 + 2 * 2 + 2  # the vector, two norms in each of two layers, the last norm and the head
