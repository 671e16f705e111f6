"""LongDPO's released way with a judge that cannot be read. For comparison with it; nothing else should use this."""

from __future__ import annotations

from collections.abc import Sequence

from lpo.records import Judgement
from lpo.reward.base import Draft, Unscored, grade_to_unit
from lpo.reward.json_judge import JsonJudge

INVENTED_GRADE = 2.5
"""What the released code calls the grade of a candidate whose judge it could not read."""

_NOTHING_TO_READ = frozenset({Unscored.UNPARSABLE, Unscored.CUT, Unscored.EMPTY, Unscored.REFUSED})
"""To the released code these replies are all one: texts in which its parser finds nothing."""


class ReleasedJudge:
    """A JSON judge that invents a grade where the reply holds none, as LongDPO's released code does.

    Every invention is recorded: `parts` holds `invented` (the grade) and `because` (why the draft has no score by
    right), `scores` is empty, for no principle was graded. Replies in the right form whose weights mean nothing
    (`out_of_range`), requests the back end refuses and empty drafts stay unscored. What a readable reply says counts
    as the inner judge reads it: the released code stumbles over some of these too, and that is not imitated.

    Args:
        inner: Does the judging.
    """

    name = "json_judge_released"

    def __init__(self, inner: JsonJudge) -> None:
        self._inner = inner

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts as the inner judge does, and fill the gaps."""
        judgements = await self._inner.score(drafts)
        return [self._filled(draft, judgement) for draft, judgement in zip(drafts, judgements, strict=True)]

    def _filled(self, draft: Draft, judgement: Judgement) -> Judgement:
        if judgement.unscored not in _NOTHING_TO_READ or not draft.so_far.strip():
            return judgement.model_copy(update={"scorer": self.name})
        return Judgement(
            scorer=self.name,
            overall=grade_to_unit(INVENTED_GRADE),
            parts={**judgement.parts, "invented": INVENTED_GRADE, "because": judgement.unscored},
        )
