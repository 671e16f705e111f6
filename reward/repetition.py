"""How much a text repeats itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lpo.records import Judgement
from lpo.reward.base import Draft

_UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")


def units(text: str) -> list[str]:
    """What n-grams are made of: words in lower case, Han script by characters."""
    return _UNIT.findall(text.lower())


def repeated_ngram_share(text: str, n: int = 4) -> float:
    """Share of n-grams that already occurred earlier in the text.

    Args:
        text: Any text; case and punctuation do not matter.
        n: Length of an n-gram in words (Han script: characters).

    Returns:
        0 (nothing repeats) to almost 1; 0 for a text shorter than n.
    """
    words = units(text)
    ngrams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


class RepetitionScorer:
    """One minus the share of repeated n-grams of the answer so far."""

    name = "repetition"

    def __init__(self, n: int = 4) -> None:
        self.n = n

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts."""
        return [self._score(draft) for draft in drafts]

    def _score(self, draft: Draft) -> Judgement:
        share = repeated_ngram_share(draft.so_far, self.n)
        return Judgement(scorer=self.name, overall=1 - share, scores={"repetition": 1 - share},
                         parts={"repeated_ngram_share": share, "n": self.n})
