"""How near a text comes to the length asked for."""

from __future__ import annotations

from collections.abc import Sequence

from lpo.records import Judgement
from lpo.reward.base import Draft, Unscored
from lpo.words import count_words


def length_score(*, required: int, written: int) -> float:
    """S_l of LongBench-Write (arXiv 2408.07055, section 3): 100 at the required length, 0 at 4 times or a third of it.

    Args:
        required: Words asked for, above 0.
        written: Words written; 0 words score 0.

    Returns:
        0 to 100.
    """
    if required <= 0:
        raise ValueError(f"the required length must be positive, got {required}")
    if written <= 0:
        return 0.0
    if written > required:
        return 100 * max(0.0, 1 - (written / required - 1) / 3)
    return 100 * max(0.0, 1 - (required / written - 1) / 2)


class LengthScorer:
    """S_l of the answer so far, against the length it should have by now, on 0–1."""

    name = "length"

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts; one whose prompt asks for no length is unscored (`no_target`)."""
        return [self._score(draft) for draft in drafts]

    def _score(self, draft: Draft) -> Judgement:
        if draft.required_words is None:
            return Judgement(scorer=self.name, unscored=Unscored.NO_TARGET)
        written = count_words(draft.so_far)
        score = length_score(required=draft.required_words, written=written) / 100
        return Judgement(scorer=self.name, overall=score, scores={"length": score},
                         parts={"required": draft.required_words, "written": written})
