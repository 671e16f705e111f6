"""Does a text speak of the points it was asked to cover?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from lpo.errors import DataError
from lpo.records import Judgement, Prompt
from lpo.reward.base import Draft, Unscored

COVER = "cover"
"""Where a prompt keeps its points: `meta["cover"]`, a list of texts."""

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+")
_FUNCTION_WORDS = frozenset(re.findall(
    r"\w+", "a an and are as at be by for from has have how in into is it its of on or our so some than that the their "
    "there they this to was were what when where which who why will with you your"))


def coverage(points: Sequence[str], text: str) -> float:
    """Share of points that a text speaks of: those whose content words all stand in it, in any order.

    Words are compared without regard to case and to a plural's `s`. Articles, prepositions and the like are no content
    words; a point of nothing else asks for all of its words. This is about mention: what is said is not read.

    Args:
        points: At least one, each with a word in it.
        text: Any text.

    Returns:
        0 to 1.

    Raises:
        ValueError: There is no point, or one without words.
    """
    wanted = [_content(point) for point in points]
    if not wanted or not all(wanted):
        raise ValueError(f"points need words, got {list(points)}")
    words = _words(text)
    return sum(point <= words for point in wanted) / len(wanted)


def points_of(prompt: Prompt) -> tuple[str, ...]:
    """The points a prompt asks to be covered; none where its `meta` has no `cover`.

    Raises:
        DataError: They are no list of texts with words in them.
    """
    given: Any = prompt.meta.get(COVER)
    if given is None:
        return ()
    points = cast("Sequence[object]", given) if isinstance(given, (list, tuple)) else ()
    if not points or not all(isinstance(point, str) and _words(point) for point in points):
        raise DataError(f"{COVER!r} must be a list of texts, at least one, with a word in each",
                        where=f"prompt {prompt.id}", mend=f"give the points as texts, or leave {COVER!r} out")
    return tuple(cast("Sequence[str]", points))


class CoverageScorer:
    """Share of the prompt's points (`meta["cover"]`) that the answer so far speaks of."""

    name = "coverage"

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts; one whose prompt names no points is unscored (`no_points`).

        Raises:
            DataError: The points are no list of texts.
        """
        return [self._score(draft) for draft in drafts]

    def _score(self, draft: Draft) -> Judgement:
        points = points_of(draft.prompt)
        if not points:
            return Judgement(scorer=self.name, unscored=Unscored.NO_POINTS)
        share = coverage(points, draft.so_far)
        return Judgement(scorer=self.name, overall=share, scores={"coverage": share}, parts={"points": len(points)})


def _words(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.casefold())}


def _content(point: str) -> set[str]:
    words = _WORD.findall(point.casefold())
    return {_stem(word) for word in words if word not in _FUNCTION_WORDS} or {_stem(word) for word in words}


def _stem(word: str) -> str:
    """Without a plural's `s`; short words and those in `ss` keep it."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
