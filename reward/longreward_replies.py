"""Reading what LongReward's judge says: the exact forms that are accepted, and nothing beside them.

| asked for | JSON | plain text |
|---|---|---|
| grade | `{"analysis": "...", "grade": 7}`: a JSON number from 0 to 10 | words, and `Grade: 7` at the very end |
| support | `{"analysis": "...", "support": "full"}` or `partial`, `none` | words, and `Support: full` at the very end |
| statements | `{"statements": ["...", ...]}`, perhaps none | a list with bullets or numbers; `1. none` |
| notes | `{"notes": ["...", ...]}`, perhaps none | the same |

A grade in plain text has at most two ASCII digits before the point: `7`, `7.5`, `10.0`. The Chinese prompts ask for
`评分：7`, or `支持：完全`, `支持：部分`, `支持：没有`. Asterisks (Markdown) are ignored. Not accepted: `8/10`, `11`,
`-1`, full-width digits, `"8"`, `true`, `NaN`, `Grade:` twice, a key more or less or twice, a verdict without words
before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lpo.llm.asking import Dialect, NoReply, NoReplyError, without_thinking
from lpo.llm.json_object import NotJsonError, read_as
from lpo.llm.text_list import read_list

MAX_ITEM = 1000
"""Characters of a statement or a note, at most: a longer one is a passage."""

LONGEST_LIST = 20
"""Items of a list that a model continues, at most: a small model would go on for ever."""

T = TypeVar("T")
_Reply = TypeVar("_Reply", bound=BaseModel)

_HEADING = re.compile(r"(?:Analysis|分析)\s*[:：]\s*")
_GRADE_NAME = re.compile(r"(?:Grade|评分)\s*[:：]")
_SUPPORT_NAME = re.compile(r"(?:Support|支持)\s*[:：]")
_GRADE = re.compile(r"[0-9]{1,2}(?:\.[0-9]+)?")


class Support(StrEnum):
    """How far passages of the document bear a statement out."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"

    @property
    def credit(self) -> float:
        """What the statement counts (LongReward, arXiv 2410.21252): 1, 0.5 or 0."""
        return {Support.FULL: 1.0, Support.PARTIAL: 0.5, Support.NONE: 0.0}[self]


_SUPPORT_WORDS = {"full": Support.FULL, "partial": Support.PARTIAL, "none": Support.NONE,
                  "完全": Support.FULL, "部分": Support.PARTIAL, "没有": Support.NONE}


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """A grade or a label.

    Args:
        analysis: The words before it.
        value: What follows from them.
    """

    analysis: str
    value: T


class _Strict(BaseModel):
    """A number is a number, never `true` or `"8"`; no key more, none less."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Graded(_Strict):
    analysis: str
    grade: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class _Supported(_Strict):
    analysis: str
    support: Annotated[Support, Field(strict=False)]


class _Statements(_Strict):
    statements: list[str]


class _Notes(_Strict):
    notes: list[str]


@dataclass(frozen=True)
class Form(Generic[T]):
    """What a reply has to be.

    Args:
        schema: For servers that can constrain a reply; it is validated here all the same.
        from_json: Reads a reply in JSON.
        from_text: Reads one in plain text, from its first word.
        stop: Where plain text that is continued ends, by language; no more than the four that vendors allow.
        room: How many times `max_tokens` a reply may have.
        longest: Tokens of a reply that is continued text, at most: a base model that has not ended by then never will.
    """

    schema: dict[str, Any]
    from_json: Callable[[str], T]
    from_text: Callable[[str], T]
    stop: Mapping[str, tuple[str, ...]]
    room: int
    longest: int

    def read(self, reply: str, dialect: Dialect) -> T:
        """Read a whole reply; text that was continued together with how it began in the prompt.

        Raises:
            NoReplyError: It is anything else.
        """
        if dialect is Dialect.JSON:
            return self.from_json(reply)
        return self.from_text(without_thinking(reply) if dialect is Dialect.CHAT else reply)


def _read(reply: str, form: type[_Reply]) -> _Reply:
    try:
        return read_as(reply, form)[0]
    except NotJsonError as error:
        raise _unparsable(str(error), reply) from None


def read_grade_json(reply: str) -> Verdict[float]:
    """A grade in JSON, on 0–10.

    Raises:
        NoReplyError: The reply is anything else.
    """
    read = _read(reply, _Graded)
    return Verdict(_words(read.analysis, reply), read.grade)


def read_grade_text(reply: str) -> Verdict[float]:
    """A grade in plain text, on 0–10.

    Raises:
        NoReplyError: The reply is anything else.
    """
    analysis, value = _named_at_the_end(reply, _GRADE_NAME)
    if not _GRADE.fullmatch(value) or float(value) > 10:
        raise _unparsable("what follows `Grade:` is no grade from 0 to 10", reply)
    return Verdict(analysis, float(value))


def read_support_json(reply: str) -> Verdict[Support]:
    """A label in JSON.

    Raises:
        NoReplyError: The reply is anything else.
    """
    read = _read(reply, _Supported)
    return Verdict(_words(read.analysis, reply), read.support)


def read_support_text(reply: str) -> Verdict[Support]:
    """A label in plain text.

    Raises:
        NoReplyError: The reply is anything else.
    """
    analysis, value = _named_at_the_end(reply, _SUPPORT_NAME)
    if value not in _SUPPORT_WORDS:
        raise _unparsable("what follows `Support:` is none of the three labels", reply)
    return Verdict(analysis, _SUPPORT_WORDS[value])


def _named_at_the_end(reply: str, name: re.Pattern[str]) -> tuple[str, str]:
    """The words before the name, and what follows it to the end; the name stands once."""
    before, *after = name.split(reply.replace("*", ""))
    if len(after) != 1:
        raise _unparsable(f"the verdict is named {len(after)} times", reply)
    return _words(_HEADING.sub("", before.strip(), count=1), reply), after[0].strip()


def _words(analysis: str, reply: str) -> str:
    """An analysis: a verdict without reasons is none."""
    if not analysis.strip():
        raise _unparsable("no analysis before the verdict", reply)
    return analysis.strip()


def _items(items: list[str], reply: str) -> list[str]:
    """Items in one line each, those that differ only in white space once."""
    lines = [" ".join(item.split()) for item in items]
    for number, line in enumerate(lines, start=1):
        if not line or len(line) > MAX_ITEM:
            raise _unparsable(f"item {number}: an item has 1 to {MAX_ITEM} characters", reply)
    return list(dict.fromkeys(lines))


def _read_items_text(reply: str) -> list[str]:
    return _items(read_list(reply), reply)


def _read_statements(reply: str) -> list[str]:
    return _items(_read(reply, _Statements).statements, reply)


def _read_notes(reply: str) -> list[str]:
    return _items(_read(reply, _Notes).notes, reply)


def _unparsable(detail: str, reply: str) -> NoReplyError:
    return NoReplyError(NoReply.UNPARSABLE, detail, reply)


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    """The analysis stands first: a constrained reply is written in this order."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_LIST_ENDS = dict.fromkeys(("en", "zh"), ("\n\n", f"\n{LONGEST_LIST + 1}."))


def _list_form(name: str, from_json: Callable[[str], list[str]]) -> Form[list[str]]:
    schema = _schema(**{name: {"type": "array", "items": {"type": "string"}}})
    return Form(schema, from_json, _read_items_text, _LIST_ENDS, room=2, longest=1024)


# A base model that is done goes on with the next example, not always after an empty line.
_VERDICT_ENDS = {"en": ("\n\n", "\nAnalysis:", "\nStatement:", "\nRequest:"),
                 "zh": ("\n\n", "\n分析：", "\n陈述：", "\n请求：")}

GRADE = Form(_schema(analysis={"type": "string"}, grade={"type": "number", "minimum": 0, "maximum": 10}),
             read_grade_json, read_grade_text, _VERDICT_ENDS, room=1, longest=256)
SUPPORT = Form(_schema(analysis={"type": "string"}, support={"type": "string", "enum": list(map(str, Support))}),
               read_support_json, read_support_text, _VERDICT_ENDS, room=1, longest=256)
STATEMENTS = _list_form("statements", _read_statements)
NOTES = _list_form("notes", _read_notes)
