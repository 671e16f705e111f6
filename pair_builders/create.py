"""From the `build` section to a builder."""

from __future__ import annotations

from collections.abc import Callable

from lpo.build_config import BuildConfig, CritiqueConfig, MemoryConfig, SearchConfig
from lpo.pair_builders.base import BuilderModels, BuildEvent, PairBuilder
from lpo.pair_builders.tree_search import TreeSearch


def ignore(_event: BuildEvent) -> None:
    """Nobody wants to hear of it."""


def create_builder(config: BuildConfig, models: BuilderModels,
                   on_event: Callable[[BuildEvent], None] = ignore) -> PairBuilder:
    """The builder of `build.method`. All of them search trees; the plainer ones are special cases of one search.

    Args:
        config: The `build` section.
        models: Who writes, judges and criticises.
        on_event: Called as the work goes on, for progress.
    """
    if config.method == "longdpo":
        return TreeSearch(config, models, on_event)
    search = _released(config) if config.method == "longdpo_released" else _outcome(config)
    return TreeSearch(search, models, on_event, method=config.method)


def _released(config: BuildConfig) -> BuildConfig:
    """What the authors' code does: one greedy path over steps cut at the token budget; no fact is ever stored, no step
    refined, nothing back-propagated.
    """
    return _plain(config, branching=config.branching, depth=config.depth, step_tokens=config.step_tokens)


def _outcome(config: BuildConfig) -> BuildConfig:
    """Whole answers: one layer, whose steps have room for everything."""
    return _plain(config, branching=config.outcome.samples, depth=1, step_tokens=config.depth * config.step_tokens)


def _plain(config: BuildConfig, *, branching: int, depth: int, step_tokens: int) -> BuildConfig:
    return BuildConfig(
        branching=branching, depth=depth, step_tokens=step_tokens, boundary="tokens", reward=config.reward,
        search=SearchConfig(algorithm="greedy"), memory=MemoryConfig(enabled=False),
        critique=CritiqueConfig(enabled=False),
    )
