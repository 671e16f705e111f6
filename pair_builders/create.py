"""From the `build` section to a builder."""

from __future__ import annotations

from collections.abc import Callable

from lpo.config import BuildConfig, SamplingConfig
from lpo.llm.base import LLM
from lpo.pair_builders.base import PairBuilder
from lpo.pair_builders.longdpo import LongDPOBuilder
from lpo.reward import Scorer


def create_builder(
    config: BuildConfig, policy: LLM, scorer: Scorer, sampling: SamplingConfig, on_layer: Callable[[], None]
) -> PairBuilder:
    """The builder of `build.method`; there is one method so far.

    Args:
        config: The `build` section.
        policy: Writes the candidates.
        scorer: Ranks them.
        sampling: How candidates are drawn (`policy.sampling`).
        on_layer: Called after each layer, for progress.
    """
    return LongDPOBuilder(policy, scorer, config, sampling, on_layer=on_layer)
