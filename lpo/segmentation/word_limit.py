"""Segments of so many words at most, gathered from the blocks of a text."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lpo.segmentation.blocks import Block, BlockKind
from lpo.segmentation.sentences import indexable, last_sentence_end

CJK = "\u3005\u3007\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese and Japanese characters, as they stand inside the brackets of a regular expression."""

_CJK_MARKS = "\u2018-\u201f\u2026\u3001-\u3004\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_LONGEST = 32
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}][^\s{CJK}{_CJK_MARKS}]{{0,{_LONGEST - 1}}}")
_SPACE = re.compile(r"\s")
_IS_CJK = re.compile(rf"[{CJK}{_CJK_MARKS}]")
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

    A word is a Chinese or Japanese character, or a letter or digit with all that follows it up to white space or a
    character of those scripts, 32 characters at most.

    Args:
        text: The whole text.
        words: The limit.
    """

    def __init__(self, text: str, words: int) -> None:
        self._text = indexable(text)
        self._limit = words
        # Cuts fall on starts of words or in between, so the words of two parts add up to those of the whole.
        self._words = [match.start() for match in _WORD.finditer(self._text)]

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
        at = bisect_left(self._words, unit.start)
        stop = bisect_left(self._words, unit.end)
        while stop - at > self._limit:
            beyond = self._words[at + self._limit]
            body = max(self._words[at], unit.body)
            place = last_sentence_end(self._text, body, unit.end, beyond)
            if place is None:
                place = self._text.rfind("\n", body, beyond) + 1 or self._between_words(at, at + self._limit)
            yield place
            at = bisect_left(self._words, place)

    def _between_words(self, first: int, beyond: int) -> int:
        """A place before word `beyond` and behind word `first`: at white space that is not far, or right there."""
        place = self._words[beyond]
        if not _IS_CJK.search(self._text, place - 1, place + 1):
            for word in range(beyond, max(first, beyond - _LONGEST), -1):
                before = _WORD.match(self._text, self._words[word - 1])
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
