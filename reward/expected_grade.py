"""A judge that reads the next-token probabilities of the grades: any local model can do it, no reply is parsed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Literal

from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Context, ScoreRequest, TokenLogprobs
from lpo.records import Judgement, Message
from lpo.reward.base import GRADES, Draft, Principle, Unscored, expected_grade, grade_to_unit, grade_weights
from lpo.templates import Templates, fence


class ExpectedGradeJudge:
    """LongDPO's seven principles, each graded by the expectation over the grades 1–5 as the next token.

    The distribution over grades plays the part of the soft weights that LongDPO asks its judge to write down
    (arXiv 2502.02095). Overall is the mean of the seven expected grades, on 0–1; `scores` holds the grades on 1–5.

    Args:
        llm: The judging model.
        templates: The prompts.
        reworded: Use the other wording (for the rank-stability check).
        style: `text` for base models: the prompt is plain text that ends where a grade would follow. `chat` for
            instruction-tuned ones: the same text as a user message.
    """

    name = "expected_grade"

    def __init__(
        self, llm: LLM, templates: Templates, *, reworded: bool = False, style: Literal["text", "chat"] = "text"
    ) -> None:
        self._llm = llm
        self._templates = templates
        self._template = "expected_grade_reworded.jinja" if reworded else "expected_grade.jinja"
        self._style = style
        # The space belongs to the grade: "…5): 3" is how text goes on after a colon; a turn begins without one.
        lead = " " if style == "text" else ""
        self._grades = tuple(f"{lead}{grade}" for grade in GRADES)

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts: one request each, whose contexts (one per principle) begin alike."""
        return list(await asyncio.gather(*(self._score(draft) for draft in drafts)))

    async def _score(self, draft: Draft) -> Judgement:
        if not draft.so_far.strip():
            return Judgement(scorer=self.name, unscored=Unscored.EMPTY)
        request = ScoreRequest(contexts=self.contexts(draft), continuations=self._grades)
        try:
            return self._judge(await self._llm.logprobs(request))
        except RequestRejectedError as error:
            return Judgement(scorer=self.name, unscored=Unscored.REQUEST_REJECTED, parts={"cause": error.cause})

    def contexts(self, draft: Draft) -> tuple[Context, ...]:
        """What the model reads, one context for each principle, in the order of `Principle`."""
        request, text = draft.prompt.request, draft.so_far
        mark = fence(request, request, text)
        prompts = (
            self._templates.render(self._template, request=request, text=text, fence=mark, principle=principle.value)
            for principle in Principle
        )
        if self._style == "text":
            return tuple(Context(prompt) for prompt in prompts)
        return tuple(Context((Message(role="user", content=prompt),)) for prompt in prompts)

    def _judge(self, answer: TokenLogprobs) -> Judgement:
        distributions: dict[str, list[float]] = {}
        masses: dict[str, float] = {}
        for index, principle in enumerate(Principle):
            totals = [answer.total(index, grade) for grade in range(len(GRADES))]
            weights = grade_weights(totals)
            if weights is None:
                return Judgement(scorer=self.name, unscored=Unscored.NO_GRADE, parts={"principle": principle.value})
            distributions[principle] = weights
            masses[principle] = sum(math.exp(total) for total in totals)
        grades = {name: expected_grade(weights) for name, weights in distributions.items()}
        return Judgement(
            scorer=self.name,
            overall=grade_to_unit(sum(grades.values()) / len(grades)),
            scores=grades,
            parts={"weights": distributions, "grade_mass": masses},
        )
