"""Correcting a segment without a critic: the policy writes it again, several times, and the scorers say what is better.

For policies too small to criticise or to follow advice. What is measured decides alone, so it should be measurable:
length, repetition, coverage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Context, Finish, Request, Sampling
from lpo.pair_builders.early_ends import ended_early
from lpo.pair_builders.steps import derive_seed
from lpo.records import Correction, CorrectionOutcome, Judgement, Prompt
from lpo.reward import Draft, Scorer
from lpo.segmentation.steps import cut_step
from lpo.writing_config import CorrectionConfig


@dataclass(frozen=True)
class Spot:
    """Where a segment stands.

    Args:
        prompt: The task.
        number: Of the segment, from 0.
        before: The corrected text before it.
        after: What follows it in the draft; empty for the last segment.
        draft_ends: Does the draft end by itself?
        required_words: Words that the answer should have by the segment's end; None when no length is asked for.
    """

    prompt: Prompt
    number: int
    before: str
    after: str
    draft_ends: bool
    required_words: int | None


@dataclass(frozen=True)
class Redrawn:
    """A segment that was drawn again.

    Args:
        correction: What became of it.
        ends: Does the answer end with the version that was taken? Then what follows in the draft is struck out.
    """

    correction: Correction
    ends: bool


@dataclass(frozen=True)
class _Version:
    text: str
    ends: bool


class Resampler:
    """Draws segments again (`correction.by: resample`).

    A version that ends the answer is held against the draft with all that follows, and the whole target; one that goes
    on is held against the segment in its place, and the words that should be written by its end. The version that gains
    most is taken, if one gains at all; of equals the first.

    Args:
        policy: Writes.
        scorer: Scores both sides.
        config: The `correction` section.
        early_ends: Also consider the segment itself and each version ended early (`build.early_ends`).
    """

    def __init__(self, policy: LLM, scorer: Scorer, config: CorrectionConfig, *, early_ends: bool = False) -> None:
        self._early_ends = early_ends
        self._policy, self._scorer, self._count = policy, scorer, config.samples
        self._sampling = Sampling(max_tokens=config.segment_tokens, **config.sampling.model_dump())

    async def redraw(self, spot: Spot, stands: str, number: int, seed: int) -> Redrawn:
        """Draw one segment again.

        Args:
            spot: Where it stands.
            stands: The segment as it stands.
            number: Of this attempt, from 0.
            seed: The run's.

        Raises:
            BackendError: The policy cannot be used.
        """
        outcomes = await asyncio.gather(*(self._version(spot, stands, number, index, seed)
                                          for index in range(self._count)))
        written = [version for version in outcomes if isinstance(version, _Version)]
        versions = _distinct([*written, *self._ended(spot, stands, written)], stands)
        if not versions:
            refused = next((version for version in outcomes if isinstance(version, str)), None)
            outcome = CorrectionOutcome.EMPTY if refused is None else CorrectionOutcome.REQUEST_REJECTED
            return Redrawn(Correction(round=number, outcome=outcome, failed=refused), ends=False)
        drafts = [self._draft(spot, stands, ends=False), self._draft(spot, stands + spot.after, ends=True),
                  *(self._draft(spot, version.text, ends=version.ends) for version in versions)]
        segment, rest, *judged = await self._scorer.score(drafts)
        return _taken(number, versions, judged, {False: segment, True: rest})

    def _ended(self, spot: Spot, stands: str, written: Sequence[_Version]) -> list[_Version]:
        texts = [stands, *(version.text for version in written)] if self._early_ends else []
        ended = [ended_early(text, spot.before, spot.prompt.target_words) for text in texts]
        return [_Version(text, ends=True) for text in ended if text is not None]

    async def _version(self, spot: Spot, stands: str, number: int, index: int, seed: int) -> _Version | str | None:
        """One version; why it was refused; or None where nothing was written."""
        request = Request(
            # A blank before the next word belongs to that word's token.
            context=Context(spot.prompt.dialogue, spot.before.rstrip(" ")), sampling=self._sampling,
            seed=derive_seed(seed, spot.prompt.id, "segment", spot.number, number, index), purpose="revision",
        )
        try:
            completion = await self._policy.generate(request)
        except RequestRejectedError as error:
            return error.cause
        if completion.finish is Finish.REFUSED:
            return Finish.REFUSED.value
        ends = completion.finish is Finish.STOP
        text = completion.text if ends else cut_step(completion.text, boundary="sentence", prefix=spot.before).text
        if not text.strip():
            return None
        words = stands.strip()
        start = stands.index(words)
        return _Version(stands[:start] + text.strip() + ("" if ends else stands[start + len(words):]), ends)

    @staticmethod
    def _draft(spot: Spot, text: str, *, ends: bool) -> Draft:
        complete = ends or not spot.after
        return Draft(spot.prompt, spot.before, text, complete=complete,
                     required_words=spot.prompt.target_words if complete else spot.required_words)


def _distinct(versions: Sequence[_Version], stands: str) -> list[_Version]:
    """Each text once, and none that is the segment itself and goes on as it does."""
    as_it_stands = _Version(stands, ends=False)
    return [version for version in dict.fromkeys(versions) if version != as_it_stands]


def _taken(number: int, versions: Sequence[_Version], judged: Sequence[Judgement],
           stood: dict[bool, Judgement]) -> Redrawn:
    """The version that gains most over what stood, if that is a gain."""
    gains = [(after.overall - before.overall, -index)
             for index, (version, after) in enumerate(zip(versions, judged, strict=True))
             if after.overall is not None and (before := stood[version.ends]).overall is not None]
    if not gains:
        unscored = Correction(round=number, outcome=CorrectionOutcome.UNSCORED, text=versions[0].text,
                              before=stood[versions[0].ends], after=judged[0])
        return Redrawn(unscored, ends=False)
    gain, place = max(gains)
    best = versions[-place]
    accepted = gain > 0
    outcome = CorrectionOutcome.ACCEPTED if accepted else CorrectionOutcome.NOT_BETTER
    correction = Correction(round=number, outcome=outcome, text=best.text, before=stood[best.ends],
                            after=judged[-place])
    return Redrawn(correction, ends=accepted and best.ends)
