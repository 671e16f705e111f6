"""Pairs of whole answers: best-of-N."""

from __future__ import annotations

from lpo.build_config import BuildConfig
from lpo.pair_builders.pairs import Derived, derive_pairs
from lpo.records import SearchTree


def answer_pairs(tree: SearchTree, build: BuildConfig) -> Derived:
    """The pairs of one layer of answers, by the rules of `build.pairs`.

    No path goes through answers, so the chosen one is the best score, whatever `chosen` says; `worst` sets it against
    the lowest (LongReward), `random_consistent` against any lower one (LongWriter), `margin` every answer against
    every lower one (all of them with `per_layer: null`). Fewer scored answers than `build.answers.min_scored` give no
    pair.

    Raises:
        DataError: The tree hangs together wrongly.
    """
    return derive_pairs(tree, build.pairs, min_scored=build.answers.min_scored)
