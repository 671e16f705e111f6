"""Length-debiased comparison of siblings: what an answer gained by being longer is taken off its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median_low

from lpo.records import SearchNode
from lpo.words import count_words


def debiased(siblings: Sequence[SearchNode], penalty: float) -> list[SearchNode]:
    """The siblings as they compare when length is priced: `score - penalty * log2(words / median words)`.

    The score and, where paths went through, the back-propagated value are lowered for siblings longer than the median
    and raised for shorter ones. A doubling costs `penalty` wherever it happens: the median sets the level of the
    scores and has no part in their differences. Words are those of the sibling's own text (`count_words`); none count
    as one.

    Args:
        siblings: Those that are compared, with or without a score.
        penalty: Points of the score (0–1) that a doubling of its words costs a sibling; 0 changes nothing.

    Returns:
        Copies whose scores may lie outside 0–1: they are for ranking and for nothing else.
    """
    if not penalty or not siblings:
        return list(siblings)
    words = [max(1, count_words(node.text)) for node in siblings]
    middle = median_low(words)
    return [_lowered(node, penalty * math.log2(count / middle)) for node, count in zip(siblings, words, strict=True)]


def _lowered(node: SearchNode, by: float) -> SearchNode:
    changes: dict[str, object] = {}
    if node.value is not None:
        changes["value"] = node.value - by
    if node.judgement is not None and node.judgement.overall is not None:
        changes["judgement"] = node.judgement.model_copy(update={"overall": node.judgement.overall - by})
    return node.model_copy(update=changes)
