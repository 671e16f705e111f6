"""Segments of so many words at most, gathered from the blocks of a text."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lpo.segmentation.blocks import Block, BlockKind
from lpo.segmentation.sentences import indexable, sentence_ends

_CJK = "\u3005\u3007\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_MARKS = "\u2018-\u201f\u2026\u3001-\u3004\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_LONGEST = 32
_RUN = re.compile(rf"[{_CJK}]|[^\s{_CJK}{_CJK_MARKS}]{{1,{_LONGEST}}}")
_COUNTS = re.compile(r"\w")
_SPACE = re.compile(r"\s")
_IS_CJK = re.compile(rf"[{_CJK}{_CJK_MARKS}]")
_OPENERS = "“‘「『（《【〈([{"


class _Unit(NamedTuple):
    """A block with the headings before it."""

    start: int
    body: int
    """Where the block begins, behind its headings."""
    end: int
    whole: bool
    """May it not be cut?"""


class WordLimit:
    """Cuts a text so that no segment has more words than the limit, code fences and tables excepted.

    A word is a Chinese or Japanese character, or a run of other characters without white space, of 32 at most, that
    holds a letter or a digit.

    Args:
        text: The whole text.
        words: The limit.
    """

    def __init__(self, text: str, words: int) -> None:
        self._text = indexable(text)
        self._limit = words
        # Cuts fall on starts of words or in between, so the words of two parts add up to those of the whole.
        self._words = [match.start() for match in _RUN.finditer(self._text) if _COUNTS.search(match[0])]

    def count(self, start: int, end: int) -> int:
        """Words that begin in this part of the text."""
        return bisect_left(self._words, end) - bisect_left(self._words, start)

    def starts(self, blocks: Iterable[Block]) -> Iterator[int]:
        """Where segments of these neighbouring blocks begin: as many as the limit allows stay together."""
        gathered: int | None = None
        for unit in _units(blocks):
            words = self.count(unit.start, unit.end)
            if gathered is not None and gathered + words <= self._limit:
                gathered += words
                continue
            last = unit.start
            yield last
            if words > self._limit and not unit.whole:
                for last in self._cuts(unit):
                    yield last
            gathered = self.count(last, unit.end)

    def _cuts(self, unit: _Unit) -> Iterator[int]:
        """Where a unit of too many words is cut: sentence ends, else line ends, else between words."""
        ends = sentence_ends(self._text, unit.body, unit.end)
        at = bisect_left(self._words, unit.start)
        start, stop = unit.start, bisect_left(self._words, unit.end)
        while stop - at > self._limit:
            beyond = self._words[at + self._limit]
            number = bisect_right(ends, beyond) - 1
            place = ends[number] if number >= 0 else 0
            if place <= self._words[at]:
                place = self._text.rfind("\n", max(start, unit.body), beyond) + 1
            if place <= self._words[at]:
                place = self._between_words(at, at + self._limit)
            yield place
            start, at = place, bisect_left(self._words, place)

    def _between_words(self, first: int, beyond: int) -> int:
        """A place before word `beyond` and behind word `first`: at white space that is not far, or right there."""
        place = self._words[beyond]
        if not _IS_CJK.search(self._text, place - 1, place + 1):
            for word in range(beyond, max(first, beyond - _LONGEST), -1):
                before = _RUN.match(self._text, self._words[word - 1])
                assert before is not None
                space = _SPACE.search(self._text, before.end(), self._words[word])
                if space:
                    return space.start()
        while self._text[place - 1] in _OPENERS and place - 1 > self._words[beyond - 1]:
            place -= 1
        return place


def _units(blocks: Iterable[Block]) -> Iterator[_Unit]:
    start: int | None = None
    last: Block | None = None
    for last in blocks:
        if start is None:
            start = last.start
        if last.kind is not BlockKind.HEADING:
            yield _Unit(start, last.start, last.end, last.kind is not BlockKind.TEXT)
            start = None
    if start is not None and last is not None:
        yield _Unit(start, start, last.end, whole=False)
