"""Pairs from trees: every rule by example, and what holds of any tree by any rule."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import layer, node, refined, tree, trees, veto

from lpo.build_config import BuildConfig, PairsConfig
from lpo.errors import DataError
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.pairs import (
    derive_pairs,
    layers_of,
    live,
    most_visited_path,
    normalised,
    released_pairs,
    set_aside,
)
from lpo.records import Reason, RefinementOutcome, SearchTree


def rules_of(**changes):
    """Rules that take any setting, also those that mean nothing to them: they must not count."""
    return PairsConfig().model_copy(update=changes)


RULES = st.builds(
    rules_of,
    chosen=st.sampled_from(["most_visited", "best_value", "best_score"]),
    rejected=st.sampled_from(["random_consistent", "worst", "vetoed", "margin"]),
    per_layer=st.integers(1, 3), min_margin=st.sampled_from([1e-6, 0.01, 0.3]),
    layers=st.sampled_from(["all", "best_path"]),
)
ALL_VETOED = st.sampled_from(["best_score", "no_pair", "stop"])


def sides(derived):
    """`(chosen, rejected)` ids of all pairs."""
    return [(pair.provenance["chosen"], pair.provenance["rejected"]) for pair in derived.pairs]


def reasons(derived):
    return [row.reason for row in derived.rejected]


def derive(one, *, all_vetoed="best_score", **rules):
    return derive_pairs(one, rules_of(**rules), all_vetoed)


# Any tree, any rule


@settings(max_examples=150, deadline=None)
@given(trees(), RULES, ALL_VETOED)
def test_every_layer_gives_distinct_pairs_or_one_reason(one, rules, all_vetoed):
    derived = derive_pairs(one, rules, all_vetoed)
    per_layer = Counter(pair.provenance["parent"] for pair in derived.pairs)
    without = [row.id.removeprefix("p/") for row in derived.rejected]
    assert sorted([*per_layer, *without]) == sorted({one.parent for one in one.nodes} - {None})
    assert all(count <= rules.per_layer for count in per_layer.values())
    assert len(set(sides(derived))) == len(derived.pairs) == len({pair.id for pair in derived.pairs})
    assert all(row.detail and row.stage == "build" for row in derived.rejected)


@settings(max_examples=150, deadline=None)
@given(trees(), RULES, ALL_VETOED)
def test_a_pair_is_a_real_preference_between_two_real_siblings(one, rules, all_vetoed):
    nodes = {entry.id: entry for entry in one.nodes}
    for pair in derive_pairs(one, rules, all_vetoed).pairs:
        chosen, rejected = (nodes[pair.provenance[side]] for side in ("chosen", "rejected"))
        assert chosen.parent == rejected.parent == pair.provenance["parent"]
        assert (pair.chosen, pair.rejected) == (chosen.text, rejected.text)
        assert (pair.chosen_ends, pair.rejected_ends) == (chosen.ends, rejected.ends)
        assert pair.step == chosen.depth - 1 and pair.group == one.id
        steps = pair.provenance["parent"].split(".")
        assert pair.prefix == "".join(nodes[".".join(steps[:length])].text for length in range(1, len(steps) + 1))
        assert normalised(pair.chosen) != normalised(pair.rejected)
        assert normalised(pair.chosen) and normalised(pair.rejected)
        assert not chosen.note and not rejected.note and not chosen.replaced and not rejected.replaced
        assert chosen.score is not None
        if rules.rejected == "vetoed":
            assert rejected.vetoes and not chosen.vetoes
            assert pair.margin == (None if rejected.score is None else chosen.score - rejected.score)
        else:
            assert rejected.score is not None
            assert pair.margin == chosen.score - rejected.score >= rules.min_margin
        if chosen.vetoes:
            siblings = live(set_aside([e for e in one.nodes if e.parent == chosen.parent and not e.replaced]))
            assert all_vetoed == "best_score" and chosen.visits and all(sibling.vetoes for sibling in siblings)
            assert pair.provenance["chosen_vetoed"] is True


@settings(max_examples=60, deadline=None)
@given(trees(), RULES, ALL_VETOED)
def test_deriving_is_a_pure_function_of_what_the_search_saw(one, rules, all_vetoed):
    before = one.model_dump_json()
    derived = derive_pairs(one, rules, all_vetoed)
    assert one.model_dump_json() == before
    read_again = SearchTree.model_validate(json.loads(derived.tree.model_dump_json()))
    assert derive_pairs(read_again, rules, all_vetoed) == derived, "roles of an earlier rule play no part"


@settings(max_examples=60, deadline=None)
@given(trees(), RULES)
def test_roles_are_those_of_the_pairs_and_nothing_else_changes(one, rules):
    derived = derive_pairs(one, rules)
    chosen = {pair.provenance["chosen"] for pair in derived.pairs}
    rejected = {pair.provenance["rejected"] for pair in derived.pairs}
    for before, after in zip(one.nodes, derived.tree.nodes, strict=True):
        expected = {(True, True): "both", (True, False): "chosen", (False, True): "rejected",
                    (False, False): "root" if before.parent is None else "unused"}
        assert after.role == expected[after.id in chosen, after.id in rejected]
        assert after.model_copy(update={"role": before.role}) == before


def usable(one, parent):
    siblings = [entry for entry in one.nodes if entry.parent == parent and not entry.replaced]
    return live(set_aside(siblings))


@settings(max_examples=120, deadline=None)
@given(trees(), st.sampled_from([1e-6, 0.01, 0.3]))
def test_margin_finds_a_pair_wherever_there_is_one_and_the_widest_first(one, min_margin):
    derived = derive(one, rejected="margin", min_margin=min_margin, per_layer=100)
    for parent in layers_of(one):
        scores = [entry.score for entry in usable(one, parent) if entry.score is not None and not entry.vetoes]
        expected = sorted((a - b for a in scores for b in scores if a - b >= min_margin), reverse=True)
        assert [pair.margin for pair in derived.pairs if pair.provenance["parent"] == parent] == expected


@settings(max_examples=120, deadline=None)
@given(trees(), st.sampled_from(["most_visited", "best_value", "best_score"]), st.sampled_from([0.01, 0.3]))
def test_worst_is_the_lowest_consistent_sibling_below_the_chosen_one(one, chosen_by, min_margin):
    derived = derive(one, chosen=chosen_by, rejected="worst", min_margin=min_margin)
    found = {pair.provenance["parent"]: pair for pair in derived.pairs}
    for parent in layers_of(one):
        consistent = [entry for entry in usable(one, parent) if entry.score is not None and not entry.vetoes]
        best = None
        for entry in consistent:  # the rules of the configuration, written out
            value = entry.score if entry.value is None else entry.value
            rank = {"most_visited": (entry.visits, -1 if entry.value is None else entry.value, entry.score),
                    "best_value": (value,), "best_score": (entry.score,)}[chosen_by]
            if best is None or rank > best[0]:
                best = rank, entry
        lowest = min((entry.score for entry in consistent), default=math.inf)
        if best is not None and best[1].score - lowest >= min_margin:
            assert found[parent].provenance["chosen"] == best[1].id
            assert found[parent].scores.rejected.overall == lowest
        else:
            assert parent not in found


# Who is chosen


def test_back_propagation_decides_who_is_chosen_and_own_scores_the_margin():
    one = tree(node("0.0", 0.9, visits=1, value=0.2), node("0.1", 0.6, visits=3, value=0.5),
               node("0.2", 0.4), node("0.3", 0.7, visits=1, value=0.6))
    for rule, expected in (("most_visited", "0.1"), ("best_value", "0.3"), ("best_score", "0.0")):
        derived = derive(one, chosen=rule, rejected="worst")
        assert sides(derived) == [(expected, "0.2")]
        assert derived.pairs[0].margin == pytest.approx({"0.1": 0.2, "0.3": 0.3, "0.0": 0.5}[expected])


@pytest.mark.parametrize(("nodes", "chosen"), [
    ([node("0.0", 0.5, visits=2, value=0.3), node("0.1", 0.4, visits=2, value=0.4), node("0.2", 0.1)], "0.1"),
    ([node("0.0", 0.5, visits=2, value=0.3), node("0.1", 0.6, visits=2, value=0.3), node("0.2", 0.1)], "0.1"),
    ([node("0.0", 0.5, visits=2, value=0.3), node("0.1", 0.5, visits=2, value=0.3), node("0.2", 0.1)], "0.0"),
    ([node("0.0", 0.5), node("0.1", 0.6), node("0.2", 0.1)], "0.1"),
    ([node("0.0", 0.5, visits=1), node("0.1", 0.6), node("0.2", 0.1)], "0.0"),
])
def test_equal_visits_are_told_apart_by_value_then_score_then_order(nodes, chosen):
    assert sides(derive(tree(*nodes), rejected="worst")) == [(chosen, "0.2")]


def test_without_a_path_the_own_score_stands_for_the_value():
    one = tree(node("0.0", 0.9, visits=1, value=0.3), node("0.1", 0.5), node("0.2", 0.1))
    assert sides(derive(one, chosen="best_value", rejected="worst")) == [("0.1", "0.2")]


def test_the_chosen_one_may_score_low_and_then_there_may_be_no_pair():
    one = tree(node("0.0", 0.2, visits=3, value=0.9), node("0.1", 0.8), node("0.2", 0.7))
    derived = derive(one)
    assert reasons(derived) == [Reason.SMALL_MARGIN] and "-0.5" in derived.rejected[0].detail


# Who is rejected


def test_random_draws_evenly_among_consistent_siblings_far_enough_below():
    drawn = Counter()
    nodes = layer(0.9, 0.895, 0.2, 0.5, "cut", 0.7).nodes[1:]
    for seed in range(600):
        drawn[sides(derive(tree(*nodes, node("0.6", 0.1, vetoes=veto()), seed=seed), chosen="best_score"))[0]] += 1
    assert set(drawn) == {("0.0", "0.2"), ("0.0", "0.3"), ("0.0", "0.5")}
    assert all(160 < count < 240 for count in drawn.values())  # 200 each; the deviation is 11.5


def test_random_differs_between_trees_and_layers_of_one_seed():
    nodes = layer(0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7).nodes[1:]
    assert len({sides(derive(tree(*nodes, tree_id=f"p{index}")))[0] for index in range(40)}) == 7


def test_a_vetoed_sibling_is_rejected_only_where_no_consistent_one_is_left():
    one = tree(node("0.0", 0.9), node("0.1", 0.895), node("0.2", 0.3, vetoes=veto()))
    derived = derive(one)
    assert sides(derived) == [("0.0", "0.2")] and derived.pairs[0].provenance["rejected_vetoed"] is True
    assert reasons(derive(one, rejected="worst")) == [Reason.SMALL_MARGIN]
    with_consistent = tree(*one.nodes[1:], node("0.3", 0.4))
    assert sides(derive(with_consistent, per_layer=5)) == [("0.0", "0.3")]


def test_worst_goes_up_from_the_lowest():
    derived = derive(layer(0.2, 0.9, 0.9, 0.1, 0.5, 0.895), rejected="worst", per_layer=9)
    assert sides(derived) == [("0.1", "0.3"), ("0.1", "0.0"), ("0.1", "0.4")]
    assert [pair.id for pair in derived.pairs] == ["p/0", "p/0#2", "p/0#3"]


@pytest.mark.parametrize("rule", ["random_consistent", "worst", "margin"])
def test_the_smallest_margin_is_wide_enough(rule):
    assert len(derive(layer(0.75, 0.5), rejected=rule, min_margin=0.25).pairs) == 1
    assert reasons(derive(layer(0.75, 0.5), rejected=rule, min_margin=0.2500001)) == [Reason.SMALL_MARGIN]


def test_of_equal_scores_the_first_counts():
    assert sides(derive(layer(0.2, 0.9, 0.9, 0.2), rejected="worst")) == [("0.1", "0.0")]


def test_vetoed_takes_the_best_contradiction_first_whatever_the_margin():
    one = tree(node("0.0", 0.6, visits=2, value=0.6), node("0.1", 0.3, vetoes=veto("0.0#2")),
               node("0.2", 0.95, vetoes=veto("0.0#1")), node("0.3", "cut", vetoes=veto()), node("0.4", 0.1))
    derived = derive(one, rejected="vetoed", per_layer=9, min_margin=0.9)
    assert sides(derived) == [("0.0", "0.2"), ("0.0", "0.1"), ("0.0", "0.3")]
    assert [pair.margin for pair in derived.pairs] == [pytest.approx(-0.35), pytest.approx(0.3), None]
    assert derived.pairs[0].provenance["veto"] == {"fact": "0.0#1", "statement": "The ship is red."}
    assert derived.pairs[2].scores.rejected.unscored == "cut"


def test_margin_takes_the_widest_pairs_whoever_was_chosen():
    one = tree(node("0.0", 0.5, visits=9, value=0.9), node("0.1", 0.9), node("0.2", 0.1),
               node("0.3", 0.0, vetoes=veto()))
    derived = derive(one, rejected="margin", per_layer=3)
    assert sides(derived)[0] == ("0.1", "0.2") and set(sides(derived)[1:]) == {("0.1", "0.0"), ("0.0", "0.2")}
    assert [entry.role for entry in derived.tree.nodes] == ["root", "both", "chosen", "rejected", "unused"]


# Rewritten steps


def test_an_accepted_rewritten_step_stands_for_its_original():
    weak = node("0.0", 0.3, refinement=refined(RefinementOutcome.ACCEPTED, "0.0r"))
    one = tree(weak, node("0.1", 0.2), node("0.0r", 0.8, refines="0.0", visits=1, value=0.8))
    for rule in ("random_consistent", "worst", "margin"):
        derived = derive(one, rejected=rule, per_layer=9)
        assert sides(derived) == [("0.0r", "0.1")]
        assert derived.pairs[0].provenance["refined"] == "0.0"
        assert derived.tree.nodes[1].role == "unused"


def test_a_rewritten_step_that_was_not_taken_is_on_no_side():
    weak = node("0.0", 0.3, visits=1, value=0.3, refinement=refined(RefinementOutcome.NOT_BETTER, "0.0r"))
    one = tree(weak, node("0.1", 0.2), node("0.0r", 0.05, refines="0.0", note="rewritten, not_better"))
    derived = derive(one, rejected="worst", per_layer=9)
    assert sides(derived) == [("0.0", "0.1")] and "refined" not in derived.pairs[0].provenance


# Vetoes


@pytest.mark.parametrize("rule", ["random_consistent", "worst", "margin", "vetoed"])
@pytest.mark.parametrize("all_vetoed", ["best_score", "no_pair", "stop"])
def test_where_all_contradict_only_the_one_the_search_took_is_chosen_and_only_if_that_is_asked_for(rule, all_vetoed):
    one = tree(node("0.0", 0.5, vetoes=veto()), node("0.1", 0.9, vetoes=veto(), visits=1, value=0.9),
               node("0.2", 0.4, vetoes=veto()))
    derived = derive(one, rejected=rule, all_vetoed=all_vetoed)
    if all_vetoed == "best_score" and rule == "random_consistent":
        [pair] = derived.pairs
        assert pair.provenance["chosen"] == "0.1"
        assert pair.provenance["chosen_vetoed"] and pair.provenance["rejected_vetoed"]
    else:
        assert reasons(derived) == [Reason.VETOED] and "0.0#1" in derived.rejected[0].detail


def test_a_vetoed_sibling_nobody_went_on_from_is_never_chosen():
    one = tree(node("0.0", 0.5, vetoes=veto()), node("0.1", 0.9, vetoes=veto()))
    assert reasons(derive(one)) == [Reason.VETOED]


def test_a_vetoed_sibling_is_not_chosen_beside_an_unscored_consistent_one():
    one = tree(node("0.0", "cut"), node("0.1", 0.9, vetoes=veto(), visits=1), node("0.2", 0.1, vetoes=veto()))
    assert reasons(derive(one)) == [Reason.UNSCORED]


def test_the_build_passes_on_what_its_search_does_when_all_are_vetoed():
    one = tree(node("0.0", 0.9, vetoes=veto(), visits=1), node("0.1", 0.1, vetoes=veto()))
    assert rows_of(one, BuildConfig()).pairs
    assert not rows_of(one, BuildConfig.model_validate({"memory": {"all_vetoed": "no_pair"}})).pairs


# Layers


def test_all_layers_count_or_those_along_the_most_visited_path():
    one = tree(node("0.0", 0.9, visits=1, value=0.9), node("0.1", 0.5, visits=3, value=0.6),
               node("0.0.0", 0.9, visits=1, value=0.9), node("0.0.1", 0.1),
               node("0.1.0", 0.2, visits=1, value=0.2), node("0.1.1", 0.7, visits=2, value=0.7))
    everywhere = derive(one, chosen="best_score")
    assert [pair.id for pair in everywhere.pairs] == ["p/0", "p/0.0", "p/0.1"]
    assert [pair.prefix for pair in everywhere.pairs] == ["", " step 0.0.", " step 0.1."]
    assert most_visited_path(one) == ("0", "0.1", "0.1.1")
    along = derive(one, chosen="best_score", layers="best_path")
    assert [pair.id for pair in along.pairs] == ["p/0", "p/0.1"]
    assert [(row.id, row.reason) for row in along.rejected] == [("p/0.0", Reason.OFF_PATH)]


def test_the_path_ends_where_no_sibling_could_be_gone_on_from():
    one = tree(node("0.0", 0.9, visits=1, value=0.9), node("0.1", 0.5), node("0.0.0", "cut"), node("0.0.1", "cut"))
    assert most_visited_path(one) == ("0", "0.0")
    assert reasons(derive(one, layers="best_path")) == [Reason.UNSCORED]


def test_a_natural_end_is_a_pair_that_says_so():
    [pair] = derive(tree(node("0.0", 0.9, ends=True), node("0.1", 0.1))).pairs
    assert pair.chosen_ends and not pair.rejected_ends


def test_a_tree_without_a_layer_gives_nothing():
    derived = derive(tree())
    assert not derived.pairs and not derived.rejected and derived.tree.nodes[0].role == "root"


# Reasons


@pytest.mark.parametrize(("one", "reason"), [
    (layer(0.5, 0.5, 0.5), Reason.TIE),
    (layer(0.5, 0.499, 0.495), Reason.SMALL_MARGIN),
    (layer(0.5, "cut", "cut"), Reason.UNSCORED),
    (layer("cut", "refused"), Reason.UNSCORED),
    (layer(None, None), Reason.UNSCORED),
    (layer(0.5), Reason.TOO_FEW_CANDIDATES),
    (tree(node("0.0", 0.9, "a b"), node("0.1", 0.1, "a  b\n")), Reason.EQUAL_TEXTS),
    (tree(node("0.0", text=""), node("0.1", text=" ")), Reason.EMPTY),
    (tree(node("0.0", 0.5), node("0.1", text="")), Reason.TOO_FEW_CANDIDATES),
    (tree(node("0.0", text="", note="request_rejected: too long"),
          node("0.1", text="", note="request_rejected: too long")), Reason.REQUEST_REJECTED),
    (tree(node("0.0", 0.5), node("0.1", text="", note="request_rejected: too long")), Reason.TOO_FEW_CANDIDATES),
    (tree(node("0.0", text="a", note="refused"), node("0.1", 0.4, "b")), Reason.TOO_FEW_CANDIDATES),
    (tree(node("0.0", 0.3, "a", refinement=refined(RefinementOutcome.EQUAL, "0.0r")), node("0.1", text="a"),
          node("0.0r", text="a", refines="0.0", note="equal_texts")), Reason.EQUAL_TEXTS),
])
@pytest.mark.parametrize("rule", ["random_consistent", "worst", "margin"])
def test_why_there_is_no_pair(one, reason, rule):
    derived = derive(one, rejected=rule, chosen="best_score")
    assert not derived.pairs and reasons(derived) == [reason] and derived.rejected[0].detail
    assert derived.rejected[0].id == "p/0"


def test_reasons_of_vetoes():
    one = tree(node("0.0", 0.5), node("0.1", 0.1))
    assert reasons(derive(one, rejected="vetoed")) == [Reason.NO_VETO]
    lone = tree(node("0.0", 0.5), node("0.1", 0.1, vetoes=veto()))
    for rule in ("worst", "margin"):
        assert reasons(derive(lone, rejected=rule)) == [Reason.TOO_FEW_CANDIDATES]


# The released code's pairs


def test_the_released_code_takes_the_best_against_anyone_ties_included():
    drawn = Counter()
    for seed in range(600):
        one = tree(*layer(0.9, 0.9, 0.2, 0.899).nodes[1:], seed=seed, method="longdpo_released")
        [pair] = released_pairs(one).pairs
        assert pair.method == "longdpo_released" and pair.provenance["rule"] == "released"
        assert pair.provenance.get("tie", False) == (pair.margin == 0)
        drawn[pair.provenance["rejected"]] += 1
    assert set(drawn) == {"0.1", "0.2", "0.3"} and all(160 < count < 240 for count in drawn.values())


def test_the_released_code_takes_no_pair_from_a_step_that_ends_the_answer():
    ended = released_pairs(tree(node("0.0", 0.9, ends=True), node("0.1", 0.1)))
    assert reasons(ended) == [Reason.NATURAL_END] and "ends the answer" in ended.rejected[0].detail
    assert sides(released_pairs(tree(node("0.0", 0.9), node("0.1", 0.1, ends=True)))) == [("0.0", "0.1")]


def test_the_released_preset_is_chosen_by_the_method():
    one = layer(0.5, 0.5)
    [tie] = rows_of(one, BuildConfig.model_validate({"method": "longdpo_released"})).pairs
    assert (tie.margin, tie.method) == (0, "longdpo_released")
    assert not rows_of(one, BuildConfig()).pairs


# Texts, and trees that are none


def test_a_duplicate_is_set_aside_in_favour_of_the_first():
    noted = set_aside([node("0.0", 0.1, "a b"), node("0.1", text=""), node("0.2", 0.9, " a\nb "),
                       node("0.3", 0.5, "c")])
    assert [one.note for one in noted] == [None, "empty", "duplicate of 0.0", None]
    assert set_aside(noted) == noted
    assert [one.id for one in live(noted)] == ["0.0", "0.3"]


@pytest.mark.parametrize("nodes", [
    (node("0.5.0", 0.1), node("0.5.1", 0.2)),
    (node("0.0", 0.1), node("0.0", 0.2)),
    (node("0.0", 0.1).model_copy(update={"parent": "0.1"}), node("0.1", 0.2).model_copy(update={"parent": "0.0"})),
])
def test_a_tree_that_does_not_hang_together_is_refused(nodes):
    with pytest.raises(DataError, match="tree p"):
        derive(tree(*nodes))


def test_a_setting_that_a_rule_does_not_read_is_refused():
    with pytest.raises(ValueError, match="rule 'margin' has no chosen"):
        PairsConfig(rejected="margin", chosen="best_score")
    with pytest.raises(ValueError, match="rule 'vetoed' has no min_margin"):
        PairsConfig(rejected="vetoed", min_margin=0.1)
    assert PairsConfig.model_validate(PairsConfig(rejected="margin").model_dump()) == PairsConfig(rejected="margin")
