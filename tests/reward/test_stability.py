import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.reward import rank_stability


def test_equal_reversed_and_half_agreeing_rankings():
    ranking = [[1.0, 2.0, 3.0], [5.0, 4.0, 1.0]]
    same = rank_stability(ranking, ranking)
    assert (same.kendall_tau, same.same_best, same.layers) == (1, 1, 2)
    reverse = rank_stability(ranking, [[-score for score in group] for group in ranking])
    assert (reverse.kendall_tau, reverse.same_best) == (-1, 0)
    half = rank_stability(ranking, [[1.0, 2.0, 3.0], [1.0, 4.0, 5.0]])
    assert (half.kendall_tau, half.same_best) == (0, 0.5)


def test_unscored_candidates_and_layers_of_one_are_left_out():
    result = rank_stability([[1.0, None, 3.0], [2.0, 1.0], [1.0]], [[1.0, 9.0, 2.0], [None, 1.0], [1.0]])
    assert (result.kendall_tau, result.same_best, result.layers) == (1, 1, 1)
    nothing = rank_stability([], [])
    assert (nothing.kendall_tau, nothing.same_best, nothing.layers) == (None, None, 0)


def test_a_ranking_that_ties_everything_has_no_tau():
    result = rank_stability([[1.0, 1.0]], [[1.0, 2.0]])
    assert result.kendall_tau is None
    assert result.same_best == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8, unique_by=(
    lambda pair: pair[0], lambda pair: pair[1])))
def test_tau_is_concordant_minus_discordant_pairs(scores):
    first, second = [float(a) for a, _ in scores], [float(b) for _, b in scores]
    signs = [1 if (a > c) == (b > d) else -1 for (a, b), (c, d) in itertools.combinations(scores, 2)]
    assert rank_stability([first], [second]).kendall_tau == pytest.approx(sum(signs) / len(signs))
