"""Questions that a judge answers with yes or no."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lpo.errors import RequestRejectedError
from lpo.evaluation.judging import JudgeModel
from lpo.llm.asking import KEPT_REPLY, Dialect, NoReply, NoReplyError, ask
from lpo.llm.base import ScoreRequest
from lpo.llm.json_object import NotJsonError, read_as

UNDECIDED = "undecided"
"""Why a judgement is unscored whose Yes and No are exactly as probable."""

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "answer": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["reason", "answer"],
    "additionalProperties": False,
}


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    reason: str
    answer: Literal["yes", "no"]


@dataclass(frozen=True)
class YesNo:
    """What a judge answered.

    Args:
        yes: None: there is no answer.
        unscored: Why there is none: `unparsable`, `cut`, `empty`, `refused`, `request_rejected`, `undecided`.
        reply: What the judge said (its beginning), or the probabilities of Yes and No.
    """

    yes: bool | None
    unscored: str | None
    reply: str


async def yes_or_no(judge: JudgeModel, question: str) -> YesNo:
    """Ask a judge a question. What is no clear answer is unscored, never yes or no.

    In JSON the reply has to be one object of a reason and the answer, `yes` or `no`. Otherwise the probabilities of
    `Yes` and `No` as the next words are read, and the larger one is the answer.

    Args:
        judge: The judge.
        question: A whole question as the judge reads it, texts in it between fences, without a word on how to answer:
            that is added here.

    Raises:
        BackendError: The judge cannot be used at all.
    """
    asked = judge.templates.render(f"yes_no_{judge.dialect.value}.jinja", question=question)
    try:
        return await (_written(judge, asked) if judge.dialect is Dialect.JSON else _likelier(judge, asked))
    except NoReplyError as error:
        return YesNo(None, error.reason.value, error.reply or error.detail)


async def _written(judge: JudgeModel, asked: str) -> YesNo:
    reply = await ask(judge.llm, judge.dialect.question(asked, judge.drawing, "judge", _SCHEMA))
    try:
        read, _ = read_as(reply, _Reply)
    except NotJsonError as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    return YesNo(read.answer == "yes", None, reply[:KEPT_REPLY])


async def _likelier(judge: JudgeModel, asked: str) -> YesNo:
    # The space belongs to the answer: text goes on with one, a turn begins without.
    answers = (f"{judge.dialect.lead}Yes", f"{judge.dialect.lead}No")
    try:
        found = await judge.llm.logprobs(ScoreRequest((judge.dialect.context(asked),), answers))
    except RequestRejectedError as error:
        raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
    yes, no = found.total(0, 0), found.total(0, 1)
    reply = f"log-probabilities: Yes {yes:.3f}, No {no:.3f}"
    if not (math.isfinite(yes) and math.isfinite(no)):
        return YesNo(None, NoReply.UNPARSABLE.value, reply)
    if yes == no:
        return YesNo(None, UNDECIDED, reply)
    return YesNo(yes > no, None, reply)
