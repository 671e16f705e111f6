"""Means with 95 % bootstrap intervals, and paired differences. Unscored values are counted and never become numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lpo.errors import UnsoundError

LEVEL = 0.95
FEWEST = 6
"""Independent values an interval needs. Resampling never reaches beyond the smallest and the largest value, and n
values drawn around a mean lie all on one side of it with probability 2^(1-n): below 6 that is more than 5 %."""
_CELLS = 2_000_000
"""Numbers held at once while resampling."""


@dataclass(frozen=True)
class Interval:
    """A mean and how far it can be trusted.

    Args:
        mean: Mean of the scored values; None when there is none.
        low: Lower end of the 95 % interval; None when there are too few independent values to tell (fewer than 6).
        high: Upper end, likewise.
        n: How many values were scored.
        unscored: How many were not.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int

    def to_json(self) -> dict[str, Any]:
        """The interval as plain JSON values."""
        return asdict(self)


def bootstrap_mean(
    values: Sequence[float | None], *, seed: int, resamples: int, groups: Sequence[str] | None = None
) -> Interval:
    """Mean with a 95 % bootstrap interval: bias-corrected and accelerated (BCa), widened for small samples.

    What is resampled are the values or, where several belong together, whole groups: pairs of one document are not
    independent, and an interval that took them for so would be too narrow. Resampling n values understates their
    spread, so the nominal level is raised until the interval is as wide as Student's t makes it for normal values
    (with 8 values this covers the true mean 94 times in 100, not 89 times). Where all values are equal the bootstrap
    sees no spread: both ends are then the mean.

    Args:
        values: One per prompt or pair; None is unscored.
        seed: Seed of the resampling; the same seed gives the same interval.
        resamples: How many resamples.
        groups: Which group each value belongs to; by default every value stands alone.

    Source:
        Efron, "Better bootstrap confidence intervals" (1987), computed by `scipy.stats.bootstrap`; the widening is
        that of the "expanded percentile interval" in Hesterberg, "What teachers should know about the bootstrap"
        (2015).
    """
    names = groups if groups is not None else [str(index) for index in range(len(values))]
    scored = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
    unscored = len(values) - len(scored)
    if not scored:
        return Interval(None, None, None, 0, unscored)
    sums, counts = _by_group(scored)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < FEWEST:
        return Interval(mean, None, None, len(scored), unscored)
    low, high = _bca(sums, counts, mean, seed=seed, resamples=resamples)
    return Interval(mean, low, high, len(scored), unscored)


def paired_difference(
    base: Mapping[str, float | None], trained: Mapping[str, float | None], *, seed: int, resamples: int
) -> Interval:
    """Mean of (trained - base) over prompts, with its interval. A prompt that either side left unscored is unscored.

    Args:
        base: Prompt id -> value of the base model.
        trained: Prompt id -> value of the trained model.
        seed: Seed of the resampling.
        resamples: How many resamples.

    Raises:
        UnsoundError: The two sides are not about the same prompts.
    """
    if base.keys() != trained.keys():
        odd = sorted(base.keys() ^ trained.keys())
        raise UnsoundError(f"base and trained answered different prompts ({len(odd)} stand on one side only)",
                           where=f"prompt {odd[0]!r}", mend="evaluate both models on the same prompts again")
    differences: list[float | None] = []
    for name, before in base.items():
        after = trained[name]
        differences.append(None if before is None or after is None else after - before)
    return bootstrap_mean(differences, seed=seed, resamples=resamples)


def _by_group(scored: Sequence[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of each group's values, groups in order of appearance."""
    places: dict[str, int] = {}
    index = [places.setdefault(name, len(places)) for name, _ in scored]
    return np.bincount(index, weights=[value for _, value in scored]), np.bincount(index).astype(float)


def widened_level(n: int) -> float:
    """The nominal level at which the bootstrap interval of n values is really a 95 % one."""
    from scipy.stats import norm, t

    tail = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + LEVEL) / 2, n - 1))
    return float(1 - 2 * tail)


def _bca(sums: np.ndarray, counts: np.ndarray, mean: float, *, seed: int, resamples: int) -> tuple[float, float]:
    """BCa interval of sum(sums) / sum(counts), resampling groups."""
    if np.ptp(sums / counts) < 1e-12 * max(1.0, abs(mean)):
        return mean, mean
    from scipy.stats import bootstrap

    def ratio(sums_RG: np.ndarray, counts_RG: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums_RG.sum(axis=axis) / counts_RG.sum(axis=axis)

    interval = bootstrap(
        (sums, counts), ratio, paired=True, vectorized=True, confidence_level=widened_level(len(sums)),
        n_resamples=resamples, batch=max(1, _CELLS // len(sums)), method="BCa", rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
