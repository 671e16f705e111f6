"""What Self-Lengthen (QwenLM) asks of an extended text, and which of several texts it keeps: pure rules.

Where its English and its Chinese pipeline differ, a text is read as Chinese when most of its words are Chinese
characters. Two changes against the released code: quotation marks and brackets may follow the final full stop in both
languages, and punctuation (the rules of a table, say) is no word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

from lpo.words import is_chinese

ENGLISH_GRAM, CHINESE_GRAM = 10, 13
"""Words, and characters, that must not stand in a text twice in the same order."""

_FIRST_LINES, _LAST_LINES = 2, 3

_TERMINAL = re.compile(r"[.!?…。！？][\"'’”»)\]）】」』》*_]*\Z")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_CHINESE_UNIT = re.compile(r"[\u4e00-\u9fff]|[A-Za-z0-9]+")
_OF_ITSELF = re.compile(
    r"\b(?:revis(?:ed|ions?)|versions?|rewritten|drafts?)\b|修改后|扩写|改写|扩展后|版本|草稿|初稿", re.IGNORECASE)


class RoundOutcome(StrEnum):
    """What became of one round of lengthening."""

    ADOPTED = "adopted"
    NOT_LONGER = "not_longer"
    """It has no more words than the best text before it."""
    UNFINISHED = "unfinished"
    """It does not end with a sentence."""
    REPETITIVE = "repetitive"
    """A long run of words stands in it twice."""
    SPEAKS_OF_ITSELF = "speaks_of_itself"
    """Its first or last lines speak of a draft or a version."""
    ECHOES = "echoes"
    """It holds the mark that stood around the draft."""
    CUT = "cut"
    """It ran out of tokens."""
    EMPTY = "empty"
    REFUSED = "refused"
    REQUEST_REJECTED = "request_rejected"


def fault_of(text: str) -> RoundOutcome | None:
    """What is wrong with an extended text; None when nothing is."""
    if not text.strip():
        return RoundOutcome.EMPTY
    if not ends_with_sentence(text):
        return RoundOutcome.UNFINISHED
    if repeats_itself(text):
        return RoundOutcome.REPETITIVE
    return RoundOutcome.SPEAKS_OF_ITSELF if speaks_of_itself(text) else None


def ends_with_sentence(text: str) -> bool:
    """Does it end with a full stop, a question or an exclamation mark (ASCII or CJK), whatever closes after it?"""
    return _TERMINAL.search(text.rstrip()[-20:]) is not None


def repeats_itself(text: str) -> bool:
    """Does a run of 10 words, or of 13 characters of a Chinese text, stand in it twice?

    In a Chinese text a run of ASCII letters and digits counts as one character. Punctuation and case do not count.
    Overlapping runs count: one word 11 times is a repetition.
    """
    chinese = is_chinese(text)
    units = (_CHINESE_UNIT if chinese else _WORD).findall(text.casefold())
    size = CHINESE_GRAM if chinese else ENGLISH_GRAM
    grams = [tuple(units[start:start + size]) for start in range(len(units) - size + 1)]
    return len(set(grams)) < len(grams)


def speaks_of_itself(text: str) -> bool:
    """Do the first 2 or the last 3 lines that are not blank hold words such as `revised`, `version` or `draft`?"""
    lines = [line for line in text.split("\n") if line.strip()]
    return any(_OF_ITSELF.search(line) for line in (*lines[:_FIRST_LINES], *lines[-_LAST_LINES:]))


def first_part(text: str, numerator: int, denominator: int) -> str:
    """The first lines of a text, this share of those that are not blank, with the white space up to the next.

    Args:
        text: Of two lines or more; of one line there is no part.
        numerator: Of the share, which is below 1.
        denominator: Of the share.

    Returns:
        At least one line and at most all but one; empty for a text of a single line.
    """
    begin = len(text) - len(text.lstrip())
    ends = [match.end() for match in re.compile(r"\n\s*").finditer(text.rstrip(), begin)]
    if not ends:
        return ""
    lines = max(1, (len(ends) + 1) * numerator // denominator)
    return text[:ends[lines - 1]]


def length_biased_keep(word_counts: Sequence[int], *, seed_of: Callable[[int], float]) -> list[bool]:
    """Which texts to keep when longer ones are wanted: Self-Lengthen's drop step.

    In ascending order of length a text at position p of n (from 0; equal lengths in the order given) has r = 1 - p/n
    and is dropped with probability min(1, 2 r^3): about the shortest fifth always, so also a text that is alone. Of
    many texts 60 % are kept.

    Args:
        word_counts: Of each text.
        seed_of: A number in [0, 1) for the text of this index; the text is dropped when it is below the probability.

    Returns:
        For each text, in the order given.
    """
    count = len(word_counts)
    kept = [False] * count
    for position, index in enumerate(sorted(range(count), key=lambda index: (word_counts[index], index))):
        kept[index] = seed_of(index) >= min(1.0, 2 * (1 - position / count) ** 3)
    return kept
