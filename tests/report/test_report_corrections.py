"""Corrected answers on the page: segments before and after, attempts, rates, caveats."""

from collections import Counter
from pathlib import Path

import pytest
from reading_runs import headings, said, scripts_on, trees_of
from sample_methods import iterdpo_run
from sample_scripts import ENDING, HARBOUR, HARBOUR_WORSE, OPENING, OPENING_BETTER, SPRING, SPRING_BETTER, SPRING_ONCE
from test_report_page import Page, page_of

from lpo.records import CorrectionOutcome, PreferencePair, Script
from lpo.report import write_report
from lpo.report.honesty import Weight
from lpo.storage import read_jsonl, write_jsonl
from lpo.words import count_words


@pytest.fixture(scope="module")
def corrected(tmp_path_factory) -> Path:
    return iterdpo_run(tmp_path_factory.mktemp("runs") / "lectures")


def test_segments_reach_the_page_letter_by_letter(corrected):
    entries = {entry["id"]: entry for entry in scripts_on(page_of(corrected))}
    for tree in trees_of(corrected):
        assert tree.script is not None
        for segment, shown in zip(tree.script.segments, entries[tree.id]["segments"], strict=True):
            before, after = (["".join(parts) for parts in shown["parts"]] if "parts" in shown
                             else [shown["text"]] * 2)
            assert (before, after) == (segment.original, segment.revised)
            assert shown["words"] == [count_words(segment.original), count_words(segment.revised)]
            assert [attempt["outcome"] for attempt in shown["attempts"]] == [
                correction.outcome.value for correction in segment.corrections]


def test_each_segment_has_the_state_that_counts_most(corrected):
    segments = scripts_on(page_of(corrected))[0]["segments"]
    assert [segment["state"] for segment in segments] == [
        "untried", "corrected", "unchanged", "corrected", "refused", "failed", "failed", "given", "given", "failed",
        "failed"]
    assert [place for place, segment in enumerate(segments) if segment["inserted"]] == [7]
    assert [place for place, segment in enumerate(segments) if segment["struck"]] == [8]


def test_what_differs_is_marked_and_what_a_round_proposed_is_shown_once(corrected):
    segments = scripts_on(page_of(corrected))[0]["segments"]
    shared = segments[1]["parts"][0][1::2]
    assert shared == segments[1]["parts"][1][1::2] and OPENING.startswith(shared[0]) and len(shared[0]) > 80
    assert "".join(segments[1]["parts"][1]) == OPENING_BETTER and segments[1]["attempts"][0]["proposed"] is None
    first, second = (attempt["proposed"]["parts"] for attempt in segments[3]["attempts"])
    assert ["".join(side) for side in first] == [SPRING, SPRING_ONCE]
    assert ["".join(side) for side in second] == [SPRING_ONCE, SPRING_BETTER]
    assert "".join(segments[4]["attempts"][0]["proposed"]["parts"][1]) == HARBOUR_WORSE
    assert segments[4]["text"] == HARBOUR and segments[10]["text"] == ENDING


def test_faults_scores_and_people_are_told(corrected):
    segments = scripts_on(page_of(corrected))[0]["segments"]
    attempt = segments[1]["attempts"][0]
    assert [fault[0] for fault in attempt["faults"]] == ["facts", "missing"]
    assert attempt["faults"][0][1] in OPENING and attempt["faults"][1][1] == ""
    assert attempt["after"]["overall"] > attempt["before"]["overall"] and attempt["after"]["grades"]["accuracy"]
    assert segments[5]["attempts"][0]["after"]["unscored"] == "unparsable"
    assert segments[7]["attempts"][0]["by"] == "Anna Lindqvist"


def test_the_rate_of_acceptance_is_of_revised_texts_and_the_counts_stand_above(corrected):
    page = page_of(corrected)
    scripts = [tree.script for tree in trees_of(corrected) if tree.script is not None]
    outcomes = Counter(correction.outcome for script in scripts for segment in script.segments
                       for correction in segment.corrections)
    revised = outcomes[CorrectionOutcome.ACCEPTED] + outcomes[CorrectionOutcome.NOT_BETTER] + \
        outcomes[CorrectionOutcome.UNSCORED]
    attempts = outcomes.total() - outcomes[CorrectionOutcome.GIVEN]
    assert (outcomes[CorrectionOutcome.ACCEPTED], revised, attempts) == (3, 6, 11)
    pairs = [PreferencePair.model_validate(row) for row in read_jsonl(corrected / "pairs.jsonl")]
    full = sum(pair.provenance.get("full_length", True) for pair in pairs)
    for text in ("3 of 6 revised texts, 11 attempts", "1 inserted, 1 struck out", "5 corrected by 4 people",
                 f"{full} of full length, {len(pairs) - full} of prefixes or segments"):
        assert text in page.text, text
    assert "50 %" in page.text and f"3 prompts → {sum(len(one.segments) for one in scripts)} segments" in page.text


def test_where_pairs_stand_in_the_answer_is_said(corrected):
    entries = page_of(corrected).data()["entries"]
    places = {entry["id"]: entry["place"] for entry in entries}
    assert places["tides/0"] == "whole answers" and places["tides/script/2"] == "segments 1–2 of 11"
    assert places["tea/script/1"] == "segment 1 of 3"


@pytest.mark.parametrize(("options", "warns", "text"), [
    ({"mode": "local", "answers": False}, True, "None of"),
    ({"mode": "prefix"}, False, "full length of an answer"),
    ({"lucky": False, "answers": False}, True, "No correction was accepted (4 attempts)"),
    ({}, False, "No correction was accepted"),
])
def test_corrections_that_teach_nothing_or_too_little_are_warned_of(tmp_path, options, warns, text):
    assert (text in said(iterdpo_run(tmp_path / "run", **options), Weight.WARNING)) == warns


def test_few_full_length_pairs_are_warned_of_as_none(tmp_path):
    folder = iterdpo_run(tmp_path / "run", mode="local", answers=False)
    row = read_jsonl(folder / "pairs.jsonl")[0]
    full = {**row, "provenance": {**row["provenance"], "full_length": True}}
    write_jsonl(folder / "pairs.jsonl", [full] * 5 + [row] * 95)
    assert "Only 5 of 100 pairs have the full length" in said(folder, Weight.WARNING)
    write_jsonl(folder / "pairs.jsonl", [full] * 6 + [row] * 94)
    assert "full length of an answer" not in said(folder, Weight.WARNING)


def test_corrections_of_a_file_come_without_answers(tmp_path):
    page = page_of(iterdpo_run(tmp_path / "run", answers=False))
    assert "Answers" not in headings(page) and "Corrections" in headings(page)


def test_many_scripts_stay_small_and_what_is_left_out_is_said(tmp_path):
    folder = iterdpo_run(tmp_path / "many")
    tree = trees_of(folder)[0]
    assert tree.script is not None
    long = Script(draft=None, ends=True, segments=tuple(
        segment.model_copy(update={"original": segment.original * 30, "revised": f"<茶&> {segment.revised * 30}"})
        for segment in tree.script.segments))
    write_jsonl(folder / "trees.jsonl", [
        tree.model_copy(update={"id": f"t{number}", "script": long}).to_json() for number in range(120)])
    report = write_report(folder)
    page = Page(report.read_text(encoding="utf-8"))
    shown = scripts_on(page)
    assert 5 < len(shown) < 120 and report.stat().st_size < 4_000_000
    assert f"{len(shown)} of 120 corrected answers" in page.text and f"{120 - len(shown)} are left out" in page.text
