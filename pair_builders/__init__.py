"""Pair builders: from a writing prompt to preference pairs."""

from lpo.pair_builders.base import BuildResult, PairBuilder
from lpo.pair_builders.create import create_builder
from lpo.pair_builders.longdpo import LongDPOBuilder, required_words
from lpo.pair_builders.pairs import LayerPair, NoPair, choose_pair

__all__ = [
    "BuildResult",
    "LayerPair",
    "LongDPOBuilder",
    "NoPair",
    "PairBuilder",
    "choose_pair",
    "create_builder",
    "required_words",
]
