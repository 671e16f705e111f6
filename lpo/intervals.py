"""Means with 95 % bootstrap intervals, and paired differences. Unscored values are counted and never become numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
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
    _same_prompts(base, trained)
    differences: list[float | None] = []
    for name, before in base.items():
        after = trained[name]
        differences.append(None if before is None or after is None else after - before)
    return bootstrap_mean(differences, seed=seed, resamples=resamples)


Ratios = tuple[tuple[float, float], ...]
"""What one prompt adds to a score that is a product of ratios: for each factor what it adds above and below the line.
A mean is one factor, with 1 below the line."""


def bootstrap_ratios(values: Sequence[Ratios | None], *, seed: int, resamples: int) -> Interval:
    """A product of ratios of sums over prompts, such as CR x STIC-2, with its interval as in `bootstrap_mean`.

    Args:
        values: One per prompt, all with as many factors; None is unscored.
        seed: Seed of the resampling.
        resamples: How many resamples.

    Returns:
        The score as `mean`; None there where nothing was scored, or a sum below the line is 0.
    """
    if _are_means(values):
        return bootstrap_mean([_above(value) for value in values], seed=seed, resamples=resamples)
    scored = [value for value in values if value is not None]
    return _ratio_interval(np.array(scored, dtype=float), _product, len(values) - len(scored), seed=seed,
                           resamples=resamples)


def paired_ratios(base: Mapping[str, Ratios | None], trained: Mapping[str, Ratios | None], *, seed: int,
                  resamples: int) -> Interval:
    """The score of trained minus that of base, prompts resampled together. As `paired_difference` for means.

    Args:
        base: Prompt id -> what it adds to the base model's score.
        trained: The same of the trained model.
        seed: Seed of the resampling.
        resamples: How many resamples.

    Raises:
        UnsoundError: The two sides are not about the same prompts.
    """
    if _are_means([*base.values(), *trained.values()]):
        means = ({name: _above(value) for name, value in side.items()} for side in (base, trained))
        return paired_difference(*means, seed=seed, resamples=resamples)
    _same_prompts(base, trained)
    both = [(before, trained[name]) for name, before in base.items()]
    scored = [(before, after) for before, after in both if before is not None and after is not None]
    return _ratio_interval(np.array(scored, dtype=float), _difference, len(both) - len(scored), seed=seed,
                           resamples=resamples)


def paired_p_value(base: Mapping[str, Ratios | None], trained: Mapping[str, Ratios | None], *, seed: int,
                   resamples: int) -> float | None:
    """Paired permutation test: how often a difference at least as large arises when sides are swapped at random.

    Under the hypothesis that both models do equally well on every prompt, each prompt's two sides could as well have
    come the other way round. Two-sided; all 2^n swaps are tried where they are no more than `resamples`, else
    as many random ones, the observed one counted among them.

    Args:
        base: Prompt id -> what it adds to the base model's score.
        trained: The same of the trained model.
        seed: Seed of the swaps.
        resamples: How many swaps are tried, at most.

    Returns:
        The p-value; None when no prompt is scored on both sides, or a sum below the line is 0.

    Raises:
        UnsoundError: The two sides are not about the same prompts.
    """
    _same_prompts(base, trained)
    pairs = [(before, trained[name]) for name, before in base.items()
             if before is not None and trained[name] is not None]
    if not pairs:
        return None
    sides_N2F2 = np.array(pairs, dtype=float)
    n = len(sides_N2F2)
    observed = float(_difference(sides_N2F2.sum(axis=0)))
    if not math.isfinite(observed):
        return None
    exact = 2**n <= resamples
    swapped_RN = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 if exact \
        else np.random.default_rng(seed).integers(0, 2, (resamples, n))
    kept, other = sides_N2F2.reshape(n, 2, -1)[:, 0], sides_N2F2.reshape(n, 2, -1)[:, 1]
    base_R = kept.sum(axis=0) + swapped_RN @ (other - kept)
    trained_R = other.sum(axis=0) - swapped_RN @ (other - kept)
    sums_R2F2 = np.stack([base_R, trained_R], axis=1).reshape(len(swapped_RN), *sides_N2F2.shape[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        found_R = _difference(sums_R2F2)
    extreme = int(np.sum(np.abs(found_R) >= abs(observed) * (1 - 1e-9) - 1e-12))
    return extreme / len(found_R) if exact else (extreme + 1) / (len(found_R) + 1)


def _are_means(values: Sequence[Ratios | None]) -> bool:
    """Has each scored value one factor with 1 below the line?"""
    return all(len(value) == 1 and value[0][1] == 1.0 for value in values if value is not None)


def _above(value: Ratios | None) -> float | None:
    """What a value of a mean is."""
    return None if value is None else value[0][0]


def _product(sums_F2: np.ndarray) -> np.ndarray:
    """`[..., F, 2]` sums above and below the line -> `[...]` product of the F ratios."""
    return (sums_F2[..., 0] / sums_F2[..., 1]).prod(axis=-1)


def _difference(sums_2F2: np.ndarray) -> np.ndarray:
    """`[..., 2, F, 2]` sums of base and trained -> `[...]` trained minus base."""
    scores_2 = _product(sums_2F2)
    return scores_2[..., 1] - scores_2[..., 0]


def _ratio_interval(values_N: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], unscored: int, *, seed: int,
                    resamples: int) -> Interval:
    """BCa interval of a statistic of sums over prompts; `values_N` is `[N, ...]`."""
    n = len(values_N)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = float(statistic(values_N.sum(axis=0))) if n else math.nan
        if not math.isfinite(mean):
            return Interval(None, None, None, n, unscored)
        if n < FEWEST:
            return Interval(mean, None, None, n, unscored)
        if np.ptp(values_N, axis=0).max() < 1e-12:
            return Interval(mean, mean, mean, n, unscored)
        from scipy.stats import DegenerateDataWarning, bootstrap

        def of_resample(index: np.ndarray, axis: int = -1) -> np.ndarray:
            drawn = values_N[np.moveaxis(index, axis, 0).astype(int)].sum(axis=0)
            found = statistic(drawn)
            return np.where(np.isfinite(found), found, mean)  # nothing below the line in this resample: no news

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateDataWarning)  # every resample gives the same value: told below
            interval = bootstrap(
                (np.arange(n),), of_resample, vectorized=True, confidence_level=widened_level(n), method="BCa",
                n_resamples=resamples, batch=max(1, _CELLS // values_N.size), rng=np.random.default_rng(seed),
            ).confidence_interval
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Interval(mean, mean, mean, n, unscored)
    return Interval(mean, float(interval.low), float(interval.high), n, unscored)


def _same_prompts(base: Mapping[str, object], trained: Mapping[str, object]) -> None:
    if base.keys() != trained.keys():
        odd = sorted(base.keys() ^ trained.keys())
        raise UnsoundError(f"base and trained answered different prompts ({len(odd)} stand on one side only)",
                           where=f"prompt {odd[0]!r}", mend="evaluate both models on the same prompts again")


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
