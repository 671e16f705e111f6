"""Pairs of whole answers: best-of-N."""

from __future__ import annotations

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived, derive_pairs
from lpo.records import SearchTree


def answer_pairs(tree: SearchTree, build: BuildConfig) -> Derived:
    """The pairs of one layer of answers."""
    return derive_pairs(tree, build.pairs)
