import math
import random
import warnings

import numpy as np
import pytest
from scipy import stats

from lpo.errors import UnsoundError
from lpo.evaluation import Interval, bootstrap_mean, paired_difference
from lpo.intervals import widened_level


def efron_bca(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """Efron's formula for the mean, written out: an oracle that shares no code with the library."""
    means = np.random.default_rng(seed).choice(values, (resamples, len(values))).mean(axis=1)
    bias = stats.norm.ppf((np.sum(means < values.mean()) + np.sum(means <= values.mean())) / (2 * resamples))
    deviations = values.mean() - values
    acceleration = -np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5)
    ends = []
    n = len(values)
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))  # Hesterberg's widening
    for share in (tail, 1 - tail):
        z = bias + stats.norm.ppf(share)
        ends.append(np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z))))
    return float(ends[0]), float(ends[1])


@pytest.mark.parametrize("draw", ["normal", "lognormal", "bernoulli"])
def test_interval_agrees_with_efrons_formula_written_out(draw: str) -> None:
    rng = np.random.default_rng(3)
    values = {"normal": rng.normal(50, 10, 60), "lognormal": rng.lognormal(0, 1, 60),
              "bernoulli": (rng.random(60) < 0.2).astype(float)}[draw]
    interval = bootstrap_mean(values.tolist(), seed=1, resamples=20_000)
    low, high = efron_bca(values, seed=2, resamples=20_000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low is not None and interval.high is not None
    tolerance = 0.05 * (high - low)  # Monte-Carlo error of two independent sets of resamples
    assert interval.low == pytest.approx(low, abs=tolerance)
    assert interval.high == pytest.approx(high, abs=tolerance)


def test_interval_agrees_with_scipy_on_plain_values() -> None:
    values = np.random.default_rng(4).gamma(2.0, size=40)
    interval = bootstrap_mean(values.tolist(), seed=5, resamples=5000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=5000, method="BCa", rng=np.random.default_rng(5),
                               confidence_level=widened_level(40))
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-9)


@pytest.mark.parametrize("n", [8, 12, 40])
def test_interval_covers_the_true_mean_about_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(400):
        interval = bootstrap_mean(rng.normal(10, 2, n).tolist(), seed=trial, resamples=600)
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= 10 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98  # 95 % +- 3 standard deviations; the plain bootstrap of 8 values covers 89 %


def test_the_level_is_raised_for_small_samples_only() -> None:
    levels = [widened_level(n) for n in (6, 8, 30, 1000)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.99 and levels[-1] == pytest.approx(0.95, abs=5e-4)


def test_resampling_whole_documents_covers_where_resampling_pairs_does_not() -> None:
    rng = np.random.default_rng(12)
    groups = [str(document) for document in range(20) for _ in range(6)]
    covered = {"pairs": 0, "documents": 0}
    for trial in range(200):
        per_document = rng.normal(0, 1, 20)
        values = (np.repeat(per_document, 6) + rng.normal(0, 0.3, 120)).tolist()
        for name, given in (("pairs", None), ("documents", groups)):
            interval = bootstrap_mean(values, seed=trial, resamples=300, groups=given)
            assert interval.low is not None and interval.high is not None
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["documents"] / 200 > 0.89
    assert covered["pairs"] / 200 < 0.7


def test_unscored_values_are_counted_and_never_numbers() -> None:
    scored = [3.0, 5.0, 8.0, 1.0, 4.0, 4.5]
    with_holes = [None, 3.0, 5.0, None, 8.0, 1.0, None, 4.0, 4.5]
    plain, holed = (bootstrap_mean(values, seed=0, resamples=500) for values in (scored, with_holes))
    assert (plain.unscored, holed.unscored) == (0, 3)
    assert holed.n == 6
    assert plain.low is not None
    assert (plain.mean, plain.low, plain.high) == (holed.mean, holed.low, holed.high)


def test_too_few_values_have_no_interval() -> None:
    assert bootstrap_mean([], seed=0, resamples=100) == Interval(None, None, None, 0, 0)
    assert bootstrap_mean([None, None], seed=0, resamples=100) == Interval(None, None, None, 0, 2)
    assert bootstrap_mean([4.0, None], seed=0, resamples=100) == Interval(4.0, None, None, 1, 1)
    assert bootstrap_mean([1.0, 2.0, 3.0, 4.0, 5.0], seed=0, resamples=100) == Interval(3.0, None, None, 5, 0)
    assert bootstrap_mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], seed=0, resamples=100).low is not None


def test_pairs_of_too_few_documents_have_no_interval_however_many_they_are() -> None:
    values = [1.0, 0.0, 1.0, 1.0] * 5
    assert bootstrap_mean(values, seed=0, resamples=100, groups=list("abcde") * 4) == Interval(0.75, None, None, 20, 0)
    assert bootstrap_mean([*values, 0.0], seed=0, resamples=100, groups=[*list("abcde") * 4, "f"]).low is not None


@pytest.mark.parametrize("values", [[0.0] * 6, [0.1] * 7, [1.0] * 30])
def test_equal_values_give_an_interval_without_width_and_no_warning(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = bootstrap_mean(values, seed=0, resamples=100)
    assert interval.low == interval.high == interval.mean == pytest.approx(values[0])


def test_ends_are_finite_and_in_order_for_small_and_skewed_samples() -> None:
    rng = random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for trial in range(150):
            values = [rng.choice([0.0, 0.0, 0.0, 100.0, rng.random() * 100]) for _ in range(rng.randint(6, 12))]
            interval = bootstrap_mean(values, seed=trial, resamples=100)
            assert interval.mean is not None and interval.low is not None and interval.high is not None
            assert math.isfinite(interval.low) and math.isfinite(interval.high)
            assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).random(30).tolist()
    first, again, other = (bootstrap_mean(values, seed=seed, resamples=300) for seed in (7, 7, 8))
    assert first == again
    assert first.low != other.low


def test_paired_difference_is_narrower_than_the_spread_between_prompts() -> None:
    rng = np.random.default_rng(0)
    base = {str(index): float(rng.normal(50, 30)) for index in range(30)}
    trained = {name: value + float(rng.normal(5, 1)) for name, value in base.items()}
    difference = paired_difference(base, dict(reversed(trained.items())), seed=0, resamples=1000)
    assert difference.mean == pytest.approx(np.mean([trained[name] - base[name] for name in base]))
    assert difference.low is not None and difference.high is not None
    assert 4 < difference.low < 5 < difference.high < 6


def test_paired_difference_leaves_out_prompts_either_side_left_unscored() -> None:
    difference = paired_difference({"a": 1.0, "b": None, "c": 3.0}, {"a": 2.0, "b": 9.0, "c": None},
                                   seed=0, resamples=100)
    assert difference == Interval(1.0, None, None, 1, 2)


def test_paired_difference_refuses_different_prompts() -> None:
    with pytest.raises(UnsoundError, match="different prompts") as caught:
        paired_difference({"a": 1.0}, {"b": 1.0}, seed=0, resamples=100)
    assert caught.value.where == "prompt 'a'"
