"""Comparing an answer with a reference item by item: what it says of each, and which of the two says it all (CLEAR)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.yes_no import YesNo, yes_or_no
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask, without_thinking
from lpo.llm.json_object import NotJsonError, read_object
from lpo.templates import fence

NOTHING = "N/A"
"""What stands for an item of which nothing is said, in rubrics and in replies."""
LONGEST_LINE = 256
"""Tokens of what a base model says about an item, at most: text that has not come to a newline by then never will."""


@dataclass(frozen=True)
class ItemVerdict:
    """One item of a rubric.

    Args:
        item: Its name.
        reference: What the reference says of it; None: nothing.
        found: What the answer says of it; None: nothing, or nobody could say.
        recall: Does the answer say all that the reference says? None: no judgement.
        precision: Does the reference say all that the answer says? None: no judgement.
        unscored: Why a judgement is missing.
        detail: The beginning of a reply that could not be read, or what was wrong with it.
    """

    item: str
    reference: str | None
    found: str | None
    recall: bool | None
    precision: bool | None
    unscored: str | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return asdict(self)


async def compare(judge: JudgeModel, rubric: Mapping[str, str | None], *, request: str,
                  text: str) -> list[ItemVerdict]:
    """What an answer says of every item of a rubric, against what the reference says.

    First the judge copies from the answer what it says of each item; it does not see the reference. Then it is asked
    for every item whether either note contains the other. Where both say nothing, both containments hold; where only
    one says something, neither does. The judge is asked about neither. An empty answer says nothing of any item.

    Args:
        judge: The judge.
        rubric: Item -> what the reference says of it; None: nothing.
        request: What the answer was written for.
        text: The answer.

    Returns:
        One verdict for each item, in order.

    Raises:
        BackendError: The judge cannot be used at all.

    Source:
        CLEAR (ExpertLongBench, arXiv 2506.01241) and, for items of which nothing is said, its published code. The
        wording is our own.
    """
    found = await _extract(judge, list(rubric), request=request, text=text)
    return list(await asyncio.gather(*(_verdict(judge, item, rubric[item], one) for item, one in found.items())))


def stands_in(found: str, text: str) -> bool:
    """Does every line of what was found stand in the text word for word, but for white space and case?"""
    def plain(some: str) -> str:
        return " ".join(some.casefold().split())

    return all(plain(line) in plain(text) for line in found.splitlines())


@dataclass(frozen=True)
class _Found:
    """What the answer says of one item; None: nothing. Or why nobody could say."""

    text: str | None
    failure: NoReplyError | None = None


async def _extract(judge: JudgeModel, items: Sequence[str], *, request: str, text: str) -> dict[str, _Found]:
    if not text.strip():
        return {item: _Found(None) for item in items}
    material = {"text": text, "fence": fence(request, request, text, *items)}
    if judge.dialect is Dialect.JSON:
        try:
            return await _extract_all(judge, items, {"request": request, **material})
        except NoReplyError as error:
            return {item: _Found(None, error) for item in items}
    if judge.dialect is Dialect.CHAT:
        material["request"] = request
    notes = await asyncio.gather(*(_extract_one(judge, item, material) for item in items))
    return dict(zip(items, notes, strict=True))


async def _extract_all(judge: JudgeModel, items: Sequence[str], material: Mapping[str, str]) -> dict[str, _Found]:
    """All items in one reply: an object of their numbers and what was found."""
    numbers = [str(number) for number in range(1, len(items) + 1)]
    schema = {"type": "object", "properties": {number: {"type": "string"} for number in numbers},
              "required": numbers, "additionalProperties": False}
    question = judge.templates.render("clear_extract_json.jinja", items=list(items), **material)
    reply = await ask(judge.llm, judge.dialect.question(question, judge.drawing, "judge", schema))
    try:
        values, _ = read_object(reply)
    except NotJsonError as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    if not isinstance(values, dict) or set(values) != set(numbers):
        raise NoReplyError(NoReply.UNPARSABLE, "the items are not those that were asked for", reply)
    if not all(isinstance(value, str) and value.strip() for value in values.values()):
        raise NoReplyError(NoReply.UNPARSABLE, "what the text says of an item must be text", reply)
    return {item: _Found(said(values[number])) for item, number in zip(items, numbers, strict=True)}


async def _extract_one(judge: JudgeModel, item: str, material: Mapping[str, str]) -> _Found:
    """One item: a plain reply, or a line that continues the prompt."""
    question = judge.templates.render(f"clear_extract_{judge.dialect.value}.jinja", item=item, **material)
    drawing = judge.drawing
    if judge.dialect is Dialect.TEXT:
        drawing = replace(drawing, max_tokens=min(LONGEST_LINE, drawing.max_tokens), stop=("\n",))
    try:
        reply = await ask(judge.llm, judge.dialect.question(question, drawing, "judge"))
        return _Found(said(without_thinking(reply) if judge.dialect is Dialect.CHAT else reply))
    except NoReplyError as error:
        return _Found(None, error)


def said(text: str) -> str | None:
    """A note as it stands; None for one that says there is nothing: `N/A`, in quotes or with a point, too."""
    return None if text.strip().strip("\"'.").casefold() == NOTHING.casefold() else text.strip()


async def _verdict(judge: JudgeModel, item: str, reference: str | None, found: _Found) -> ItemVerdict:
    if found.failure is not None:
        return ItemVerdict(item, reference, None, None, None, found.failure.reason.value,
                           found.failure.reply or found.failure.detail)
    if reference is None or found.text is None:
        both = reference is found.text
        return ItemVerdict(item, reference, found.text, both, both)
    recall, precision = await asyncio.gather(_contains(judge, item, holder=found.text, held=reference),
                                             _contains(judge, item, holder=reference, held=found.text))
    failed = next((one for one in (recall, precision) if one.unscored is not None), None)
    return ItemVerdict(item, reference, found.text, recall.yes, precision.yes,
                       failed.unscored if failed else None, failed.reply if failed else "")


async def _contains(judge: JudgeModel, item: str, *, holder: str, held: str) -> YesNo:
    mark = fence(item, item, holder, held)
    return await yes_or_no(judge, judge.templates.render("clear_contains.jinja", item=item, holder=holder, held=held,
                                                         fence=mark))
