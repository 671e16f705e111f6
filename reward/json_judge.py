"""A judge that is asked for its soft weights as JSON. What it says counts only if it says exactly that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lpo.config import SamplingConfig
from lpo.llm.asking import KEPT_REPLY, Dialect, NoReplyError, ask
from lpo.llm.base import LLM, Request, Sampling
from lpo.records import Judgement
from lpo.reward.base import Draft, Principle, Unscored, expected_grade, grade_to_unit
from lpo.reward.json_reply import JSON_SCHEMA, NotAVerdict, read_verdict
from lpo.templates import Templates, fence


class JsonJudge:
    """LongDPO's judge (arXiv 2502.02095): an analysis, then for each of seven principles weights over the grades 1–5.

    Overall is the mean of the seven expected grades, on 0–1; `scores` holds the grades on 1–5. A reply that was cut
    is asked for once more with twice the room; whatever else is wrong with it, the draft is unscored.

    Args:
        llm: A chat model.
        templates: The prompts.
        max_tokens: Room for the reply.
        sampling: How the reply is drawn.
        reworded: Use the other wording (for the rank-stability check).
    """

    name = "json_judge"

    def __init__(
        self, llm: LLM, templates: Templates, *, max_tokens: int, sampling: SamplingConfig, reworded: bool = False
    ) -> None:
        self._llm = llm
        self._templates = templates
        self._template = "json_judge_reworded.jinja" if reworded else "json_judge.jinja"
        self._sampling = Sampling(max_tokens=max_tokens, **sampling.model_dump())

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts, one conversation each."""
        return list(await asyncio.gather(*(self._score(draft) for draft in drafts)))

    async def _score(self, draft: Draft) -> Judgement:
        if not draft.so_far.strip():
            return self._unscored(Unscored.EMPTY)
        try:
            return self._judge(await ask(self._llm, self.request(draft)))
        except NoReplyError as error:
            return self._unscored(Unscored(error.reason.value), cause=error.detail, reply=error.reply)

    def request(self, draft: Draft) -> Request:
        """The judge's request for one draft; its seed is a hash of what is asked, so equal drafts get equal replies."""
        asked, text = draft.prompt.request, draft.so_far
        prompt = self._templates.render(
            self._template, request=asked, text=text, fence=fence(asked, asked, text), principles=list(Principle)
        )
        return Dialect.JSON.question(prompt, self._sampling, "judge", JSON_SCHEMA)

    def _judge(self, reply: str) -> Judgement:
        try:
            verdict = read_verdict(reply)
        except NotAVerdict as error:
            return self._unscored(error.reason, reply=reply[:KEPT_REPLY], problem=str(error))
        grades = {name: expected_grade(weights) for name, weights in verdict.weights.items()}
        return Judgement(
            scorer=self.name,
            overall=grade_to_unit(sum(grades.values()) / len(grades)),
            scores=grades,
            parts={"weights": verdict.weights, "analysis": verdict.analysis, "repaired": verdict.repaired},
        )

    def _unscored(self, reason: Unscored, **parts: str) -> Judgement:
        return Judgement(scorer=self.name, unscored=reason, parts={name: text for name, text in parts.items() if text})
