"""IterativeCorrection."""

from __future__ import annotations

from collections.abc import Callable

from lpo.build_config import BuildConfig
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.records import Prompt, SearchTree


class IterativeCorrection:
    """IterativeCorrection."""

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None]) -> None:
        self._config, self._models, self._on_event = config, models, on_event

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One tree."""
        raise NotImplementedError
