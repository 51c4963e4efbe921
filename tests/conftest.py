"""Settings for all tests: quiet libraries, one thread, and no warnings but those of this project."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    # PEFT asks transformers' models for an attribute that these have renamed
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def _same_seed():
    """Every test starts from one seed, and leaves no thread-wide setting behind."""
    torch.manual_seed(0)
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # the precision of a Trainer, which others would take over
    AcceleratorState._reset_state(True)
    torch.set_default_dtype(torch.float32)
