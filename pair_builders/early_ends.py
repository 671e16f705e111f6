"""Candidates that end earlier than they were written: for policies that hardly ever end by themselves.

A base model runs on to its token budget, so none of its candidates shows where the answer should end. The same text,
ended at the sentence that comes nearest to the length asked for, does. No call is made for it. Only a candidate that
runs past that length has such an end: ends offered before it would be the worst siblings by far, and pairs of them
would teach nothing but to go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lpo.pair_builders.pairs import live, set_aside
from lpo.records import Origin, SearchNode
from lpo.reward import length_score
from lpo.segmentation.sentences import indexable, last_sentence_end
from lpo.words import count_words

_LINE_END = re.compile(r"(?<=\S)[ \t]*\n")


def ended_early(text: str, before: str, target_words: int | None) -> str | None:
    """The text up to the sentence or line end where the answer has the best S_l, before its own end.

    Args:
        text: A step or a whole answer.
        before: The answer before it.
        target_words: Words asked for; None: nobody asked for a length.

    Returns:
        Without white space at its end. None if the text has no such place or does not go past the length asked for, or
        if none is asked for.
    """
    begun = count_words(before)
    if target_words is None or begun + count_words(text) <= target_words:
        return None
    beginnings = [text[:place].rstrip() for place in sorted(set(_places(text)))]
    shorter = [beginning for beginning in beginnings if beginning.strip() and len(beginning) < len(text.rstrip())]
    return max(shorter, default=None, key=lambda beginning: length_score(
        required=target_words, written=begun + count_words(beginning)))


def with_early_ends(nodes: Sequence[SearchNode], before: str, target_words: int | None) -> list[SearchNode]:
    """The candidates of a layer, and each that is too long once more, ended early (`0.2s` is made from `0.2`).

    Args:
        nodes: Siblings.
        before: The answer before them.
        target_words: As above.
    """
    ended = [node.model_copy(update={"id": f"{node.id}s", "text": text, "ends": True, "tokens": None,
                                     "mean_logprob": None, "prior": None, "origin": Origin.ENDED})
             for node in live(nodes) if (text := ended_early(node.text, before, target_words)) is not None]
    return set_aside([*nodes, *ended])


def _places(text: str) -> Iterator[int]:
    """Ends of lines and of sentences, in no order."""
    yield from (match.end() for match in _LINE_END.finditer(text))
    safe, last = indexable(text), len(text)
    while (place := last_sentence_end(safe, 0, len(safe), last)) is not None:
        yield place
        last = place - 1
