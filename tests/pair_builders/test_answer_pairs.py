"""Pairs of whole answers, and length-debiased pairs of any siblings, against a search of all pairs by hand."""

import math
from statistics import median_low

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_cases import layer, node, tree, trees

from lpo.build_config import BuildConfig, PairsConfig
from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.length_penalty import debiased
from lpo.pair_builders.pairs import derive_pairs
from lpo.records import Reason
from lpo.words import count_words

NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel")
ANSWER_RULES = ("worst", "random_consistent", "margin")


def text_of(name: str, words: int) -> str:
    return " ".join([name, *["leaf"] * (words - 1)])


# Scores are sixteenths, lengths powers of two and penalties quarters: every comparison is exact.
SCORES = st.one_of(st.integers(0, 16).map(lambda value: value / 16), st.sampled_from([0.5, 0.5, "cut", "unparsable"]))
ANSWERS = st.lists(st.tuples(st.sampled_from(NAMES), SCORES, st.sampled_from([1, 2, 4, 16])), min_size=1, max_size=6)


def answered(answers, seed=0):
    nodes = [node(f"0.{index}", score, text_of(name, words)) for index, (name, score, words) in enumerate(answers)]
    return tree(*nodes, method="best_of_n", seed=seed)


def build_of(rule="worst", samples=6, min_scored=2, **pairs):
    return BuildConfig.model_validate({"method": "best_of_n", "pairs": {"rejected": rule, **pairs},
                                       "answers": {"samples": samples, "min_scored": min_scored}})


def sides(derived):
    return [(pair.provenance["chosen"], pair.provenance["rejected"]) for pair in derived.pairs]


def reasons(derived):
    return [row.reason for row in derived.rejected]


def distinct(one):
    """The answers that can be in a pair: the first of equal texts."""
    seen = {}
    for entry in one.nodes[1:]:
        seen.setdefault(entry.text, entry)
    return list(seen.values())


def wide_enough(one, penalty, min_margin):
    """Every ordered pair of scored answers that lies far enough apart, with its margin: by the definition alone."""
    scored = [entry for entry in distinct(one) if entry.score is not None]
    found = {}
    for better in scored:
        for worse in scored:
            doublings = math.log2(len(better.text.split()) / len(worse.text.split()))
            margin = better.score - worse.score - penalty * doublings
            if margin >= min_margin:
                found[better.id, worse.id] = margin
    return found


def best(one, penalty):
    """The answer that no other one beats; the first of equals."""
    scored = [entry for entry in distinct(one) if entry.score is not None]
    return next(entry for entry in scored if all(
        entry.score - other.score - penalty * math.log2(len(entry.text.split()) / len(other.text.split())) >= 0
        for other in scored))


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.sampled_from(ANSWER_RULES), st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.01, 1 / 16, 0.5]),
       st.none() | st.integers(1, 3), st.integers(2, 4), st.integers(0, 50))
def test_the_pairs_are_those_found_by_hand(answers, rule, penalty, min_margin, per_layer, min_scored, seed):
    one = answered(answers, seed)
    derived = answer_pairs(one, build_of(rule, min_scored=min_scored, min_margin=min_margin, per_layer=per_layer,
                                         length_penalty=penalty))
    usable = distinct(one)
    scored = [entry for entry in usable if entry.score is not None]
    assert (not derived.pairs) == (len(derived.rejected) == 1) and len(derived.rejected) <= 1
    if len(usable) < 2:
        assert reasons(derived) == [Reason.EQUAL_TEXTS if len(answers) > 1 else Reason.TOO_FEW_CANDIDATES]
        return
    if len(scored) < min_scored:
        assert reasons(derived) == [Reason.TOO_FEW_SCORED]
        assert f"{len(scored)} of {len(usable)} candidates have a score, {min_scored} are needed" \
            in derived.rejected[0].detail
        return
    allowed = wide_enough(one, penalty, min_margin)
    if rule != "margin":
        chosen = best(one, penalty).id
        allowed = {pair: margin for pair, margin in allowed.items() if pair[0] == chosen}
    found = sides(derived)
    assert len(set(found)) == len(found) == min(len(allowed), per_layer or len(allowed))
    assert dict(zip(found, (pair.margin for pair in derived.pairs), strict=True)).items() <= allowed.items()
    if rule != "random_consistent":
        widest = sorted(allowed.values(), reverse=True)
        assert [pair.margin for pair in derived.pairs] == widest[:len(found)]
    if not allowed:
        tie = len({entry.score - penalty * math.log2(len(entry.text.split())) for entry in scored}) == 1
        assert reasons(derived) == [Reason.TIE if tie else Reason.SMALL_MARGIN]


@settings(max_examples=100, deadline=None)
@given(ANSWERS, st.sampled_from(ANSWER_RULES), st.sampled_from([0.0, 0.25]))
def test_a_pair_says_how_long_its_sides_are_and_keeps_what_the_judge_said(answers, rule, penalty):
    one = answered(answers)
    nodes = {entry.id: entry for entry in one.nodes}
    for pair in answer_pairs(one, build_of(rule, per_layer=None, length_penalty=penalty)).pairs:
        chosen, rejected = nodes[pair.provenance["chosen"]], nodes[pair.provenance["rejected"]]
        assert pair.provenance["words"] == {"chosen": len(chosen.text.split()), "rejected": len(rejected.text.split())}
        assert (pair.scores.chosen, pair.scores.rejected) == (chosen.judgement, rejected.judgement)
        assert (pair.prefix, pair.step, pair.method, pair.group) == ("", 0, "best_of_n", "p")
        raw = chosen.score - rejected.score
        if not penalty:
            assert pair.margin == raw and not pair.provenance.keys() & {"raw_margin", "debiased_scores"}
            continue
        assert pair.provenance["raw_margin"] == raw
        priced = pair.provenance["debiased_scores"]
        assert pair.margin == priced["chosen"] - priced["rejected"]
        middle = median_low([len(entry.text.split()) for entry in distinct(one)])
        assert priced["chosen"] == chosen.score - penalty * math.log2(len(chosen.text.split()) / middle)


@settings(max_examples=100, deadline=None)
@given(ANSWERS, st.sampled_from(ANSWER_RULES), st.sampled_from(["most_visited", "best_value", "best_score"]))
def test_whoever_is_to_be_chosen_it_is_the_best_score(answers, rule, chosen):
    one = answered(answers)
    rules = PairsConfig(rejected=rule, per_layer=None)
    expected = derive_pairs(one, rules.model_copy(update={"chosen": "best_score"}))
    assert derive_pairs(one, rules.model_copy(update={"chosen": chosen})) == expected


# The papers' rules


def test_best_against_worst():
    one = layer(0.4, 0.9, 0.1, "cut", 0.5)
    assert sides(answer_pairs(one, build_of("worst"))) == [("0.1", "0.2")]
    five = build_of("worst", min_scored=5)
    assert reasons(answer_pairs(one, five)) == [Reason.TOO_FEW_SCORED]
    assert answer_pairs(one, five).rejected[0].detail == "4 of 5 candidates have a score, 5 are needed: cut"
    assert len(answer_pairs(layer(0.4, 0.9, 0.1, 0.3, 0.5), five).pairs) == 1


def test_best_against_a_random_other_by_the_trees_seed():
    drawn = {sides(answer_pairs(tree(*layer(0.4, 0.9, 0.1, 0.5).nodes[1:], seed=seed),
                                build_of("random_consistent")))[0] for seed in range(60)}
    assert drawn == {("0.1", "0.0"), ("0.1", "0.2"), ("0.1", "0.3")}


def test_all_pairs_above_a_margin():
    derived = answer_pairs(layer(0.5, 0.9, 0.1, 0.5), build_of("margin", per_layer=None, min_margin=0.3))
    assert sides(derived)[0] == ("0.1", "0.2")
    assert set(sides(derived)) == {("0.1", "0.2"), ("0.1", "0.0"), ("0.1", "0.3"), ("0.0", "0.2"), ("0.3", "0.2")}
    assert [pair.id for pair in derived.pairs] == ["p/0", "p/0#2", "p/0#3", "p/0#4", "p/0#5"]


def test_the_method_takes_its_own_rules():
    build = build_of("worst", min_scored=4)
    assert rows_of(layer(0.1, 0.2, 0.3), build) == answer_pairs(layer(0.1, 0.2, 0.3), build)
    assert reasons(rows_of(layer(0.1, 0.2, 0.3), build)) == [Reason.TOO_FEW_SCORED]


# Length


def test_a_longer_answer_must_be_better_by_the_price_of_its_length():
    one = answered([("ash", 0.75, 16), ("birch", 0.625, 4), ("cedar", 0.5, 4)])
    assert sides(answer_pairs(one, build_of("worst"))) == [("0.0", "0.2")]
    priced = answer_pairs(one, build_of("worst", length_penalty=0.125))
    assert sides(priced) == [("0.1", "0.0")], "two doublings cost 0.25: 0.75 counts as 0.5, first of the lowest"
    [pair] = priced.pairs
    assert (pair.margin, pair.provenance["raw_margin"]) == (0.125, -0.125)
    assert pair.provenance["debiased_scores"] == {"chosen": 0.625, "rejected": 0.5}
    assert pair.scores.chosen.overall == 0.625 and pair.scores.rejected.overall == 0.75
    assert priced.tree.nodes[1].judgement == one.nodes[1].judgement


def test_scores_that_length_alone_sets_apart_are_a_tie():
    one = answered([("ash", 0.75, 16), ("birch", 0.5, 4)])
    assert reasons(answer_pairs(one, build_of("margin", length_penalty=0.125))) == [Reason.TIE]


def test_scores_far_below_nought_are_ranked_all_the_same():
    one = answered([("ash", 0.0, 16), ("birch", 0.0, 1), ("cedar", "cut", 1)])
    derived = answer_pairs(one, build_of("worst", length_penalty=2.0))
    assert sides(derived) == [("0.1", "0.0")] and derived.pairs[0].margin == 8.0


def test_no_price_changes_nothing_and_texts_without_words_count_as_one():
    nodes = list(layer(0.5, 0.25).nodes[1:])
    assert debiased(nodes, 0.0) == nodes and debiased([], 0.5) == []
    wordless = [node("0.0", 0.5, "1 2 3"), node("0.1", 0.25, "one two")]
    assert [entry.score for entry in debiased(wordless, 0.125)] == [0.5, 0.125]


@settings(max_examples=150, deadline=None)
@given(trees(), st.sampled_from(["most_visited", "best_value", "best_score"]),
       st.sampled_from(["random_consistent", "worst", "margin", "vetoed"]), st.none() | st.integers(1, 3),
       st.floats(0.01, 1))
def test_steps_of_a_tree_are_debiased_alike(one, chosen, rule, per_layer, penalty):
    rules = PairsConfig().model_copy(update={"chosen": chosen, "rejected": rule, "per_layer": per_layer,
                                             "length_penalty": penalty})
    nodes = {entry.id: entry for entry in one.nodes}
    for pair in derive_pairs(one, rules).pairs:
        better, worse = (nodes[pair.provenance[side]] for side in ("chosen", "rejected"))
        assert pair.scores is None or (pair.scores.chosen, pair.scores.rejected) == (better.judgement, worse.judgement)
        if worse.score is None:
            assert rule == "vetoed" and pair.margin is None and pair.provenance["raw_margin"] is None
            continue
        longer = math.log2(max(1, count_words(better.text)) / max(1, count_words(worse.text)))
        assert pair.provenance["raw_margin"] == better.score - worse.score
        assert pair.margin == pytest.approx(better.score - worse.score - penalty * longer, abs=1e-12)
        assert rule == "vetoed" or pair.margin >= rules.min_margin


def test_paths_decide_before_length_does():
    one = tree(node("0.0", 0.5, "one two three four", visits=3, value=0.5),
               node("0.1", 0.5, "one", visits=1, value=0.5), node("0.2", 0.0, "word " * 8))
    for chosen, expected in (("most_visited", "0.0"), ("best_value", "0.1"), ("best_score", "0.1")):
        derived = derive_pairs(one, PairsConfig(chosen=chosen, rejected="worst", length_penalty=0.125))
        assert sides(derived) == [(expected, "0.2")]


@settings(max_examples=100, deadline=None)
@given(trees(), st.sampled_from(["random_consistent", "worst", "margin", "vetoed"]))
def test_without_a_limit_a_rule_gives_all_that_any_limit_gives(one, rule):
    def pairs(per_layer):
        return sides(derive_pairs(one, PairsConfig(rejected=rule, per_layer=per_layer)))

    assert pairs(None) == pairs(100)
    assert set(pairs(1)) <= set(pairs(None))
