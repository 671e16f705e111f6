"""What a model writes around a section of a planned answer, and what is kept of it.

The rules are strict, since they change training data: a label goes only where it can be nothing else (`Paragraph 3:`
and the like were stripped from LongWriter-6k), and only short texts that begin as refusals do are taken for refusals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lpo.pair_builders.requested_length import chinese_number
from lpo.words import count_words

REFUSAL_WORDS = 80
"""A longer text that begins like a refusal is one that goes on and writes."""

LEAST_LINE = 12
"""Characters of a line that cannot be there by chance: those of a mark around a text (`lpo.templates.fence`)."""

_NUMBER_BEFORE = re.compile(r"^\d+\. ")
_BEFORE_TITLE = re.compile(r"^[#*_\s]*(?:\d+[.):]\s*)?[*_]*")
_LABEL = (r"(?P<label>(?:paragraph|section)[ \t]+(?P<number>\d{1,3})"
          r"|(?:第[ \t]?(?P<ordinal>[0-9一二三四五六七八九十]{1,4})[ \t]?[段节]|段落[ \t]?(?P<cardinal>\d{1,3})))")
_SEPARATOR = r"(?:[ \t]*[:：]|[ \t]+[-–—](?=[ \t])|(?=[ \t]*(?:\n|\Z)))"
_HEADING = r"(?P<heading>#{1,6}[ \t]+)?"
_LABELLED = (
    re.compile(rf"{_HEADING}(?P<mark>\*{{1,3}}|_{{1,3}}|){_LABEL}(?:(?P=mark){_SEPARATOR}|{_SEPARATOR}(?P=mark))",
               re.IGNORECASE),
    re.compile(rf"{_HEADING}(?P<open>\*{{1,3}}|_{{1,3}}){_LABEL}{_SEPARATOR}[ \t]*(?=\S)", re.IGNORECASE),
)
_REFUSAL = re.compile(
    r"\s*(?:(?:I['’]m|I am)(?: \w+)? sorry|Sorry|I apologi[sz]e|Unfortunately)\b[^\n]{0,40}"
    r"\b(?:can['’]t|cannot|can not|unable to|not able to|won['’]t)\s[^\n]{0,40}"
    r"\b(?:help|assist|write|create|continue|provide|comply|fulfil|fulfill|generate|produce|do that|request)\b"
    r"|\s*I (?:can['’]t|cannot|can not|am unable to|am not able to|won['’]t) "
    r"(?:help|assist|write|create|continue|provide|comply|fulfil|fulfill|generate|produce)\b"
    r"|\s*As an AI\b[^\n]{0,80}\b(?:can['’]t|cannot|unable to|not able to)\b"
    r"|\s*(?:非常|很|十分)?(?:抱歉|对不起)[^\n]{0,20}(?:无法|不能|没办法)"
    r"|\s*作为(?:一个|一名)?(?:AI|人工智能)[^\n]{0,30}(?:无法|不能)",
    re.IGNORECASE,
)


def without_label(text: str, number: int, *, known: str) -> str:
    """A section without the label of the plan before it: `Paragraph 3:`, `**Section 3** -`, `### 第三段：`.

    Args:
        text: The section, without white space at its ends.
        number: Its own, from 1: a label with another number may be text.
        known: The request and the section's title: a label that stands there belongs to the text.

    Returns:
        The section; a heading or emphasis that holds more than the label stays.
    """
    match = next(filter(None, (pattern.match(text) for pattern in _LABELLED)), None)
    if match is None or _number(match) != number or match["label"].casefold() in known.casefold():
        return text
    rest = text[match.end():].lstrip(" \t")
    if rest[:1] in ("", "\n"):
        return rest.lstrip()
    return (match["heading"] or "") + match.groupdict().get("open", "") + rest


def _number(match: re.Match[str]) -> int | None:
    digits = match["number"] or match["ordinal"] or match["cardinal"]
    return int(digits) if digits.isdecimal() else chinese_number(digits)


def is_refusal(text: str) -> bool:
    """Does the model say that it will not write the section? Only a short text that begins so; speech in quotation
    marks never does.
    """
    return _REFUSAL.match(text) is not None and count_words(text) <= REFUSAL_WORDS


def repeats_a_line(text: str, instructions: str, *, known: str) -> bool:
    """Does a section repeat a line of what the model was told?

    Args:
        text: The section.
        instructions: Lines of fewer than 12 characters may be there by chance.
        known: What may stand in the text all the same, behind a number or not: the request, the titles of the plan,
            what was written before.
    """
    lines = (line.strip() for line in instructions.split("\n"))
    return any(line in text for line in lines
               if len(line) >= LEAST_LINE and line not in known and _NUMBER_BEFORE.sub("", line) not in known)


def lists_titles(text: str, titles: Sequence[str]) -> bool:
    """Do two lines of a section, numbered or marked as headings or not, hold titles of different sections of the plan,
    and nothing else? One is a heading.
    """
    wanted = {title.casefold() for title in titles}
    return len({_BEFORE_TITLE.sub("", line.strip()).rstrip("*_").casefold() for line in text.split("\n")} & wanted) > 1
