"""Cutting a text into pieces of so many words."""

from __future__ import annotations

import re
from itertools import pairwise

HAN = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese and Japanese characters, as they stand inside the brackets of a regular expression."""

_OPENERS = "“‘「『（《【〈"
_LONGEST = 32
_WORD = re.compile(rf"[{_OPENERS}]{{0,3}}(?:[{HAN}]|[^\s{HAN}{_OPENERS}]{{1,{_LONGEST}}})")
"""A Chinese or Japanese character, or a run of others without white space, with the quotation marks that open it. A
run is at most `_LONGEST` characters long, so that text without spaces makes no chunk without end."""

_COUNTS = re.compile(r"\w")


def split_into_chunks(text: str, words: int) -> list[str]:
    """Cut a text before every `words`-th word.

    A Chinese or Japanese character counts as a word, as does a run of others between spaces; punctuation by itself
    does not count and stays with the word before it.

    Args:
        text: Any text.
        words: Words of a chunk; the last one may have fewer.

    Returns:
        Chunks whose concatenation is the text, none of them empty.
    """
    starts = _word_starts(text)
    cuts = [0, *starts[words::words], len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if end > start]


def last_words(text: str, words: int) -> str:
    """The end of a text: at most its last `words` words, counted as `split_into_chunks` does.

    Of a text that is mostly white space it may be fewer: only so many characters are looked at as words may have.
    """
    end = text[-2 * _LONGEST * words:]
    starts = _word_starts(end)
    return end[starts[-words]:] if len(starts) > words else end


def _word_starts(text: str) -> list[int]:
    return [match.start() for match in _WORD.finditer(text) if _COUNTS.search(match[0])]
