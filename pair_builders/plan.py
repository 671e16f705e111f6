"""Plans: the sections an answer is written by, after AgentWrite (LongWriter, arXiv 2408.07055, section 3).

A plan is written once for a prompt, or comes with it; then the policy writes section after section, each time seeing
the plan and everything written so far.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lpo.build_config import PlanConfig
from lpo.errors import DataError
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask, without_thinking
from lpo.llm.base import LLM, Request, Sampling
from lpo.llm.json_object import NotJsonError, read_as
from lpo.pair_builders.notes import one_line, with_notes
from lpo.records import Dialogue, PlannedSection, Prompt
from lpo.templates import Templates, fence
from lpo.words import is_chinese

MAX_TITLE = 300
"""Characters of a title, at most: a longer one is no plan of a section but its text."""

MAX_WORDS = 1_000_000

REPETITION_PENALTY = 1.15
"""For models that continue text: the most probable list of a small one is its first line over and over."""

LONG_SECTIONS = 400
"""From this length on the sections of a text with budgets should have 200 to 1,000 words each, as AgentWrite has it."""

_LINE = re.compile(r"([0-9]+)[.)]\s+(.+?)(?:\s*\(\s*(?:about\s+)?([0-9]+)\s+words?\s*\))?\.?")
_MEND = 'give "plan" as a list of titles, or of {"title": "...", "words": 200}'


class _Section(BaseModel):
    """Strict: words are a whole number, never `true`, `"200"` or 200.5."""

    model_config = ConfigDict(strict=True, extra="forbid")

    title: str
    words: Annotated[int, Field(ge=1, le=MAX_WORDS)] | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    sections: list[_Section]


_GIVEN: TypeAdapter[list[_Section]] = TypeAdapter(list[_Section])


class _NotAPlanError(ValueError):
    """The sections are no plan."""


class Planner:
    """Writes plans.

    Args:
        llm: The planning model; its most probable reply is taken (temperature 0).
        config: The `plan` section.
        dialect: How it is addressed: in JSON, or for a numbered list `1. title (120 words)`.
        templates: The prompts.
    """

    def __init__(self, llm: LLM, config: PlanConfig, dialect: Dialect, templates: Templates) -> None:
        self._llm = llm
        self._config = config
        self._dialect = dialect
        self._templates = templates

    async def plan(self, prompt: Prompt, *, max_sections: int,
                   tolerance: float | None = None) -> tuple[PlannedSection, ...]:
        """The plan of a prompt: the one it brings (`meta["plan"]`), else a new one.

        With a `tolerance` the words of the sections are budgets: they must add up to the prompt's `target_words`, where
        it has one, and a plan that cannot be used is asked for once more, with what was wrong with it.

        Args:
            prompt: The writing task.
            max_sections: The model is told; a longer plan is refused.
            tolerance: How far the budgets may be off, as a share of the length asked for (infinity: as far as they
                like, but there must be some); None: words are only a hint.

        Raises:
            NoReplyError: No usable plan came.
            DataError: The prompt brings a plan that cannot be used.
            BackendError: The model cannot be used.
        """
        given = given_plan(prompt, max_sections=max_sections, tolerance=tolerance)
        if given is not None:
            return given
        try:
            return await self._written(prompt, max_sections, tolerance)
        except NoReplyError as error:
            if tolerance is None or error.reason is not NoReply.UNPARSABLE:
                raise
            return await self._written(prompt, max_sections, tolerance, wrong=one_line(error.detail)[:MAX_TITLE])

    async def _written(self, prompt: Prompt, max_sections: int, tolerance: float | None,
                       wrong: str | None = None) -> tuple[PlannedSection, ...]:
        json = self._dialect is Dialect.JSON
        reply = await ask(self._llm, self._request(prompt, max_sections, budgets=tolerance is not None, wrong=wrong))
        try:
            sections = _read_json(reply) if json else _read_list(self._list(reply))
            plan = _checked(sections, max_sections)
            _refuse_repetition(plan)
            if tolerance is not None and prompt.target_words is not None:
                _refuse_budgets(plan, prompt.target_words, tolerance)
            return plan
        except (NotJsonError, _NotAPlanError) as error:
            raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None

    def _request(self, prompt: Prompt, max_sections: int, *, budgets: bool, wrong: str | None) -> Request:
        request, target, json = prompt.request, prompt.target_words, self._dialect is Dialect.JSON
        more = {"long_sections": budgets and (target is None or target >= LONG_SECTIONS)} if json else \
            {"chat": self._dialect is Dialect.CHAT}
        asked = self._templates.render(
            "plan_json.jinja" if json else "plan_text.jinja", request=request, fence=fence(request, request),
            max_sections=max_sections, target_words=target, unit=unit_of(prompt), wrong=wrong, **more,
        )
        sampling = Sampling(max_tokens=self._config.max_tokens, temperature=0)
        if self._dialect is Dialect.TEXT:
            sampling = replace(sampling, stop=("\n\n",), repetition_penalty=REPETITION_PENALTY)
        question = self._dialect.question(asked, sampling, "plan", _schema(max_sections) if json else None)
        return replace(question, index=0 if wrong is None else 1)

    def _list(self, reply: str) -> str:
        """The whole list; plain text goes on after the first number, which the prompt ends with."""
        return f"1. {reply.strip()}" if self._dialect is Dialect.TEXT else without_thinking(reply)


def _refuse_repetition(plan: Sequence[PlannedSection]) -> None:
    """A model that has nothing more to plan writes its last line again."""
    for number, (one, other) in enumerate(pairwise(plan), start=2):
        if one.title.casefold() == other.title.casefold():
            raise _NotAPlanError(f"section {number} repeats the one before it")


def _refuse_budgets(plan: Sequence[PlannedSection], target: int, tolerance: float) -> None:
    """The words of all sections must be there and add up to the length asked for."""
    without = [number for number, section in enumerate(plan, start=1) if section.words is None]
    if without:
        raise _NotAPlanError(f"section {without[0]} has no number of words")
    total = sum(section.words or 0 for section in plan)
    if abs(total - target) > tolerance * target:
        raise _NotAPlanError(f"the words of its sections add up to {total}, not to {target}")


def given_plan(prompt: Prompt, *, max_sections: int,
               tolerance: float | None = None) -> tuple[PlannedSection, ...] | None:
    """The plan that a prompt brings along: `meta["plan"]`, a list of titles or of `{title, words}`.

    Args:
        prompt: The writing task.
        max_sections: A longer plan is an error: it would never be written to its end.
        tolerance: As for `Planner.plan`; it concerns plans that give the words of every section. Others share the
            length asked for among their sections.

    Returns:
        None when it brings none.

    Raises:
        DataError: What it brings cannot be used; the error names the prompt.
    """
    given = prompt.meta.get("plan")
    if given is None:
        return None
    rows = [{"title": row} if isinstance(row, str) else row for row in cast("list[Any]", given)] \
        if isinstance(given, list) else given
    where = f"plan of prompt {prompt.id!r}"
    try:
        plan = _checked(_GIVEN.validate_python(rows), max_sections)
        budgets = all(section.words is not None for section in plan)
        if tolerance is not None and prompt.target_words is not None and budgets:
            _refuse_budgets(plan, prompt.target_words, tolerance)
        return plan
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{place}: {first['msg']}".removeprefix(": "), where=where, mend=_MEND) from None
    except _NotAPlanError as error:
        raise DataError(str(error), where=where, mend=f"{_MEND}; {_limits(tolerance)}") from None


def _limits(tolerance: float | None) -> str:
    """The settings that a given plan must keep to."""
    if tolerance is None:
        return "build.depth limits their number"
    return "build.agent_write limits their number (max_sections) and their words (tolerance)"


def section_prompt(prompt: Prompt, plan: Sequence[PlannedSection], index: int, templates: Templates) -> Dialogue:
    """What the policy is asked for one section: the prompt, the plan, and to write this section and stop.

    The text so far is the prefix of the answer, not part of the prompt. A plain-text prompt gets the plan before it,
    so that what is continued still ends as it did; a model that continues it hardly knows where a section ends.

    Args:
        prompt: The writing task; it stays as it is.
        plan: All sections; their words are shown scaled to the length asked for.
        index: Which section, from 0.
        templates: The wording.
    """
    return with_notes(prompt.dialogue, section_notes(prompt, plan, index, templates,
                                                     plain=isinstance(prompt.prompt, str)))


def section_notes(prompt: Prompt, plan: Sequence[PlannedSection], index: int, templates: Templates, *,
                  plain: bool) -> str:
    """What `section_prompt` says beside the prompt.

    Args:
        prompt: The writing task.
        plan: All sections.
        index: Which section, from 0.
        templates: The wording.
        plain: Say what the text is like, for a model that continues text, instead of what to do.
    """
    return templates.render("section.jinja", plan=section_rows(prompt, plan), index=index, plain=plain)


def unit_of(prompt: Prompt) -> str:
    """What its words are called in front of a model: a small one that is told of Chinese begins to write it."""
    return "characters" if is_chinese(prompt.request) else "words"


def section_rows(prompt: Prompt, plan: Sequence[PlannedSection]) -> list[dict[str, str | int | None]]:
    """The plan as templates show it: title and words of each section, scaled to the length asked for."""
    shares = _shares(prompt, plan)
    return [{"title": one_line(section.title), "words": shares[position] if shares else section.words}
            for position, section in enumerate(plan)]


def section_words(prompt: Prompt, plan: Sequence[PlannedSection], index: int) -> int | None:
    """Words the text should have after a section: the plan's words up to there, scaled to the length asked for.

    Args:
        prompt: The writing task.
        plan: All sections. One without words counts as the mean of those that have them.
        index: Which section, from 0.

    Returns:
        At least 1; the whole length after the last section. None when neither the prompt nor the whole plan says.
    """
    shares = _shares(prompt, plan)
    return sum(shares[:index + 1]) if shares else None


def _shares(prompt: Prompt, plan: Sequence[PlannedSection]) -> list[int] | None:
    """Words of each section, which add up to the length asked for; None when there is no length."""
    known = [section.words for section in plan if section.words is not None]
    if prompt.target_words is None:
        return known if known and len(known) == len(plan) else None
    mean = sum(known) / len(known) if known else 1.0
    weights = [float(section.words) if section.words is not None else mean for section in plan]
    ends = [max(1, round(prompt.target_words * sum(weights[:end]) / sum(weights))) for end in range(1, len(plan) + 1)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _schema(max_sections: int) -> dict[str, Any]:
    section = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "words": {"type": ["integer", "null"], "minimum": 1}},
        "required": ["title", "words"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"sections": {"type": "array", "items": section, "minItems": 1, "maxItems": max_sections}},
        "required": ["sections"],
        "additionalProperties": False,
    }


def _read_json(reply: str) -> list[_Section]:
    return read_as(reply, _Reply)[0].sections


def _read_list(text: str) -> list[_Section]:
    """A numbered list from 1 on, and nothing beside it."""
    sections: list[_Section] = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        match = _LINE.fullmatch(line)
        if match is None or match[1] != str(len(sections) + 1):
            raise _NotAPlanError(f"line {len(sections) + 1} is not `{len(sections) + 1}. title (120 words)`")
        words = match[3]
        if words is not None and not (len(words) < 8 and 1 <= int(words) <= MAX_WORDS):
            raise _NotAPlanError(f"section {match[1]}: {words[:8]} words")
        sections.append(_Section(title=match[2], words=int(words) if words else None))
    return sections


def _checked(sections: Sequence[_Section], max_sections: int) -> tuple[PlannedSection, ...]:
    if not sections:
        raise _NotAPlanError("a plan without sections")
    if len(sections) > max_sections:
        raise _NotAPlanError(f"{len(sections)} sections are more than {max_sections}")
    plan = tuple(PlannedSection(title=one_line(section.title), words=section.words) for section in sections)
    for number, section in enumerate(plan, start=1):
        if not section.title or len(section.title) > MAX_TITLE:
            raise _NotAPlanError(f"section {number}: a title has 1 to {MAX_TITLE} characters")
    return plan
