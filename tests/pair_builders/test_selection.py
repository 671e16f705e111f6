import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.pair_builders.selection import PUCT_BASE, Selection, Standing

UNIT = st.floats(0, 1)
STANDING = st.builds(Standing, score=UNIT, value=UNIT, visits=st.integers(0, 20), prior=st.none() | UNIT)


def standing(value, visits=0, prior=None, score=None):
    return Standing(score=value if score is None else score, value=value, visits=visits, prior=prior)


def test_the_papers_formula_and_its_guard():
    bonus = Selection.UCB.bonus(standing(0.5, visits=1), parent_visits=7, siblings=4, exploration=0.25)
    assert bonus == pytest.approx(0.25 * math.sqrt(2 * math.log(7 / 2)))
    # As printed the logarithm of 1 / (1 + 1) is negative and its root is no number.
    assert Selection.UCB.bonus(standing(0.5, visits=1), parent_visits=1, siblings=4, exploration=0.25) == 0
    assert Selection.UCB.bonus(standing(0.5, visits=0), parent_visits=0, siblings=4, exploration=0.25) == 0


def test_uct_visits_every_sibling_before_any_twice():
    visits = [0, 0, 0]
    for walk in range(3):
        siblings = [standing(0.9 - index / 10, visits=n) for index, n in enumerate(visits)]
        visits[Selection.UCT.choose(siblings, parent_visits=walk, exploration=0.25)] += 1
    assert visits == [1, 1, 1]
    bonus = Selection.UCT.bonus(standing(0.5, visits=2), parent_visits=5, siblings=3, exploration=2.0)
    assert bonus == pytest.approx(2.0 * math.sqrt(2 * math.log(5) / 2))


def test_puct_is_alphazeros_and_without_log_probs_every_sibling_is_equally_probable():
    growth = math.log((9 + PUCT_BASE + 1) / PUCT_BASE) + 1.25
    bonus = Selection.PUCT.bonus(standing(0.5, visits=2, prior=0.6), parent_visits=9, siblings=4, exploration=1.25)
    assert bonus == pytest.approx(0.6 * growth * math.sqrt(9) / 3)
    without = Selection.PUCT.bonus(standing(0.5, visits=2), parent_visits=9, siblings=4, exploration=1.25)
    assert without == pytest.approx(bonus / 0.6 / 4)


def test_a_bonus_can_turn_the_choice_and_its_weight_decides():
    siblings = [standing(0.8, visits=5), standing(0.7, visits=0)]
    for rule in (Selection.UCB, Selection.UCT, Selection.PUCT):
        assert rule.choose(siblings, parent_visits=5, exploration=rule.default_exploration) == 1
        assert rule.choose(siblings, parent_visits=5, exploration=0.0) == 0
    assert Selection.GREEDY.choose(siblings, parent_visits=5, exploration=9.0) == 0


def test_greedy_goes_by_the_own_score_whatever_came_back():
    siblings = [standing(0.1, visits=3, score=0.9), standing(0.8, visits=1, score=0.8)]
    assert Selection.GREEDY.choose(siblings, parent_visits=4, exploration=0.0) == 0
    assert Selection.UCB.choose(siblings, parent_visits=4, exploration=0.0) == 1


@given(st.sampled_from(Selection), st.lists(STANDING, min_size=1, max_size=6), st.floats(0, 3))
def test_the_choice_has_the_highest_sum_and_of_equals_the_best_score_then_the_first(rule, siblings, exploration):
    parent_visits = sum(one.visits for one in siblings) + 1
    chosen = rule.choose(siblings, parent_visits=parent_visits, exploration=exploration)

    def total(one):
        value = one.score if rule is Selection.GREEDY else one.value
        return value + rule.bonus(one, parent_visits=parent_visits, siblings=len(siblings), exploration=exploration)

    best = siblings[chosen]
    for index, other in enumerate(siblings):
        assert total(best) >= total(other)
        if total(best) == total(other):
            assert best.score >= other.score
            assert best.score > other.score or chosen <= index


@given(st.sampled_from([Selection.UCB, Selection.UCT, Selection.PUCT]), STANDING, st.integers(1, 40))
def test_a_bonus_is_a_number_never_negative_and_falls_with_own_visits(rule, sibling, parent_visits):
    def bonus(visits):
        one = Standing(sibling.score, sibling.value, visits, sibling.prior)
        return rule.bonus(one, parent_visits=parent_visits, siblings=4, exploration=0.5)

    assert bonus(sibling.visits) >= 0
    assert bonus(sibling.visits + 1) <= bonus(sibling.visits)
