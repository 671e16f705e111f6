from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.pair_builders import LayerPair, NoPair, choose_pair
from lpo.pair_builders.pairs import best_scored, normalised, set_aside
from lpo.records import Judgement, Reason, SearchNode


def node(index: int, text: str, score: float | str | None, note: str | None = None) -> SearchNode:
    judgement = None
    if score is not None:
        judgement = (Judgement(scorer="s", unscored=score) if isinstance(score, str)
                     else Judgement(scorer="s", overall=score))
    return SearchNode(id=f"0.{index}", parent="0", depth=1, text=text, judgement=judgement, note=note)


def layer(*scores: float | str | None) -> list[SearchNode]:
    return [node(index, f"text {index}", score) for index, score in enumerate(scores)]


SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.51, 1.0]), st.just("cut"), st.none())
TEXTS = st.sampled_from(["", " \n", "one", "one ", " one", "two", "two\nlines", "two lines", "三"])
LAYERS = st.lists(st.tuples(TEXTS, SCORES), max_size=6).map(
    lambda rows: [node(index, text, score) for index, (text, score) in enumerate(rows)])


@given(LAYERS, st.sampled_from(["random", "worst"]), st.floats(1e-6, 0.9), st.integers(0, 2**31))
@settings(max_examples=300)
def test_a_pair_is_a_real_preference_between_two_real_texts(nodes, rule, min_margin, seed):
    choice = choose_pair(nodes, rule=rule, min_margin=min_margin, seed=seed)
    if isinstance(choice, NoPair):
        return
    chosen, rejected = choice.chosen.judgement.overall, choice.rejected.judgement.overall
    assert chosen > rejected
    assert chosen - rejected >= min_margin
    assert choice.margin == chosen - rejected
    assert normalised(choice.chosen.text) != normalised(choice.rejected.text)
    assert normalised(choice.chosen.text) and normalised(choice.rejected.text)
    scored = [one.judgement.overall for one in set_aside(nodes)
              if one.note is None and one.judgement and one.judgement.overall is not None]
    assert chosen == max(scored)
    if rule == "worst":
        assert rejected == min(scored)


@given(LAYERS, st.floats(1e-6, 0.9))
def test_there_is_no_pair_only_where_there_is_none(nodes, min_margin):
    choice = choose_pair(nodes, rule="worst", min_margin=min_margin, seed=0)
    scored = [one.judgement.overall for one in set_aside(nodes)
              if one.note is None and one.judgement and one.judgement.overall is not None]
    possible = bool(scored) and max(scored) - min(scored) >= min_margin
    assert isinstance(choice, LayerPair) == possible


@pytest.mark.parametrize(("nodes", "reason"), [
    (layer(0.5, 0.5, 0.5), Reason.TIE),
    (layer(0.5, 0.499, 0.495), Reason.SMALL_MARGIN),
    (layer(0.5, "cut", "cut"), Reason.UNSCORED),
    (layer("cut", "refused"), Reason.UNSCORED),
    (layer(0.5), Reason.TOO_FEW_CANDIDATES),
    ([], Reason.TOO_FEW_CANDIDATES),
    ([node(0, "a b", 0.9), node(1, "a  b\n", 0.1)], Reason.EQUAL_TEXTS),
    ([node(0, "", None), node(1, " ", None)], Reason.EMPTY),
    ([node(0, "a", 0.5), node(1, "", None)], Reason.TOO_FEW_CANDIDATES),
    ([node(0, "", None, "request_rejected: too long"), node(1, "", None, "request_rejected: too long")],
     Reason.REQUEST_REJECTED),
    ([node(0, "a", 0.5), node(1, "", None, "request_rejected: too long")], Reason.TOO_FEW_CANDIDATES),
    ([node(0, "a", None, "refused"), node(1, "b", 0.4)], Reason.TOO_FEW_CANDIDATES),
])
def test_why_there_is_no_pair(nodes, reason):
    choice = choose_pair(nodes, rule="random", min_margin=0.01, seed=3)
    assert isinstance(choice, NoPair)
    assert choice.reason == reason
    assert choice.detail


def test_worst_takes_the_lowest_and_of_equals_the_first():
    choice = choose_pair(layer(0.2, 0.9, 0.9, 0.2, 0.5), rule="worst", min_margin=0.01, seed=0)
    assert isinstance(choice, LayerPair)
    assert (choice.chosen.id, choice.rejected.id) == ("0.1", "0.0")


def test_random_draws_evenly_among_those_far_enough_below():
    nodes = layer(0.9, 0.895, 0.2, 0.5, "cut", 0.7)
    drawn = Counter(choose_pair(nodes, rule="random", min_margin=0.01, seed=seed).rejected.id for seed in range(300))
    assert drawn == {"0.2": 100, "0.3": 100, "0.5": 100}


def test_a_duplicate_is_set_aside_in_favour_of_the_first():
    noted = set_aside([node(0, "a b", 0.1), node(1, "", None), node(2, " a\nb ", 0.9), node(3, "c", 0.5)])
    assert [one.note for one in noted] == [None, "empty", "duplicate of 0.0", None]
    assert set_aside(noted) == noted
    assert best_scored(noted).id == "0.3"
    assert best_scored([]) is None
