"""Critiques of a weak step: what siblings that are better by some principle teach, and the prompt for writing it anew.

The paper's second stage (LongDPO, arXiv 2502.02095): for each principle by which a sibling beats the step, a critic
sees both, the better one first, and replies with an analysis, the words it is about, a suggestion and its confidence.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lpo.build_config import CritiqueConfig
from lpo.errors import RequestRejectedError
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask, without_thinking
from lpo.llm.base import LLM, Sampling, ScoreRequest
from lpo.llm.json_object import NotJsonError, read_as
from lpo.pair_builders.notes import one_line, with_notes
from lpo.records import Critique, Dialogue, Judgement, Prompt, SearchNode
from lpo.reward.base import GRADES, Principle, expected_grade, grade_weights
from lpo.templates import Templates, fence

MAX_SUGGESTION = 600
"""Characters of a suggestion, at most; the prompt asks for 60 words. A longer one is refused, not cut: what a critic
writes at such length is a passage, and whose passage it is nobody can tell."""

MAX_COPIED = 16
"""Words in a row (Chinese: characters) that a suggestion may share with the better sibling, beyond what the request,
the prefix or the step says as well. A shorter sibling may not be there as a whole. A critic that dictates the better
text would make the policy copy its own candidate."""

_FEW = 5
"""Words that anybody may use in a row, however short the better sibling is."""

LINE_TOKENS = 256
"""Room for a suggestion in one line: no more than `MAX_SUGGESTION` holds, whatever `critique.max_tokens` allows."""

_ROUNDING = 1e-6
"""Grades that differ by no more are equal: they are means of weights that were normalised."""

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        "relevant": {"type": "string"},
        "suggestion": {"type": "string"},
        "confidence": {"type": "number", "minimum": 1, "maximum": 5},
    },
    "required": ["analysis", "relevant", "suggestion", "confidence"],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""


class _Reply(BaseModel):
    """Strict: a confidence is a number from 1 to 5, never `true`, `"4"` or NaN; no key more, none less."""

    model_config = ConfigDict(strict=True, extra="forbid")

    analysis: str
    relevant: str
    suggestion: str
    confidence: Annotated[float, Field(ge=1, le=5, allow_inf_nan=False)]


@dataclass(frozen=True)
class Comparison:
    """What a critique is about.

    Args:
        principle: A principle.
        better: A sibling that beats the step by it.
    """

    principle: Principle
    better: SearchNode


@dataclass(frozen=True)
class Review:
    """What a critic says of a step.

    Args:
        critiques: The usable ones, in the order of the principles; those for the policy are marked as `used`.
        failed: Why the others could not be used: `principle: reason: detail`.
    """

    critiques: tuple[Critique, ...] = ()
    failed: tuple[str, ...] = ()


def principle_grades(judgement: Judgement) -> dict[Principle, float]:
    """The grades (1–5) by principle, also inside a weighted judgement, where they are named `json_judge.accuracy`.

    Returns:
        Empty when the judgement gives none: it is unscored, or no judge took part.
    """
    by_name = {name.rpartition(".")[2]: grade for name, grade in judgement.scores.items()}
    return {principle: by_name[principle] for principle in Principle if principle in by_name}


def comparisons(step: SearchNode, siblings: Sequence[SearchNode]) -> list[Comparison]:
    """For every principle the sibling with the highest grade, if that is higher than the step's; the first of equals.

    Args:
        step: The weak step.
        siblings: The consistent ones: neither vetoed nor set aside. The step itself may be among them.

    Returns:
        In the order of the principles; none for a principle by which no sibling is better, or somebody has no grade.
    """
    own = _grades(step)
    others = [(sibling, _grades(sibling)) for sibling in siblings if sibling.id != step.id]
    found: list[Comparison] = []
    for principle, grade in own.items():
        rivals = [(grades[principle], sibling) for sibling, grades in others if principle in grades]
        if not rivals:
            continue
        highest, better = max(rivals, key=lambda rival: rival[0])
        if highest > grade + _ROUNDING:
            found.append(Comparison(principle, better))
    return found


def _grades(node: SearchNode) -> dict[Principle, float]:
    return principle_grades(node.judgement) if node.judgement is not None else {}


@dataclass(frozen=True)
class _Case:
    """All that a critic is shown for one critique."""

    prompt: Prompt
    prefix: str
    step: SearchNode
    compared: Comparison


class Critic:
    """Writes critiques, and puts suggestions before the policy.

    In JSON the critic replies with all parts of a critique. A model that continues text or answers in plain text gives
    the suggestion alone (`analysis` and `relevant` are empty), and its confidence is the expected grade under its
    next-token probabilities, as `ExpectedGradeJudge` reads them. The most probable reply is taken (temperature 0).

    Args:
        llm: The critic.
        config: The `critique` section.
        dialect: How it is addressed.
        templates: The prompts.
    """

    def __init__(self, llm: LLM, config: CritiqueConfig, dialect: Dialect, templates: Templates) -> None:
        self._llm = llm
        self._config = config
        self._dialect = dialect
        self._templates = templates
        self._grades = tuple(f"{dialect.lead}{grade}" for grade in GRADES)

    async def review(
        self, prompt: Prompt, prefix: str, step: SearchNode, comparisons: Sequence[Comparison]
    ) -> Review:
        """Ask for one critique for each comparison, all at the same time.

        Args:
            prompt: The writing task.
            prefix: The answer before the step.
            step: The weak step.
            comparisons: From `comparisons`.

        Returns:
            A comparison gives a critique or a failure; `used` are the `max_suggestions` that the critic is most
            confident of (of equal confidence, those of earlier principles), each suggestion once.

        Raises:
            BackendError: The critic cannot be used.
        """
        cases = [_Case(prompt, prefix, step, compared) for compared in comparisons]
        replies = await asyncio.gather(*(self._critique(case) for case in cases))
        critiques = [reply for reply in replies if isinstance(reply, Critique)]
        used = _most_confident(critiques, self._config.max_suggestions)
        return Review(
            critiques=tuple(one.model_copy(update={"used": one.principle in used}) for one in critiques),
            failed=tuple(reply for reply in replies if isinstance(reply, str)),
        )

    async def _critique(self, case: _Case) -> Critique | str:
        """A critique, or why there is none."""
        try:
            return await (self._in_json(case) if self._dialect is Dialect.JSON else self._in_text(case))
        except NoReplyError as error:
            return f"{case.compared.principle}: {error.reason}: {error.detail}".rstrip(": ")

    async def _in_json(self, case: _Case) -> Critique:
        asked = self._render("critique_json.jinja", case)
        text = await self._ask(asked, Sampling(max_tokens=self._config.max_tokens, temperature=0), SCHEMA)
        try:
            reply, _ = read_as(text, _Reply)
        except NotJsonError as error:
            raise NoReplyError(NoReply.UNPARSABLE, str(error), text) from None
        return Critique(
            principle=case.compared.principle, better=case.compared.better.id, analysis=reply.analysis.strip(),
            relevant=reply.relevant.strip(), suggestion=_suggestion(reply.suggestion, case, asked),
            confidence=reply.confidence,
        )

    async def _in_text(self, case: _Case) -> Critique:
        stop = ("\n",) if self._dialect is Dialect.TEXT else ()
        sampling = Sampling(max_tokens=min(self._config.max_tokens, LINE_TOKENS), temperature=0, stop=stop)
        asked = self._render("critique_text.jinja", case, suggestion="")
        reply = await self._ask(asked, sampling)
        suggestion = _suggestion(reply if self._dialect is Dialect.TEXT else without_thinking(reply), case, asked)
        confidence = await self._confidence(self._render("critique_text.jinja", case, suggestion=suggestion))
        return Critique(principle=case.compared.principle, better=case.compared.better.id, analysis="", relevant="",
                        suggestion=suggestion, confidence=confidence)

    async def _ask(self, asked: str, sampling: Sampling, schema: dict[str, Any] | None = None) -> str:
        return await ask(self._llm, self._dialect.question(asked, sampling, "critique", schema))

    async def _confidence(self, question: str) -> float:
        """The mean of 1 to 5 under their probabilities as the next token."""
        request = ScoreRequest((self._dialect.context(question),), self._grades, purpose="critique")
        try:
            answer = await self._llm.logprobs(request)
        except RequestRejectedError as error:
            raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
        weights = grade_weights([answer.total(0, grade) for grade in range(len(GRADES))])
        if weights is None:
            raise NoReplyError(NoReply.UNPARSABLE, "no probability for any confidence")
        return expected_grade(weights)

    def _render(self, name: str, case: _Case, **more: str) -> str:
        """The critic's prompt; those of one step that show the same better sibling begin alike."""
        request, better, step = case.prompt.request, case.compared.better.text, case.step.text
        mark = fence(request, request, case.prefix, better, step, *more.values())
        return self._templates.render(
            name, request=request, prefix=case.prefix, better=better, step=step, fence=mark,
            principle=case.compared.principle.value, **more,
        )

    def rewriting_prompt(self, prompt: Prompt, critiques: Sequence[Critique]) -> Dialogue:
        """The policy's prompt with the used suggestions, for the one request that writes the step anew.

        They stand after the last user's turn; or before a prompt that is plain text, so that what is continued still
        ends as it did. Each is one line of a list and not fenced: it *is* addressed to the policy, and a mark there
        would be copied into answers that become training data.

        Args:
            prompt: What the policy was asked; it stays as it is.
            critiques: Of a `Review`; at least one is used.
        """
        suggestions = [one_line(critique.suggestion) for critique in critiques if critique.used]
        if not suggestions:
            raise ValueError("no suggestion is used: there is nothing to rewrite by")
        plain = isinstance(prompt.prompt, str)
        notes = self._templates.render("rewrite.jinja", suggestions=suggestions, plain=plain)
        return with_notes(prompt.dialogue, notes)


def _most_confident(critiques: Sequence[Critique], count: int) -> set[str]:
    """Principles of the critiques the policy is shown; of equal suggestions the most confident counts."""
    ranked = sorted(critiques, key=lambda critique: -critique.confidence)  # stable: the order of the principles
    distinct: dict[str, str] = {}
    for critique in ranked:
        distinct.setdefault(critique.suggestion.casefold(), critique.principle)
    return set(list(distinct.values())[:count])


def _suggestion(text: str, case: _Case, asked: str) -> str:
    """A suggestion as one line.

    Raises:
        NoReplyError: There is none, it is too long, it gives the better text away, or it stands word for word in what
            the critic was asked (small models repeat an example).
    """
    suggestion = one_line(text)
    if not suggestion:
        raise NoReplyError(NoReply.UNPARSABLE, "no suggestion")
    if len(suggestion) > MAX_SUGGESTION:
        raise NoReplyError(NoReply.UNPARSABLE, f"a suggestion of more than {MAX_SUGGESTION} characters", suggestion)
    if suggestion.casefold() in one_line(asked).casefold():
        raise NoReplyError(NoReply.UNPARSABLE, "the suggestion stands in the question already", suggestion)
    better = _words(case.compared.better.text)
    size = min(MAX_COPIED + 1, max(len(better), _FEW))
    elsewhere: set[tuple[str, ...]] = set()
    for known in (case.prompt.request, case.prefix, case.step.text):
        elsewhere |= _runs(_words(known), size)
    if _runs(_words(suggestion), size) & _runs(better, size) - elsewhere:
        raise NoReplyError(NoReply.UNPARSABLE, "the suggestion copies the better text", suggestion)
    return suggestion


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start:start + size]) for start in range(len(words) - size + 1)}
