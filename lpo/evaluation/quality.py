"""S_q: a judge grades a text on six dimensions from 1 to 5, whatever its length (LongBench-Write, arXiv 2408.07055)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from lpo.errors import RequestRejectedError
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.metrics import Metric
from lpo.llm.asking import KEPT_REPLY, Dialect, NoReplyError, ask
from lpo.llm.base import ScoreRequest
from lpo.llm.json_object import NotJsonError, read_as
from lpo.records import Judgement
from lpo.reward.base import GRADES, Unscored, expected_grade, grade_weights
from lpo.templates import fence

SCORER = "quality"
"""Name of this scorer in judgements."""
PURPOSE = "judge"
"""Name of its calls in counts and logs."""


class Quality(StrEnum):
    """The six dimensions, in the published order."""

    RELEVANCE = "relevance"
    ACCURACY = "accuracy"
    COHERENCE = "coherence"
    CLARITY = "clarity"
    BREADTH_DEPTH = "breadth_depth"
    READING_EXPERIENCE = "reading_experience"

    @property
    def title(self) -> str:
        """As people read it."""
        return _TITLES[self]


_TITLES = {
    Quality.RELEVANCE: "Relevance", Quality.ACCURACY: "Accuracy", Quality.COHERENCE: "Coherence",
    Quality.CLARITY: "Clarity", Quality.BREADTH_DEPTH: "Breadth and depth",
    Quality.READING_EXPERIENCE: "Reading experience",
}

QUALITY = Metric("quality", "S_q", "the judge's six dimensions, averaged; all 1 is 0, all 5 is 100")
DIMENSIONS = tuple(Metric(one.value, one.title, f"the judge's grade for {one.title.lower()}; 1 is 0, 5 is 100")
                   for one in Quality)


class _Reply(BaseModel):
    """Strict: a grade is a whole number, never `4.5`, `"4"` or `true`; no key more, none less."""

    model_config = ConfigDict(strict=True, extra="forbid")

    analysis: str
    relevance: int
    accuracy: int
    coherence: int
    clarity: int
    breadth_depth: int
    reading_experience: int


JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        **{one.value: {"type": "integer", "minimum": GRADES[0], "maximum": GRADES[-1]} for one in Quality},
    },
    "required": ["analysis", *(one.value for one in Quality)],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""


async def grade_quality(judge: JudgeModel, *, request: str, text: str, before: str = "") -> Judgement:
    """Let a judge grade a text, or a part of one in its place.

    A judge that answers in JSON writes an analysis and six whole numbers. It is asked once (and once more with twice
    the room if its reply was cut); a reply that cannot be read leaves the text unscored. The published code asks up to
    five times and then drops the text from the mean. A judge whose next-token probabilities are read gives each
    dimension the expectation over the grades, as in `lpo.reward.ExpectedGradeJudge`.

    Args:
        judge: Who grades.
        request: The writing task.
        text: What was written, or the part of it that is graded.
        before: What stands before the part; empty for a whole text.

    Returns:
        `scores`: the six dimensions on 1–5, by the values of `Quality`; `overall`: S_q of this text,
        `(sum of the six - 6) * 25 / 6`, on 0–100. Or `unscored` with the reason.

    Raises:
        BackendError: The judge cannot be used.

    Source:
        LongBench-Write (arXiv 2408.07055): dimensions and scale; MMLongBench-Write (arXiv 2502.14834): S_q of one
        text. The wording is our own.
    """
    if not text.strip():
        return _unscored(Unscored.EMPTY)
    values = {"request": request, "text": text, "before": before, "fence": fence(request, request, before, text)}
    if judge.dialect is Dialect.JSON:
        return await _written_grades(judge, values)
    return await _expected_grades(judge, values)


def s_q(scores: Mapping[str, float]) -> float:
    """S_q of one text: 0 where all six dimensions have a 1, 100 where all have a 5.

    Args:
        scores: Grades on 1–5 by the values of `Quality`.
    """
    return (sum(scores[one] for one in Quality) - len(Quality)) * 25 / len(Quality)


def quality_values(judgement: Judgement) -> tuple[dict[str, float | None], dict[str, str]]:
    """A judgement as values of `QUALITY` and `DIMENSIONS`, each on 0–100, and why those that are missing are.

    The mean over texts of `(grade - 1) * 25` is the published score of a dimension, and the mean of the six is S_q.
    """
    keys = [QUALITY.key, *Quality]
    if judgement.unscored is not None:
        return dict.fromkeys(keys), dict.fromkeys(keys, judgement.unscored)
    return {QUALITY.key: judgement.overall, **{one.value: (judgement.scores[one] - 1) * 25 for one in Quality}}, {}


def refused() -> Judgement:
    """The judgement of an answer that was refused: nobody is asked."""
    return _unscored(Unscored.REFUSED)


async def _written_grades(judge: JudgeModel, values: Mapping[str, str]) -> Judgement:
    prompt = judge.templates.render("quality_json.jinja", dimensions=[one.value for one in Quality], **values)
    try:
        reply = await ask(judge.llm, judge.dialect.question(prompt, judge.drawing, PURPOSE, JSON_SCHEMA))
    except NoReplyError as error:
        return _unscored(Unscored(error.reason.value), cause=error.detail, reply=error.reply)
    try:
        parsed, repaired = read_as(reply, _Reply)
    except NotJsonError as error:
        return _unscored(Unscored.UNPARSABLE, problem=str(error), reply=reply[:KEPT_REPLY])
    grades = {one.value: getattr(parsed, one.value) for one in Quality}
    outside = [name for name, grade in grades.items() if grade not in GRADES]
    if outside:
        return _unscored(Unscored.OUT_OF_RANGE, problem=f"{outside[0]}: not a grade from 1 to 5",
                         reply=reply[:KEPT_REPLY])
    return Judgement(scorer=SCORER, overall=s_q(grades), scores={name: float(grade) for name, grade in grades.items()},
                     parts={"analysis": parsed.analysis, "repaired": repaired})


async def _expected_grades(judge: JudgeModel, values: Mapping[str, str]) -> Judgement:
    contexts = tuple(judge.dialect.context(judge.templates.render("quality_text.jinja", dimension=one.value, **values))
                     for one in Quality)
    grades = tuple(f"{judge.dialect.lead}{grade}" for grade in GRADES)
    try:
        answer = await judge.llm.logprobs(ScoreRequest(contexts, grades, PURPOSE))
    except RequestRejectedError as error:
        return _unscored(Unscored.REQUEST_REJECTED, cause=error.cause)
    weights: dict[str, list[float]] = {}
    masses: dict[str, float] = {}
    for index, one in enumerate(Quality):
        totals = [answer.total(index, grade) for grade in range(len(GRADES))]
        of_one = grade_weights(totals)
        if of_one is None:
            return _unscored(Unscored.NO_GRADE, dimension=one.value)
        weights[one.value] = of_one
        masses[one.value] = sum(math.exp(total) for total in totals)
    scores = {name: expected_grade(of_one) for name, of_one in weights.items()}
    return Judgement(scorer=SCORER, overall=s_q(scores), scores=scores,
                     parts={"weights": weights, "grade_mass": masses})


def _unscored(reason: Unscored, **parts: str) -> Judgement:
    return Judgement(scorer=SCORER, unscored=reason, parts={name: text for name, text in parts.items() if text})
