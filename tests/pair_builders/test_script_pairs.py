"""The pairs of a corrected answer, compared with the expansion that trainers make of the same scripts."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_cases import build_config, script_tree, script_trees, segment

from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.script_pairs import script_pairs
from lpo.records import CorrectionOutcome, Reason, SearchTree
from lpo.segment_pairs import IterMode
from lpo.trainers.iter_rows import expand_rows

MODES = ("prefix", "local", "full")
THREE = (segment("A. ", "A! ", 0.4, 0.6), segment("B. "), segment("C.", "C!", 0.5, 0.75))


def of_script(rows):
    """Pairs or rejected rows of the script alone."""
    return [row for row in rows if "/script" in row.id]


def texts(pair):
    return pair.prefix, pair.chosen, pair.rejected, pair.chosen_ends, pair.rejected_ends, pair.step


def test_the_three_modes_of_a_script_of_three_segments():
    tree = script_tree(*THREE)
    prefix = script_pairs(tree, build_config("prefix"))
    assert [(pair.id, *texts(pair)) for pair in prefix.pairs] == [
        ("p/script/1", "", "A! ", "A. ", False, False, 0),
        ("p/script/2", "", "A! B. ", "A. B. ", False, False, 1),
        ("p/script/3", "", "A! B. C!", "A. B. C.", True, True, 2)]
    assert [pair.provenance["full_length"] for pair in prefix.pairs] == [False, False, True]
    assert [pair.provenance["changed"] for pair in prefix.pairs] == [[1], [1], [1, 3]]
    local = script_pairs(tree, build_config("local"))
    assert [(pair.id, *texts(pair)) for pair in local.pairs] == [
        ("p/script/1", "", "A! ", "A. ", False, False, 0),
        ("p/script/3", "A! B. ", "C!", "C.", True, True, 2)]
    assert [(row.id, row.reason) for row in local.rejected] == [("p/script/2", Reason.EQUAL_TEXTS)]
    assert [pair.provenance["changed"] for pair in local.pairs] == [[1], [3]]
    full = script_pairs(tree, build_config("full"))
    assert [(pair.id, *texts(pair)) for pair in full.pairs] == [
        ("p/script", "", "A! B. C!", "A. B. C.", True, True, 0)]
    for derived in (prefix, local, full):
        assert {(pair.group, pair.prompt, pair.method) for pair in derived.pairs} == {
            ("p", tree.prompt.dialogue, "iterdpo")}


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_was_cut_at_its_budget_does_not_end(mode):
    pairs = script_pairs(script_tree(*THREE, ends=False), build_config(mode)).pairs
    assert pairs and not any(pair.chosen_ends or pair.rejected_ends for pair in pairs)


def test_a_margin_stands_where_both_sides_were_judged_in_the_same_place():
    margins = {mode: [pair.margin for pair in script_pairs(script_tree(*THREE), build_config(mode)).pairs]
               for mode in MODES}
    assert margins["local"] == [pytest.approx(0.2), pytest.approx(0.25)]
    assert margins["prefix"] == [pytest.approx(0.2), None, None], "the uncorrected beginning was never judged"
    assert margins["full"] == [None]
    last_alone = script_tree(segment("A. "), segment("B.", "B!", 0.1, 0.9))
    assert [pair.margin for pair in script_pairs(last_alone, build_config("full")).pairs] == [pytest.approx(0.8)]
    # In two rounds: from the judgement of the original to that of what was accepted last.
    first, second = segment("A.", "A!", 0.2, 0.5), segment("A!", "A?", 0.4, 0.6)
    twice = first.model_copy(update={"revised": "A?", "corrections": (*first.corrections, *second.corrections)})
    [pair] = script_pairs(script_tree(twice), build_config("local")).pairs
    assert pair.margin == pytest.approx(0.4)
    assert (pair.scores.rejected.overall, pair.scores.chosen.overall) == (0.2, 0.6)
    given_by_people = segment("A.", "A!", outcome=CorrectionOutcome.GIVEN)
    [pair] = script_pairs(script_tree(given_by_people), build_config("local")).pairs
    assert pair.margin is None and pair.provenance["corrections"] == {"given": 1}


def test_what_gives_no_pair_says_why():
    unchanged = script_tree(segment("A. ", "A! ", 0.5, 0.4, CorrectionOutcome.NOT_BETTER), segment("B."))
    [row] = script_pairs(unchanged, build_config()).rejected
    assert (row.id, row.reason, row.detail) == ("p/script", Reason.NO_CORRECTION, "not_better: 1")
    [row] = script_pairs(script_tree(), build_config()).rejected
    assert (row.id, row.reason) == ("p/script", Reason.NO_CORRECTION)
    missing_page = script_tree(segment("", "A. "), segment("B.", "B!"))
    derived = script_pairs(missing_page, build_config("prefix"))
    assert [(row.id, row.reason) for row in derived.rejected] == [("p/script/1", Reason.EMPTY)]
    assert [texts(pair)[1:3] for pair in derived.pairs] == [("A. B!", "B.")]
    refused = script_tree(scores=(0.5,))
    refused = refused.model_copy(update={"nodes": (refused.nodes[0], refused.nodes[1].model_copy(
        update={"judgement": None, "note": "request_rejected: too long"}))})
    [row] = script_pairs(refused, build_config()).rejected
    assert (row.reason, "too long" in row.detail) == (Reason.REQUEST_REJECTED, True)


def oracle(tree: SearchTree, mode: str):
    """The trainers' expansion of the same script."""
    row = {"id": "p/script", "prompt": "Write.", "segments_original": [one.original for one in tree.script.segments],
           "segments_revised": [one.revised for one in tree.script.segments]}
    return expand_rows([row], IterMode(mode))


@settings(max_examples=150, deadline=None)
@given(tree=script_trees(), mode=st.sampled_from(MODES))
def test_pairs_are_those_of_the_trainers_expansion_in_both_directions(tree, mode):
    derived = script_pairs(tree, build_config(mode))
    if tree.script is None:
        assert [row.reason for row in of_script(derived.rejected)] == [Reason.NO_CORRECTION]
        return
    expansion = oracle(tree, mode)
    ours = {pair.id: pair for pair in of_script(derived.pairs)}
    why = {row.id: row.reason for row in of_script(derived.rejected)}
    # Every row of the expansion is a pair here, unless a side of it has no text.
    for row in expansion.rows:
        if row["chosen"].strip() and row["rejected"].strip():
            pair = ours.pop(row["id"])
            ends = row["chosen_ends"] and tree.script.ends
            assert texts(pair) == (row["prefix"], row["chosen"], row["rejected"], ends, ends, row["step"])
        else:
            assert why.pop(row["id"]) == Reason.EMPTY
    # And the other way round: nothing else is.
    assert ours == {}
    assert why == {**{row.id: Reason.EQUAL_TEXTS for row in expansion.skipped},
                   **({"p/script": Reason.NO_CORRECTION} if expansion.refused else {})}


@settings(max_examples=150, deadline=None)
@given(tree=script_trees(), mode=st.sampled_from(MODES), share=st.none() | st.integers(0, 20).map(lambda n: n / 20))
def test_kept_and_rejected_are_all_there_is(tree, mode, share):
    build = build_config(mode, share if mode == "prefix" else None)
    derived = script_pairs(tree, build)
    changed = tree.script is not None and tree.script.original != tree.script.revised
    segments = tree.script.segments if tree.script is not None else ()
    moved = any(one.original != one.revised for one in segments)
    expected = len(segments) if moved and mode != "full" else 1
    assert len(of_script(derived.pairs)) + len(of_script(derived.rejected)) == expected
    ids = [row.id for row in (*derived.pairs, *derived.rejected)]
    assert len(ids) == len(set(ids))
    assert not of_script(derived.pairs) or changed or mode != "full"
    # The answers' pairs are those of best-of-N, where there are answers to compare.
    rest = [row for row in (*derived.pairs, *derived.rejected) if "/script" not in row.id]
    of_answers = answer_pairs(tree, build)
    wanted = [*of_answers.pairs, *of_answers.rejected] if len(tree.nodes) > 2 else []
    assert rest == wanted
    if wanted:
        assert derived.tree == of_answers.tree


def is_full(pair):
    return pair.provenance.get("full_length", True)


@settings(max_examples=150, deadline=None)
@given(tree=script_trees(), share=st.integers(1, 20).map(lambda n: Fraction(n, 20)))
def test_full_length_pairs_reach_their_share_and_no_pair_more_than_needed_is_left_out(tree, share):
    every = script_pairs(tree, build_config()).pairs
    derived = script_pairs(tree, build_config("prefix", float(share)))
    left_out = [row for row in derived.rejected if row.reason is Reason.LEFT_OUT]
    assert {pair.id for pair in derived.pairs} | {row.id for row in left_out} == {pair.id for pair in every}
    assert [pair for pair in every if is_full(pair)] == [pair for pair in derived.pairs if is_full(pair)]
    full, kept = sum(map(is_full, derived.pairs)), len(derived.pairs)
    assert not kept or Fraction(full, kept) >= share
    assert not left_out or Fraction(full, kept + 1) < share, "one more would be too many"


def test_which_pairs_are_left_out_is_a_matter_of_the_seed_alone():
    segments = [segment(f"{name}. ", f"{name}! ", 0.1, 0.2) for name in "ABCDEFGH"]
    kept = [[pair.id for pair in script_pairs(script_tree(*segments, seed=seed), build_config("prefix", 0.25)).pairs]
            for seed in (0, 0, 1, 2, 3)]
    assert kept[0] == kept[1] and len({tuple(ids) for ids in kept}) > 1
    assert all(len(ids) == 4 and ids[-1] == "p/script/8" for ids in kept)
    assert any(ids[0] != "p/script/1" for ids in kept), "not simply the first ones"
