"""How much longer the chosen sides of pairs are: what a model learns from them whatever else they teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lpo.intervals import Interval, bootstrap_mean
from lpo.records import PreferencePair
from lpo.words import count_words

RESAMPLES = 2_000


@dataclass(frozen=True)
class LengthGap:
    """Words of the chosen side minus words of the rejected one.

    Args:
        differences: One per pair.
        interval: Their mean and its 95 % interval; pairs of one prompt are resampled together.
        longer: Share of pairs whose chosen side is the longer one.
    """

    differences: tuple[int, ...]
    interval: Interval
    longer: float

    @property
    def mean(self) -> float:
        """Words by which the chosen side is longer, on average."""
        assert self.interval.mean is not None
        return self.interval.mean

    @property
    def systematic(self) -> bool:
        """Does the interval leave out zero?"""
        low, high = self.interval.low, self.interval.high
        return low is not None and high is not None and not low <= 0 <= high

    @property
    def bracket(self) -> str:
        """`+48 words [+12, +84]`, or the mean alone where there is no interval."""
        low, high = self.interval.low, self.interval.high
        ends = f" [{_signed(low)}, {_signed(high)}]" if low is not None and high is not None else ""
        return f"{_signed(self.mean)} word{'' if abs(round(self.mean)) == 1 else 's'}{ends}"


def _signed(words: float) -> str:
    return f"{round(words):+,}".replace("-", "−") if round(words) else "0"


def length_gap(pairs: Sequence[PreferencePair], *, seed: int = 0, resamples: int = RESAMPLES) -> LengthGap | None:
    """The gap over all pairs, or None when there are none.

    Args:
        pairs: Of the run.
        seed: Of the resampling.
        resamples: How many.
    """
    if not pairs:
        return None
    differences = tuple(count_words(pair.chosen) - count_words(pair.rejected) for pair in pairs)
    interval = bootstrap_mean([float(difference) for difference in differences], seed=seed, resamples=resamples,
                              groups=[pair.group for pair in pairs])
    return LengthGap(differences, interval, sum(difference > 0 for difference in differences) / len(differences))
