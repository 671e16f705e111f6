"""Best-of-N: whole answers to one prompt, scored together."""

from __future__ import annotations

from collections.abc import Callable

from lpo.build_config import BuildConfig, CritiqueConfig, MemoryConfig, SearchConfig
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.pair_builders.tree_search import TreeSearch
from lpo.records import Prompt, SearchTree


class BestOfN:
    """Samples answers and scores them: a tree of one layer.

    Args:
        config: The `build` section.
        models: Who writes and scores.
        on_event: Called as the work goes on, for progress.
    """

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None]) -> None:
        search = BuildConfig(
            branching=config.answers.samples, depth=1, step_tokens=config.answers.max_tokens, boundary="tokens",
            reward=config.reward, search=SearchConfig(algorithm="greedy"), memory=MemoryConfig(enabled=False),
            critique=CritiqueConfig(enabled=False),
        )
        self._search = TreeSearch(search, models, on_event, method=config.method)

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One tree."""
        return await self._search.build(prompt, seed=seed)
