"""Shared fixtures. The environment is set before any test imports torch or transformers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1",
    DO_NOT_TRACK="1", TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from tiny_models import make_model, make_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tokenizer of `tiny_models`; shared, so tests do not change it (copy it with `copy.deepcopy` first)."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Factory `tiny_model(kind="llama", seed=0, **config)`: a fresh random model at every call."""
    return make_model
