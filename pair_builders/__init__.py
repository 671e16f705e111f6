"""Pair builders: from a writing prompt to a search tree, and from trees to preference pairs."""

from lpo.pair_builders.base import BuilderModels, BuildEvent, PairBuilder
from lpo.pair_builders.create import create_builder
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.pairs import Derived, derive_pairs, released_pairs
from lpo.pair_builders.selection import Selection
from lpo.pair_builders.tree_search import TreeSearch

__all__ = [
    "BuildEvent",
    "BuilderModels",
    "Derived",
    "PairBuilder",
    "Selection",
    "TreeSearch",
    "create_builder",
    "derive_pairs",
    "released_pairs",
    "rows_of",
]
