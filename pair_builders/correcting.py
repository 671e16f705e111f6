"""Correcting one segment of an answer: what is wrong with it, and how it reads without that.

LongWriter-V (arXiv 2502.14834) had people correct its scripts page by page, against factual errors, missing content,
breaks with earlier pages and repetition. Here a model does it, in two questions: a critique, and a revision that
follows it. What it says is read strictly; whether the revised segment is any better is for the judge to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lpo.build_config import CorrectionConfig
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask, without_thinking
from lpo.llm.base import LLM, Request, Sampling
from lpo.llm.json_object import NotJsonError, read_as
from lpo.pair_builders.notes import one_line
from lpo.records import Aspect, Fault, Prompt
from lpo.templates import Templates, fence
from lpo.words import count_words

BEFORE_CHARACTERS = 24_000
"""Characters of the corrected text before a segment that are shown with it, at most: its end. A text that is longer
would be read again for every segment."""

MAX_ADVICE = 600
"""Characters of one piece of advice, at most; the prompts ask for one sentence."""

FEW_WORDS = 5
"""A whole revision of no more words may stand elsewhere as well: that is chance, or what the advice asks for."""

KEPT_LINE = 80
"""Characters of a copied line that are told."""

MOST_FAULTS = 4
"""Lines of a list of faults that a base model continues, at most: a small one would go on for ever."""

CRITIQUE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "aspect": {"type": "string", "enum": [aspect.value for aspect in Aspect]},
                    "quote": {"type": "string"},
                    "advice": {"type": "string"},
                },
                "required": ["aspect", "quote", "advice"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["analysis", "faults"],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""

REVISION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"revised": {"type": "string"}},
    "required": ["revised"],
    "additionalProperties": False,
}
"""The same for revisions: a reply in a string has neither preamble nor postscript."""

_ITEM = re.compile(r"(?:(?:[-*•]|[0-9]{1,2}[.)])\s+)(\S.*)")
_FAULT = re.compile(r"[*_`]*([A-Za-z]+)[*_`]*\s*[:：][*_`]*\s*(\S.*)")
_NOTHING = {"none", "no faults", "无", "没有"}
_FENCED = re.compile(r"(`{3,}|~{3,})[^\n`]*\n(.*)\n\1", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Fault(_Strict):
    aspect: Literal["factuality", "missing", "coherence", "repetition"]
    quote: str
    advice: str


class _Critique(_Strict):
    analysis: str
    faults: list[_Fault]


class _Revised(_Strict):
    revised: str


@dataclass(frozen=True)
class Segment:
    """A segment of an answer, in its place.

    Args:
        prompt: The writing task.
        before: The corrected text before it; may be empty.
        text: The segment as it stands, without white space at its ends.
        last: Does the answer end with it? Else more follows.
    """

    prompt: Prompt
    before: str
    text: str
    last: bool

    @property
    def shown(self) -> str:
        """What is shown of the text before it: all of it, or its end."""
        return self.before.strip()[-BEFORE_CHARACTERS:].lstrip()


@dataclass(frozen=True)
class SegmentCritique:
    """What a critic says of a segment.

    Args:
        faults: Empty: nothing is wrong with it.
        dropped: Why others that it named could not be used; None: all could.
    """

    faults: tuple[Fault, ...]
    dropped: str | None = None


class Corrector:
    """Criticises and revises segments.

    In JSON a fault comes with the words it is about, which must stand in the segment, and a revision is a string, so
    that nothing stands beside it. A model that continues text or answers in plain text lists faults by aspect, without
    quotes. The most probable critique is taken (temperature 0), a revision is drawn as `correction.sampling` says.

    Args:
        llm: Who corrects.
        config: The `correction` section.
        dialect: How the model is addressed.
        templates: The prompts.
    """

    def __init__(self, llm: LLM, config: CorrectionConfig, dialect: Dialect, templates: Templates) -> None:
        self._llm, self._config, self._dialect, self._templates = llm, config, dialect, templates

    async def critique(self, segment: Segment) -> SegmentCritique:
        """What is wrong with a segment.

        Raises:
            NoReplyError: No usable reply.
            BackendError: The model cannot be used.
        """
        asked, _ = self._render("segment_critique", segment)
        stop = ("\n\n",) if self._dialect is Dialect.TEXT else ()
        sampling = Sampling(max_tokens=self._config.max_tokens, temperature=0, stop=stop)
        schema = CRITIQUE_SCHEMA if self._dialect is Dialect.JSON else None
        reply = await ask(self._llm, self._dialect.question(asked, sampling, "critique", schema))
        if self._dialect is Dialect.JSON:
            return read_critique(reply, segment.text)
        # Plain text goes on after the dash that the prompt ends with.
        listed = without_thinking(reply) if self._dialect is Dialect.CHAT else f"- {reply.strip()}"
        return read_fault_list(listed, asked)

    async def revision(self, segment: Segment, faults: Sequence[Fault], seed: int) -> str:
        """The segment without these faults, and without white space at its ends.

        Args:
            segment: The segment.
            faults: At least one.
            seed: Of this draw.

        Raises:
            NoReplyError: No usable reply.
            BackendError: The model cannot be used.
        """
        listed = [f"{fault.aspect.value}{f' (“{fault.quote}”)' if fault.quote else ''}: {fault.advice}"
                  for fault in faults]
        asked, mark = self._render("revise", segment, faults=listed)
        stop = (f"\n{mark}",) if self._dialect is Dialect.TEXT else ()
        sampling = Sampling(max_tokens=self._config.segment_tokens, stop=stop, **self._config.sampling.model_dump())
        reply = await ask(self._llm, Request(
            context=self._dialect.context(asked), sampling=sampling, seed=seed, purpose="revision",
            json_schema=REVISION_SCHEMA if self._dialect is Dialect.JSON else None,
        ))
        if self._dialect is Dialect.JSON:
            reply = read_revision(reply)
        elif self._dialect is Dialect.CHAT:
            reply = unwrapped(without_thinking(reply), segment.text, mark)
        return checked_revision(reply, segment, asked, mark)

    def _render(self, question: str, segment: Segment, **more: Sequence[str]) -> tuple[str, str]:
        """A prompt and the mark that fences its texts. Without examples both questions about a segment begin alike."""
        request, context = segment.prompt.request, segment.prompt.context or ""
        shown, before = segment.shown, segment.before.strip()
        inside = (text for texts in more.values() for text in texts)
        mark = fence(request, request, context, shown, segment.text, *inside)
        asked = self._templates.render(
            f"{question}_{self._dialect.value}.jinja", request=request, document=context, before=shown,
            from_start=len(before) <= BEFORE_CHARACTERS, text=segment.text, last=segment.last, fence=mark, **more,
        )
        return asked, mark


def read_critique(reply: str, segment: str) -> SegmentCritique:
    """Read `{"analysis": "...", "faults": [{"aspect": "...", "quote": "...", "advice": "..."}]}`.

    A fault whose words do not stand in the segment, runs of white space being one space, is dropped: a critic that
    quotes what is not there has not read it. What is missing has no words.

    Args:
        reply: The whole reply.
        segment: What it is about.

    Raises:
        NoReplyError: It is anything else, or faults are named and none can be used.
    """
    try:
        parsed, _ = read_as(reply, _Critique)
    except NotJsonError as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    flat = one_line(segment)
    found: list[Fault | str] = []
    for number, one in enumerate(parsed.faults):
        aspect, quote = Aspect(one.aspect), one_line(one.quote)
        advice = one_line(one.advice)
        if aspect is Aspect.MISSING:
            quote = quote if quote in flat else ""
        elif not quote or quote not in flat:
            found.append(f"faults.{number}.quote: does not stand in the passage")
            continue
        found.append(_fault(aspect, quote, advice) or f"faults.{number}.advice: has 1 to {MAX_ADVICE} characters")
    return _usable(found, reply)


def read_fault_list(reply: str, asked: str) -> SegmentCritique:
    """Read a list of `aspect: advice`, from the first line to the first that is no item.

    What a model writes after its list is of no concern. A first item `none`, or the word alone, says that nothing is
    wrong. An item of another aspect is dropped, and so is advice that stands in the question or before it: small models
    repeat examples, and themselves.

    Args:
        reply: The whole reply.
        asked: The question.

    Raises:
        NoReplyError: The first line is no item, or faults are named and none can be used.
    """
    if _is_nothing(reply):
        return SegmentCritique(())
    known = one_line(asked).casefold()
    found: list[Fault | str] = []
    for number, line in enumerate(reply.strip().split("\n")[:MOST_FAULTS]):
        item = _ITEM.fullmatch(line.strip())
        if item is None:
            break
        if number == 0 and _is_nothing(item[1]):
            return SegmentCritique(())
        named = _FAULT.fullmatch(item[1])
        aspect = next((one for one in Aspect if named is not None and one.value == named[1].casefold()), None)
        if named is None or aspect is None:
            found.append(f"fault {number + 1}: names none of the aspects")
        elif (advice := one_line(named[2])).casefold() in known:
            found.append(f"fault {number + 1}: the advice was given already")
        else:
            known += f"\n{advice.casefold()}"
            found.append(_fault(aspect, "", advice) or f"fault {number + 1}: advice has 1 to {MAX_ADVICE} characters")
    if not found:
        raise NoReplyError(NoReply.UNPARSABLE, "the reply does not begin with a list", reply)
    return _usable(found, reply)


def read_revision(reply: str) -> str:
    """Read `{"revised": "..."}`.

    Raises:
        NoReplyError: It is anything else; or its punctuation had to be mended, and letters were lost on the way.
    """
    try:
        parsed, mended = read_as(reply, _Revised)
    except NotJsonError as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    if mended and _letters(parsed.revised) not in _letters(_ESCAPE.sub(" ", reply)):
        raise NoReplyError(NoReply.UNPARSABLE, "not JSON, and mending it would change the text", reply)
    return parsed.revised


def unwrapped(reply: str, segment: str, mark: str) -> str:
    """A revision in plain text without what certainly is not part of it: the question's mark in its first or last line,
    and a code fence around all of it that the segment does not have.
    """
    text = reply.strip().removeprefix(f"{mark}\n").removesuffix(f"\n{mark}").strip()
    fenced = _FENCED.fullmatch(text)
    if fenced is not None and fenced[1] not in fenced[2] and not segment.startswith(fenced[1]):
        text = fenced[2].strip()
    return text


def checked_revision(text: str, segment: Segment, asked: str, mark: str) -> str:
    """A revision without white space at its ends.

    Args:
        text: As it was read.
        segment: What it is to replace.
        asked: The question.
        mark: Fences the texts in it.

    Raises:
        NoReplyError: It is empty, holds a mark, repeats all of the text before the segment or a part of it and nothing
            else, or has lines of the question that are not the user's: an example, a label, the advice.
    """
    text = text.strip()
    if not text:
        raise NoReplyError(NoReply.EMPTY)
    if mark in text:
        raise NoReplyError(NoReply.UNPARSABLE, "the revision holds a mark of the question", text)
    flat, own, before = one_line(text), one_line(segment.text), one_line(segment.before)
    long = count_words(text) > FEW_WORDS
    if before and before not in own and (before in flat or (long and flat in before and flat not in own)):
        raise NoReplyError(NoReply.UNPARSABLE, "the revision repeats what stands before the passage", text)
    ours = _without(asked, segment.prompt.request, segment.prompt.context or "", segment.shown, segment.text)
    copied = {line for line in _lines(ours) - _lines(segment.text)
              if line in _lines(text) or (count_words(line) > FEW_WORDS and one_line(line) in flat)}
    if copied or (long and flat in one_line(ours) and flat not in own):
        line = min(copied, default=flat)[:KEPT_LINE]
        raise NoReplyError(NoReply.UNPARSABLE, f"the revision copies {line!r} from the question", text)
    return text


def _is_nothing(text: str) -> bool:
    return text.strip(" .()\n").casefold() in _NOTHING


def _fault(aspect: Aspect, quote: str, advice: str) -> Fault | None:
    return Fault(aspect=aspect, quote=quote, advice=advice) if advice and len(advice) <= MAX_ADVICE else None


def _usable(found: Sequence[Fault | str], reply: str) -> SegmentCritique:
    faults = tuple(one for one in found if isinstance(one, Fault))
    dropped = "; ".join(one for one in found if isinstance(one, str))
    if found and not faults:
        raise NoReplyError(NoReply.UNPARSABLE, dropped, reply)
    return SegmentCritique(faults, dropped or None)


def _lines(text: str) -> set[str]:
    """The lines of several words, and labels (`Passage:`), without white space at their ends."""
    lines = (line.strip() for line in text.split("\n"))
    return {line for line in lines if count_words(line) > 1 or line.endswith(":")}


def _without(asked: str, *texts: str) -> str:
    """A question without the user's texts in it, the longest first: what is left is ours, or the other editor's."""
    for text in sorted(filter(None, texts), key=len, reverse=True):
        asked = asked.replace(text, "\n")
    return asked


def _letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum())
