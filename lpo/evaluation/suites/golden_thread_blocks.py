r"""Cutting an answer into its blocks, whatever the answer is: "Week 1 … #*# Week 2 … #*#".

A block begins with its heading. A heading is the task's word and a number, such as `Week 12`, where a line begins or
right after a mark `#*#`, perhaps behind signs (`##`, `**`, `-`, `3.`, a bracket). What follows the number tells a
heading from a sentence: nothing, or `:`, `.`, a dash, a bracket or another sign. Anything may follow behind `#` or a
mark, at the very beginning, in a line that is bold as a whole or ends with a colon, and in a short one that stands
alone and X

A block ends with a mark after its first words, with the next heading, or with the answer. What stands before the first
heading or between a mark and a heading is no block, nor is one with a number that nobody asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNS = r"[ \t>*_~`#|•·–—=\[(“\"\\-]{0,40}"
"""Before a heading; not more of them, so that a line of nothing else is read in one pass."""
_MARK = re.compile(r"#\\?\*#")
_FOLLOWS = re.compile(r"[ \t]*(?:$|[:：.()\[\]|*_=~>#\\–—\"”]|-(?![^\W\d_]))")
"""What may follow the number of a heading. A hyphen right before a letter joins words: "Week 7-long"."""
_AMID = re.compile(r"(?:,|\b(?:a|an|after|and|around|as|at|before|but|by|during|for|from|in|into|like|of|on|or|over|"
                   r"since|than|that|the|through|till|to|until|with))[ \t]*$", re.IGNORECASE)
"""How a line ends whose sentence goes on."""
_WORD_END = 20
"""Characters at the end of a line in which its last word is looked for."""
_BLANK = re.compile(r"[ \t\r]*(?:$|\n[ \t\r]*(?:$|\n))")
_WORD = re.compile(r"[^\W_]")
_SEEN = 400
"""Characters before and after a heading that are looked at."""
_TITLE = 80
"""Characters of a title behind the number, at most."""


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer.

    Args:
        number: Of its heading; None before the first heading and after a mark.
        text: With the heading, marks and white space.
        has_words: Does anything stand in it beside heading, marks and signs?
    """

    number: int | None
    text: str
    has_words: bool


def split_pieces(text: str, heading: str) -> list[Piece]:
    """Cut an answer at headings and marks; the pieces joined are the answer.

    Args:
        text: Any text.
        heading: The word before the number; upper and lower case are the same.
    """
    found = [_Heading(None, 0, 0), *_headings(text, heading)]
    ends = [*(following.start for following in found[1:]), len(text)]
    return [piece for here, end in zip(found, ends, strict=True) for piece in _cut(text, here, end) if piece.text]


def blocks(pieces: list[Piece], units: int) -> dict[int, str]:
    """The blocks of a task that are there: number -> text without marks, in the order of the numbers.

    A block counts once. Of several with one number it is the longest, the first of equals: neither an outline before
    the text nor a look back behind it takes its place. One without words is not there.

    Args:
        pieces: As `split_pieces` gives them.
        units: How many blocks were to be written.
    """
    found: dict[int, str] = {}
    for piece in pieces:
        if piece.has_words and piece.number is not None and 1 <= piece.number <= units:
            text = _MARK.sub("", piece.text).strip()
            if len(text) > len(found.get(piece.number, "")):
                found[piece.number] = text
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Heading:
    number: int | None
    start: int
    end: int
    """Behind the number."""


def _headings(text: str, word: str) -> Iterator[_Heading]:
    pattern = re.compile(
        rf"(?:^|(?P<mark>#\\?\*#))(?P<signs>{_SIGNS}(?:[0-9]{{1,4}}[.)]{_SIGNS})?){re.escape(word)}"
        r"[ \t]{0,4}(?:#|№|No\.?)?[ \t]{0,4}(?P<number>[0-9]{1,9})(?![^\W_]|\.[0-9])",
        re.IGNORECASE | re.MULTILINE)
    for match in pattern.finditer(text):
        # The mark before a heading in the same line ends the block before.
        start = match.end("mark") if match["mark"] else match.start()
        if match["mark"] or "#" in match["signs"] or _is_title(text, start, match.end(), match["signs"].strip()):
            yield _Heading(int(match["number"]), start, match.end())


def _is_title(text: str, start: int, end: int, signs: str) -> bool:
    """Is a line that begins with signs, word and number (from `start` to `end`) a heading?"""
    tail = text[end:end + _SEEN].partition("\n")[0].rstrip()
    seen = text[max(0, start - _SEEN):start]
    before = seen.rstrip()
    if not before or before.endswith(("#*#", "#\\*#")):
        return True
    stands_apart = seen.count("\n", len(before)) > 1
    if not signs and not stands_apart and _AMID.search(before[-_WORD_END:]):
        return False
    if _FOLLOWS.match(tail) or tail.endswith(":") or any(
            sign in signs and tail.endswith(sign) for sign in ("**", "__")):
        return True
    return stands_apart and len(tail) <= _TITLE and not tail.endswith((".", "!", "?", "…", ",", ";")) \
        and _BLANK.match(text, end + len(tail)) is not None


def _cut(text: str, heading: _Heading, end: int) -> Iterator[Piece]:
    """From a heading to the next one: the block up to its mark, and what follows it."""
    word = _WORD.search(text, heading.end, end)
    mark = _MARK.search(text, word.end(), end) if word and heading.number is not None else None
    stop = mark.end() if mark else end
    yield Piece(heading.number, text[heading.start:stop], word is not None)
    yield Piece(None, text[stop:end], _WORD.search(text, stop, end) is not None)
