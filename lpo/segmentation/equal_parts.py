"""Cutting a text into parts of about as many words each, where a reader would pause."""

from __future__ import annotations

from itertools import pairwise

from lpo.segmentation.sentences import after_blank_lines, indexable, last_sentence_end
from lpo.words import word_starts

_STEP = 250
"""Characters by which the search for the next sentence end goes on."""
_REACH = 32
"""Characters before a word in which white space is looked for."""


def equal_parts(text: str, parts: int) -> list[str]:
    """Cut a text into parts of equal numbers of words, each cut moved to the nearest sentence end.

    A cut moves by less than half a part, so no part is empty. Where no sentence ends that near it moves to the nearest
    line end, and where there is none it falls between two words. A word is what `lpo.words.count_all_words` counts.

    Args:
        text: Any text of at least `4 * parts` words.
        parts: How many.

    Returns:
        As many parts as asked for, whose concatenation is the text.

    Raises:
        ValueError: The text has too few words.
    """
    starts = word_starts(text)
    if len(starts) < 4 * parts:
        raise ValueError(f"{len(starts)} words are too few for {parts} parts")
    readable, each = indexable(text), len(starts) / parts
    cuts = [_cut(readable, low=starts[round((k - 0.5) * each)], place=starts[round(k * each)],
                 high=starts[round((k + 0.5) * each)]) for k in range(1, parts)]
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def _cut(text: str, *, low: int, place: int, high: int) -> int:
    """The best cut in `low < cut < high`, near `place`."""
    ends = (last_sentence_end(text, low, len(text), place), _next_sentence_end(text, place, high))
    lines = (_line_end(text, text.rfind("\n", low, place)), _line_end(text, text.find("\n", place, high)))
    for candidates in (ends, lines):
        near = [cut for cut in candidates if cut is not None and low < cut < high]
        if near:
            return min(near, key=lambda cut: abs(cut - place))
    before = text[max(low, place - _REACH):place]
    return place - len(before) + max((at + 1 for at, letter in enumerate(before) if letter.isspace()),
                                     default=len(before))


def _next_sentence_end(text: str, place: int, high: int) -> int | None:
    """The first sentence end behind `place`, at most `high`."""
    start = place
    while start < high:
        last = min(start + _STEP, high)
        found = last_sentence_end(text, start, len(text), last)
        if found is not None:
            while (earlier := last_sentence_end(text, start, len(text), found - 1)) is not None:
                found = earlier
            return found
        start = last
    return None


def _line_end(text: str, newline: int) -> int | None:
    return None if newline < 0 else after_blank_lines(text, newline + 1)
