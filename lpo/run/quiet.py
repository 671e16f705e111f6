"""Keeps what the libraries say to their own developers off a user's screen."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence progress bars, deprecation notes and advice; errors still show. Call it before importing them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\.")
    warnings.filterwarnings("ignore", message="IProgress not found")  # bars are off anyway
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels nobody asked for
