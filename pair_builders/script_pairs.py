"""The pairs of a corrected answer."""

from __future__ import annotations

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived
from lpo.records import SearchTree


def script_pairs(tree: SearchTree, build: BuildConfig) -> Derived:
    """The pairs of a corrected answer."""
    raise NotImplementedError
