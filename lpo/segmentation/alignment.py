"""Aligning two versions of an answer, segment by segment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lpo.errors import DataError
from lpo.segmentation.splitting import split_segments
from lpo.segmentation.word_limit import CJK
from lpo.writing_config import SegmentsConfig

LEAST_SIMILARITY = 0.3
"""Segments less alike than this are not versions of each other: one was struck out, the other inserted."""

_MOST_CELLS = 16_000_000
"""Of the table of all pairs of segments; half a gigabyte."""

_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")


def align_texts(original: str, revised: str, config: SegmentsConfig) -> list[tuple[str, str]]:
    """Cut two versions of a text into segments and align them: see `split_segments` and `align`."""
    return align(split_segments(original, config), split_segments(revised, config))


def align(original: Sequence[str], revised: Sequence[str]) -> list[tuple[str, str]]:
    """Pair the segments of two versions of a text, in order.

    Needleman and Wunsch's dynamic programming (1970). As many equal segments as possible are paired; among such
    alignments the one with the largest sum of `similarity - LEAST_SIMILARITY` over its pairs is taken, so segments that
    are no more alike than that stay alone. Of a segment that was split, the larger part is its partner and the others
    are insertions; of segments that were merged, the larger is the partner and the others are deletions. A segment that
    was moved is a deletion and an insertion.

    Args:
        original: N segments; empty ones are left out.
        revised: M segments. Time and memory grow with N times M, without what is equal at both ends.

    Returns:
        Pairs (original, revised), "" where a segment has no partner, deletions before insertions. The first entries
        joined are the original, the second ones the revised text.

    Raises:
        DataError: N times M, without what is equal at both ends, is more than 16 million.
    """
    original, revised = ([text for text in texts if text] for texts in (original, revised))
    head = _equal(original, revised)
    tail = _equal(original[head:][::-1], revised[head:][::-1])
    middle = _align(original[head:len(original) - tail], revised[head:len(revised) - tail])
    return [*zip(original[:head], revised[:head], strict=True), *middle,
            *zip(original[len(original) - tail:], revised[len(revised) - tail:], strict=True)]


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    """How many segments both begin with."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _align(original: Sequence[str], revised: Sequence[str]) -> list[tuple[str, str]]:
    if not original or not revised:
        return [*((text, "") for text in original), *(("", text) for text in revised)]
    if len(original) * len(revised) > _MOST_CELLS:
        raise DataError(f"{len(original)} and {len(revised)} segments are too many to align",
                        mend="cut the texts into longer segments (segments.by, segments.max_words)")
    gains = similarities(original, revised) - LEAST_SIMILARITY
    # No number of merely similar pairs outweighs one of equal segments.
    gains += (min(len(original), len(revised)) + 1.0) * _are_equal(original, revised)
    n, m = gains.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n - 1, -1, -1):
        paired = np.maximum(best[i + 1, :-1], gains[i] + best[i + 1, 1:])
        best[i, :-1] = np.maximum.accumulate(paired[::-1])[::-1]
    pairs: list[tuple[str, str]] = []
    inserted: list[str] = []
    i = j = 0
    while i < n and j < m:
        if gains[i, j] > 0 and best[i, j] == gains[i, j] + best[i + 1, j + 1]:
            pairs += [*(("", text) for text in inserted), (original[i], revised[j])]
            inserted = []
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            pairs.append((original[i], ""))
            i += 1
        else:
            inserted.append(revised[j])
            j += 1
    pairs += [(text, "") for text in original[i:]]
    return [*pairs, *(("", text) for text in [*inserted, *revised[j:]])]


def _are_equal(original: Sequence[str], revised: Sequence[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    mine, theirs = ([numbers.setdefault(text, len(numbers)) for text in texts] for texts in (original, revised))
    return np.equal.outer(np.array(mine), np.array(theirs))


def similarities(original: Sequence[str], revised: Sequence[str]) -> np.ndarray:
    """How alike segments are: Dice's coefficient of their words and pairs of neighbouring words, as multisets.

    Words are folded to lower case; a Chinese or Japanese character is a word, and so is a punctuation mark.

    Args:
        original: N segments.
        revised: M segments.

    Returns:
        N x M numbers of 0-1: 1 for the same words, 0 for none in common.
    """
    columns: dict[tuple[object, int], int] = {}
    mine, theirs = (_rows(texts, columns) for texts in (original, revised))
    width = max(len(columns), 1)
    matrices = [csr_array((np.ones(len(side.columns)), side.columns, side.ends), shape=(len(side.ends) - 1, width))
                for side in (mine, theirs)]
    overlap = (matrices[0] @ matrices[1].T).toarray()
    return 2 * overlap / np.maximum(np.add.outer(np.diff(mine.ends), np.diff(theirs.ends)), 1)


class _Rows(NamedTuple):
    """Which features texts have: those of text i are `columns[ends[i]:ends[i + 1]]`."""

    columns: list[int]
    ends: list[int]


def _rows(texts: Sequence[str], columns: dict[tuple[object, int], int]) -> _Rows:
    """The k-th occurrence of a feature is a feature of its own, so that the overlap of multisets is that of sets."""
    rows = _Rows([], [0])
    for text in texts:
        tokens = _TOKEN.findall(text.lower())
        for counts in (Counter(tokens), Counter(pairwise(tokens))):
            rows.columns.extend(columns.setdefault((feature, occurrence), len(columns))
                                for feature, count in counts.items() for occurrence in range(count))
        rows.ends.append(len(rows.columns))
    return rows
