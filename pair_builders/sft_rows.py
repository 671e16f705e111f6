"""The rows of a planned answer."""

from __future__ import annotations

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived
from lpo.records import SearchTree


def sft_rows(tree: SearchTree, build: BuildConfig) -> Derived:
    """The rows of a planned answer."""
    raise NotImplementedError
