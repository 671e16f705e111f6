"""From a tree to what a build takes from it: pure, so that it can be done again by other rules without a call."""

from __future__ import annotations

from lpo.build_config import BuildConfig
from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.pairs import Derived, derive_pairs, released_pairs
from lpo.pair_builders.script_pairs import script_pairs
from lpo.pair_builders.sft_rows import sft_rows
from lpo.records import SearchTree


def rows_of(tree: SearchTree, build: BuildConfig) -> Derived:
    """The pairs, or the rows for supervised fine-tuning, that a build takes from a tree by its method and its rules."""
    match build.method:
        case "longdpo":
            return derive_pairs(tree, build.pairs, build.memory.all_vetoed)
        case "longdpo_released":
            return released_pairs(tree)
        case "best_of_n":
            return answer_pairs(tree, build)
        case "iterdpo":
            return script_pairs(tree, build)
        case "agent_write":
            return sft_rows(tree, build)
