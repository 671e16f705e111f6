"""Facts that share words with a chunk, ranked by BM25."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import bm25s

from lpo.retrieval.chunks import HAN

_UNIT = re.compile(rf"[{HAN}]|[^\W{HAN}]+")
_POOLS = 128


class BM25Retriever:
    """The `top_k` facts that BM25 ranks first; there is no threshold.

    Words are compared without case, Chinese and Japanese by characters. A word counts once however often the chunk
    has it. Facts that share no word with the chunk come last. Source: Robertson & Zaragoza 2009 in Lucene's variant
    (k1 = 1.5, b = 0.75), computed by bm25s (arXiv 2407.03618).

    Args:
        top_k: Facts to return, at most.
    """

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        # Siblings and their chunks are compared with one and the same pool.
        self._index = lru_cache(maxsize=_POOLS)(_index)

    def relevant(self, facts: Sequence[str], chunk: str) -> list[int]:
        """Rank facts by the words they share with a chunk; of equally ranked ones the earlier stands first."""
        scores = self._scores(tuple(facts), chunk)
        return sorted(range(len(facts)), key=lambda fact: (-scores[fact], fact))[:self._top_k]

    def _scores(self, facts: tuple[str, ...], chunk: str) -> Sequence[float]:
        index, vocabulary = self._index(facts)
        # Sorted, for sums in floating point depend on the order.
        asked = sorted({vocabulary[unit] for unit in _units(chunk) if unit in vocabulary})
        if index is None or not asked:
            return [0.0] * len(facts)
        return index.get_scores_from_ids(asked).tolist()


def _units(text: str) -> list[str]:
    return _UNIT.findall(text.casefold())


def _index(facts: tuple[str, ...]) -> tuple[bm25s.BM25 | None, dict[str, int]]:
    """The index of a pool and its vocabulary; no index where no fact has a word."""
    units = [_units(fact) for fact in facts]
    vocabulary = {unit: number for number, unit in enumerate(dict.fromkeys(chain.from_iterable(units)))}
    if not vocabulary:
        return None, vocabulary
    index = bm25s.BM25(method="lucene", dtype="float64")
    index.index(([[vocabulary[unit] for unit in one] for one in units], vocabulary), create_empty_token=False,
                show_progress=False)
    return index, vocabulary
