"""Pair builders: from a writing prompt to a search tree, and from trees to preference pairs."""

from lpo.pair_builders.base import BuilderModels, BuildEvent, PairBuilder

__all__ = ["BuildEvent", "BuilderModels", "PairBuilder"]
