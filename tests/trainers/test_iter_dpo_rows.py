"""Corrected scripts as pairs: which pairs there are, and that every one that is not trained on is counted."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.records import Message, Reason
from lpo.trainers import IterMode, Tokeniser
from lpo.trainers.columns import read_pair
from lpo.trainers.iter_rows import expand_rows, n_glued

SCRIPT = {"id": "deck", "prompt": "Talk.", "segments_original": ["A\n\n", "", "c\n\n", "D"],
          "segments_revised": ["A\n\n", "B\n\n", "C\n\n", "D"]}


def expand(rows, mode, **options):
    return expand_rows(rows, IterMode(mode), **options)


def test_growing_prefixes_are_those_of_the_paper():
    result = expand([SCRIPT], "prefix")
    assert [(row["id"], row["step"], row["chosen"], row["rejected"], row["chosen_ends"], row["rejected_ends"])
            for row in result.rows] == [
        ("deck/2", 1, "A\n\nB\n\n", "A\n\n", False, False),
        ("deck/3", 2, "A\n\nB\n\nC\n\n", "A\n\nc\n\n", False, False),
        ("deck/4", 3, "A\n\nB\n\nC\n\nD", "A\n\nc\n\nD", True, True),
    ]
    assert all(row["prefix"] == "" and row["prompt"] == "Talk." for row in result.rows)
    assert [(row.id, row.reason, row.stage) for row in result.skipped] == [("deck/1", Reason.EQUAL_TEXTS, "train")]
    ending = expand([SCRIPT], "prefix", prefixes_end=True)
    assert all(row["chosen_ends"] and row["rejected_ends"] for row in ending.rows)


def test_local_pairs_continue_the_corrected_script():
    result = expand([SCRIPT], "local")
    assert [(row["id"], row["step"], row["prefix"], row["chosen"], row["rejected"], row["chosen_ends"])
            for row in result.rows] == [
        ("deck/2", 1, "A\n\n", "B\n\n", "", False),
        ("deck/3", 2, "A\n\nB\n\n", "C\n\n", "c\n\n", False),
    ]
    assert [row.id for row in result.skipped] == ["deck/1", "deck/4"]
    last = expand([{**SCRIPT, "segments_revised": ["A\n\n", "", "c\n\n", "E"]}], "local")
    assert [(row["id"], row["chosen_ends"], row["rejected_ends"]) for row in last.rows] == [("deck/4", True, True)]


def test_a_full_pair_is_a_plain_pair():
    [row] = expand([SCRIPT], "full").rows
    plain = {"id": "deck", "prompt": "Talk.", "chosen": "A\n\nB\n\nC\n\nD", "rejected": "A\n\nc\n\nD"}
    assert read_pair(row, "x") == read_pair(plain, "x")


def test_all_pairs_of_a_script_have_one_group_and_its_other_columns():
    scripts = [{**SCRIPT, "group": "g", "meta": {"kind": "deck"}},
               {**SCRIPT, "prompt": [{"role": "user", "content": "Talk."}]}]
    for script in scripts:
        for mode in IterMode:
            pairs = [read_pair(row, "x") for row in expand([script], mode).rows]
            assert len({pair.group for pair in pairs}) == 1
            assert {pair.prompt for pair in pairs} <= {"Talk.", (Message(role="user", content="Talk."),)}
    assert {row["group"] for row in expand(scripts[:1], "prefix").rows} == {"g"}
    [refused] = {Tokeniser(None).row(row, "x").detail for row in expand([{**SCRIPT, "images": ["a.png"]}], "full").rows}
    assert "'images' is not supported" in refused


def test_plain_pairs_pass_through_and_keep_their_numbers():
    plain = {"prompt": "P", "chosen": "good", "rejected": "bad"}
    full = {**plain, "id": 7, "prefix": " so", "step": 3, "segments_original": None, "segments_revised": None}
    rows = expand([SCRIPT, plain, full], "prefix", name="train row").rows
    assert rows[-2:] == [{**plain, "id": "train row 1"}, {**full, "id": "7"}]
    unnamed = expand([plain, {name: value for name, value in SCRIPT.items() if name != "id"}], "prefix", name="row")
    assert [row["id"] for row in unnamed.rows[1:]] == ["row 1/2", "row 1/3", "row 1/4"]


@pytest.mark.parametrize(("change", "reason", "detail"), [
    ({"chosen": "A", "rejected": "B"}, Reason.MALFORMED, "the column 'chosen' in one row"),
    ({"prefix": ""}, Reason.MALFORMED, "the column 'prefix' in one row"),
    ({"segments_revised": ["A", "B"]}, Reason.MALFORMED, "4 original segments but 2 revised ones"),
    ({"segments_revised": None}, Reason.MALFORMED, "no column 'segments_revised'"),
    ({"segments_original": None}, Reason.MALFORMED, "no column 'segments_original'"),
    ({"segments_original": "ABCD"}, Reason.MALFORMED, "not a list of texts"),
    ({"segments_original": ["A", None, "C", "D"]}, Reason.MALFORMED, "not a list of texts"),
    ({"segments_original": [], "segments_revised": []}, Reason.MALFORMED, "no segments"),
    ({"prompt": None}, Reason.MALFORMED, "without a prompt"),
    ({"segments_revised": SCRIPT["segments_original"]}, Reason.EQUAL_TEXTS, "no segment was changed"),
])
@pytest.mark.parametrize("mode", list(IterMode))
def test_rows_that_are_no_script_are_refused_once(mode, change, reason, detail):
    result = expand([{**SCRIPT, **change}, SCRIPT], mode)
    [refused] = result.refused
    assert (refused.id, refused.reason) == ("deck", reason) and detail in refused.detail
    assert result.rows == expand([SCRIPT], mode).rows


def test_words_that_meet_without_a_blank_are_noticed():
    assert n_glued(["One.", "Two.\n\n", "Three.", "", "Four."]) == 2
    assert n_glued(["One.\n\n", "Two. ", "Three.", "\n\nFour", " five", "。六"]) == 0
    assert expand([{**SCRIPT, "segments_revised": ["A", "B", "C", "D"]}], "prefix").n_glued == 3


def test_characters_are_cleaned_and_counted_once():
    broken = {**SCRIPT, "segments_original": ["A\ud83d\0", "", "c", "D"]}
    result = expand([broken], "prefix")
    assert result.cleaned_characters == 2 and result.rows[-1]["rejected"] == "A\ufffdcD"


def test_the_example_of_the_page_of_data_formats_is_a_script():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^```json scripts\n(.+)\n```$", page, flags=re.MULTILINE)
    result = expand([json.loads(line)], "prefix")
    assert [row["id"] for row in result.rows] == ["tides/1", "tides/2"] and not result.n_glued


SEGMENT = st.sampled_from(["", "The pier.\n\n", "the  pier.\n\n", "Rain fell", "\n\n", "雨落。"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SEGMENT, SEGMENT), min_size=1, max_size=6), st.sampled_from(list(IterMode)))
def test_every_pair_of_a_script_is_trained_on_or_has_a_reason(tiny_tokenizer, segments, mode):
    original, revised = ([pair[side] for pair in segments] for side in (0, 1))
    result = expand([{"id": "x", "prompt": "Talk.", "segments_original": original, "segments_revised": revised}], mode)
    if original == revised:
        assert [row.id for row in result.refused] == ["x"] and not result.rows and not result.skipped
        return
    tokenised = Tokeniser(tiny_tokenizer).rows(result.rows)
    ids = [pair.id for pair in tokenised.pairs] + [row.id for row in (*result.skipped, *tokenised.rejected)]
    n = len(segments)
    assert sorted(ids) == (["x"] if mode == "full" else [f"x/{i}" for i in range(1, n + 1)])
    for row in tokenised.rejected:
        assert row.reason in (Reason.EMPTY, Reason.EQUAL_TEXTS)
    for row in result.rows:  # against the definition, letter by letter
        i = row["step"] + 1 if mode != "full" else n
        start = i - 1 if mode == "local" else 0
        assert (row["prefix"], row["chosen"], row["rejected"]) == (
            "".join(revised[:start]), "".join(revised[start:i]), "".join(original[start:i]))
        assert row["chosen_ends"] == row["rejected_ends"] == (i == n)
