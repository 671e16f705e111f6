"""What suites of single texts share: the six-dimension judge, answer by answer, and what was left out of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lpo.errors import DataError
from lpo.evaluation.answers import AT_ONCE, Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import LENGTH_SCORE, Metric
from lpo.evaluation.quality import QUALITY, grade_quality, quality_values, refused
from lpo.llm.base import Finish
from lpo.llm.side_by_side import side_by_side
from lpo.prompts import language
from lpo.records import Prompt, RejectedRow

MEAN_SCORE = Metric("mean_score", "S̄", "the mean of S_l and S_q, over the answers that have both")


@dataclass(frozen=True)
class Own:
    """What a suite measures on an answer without a judge.

    Args:
        values: By name.
        unscored: Why some of them are None.
        details: What they were made from.
    """

    values: dict[str, float | None]
    unscored: dict[str, str] = field(default_factory=dict[str, str])
    details: dict[str, Any] = field(default_factory=dict[str, Any])


def length_values(answer: Answer) -> Own:
    """S_l of an answer."""
    missing = {LENGTH_SCORE.key: "no_target"} if answer.target_words is None else {}
    return Own({LENGTH_SCORE.key: answer.scores.length}, missing)


async def measure_answers(
    answers: Sequence[Answer], judge: JudgeModel | None, own: Callable[[Answer], Own],
    group: Callable[[Answer], str | None], *, on_done: Callable[[], None], stop: asyncio.Event | None,
    mean: bool = False,
) -> list[Measured]:
    """Measure answers, and let a judge grade them; the judgement is kept in `details`, under `quality`.

    Args:
        answers: The answers. One that was refused has no values, and the judge is not asked about it.
        judge: None: only what needs no judge.
        own: What the suite measures itself; of a refused answer only the names of its values are used.
        group: The group of an answer.
        on_done: Called after each answer.
        stop: As in `side_by_side`.
        mean: Also give S̄, the mean of S_l and S_q.

    Returns:
        One for each answer, in order.

    Raises:
        BackendError: The judge cannot be used.
    """
    async def measured(answer: Answer) -> Measured:
        values = basic_values(answer)
        found = own(answer)
        values |= found.values
        details = dict(found.details)
        unscored = dict(found.unscored)
        if answer.finish is Finish.REFUSED:
            values = dict.fromkeys(values)
            unscored, details = dict.fromkeys(values, "refused"), {}
        if judge is not None:
            judgement = refused() if answer.finish is Finish.REFUSED else await grade_quality(
                judge, request=answer.request, text=answer.text)
            graded, missing = quality_values(judgement)
            values |= graded
            unscored |= missing
            details["quality"] = judgement.to_json()
            if mean:
                _add_mean(values, unscored)
        on_done()
        return Measured(answer=answer, group=group(answer), values=values, unscored=unscored, details=details)

    return await side_by_side(answers, measured, at_once=AT_ONCE if judge is None else judge.at_once, stop=stop)


def _add_mean(values: dict[str, float | None], unscored: dict[str, str]) -> None:
    length, quality = values[LENGTH_SCORE.key], values[QUALITY.key]
    both = length is not None and quality is not None
    values[MEAN_SCORE.key] = (length + quality) / 2 if both else None
    if not both:
        unscored[MEAN_SCORE.key] = unscored[LENGTH_SCORE.key if length is None else QUALITY.key]


def select(
    prompts: Sequence[Prompt], *, where: str, wanted: Literal["any", "en", "zh"] = "any", max_words: int | None = None,
    limit: int | None = None,
) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """The prompts that a suite's section keeps, and a line for the reader when that is not all of them.

    Args:
        prompts: Those of the file.
        where: The section, for the error.
        wanted: Their language.
        max_words: They ask for at most this many words; one that asks for no length is then left out.
        limit: At most this many, the first ones.

    Raises:
        DataError: None is left.
    """
    kept = [prompt for prompt in prompts if wanted in ("any", language(prompt))
            and (max_words is None or (prompt.target_words is not None and prompt.target_words <= max_words))][:limit]
    if not kept:
        raise DataError(f"none of the suite's {len(prompts)} tasks is left", where=where,
                        mend="loosen its filters, or give another file")
    if len(kept) == len(prompts):
        return tuple(kept), ()
    filters = {"language": None if wanted == "any" else wanted, "max_words": max_words, "limit": limit}
    named = ", ".join(f"{name} {value}" for name, value in filters.items() if value is not None)
    return tuple(kept), (f"{len(kept)} of {len(prompts)} tasks: {named}; compare with scores of the same tasks only",)


def rejected_note(rejected: Sequence[RejectedRow]) -> tuple[str, ...]:
    """A line for the reader about rows of a file that cannot be used; none where all can."""
    if not rejected:
        return ()
    return (f"rows of the file that cannot be used: {len(rejected)}, the first in {rejected[0].detail}",)
