"""Does a model prefer what was chosen, on pairs it was not trained on?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from lpo.errors import RequestRejectedError
from lpo.evaluation.answers import AT_ONCE
from lpo.intervals import Interval, bootstrap_mean
from lpo.llm.base import LLM, Context, ScoreRequest
from lpo.llm.side_by_side import side_by_side
from lpo.records import PreferencePair, Reason, Record


class SideLogprobs(Record):
    """How probable a model finds both sides of a pair: mean log-probability per token, in nats."""

    chosen: float | None = None
    rejected: float | None = None
    unscored: str | None = None
    """Why there are no values: `request_rejected`, `nothing_to_score` or `not_finite`."""

    @property
    def correct(self) -> float | None:
        """1 when the chosen side is the more probable one, else 0 (ties too, as in TRL); None when unscored."""
        if self.chosen is None or self.rejected is None:
            return None
        return float(self.chosen > self.rejected)


class PreferenceRow(Record):
    """One held-out pair under both models: a line of `eval/preferences.jsonl`."""

    pair_id: str
    group: str
    step: int
    base: SideLogprobs
    trained: SideLogprobs


async def preference_logprobs(
    llm: LLM, pairs: Sequence[PreferencePair], *, on_done: Callable[[], None] = lambda: None, at_once: int = AT_ONCE,
    stop: asyncio.Event | None = None,
) -> list[SideLogprobs]:
    """Mean log-probability per token of both sides of pairs, after prompt and prefix.

    The end of the turn is not counted, also for sides that finish the answer: texts are compared, and a step that
    goes on has no such token.

    Args:
        llm: The model.
        pairs: The pairs.
        on_done: Called after each pair.
        at_once: Pairs scored at the same time.
        stop: As in `side_by_side`.

    Returns:
        One value for each pair, in order.

    Raises:
        BackendError: The model cannot be used, or its server gives no log-probabilities.
    """

    async def score(pair: PreferencePair) -> SideLogprobs:
        request = ScoreRequest((Context(pair.prompt, pair.prefix),), (pair.chosen, pair.rejected),
                               purpose="preferences")
        try:
            [[chosen, rejected]] = (await llm.logprobs(request)).values
        except RequestRejectedError:
            result = SideLogprobs(unscored=Reason.REQUEST_REJECTED.value)
        else:
            result = _means(chosen, rejected)
        on_done()
        return result

    return await side_by_side(pairs, score, at_once=at_once, stop=stop)


def preference_rows(
    pairs: Sequence[PreferencePair], base: Sequence[SideLogprobs], trained: Sequence[SideLogprobs]
) -> list[PreferenceRow]:
    """Pairs with what both models make of them."""
    return [PreferenceRow(pair_id=pair.id, group=pair.group, step=pair.step, base=before, trained=after)
            for pair, before, after in zip(pairs, base, trained, strict=True)]


def preference_accuracy(
    sides: Sequence[SideLogprobs], groups: Sequence[str], *, seed: int, resamples: int
) -> Interval:
    """Share of pairs whose chosen side is the more probable one, with an interval over documents.

    Args:
        sides: Log-probabilities of each pair.
        groups: The document each pair belongs to: pairs of one document are resampled together.
        seed: Seed of the resampling.
        resamples: How many resamples.
    """
    return bootstrap_mean([side.correct for side in sides], seed=seed, resamples=resamples, groups=groups)


def _means(chosen: Sequence[float], rejected: Sequence[float]) -> SideLogprobs:
    if not chosen or not rejected:
        return SideLogprobs(unscored=Reason.NOTHING_TO_SCORE.value)
    means = sum(chosen) / len(chosen), sum(rejected) / len(rejected)
    if not all(map(math.isfinite, means)):
        return SideLogprobs(unscored="not_finite")
    return SideLogprobs(chosen=means[0], rejected=means[1])
