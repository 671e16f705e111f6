"""From the `build` section to a builder."""

from __future__ import annotations

from collections.abc import Callable

from lpo.build_config import BuildConfig, CritiqueConfig, MemoryConfig, SearchConfig
from lpo.pair_builders.agent_write import AgentWrite
from lpo.pair_builders.base import BuilderModels, BuildEvent, PairBuilder
from lpo.pair_builders.best_of_n import BestOfN
from lpo.pair_builders.iterative import IterativeCorrection
from lpo.pair_builders.tree_search import TreeSearch


def ignore(_event: BuildEvent) -> None:
    """Nobody wants to hear of it."""


def create_builder(config: BuildConfig, models: BuilderModels,
                   on_event: Callable[[BuildEvent], None] = ignore) -> PairBuilder:
    """The builder of `build.method`.

    Args:
        config: The `build` section.
        models: Who writes, judges and criticises.
        on_event: Called as the work goes on, for progress.
    """
    match config.method:
        case "longdpo":
            return TreeSearch(config, models, on_event)
        case "longdpo_released":
            return TreeSearch(_released(config), models, on_event, method=config.method)
        case "best_of_n":
            return BestOfN(config, models, on_event)
        case "iterdpo":
            return IterativeCorrection(config, models, on_event)
        case "agent_write":
            return AgentWrite(config, models, on_event)


def _released(config: BuildConfig) -> BuildConfig:
    """What the authors' code does: one greedy path over steps cut at the token budget; no fact is ever stored, no step
    refined, nothing back-propagated.
    """
    return BuildConfig(
        branching=config.branching, depth=config.depth, step_tokens=config.step_tokens, boundary="tokens",
        reward=config.reward, search=SearchConfig(algorithm="greedy"), memory=MemoryConfig(enabled=False),
        critique=CritiqueConfig(enabled=False),
    )
