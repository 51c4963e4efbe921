"""A generation that fails, wherever it does, restores the base."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peft_fishdip.adapter import base_parameter

from ..support.models import UNSCORED, base_bits
from .generating import PROMPT, assert_base_is, effective_bits, generate, scores, when, with_adapter

pytestmark = pytest.mark.filterwarnings(UNSCORED)


def test_a_generation_that_fails_restores_the_base() -> None:
    model = with_adapter()
    before, effective = base_bits(model), effective_bits(model)

    def fail() -> None:
        assert_base_is(model, effective)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, **when(2, fail))
    assert_base_is(model, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [False, True])
def test_a_write_that_fails_leaves_no_trace(
    error: type[BaseException], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interrupt does, or memory that is too small; at any of the writes of a generation, before or after it."""
    model = with_adapter()
    before, expected = base_bits(model), scores(model)
    write = base_parameter.write

    def fail_at(number: int) -> bool:
        left = number

        def failing(*args: Tensor) -> None:
            nonlocal left
            left -= 1
            if left or after:
                write(*args)
            if not left:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(base_parameter, "write", failing)
            try:
                generate(model)
            except error:
                return True
        return False

    number = 1
    while fail_at(number):
        with torch.no_grad():
            logits = model(input_ids=PROMPT, decoder_input_ids=torch.zeros(2, 1, dtype=torch.long)).logits[:, -1]
        torch.testing.assert_close(logits[:, 2:], expected[0][:, 2:], rtol=1e-4, atol=1e-5)
        assert torch.equal(scores(model), expected)
        assert_base_is(model, before)
        number += 5
    assert number > 50
