"""Letting a judge grade checks: yes/no questions about a text, each answered on five steps from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lpo.errors import RequestRejectedError
from lpo.evaluation.judging import JudgeModel
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask
from lpo.llm.base import ScoreRequest
from lpo.llm.json_object import NotJsonError, read_as
from lpo.reward.base import GRADES, Unscored, expected_grade, grade_to_unit, grade_weights
from lpo.templates import fence

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The grades a check can have (HelloEval, arXiv 2409.16191)."""


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    check: int
    reason: str
    grade: Annotated[float, Field(allow_inf_nan=False)]


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    checks: list[_Entry]


@dataclass(frozen=True)
class CheckGrade:
    """What a judge says of one check.

    Args:
        check: The check.
        grade: 0–1; None: there is none.
        unscored: Why there is none.
        reason: The judge's words, or the beginning of a reply that could not be read.
    """

    check: str
    grade: float | None
    unscored: str | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The grade as plain JSON values."""
        return asdict(self)


async def grade_checks(judge: JudgeModel, checks: Sequence[str], *, request: str, text: str,
                       document: str | None = None) -> list[CheckGrade]:
    """Grade a text by a list of checks.

    A judge that writes JSON grades all checks in one reply, as published. Of any other judge the next-token
    probabilities of the grades 1 to 5 are read for each check, and the check's grade is their expectation on 0–1: it
    then lies between the five steps too.

    Args:
        judge: The judge.
        checks: The checks, at least one.
        request: What the text was written for.
        text: The text.
        document: What the request is about.

    Returns:
        One grade for each check, in order. Those of a reply that cannot be read are all unscored; a grade that is none
        of the five is unscored alone.

    Raises:
        BackendError: The judge cannot be used at all.

    Source:
        HelloEval (arXiv 2409.16191): the five steps and the one call. The published code asks up to three times; here
        a judge is asked once (and once more with twice the room if its reply was cut), and what cannot be read is
        counted. The wording is our own.
    """
    material = {"request": request, "text": text, "document": document or "",
                "fence": fence(request, request, text, document or "", *checks)}
    try:
        if judge.dialect is Dialect.JSON:
            return await _written(judge, checks, material)
        return await _expected(judge, checks, material)
    except NoReplyError as error:
        return [CheckGrade(check, None, error.reason.value, error.reply or error.detail) for check in checks]


async def _written(judge: JudgeModel, checks: Sequence[str], material: dict[str, str]) -> list[CheckGrade]:
    question = judge.templates.render("checklist_json.jinja", checks=list(checks), **material)
    reply = await ask(judge.llm, judge.dialect.question(question, judge.drawing, "judge", _schema(len(checks))))
    try:
        entries = read_as(reply, _Reply)[0].checks
    except NotJsonError as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    if [entry.check for entry in entries] != list(range(1, len(checks) + 1)):
        raise NoReplyError(NoReply.UNPARSABLE, "the checks are not those that were asked for, in their order", reply)
    return [CheckGrade(check, entry.grade if entry.grade in STEPS else None,
                       None if entry.grade in STEPS else Unscored.OUT_OF_RANGE.value, entry.reason)
            for check, entry in zip(checks, entries, strict=True)]


async def _expected(judge: JudgeModel, checks: Sequence[str], material: dict[str, str]) -> list[CheckGrade]:
    contexts = tuple(judge.dialect.context(judge.templates.render("checklist_grade.jinja", check=check, **material))
                     for check in checks)
    # The space belongs to the grade: "…5): 3" is how text goes on after a colon; a turn begins without one.
    steps = tuple(f"{judge.dialect.lead}{grade}" for grade in GRADES)
    try:
        found = await judge.llm.logprobs(ScoreRequest(contexts, steps))
    except RequestRejectedError as error:
        raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
    grades: list[CheckGrade] = []
    for index, check in enumerate(checks):
        weights = grade_weights([found.total(index, step) for step in range(len(steps))])
        grades.append(CheckGrade(check, None, Unscored.NO_GRADE.value) if weights is None
                      else CheckGrade(check, grade_to_unit(expected_grade(weights))))
    return grades


def _schema(number: int) -> dict[str, Any]:
    """For servers that can constrain a reply; it is validated here all the same."""
    entry = {
        "type": "object",
        "properties": {"check": {"type": "integer"}, "reason": {"type": "string"},
                       "grade": {"type": "number", "enum": list(STEPS)}},
        "required": ["check", "reason", "grade"], "additionalProperties": False,
    }
    return {"type": "object", "required": ["checks"], "additionalProperties": False,
            "properties": {"checks": {"type": "array", "items": entry, "minItems": number, "maxItems": number}}}
