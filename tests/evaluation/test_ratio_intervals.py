"""Products of ratios of sums, their paired differences and permutation tests, against oracles that share no code."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lpo.errors import UnsoundError
from lpo.intervals import Ratios, bootstrap_mean, bootstrap_ratios, paired_difference, paired_p_value, paired_ratios

DRAWS = {"seed": 3, "resamples": 4000}


def drawn(n: int, seed: int, lift: float = 0.0) -> dict[str, Ratios | None]:
    """Blocks written of 10, and checks satisfied of a number that varies."""
    rng = np.random.default_rng(seed)
    rows = {}
    for index in range(n):
        checks = int(rng.integers(3, 9))
        rows[f"p{index}"] = ((float(rng.binomial(10, min(1.0, 0.6 + lift))), 10.0),
                             (float(rng.binomial(checks, 0.4 + lift)), float(checks)))
    return rows


def product(values: list[Ratios]) -> float:
    """The score, written out."""
    score = 1.0
    for factor in range(len(values[0])):
        score *= math.fsum(value[factor][0] for value in values) / math.fsum(value[factor][1] for value in values)
    return score


def test_a_product_of_ratios_is_that_of_the_sums_and_its_interval_that_of_a_plain_bootstrap():
    values = list(drawn(60, seed=1).values())
    found = bootstrap_ratios(values, **DRAWS)
    assert found.mean == pytest.approx(product(values)) and found.n == 60 and found.unscored == 0
    rng = np.random.default_rng(8)
    resampled = [product([values[index] for index in rng.integers(0, 60, 60)]) for _ in range(4000)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.25 * (high - low))
    assert found.high == pytest.approx(high, abs=0.25 * (high - low))


def test_the_interval_covers_the_true_product_about_as_often_as_it_says():
    covered = 0
    for seed in range(150):
        found = bootstrap_ratios(list(drawn(25, seed=seed).values()), seed=0, resamples=400)
        covered += found.low <= 0.6 * 0.4 <= found.high
    assert stats.binomtest(covered, 150, 0.95).pvalue > 0.001, covered


def test_plain_means_are_the_intervals_of_means():
    values = [0.3, None, 0.9, 0.5, 0.2, 0.8, 0.7, 0.1]
    ratios = [None if value is None else ((value, 1.0),) for value in values]
    assert bootstrap_ratios(ratios, **DRAWS) == bootstrap_mean(values, **DRAWS)
    base = dict(zip("abcdefgh", values, strict=True))
    trained = dict(zip("abcdefgh", [0.4, 0.5, 0.7, 0.9, None, 0.9, 0.9, 0.3], strict=True))
    wrapped = [{name: None if value is None else ((value, 1.0),) for name, value in side.items()}
               for side in (base, trained)]
    assert paired_ratios(*wrapped, **DRAWS) == paired_difference(base, trained, **DRAWS)


def test_missing_values_are_unscored_and_nothing_below_the_line_is_no_score():
    rows = list(drawn(10, seed=2).values())
    found = bootstrap_ratios([*rows, None, None], **DRAWS)
    assert (found.n, found.unscored) == (10, 2) and found.mean == pytest.approx(product(rows))
    empty = [((0.0, 10.0), (0.0, 0.0))] * 8
    assert bootstrap_ratios(empty, **DRAWS).mean is None
    assert bootstrap_ratios([], **DRAWS).mean is None
    few = bootstrap_ratios(rows[:5], **DRAWS)
    assert few.mean is not None and few.low is None


def test_a_paired_difference_is_narrower_than_two_scores_apart():
    base, trained = drawn(40, seed=5), {}
    for name, ((blocks, required), (met, checks)) in base.items():
        trained[name] = ((min(10.0, blocks + 1), required), (min(checks, met + 1), checks))
    found = paired_ratios(base, trained, **DRAWS)
    assert found.mean == pytest.approx(product(list(trained.values())) - product(list(base.values())))
    assert found.low > 0
    apart = [bootstrap_ratios(list(side.values()), **DRAWS) for side in (base, trained)]
    assert found.high - found.low < 0.8 * math.hypot(*(side.high - side.low for side in apart))


def test_the_permutation_test_tries_every_swap_of_a_few_prompts():
    base, trained = drawn(8, seed=6), drawn(8, seed=7, lift=0.2)
    names = list(base)
    observed = product(list(trained.values())) - product(list(base.values()))
    found = []
    for swaps in itertools.product([False, True], repeat=8):
        left = [trained[name] if swap else base[name] for name, swap in zip(names, swaps, strict=True)]
        right = [base[name] if swap else trained[name] for name, swap in zip(names, swaps, strict=True)]
        found.append(product(right) - product(left))
    expected = np.mean([abs(each) >= abs(observed) - 1e-12 for each in found])
    assert paired_p_value(base, trained, seed=0, resamples=256) == pytest.approx(expected)


@pytest.mark.parametrize("n", [9, 40])
def test_the_permutation_test_of_means_agrees_with_scipys(n):
    rng = np.random.default_rng(n)
    before, after = rng.normal(50, 10, n), rng.normal(54, 10, n)
    sides = [{str(index): ((float(value), 1.0),) for index, value in enumerate(side)} for side in (before, after)]
    expected = stats.permutation_test((before, after), lambda a, b, axis: np.mean(b - a, axis=axis),
                                      permutation_type="samples", vectorized=True, n_resamples=9999,
                                      rng=np.random.default_rng(1)).pvalue
    assert paired_p_value(*sides, seed=2, resamples=9999) == pytest.approx(expected, abs=0.02)


def test_equal_models_differ_by_nothing_and_the_p_value_says_so():
    base = drawn(12, seed=9)
    assert paired_p_value(base, dict(base), seed=0, resamples=500) == 1.0
    difference = paired_ratios(base, dict(base), **DRAWS)
    assert difference.mean == 0 and (difference.low, difference.high) == (0, 0)


def test_the_p_value_is_small_by_chance_as_often_as_it_says():
    """Under the hypothesis it tests, p <= 0.05 comes up one time in twenty."""
    below = sum(paired_p_value(drawn(10, seed=2 * seed), drawn(10, seed=2 * seed + 1), seed=seed, resamples=1024)
                <= 0.05 for seed in range(300))
    assert stats.binomtest(below, 300, 0.05).pvalue > 0.001, below


def test_other_prompts_are_refused():
    base = drawn(6, seed=1)
    for function in (paired_ratios, paired_p_value):
        with pytest.raises(UnsoundError, match="different prompts"):
            function(base, {**base, "another": None}, seed=0, resamples=100)
    assert paired_p_value({"a": None}, {"a": ((1.0, 1.0),)}, seed=0, resamples=100) is None
