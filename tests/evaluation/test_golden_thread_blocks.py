import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.evaluation.suites.golden_thread_blocks import blocks, split_pieces

ANSWER = """Here is the diary.

Week 1
It rained. In Week 2 we shall see the sea.
#*#

Week 2
The sea was grey.
#*#
"""


def found(text: str, units: int = 9, heading: str = "Week") -> dict[int, str]:
    return blocks(split_pieces(text, heading), units)


def test_blocks_are_found_with_their_texts_and_without_marks():
    assert found(ANSWER) == {1: "Week 1\nIt rained. In Week 2 we shall see the sea.", 2: "Week 2\nThe sea was grey."}


@pytest.mark.parametrize("line", [
    "Week 2", "week 2", "WEEK 2", "Week 2:", "Week 2: rain", "Week 2 (January 8th - January 14th):", "Week 2 – rain",
    "Week 2 - rain", "Week 2. Rain", "## Week 2", "### Week 2 Rain and more rain", "#*# Week 2 (January 8th)",
    "**Week 2**", "**Week 2:** rain", "**Week 2 Rainy days**", "__Week 2 Rainy days__:", "- Week 2: rain",
    "2. Week 2: rain", "[Week 2]", "> Week 2", "Week 02", "Week #2", "Week No. 2: rain", "| Week 2 |", "  Week 2",
    "Week 2\r", "Week 2 January 8th:", "#\\*# Week 2 January", "* **Week 2**", "Week 2 =====",
])
def test_a_line_that_is_a_heading(line):
    assert set(found(f"Week 1\nIt was cold.\n{line}\nIt was warm.\n")) == {1, 2}


@pytest.mark.parametrize("line", [
    "Week 2 was warm.", "Week 2-long holidays are nice.", "Week 2.5 was warm.", "Week 2nd was warm.", "Weeks 2: warm",
    "Weekend 2: warm", "In Week 2: rain", "We liked Week 2.", "Week two: rain", "Week: 2", "Week 2, the warm one.",
    "* Week 2 was warm.", "Midweek 2:", "Week Ⅱ", "Week ２", "(see Week 2)",
])
def test_a_line_that_is_none(line):
    assert found(f"Week 1\nIt was cold.\n{line}\nIt was warm.\n") == {
        1: f"Week 1\nIt was cold.\n{line}\nIt was warm."}


@pytest.mark.parametrize("before", ["It was as cold as in", "We shall be back before", "After the storm of", "Rain,"])
def test_a_sentence_that_is_wrapped_before_the_number_has_no_heading_in_it(before):
    assert set(found(f"Week 1\n{before}\nWeek 2.\nThe end.\n")) == {1}
    assert set(found(f"Week 1\n{before}\n\nWeek 2.\nThe end.\n")) == {1, 2}, "behind a blank line it is one"


def test_a_short_line_that_stands_alone_is_a_heading_unless_it_is_a_sentence():
    assert set(found("Week 1 Cold\n\nIt was cold.\n\nWeek 2 Warm days\n\nIt was warm.")) == {1, 2}
    assert set(found("Week 1 Cold\n\nIt was cold.\n\nWeek 2 Warm days\nIt was warm.")) == {1}
    assert set(found("Week 1 Cold\n\nIt was cold.\n\nWeek 2 was warm.\n\nIt was warm.")) == {1}


def test_behind_a_mark_anything_with_a_number_is_a_heading():
    assert set(found("Week 1 rainy as ever. #*# Week 2 was warm. #*#\nWeek 3 was cold\nand wet. #*#\n\nWeek 4 was")) \
        == {1, 2, 3, 4}


def test_blocks_may_come_in_any_order_and_some_may_be_missing():
    assert list(found("Week 7\nseven\nWeek 2\ntwo\nWeek 5\nfive")) == [2, 5, 7]


def test_a_repeated_block_counts_once_and_is_the_longest():
    outline = "Week 1: rain\nWeek 2: sun\n\n"
    recap = "\nWeek 1: all wet\nWeek 2: all dry\n"
    body = "Week 1\nIt rained and rained.\nWeek 2\nThe sun shone and shone.\n"
    assert found(outline + body + recap) == found(body)
    assert found("Week 1: aa\nWeek 1: bb\n") == {1: "Week 1: aa"}, "the first of equals"


def test_a_number_that_nobody_asked_for_ends_the_block_before_and_is_none():
    assert found("Week 1\none\nWeek 10\nten\nWeek 0\nnull\nWeek 999999999\nmany", units=9) == {1: "Week 1\none"}


def test_a_heading_without_words_is_no_block():
    assert found("Week 1\n\n#*#\nWeek 2:\n***\nWeek 3\nx") == {3: "Week 3\nx"}


def test_a_mark_ends_a_block_and_what_follows_without_heading_is_none():
    assert found("Week 1\none\n#*#\nA text without a heading.\n#*#\nWeek 3\nthree") == {1: "Week 1\none",
                                                                                      3: "Week 3\nthree"}


def test_a_mark_before_the_first_word_of_a_block_does_not_end_it():
    assert found("## Week 1 #*#\n\nIt rained.\n#*#") == {1: "## Week 1 \n\nIt rained."}


def test_other_headings():
    assert list(found("Floor 1\nlobby\nBlock 2: x\nFloor 3 (offices)\ndesks", heading="Floor")) == [1, 3]


PIECES = st.lists(st.one_of(
    st.sampled_from(["Week 1", "Week 2:", "\nWeek 3\n", "#*#", "\n", "\r\n", "## ", "**", "Week ", "Week 12 ", " ", "7",
                     "\n\n", "It rained", ".", "Weeks 4-5", "#", "*#", "- "]),
    st.text(max_size=8)), max_size=40).map("".join)


@given(PIECES)
def test_pieces_joined_are_the_answer_and_no_block_counts_twice(text):
    pieces = split_pieces(text, "Week")
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)
    there = blocks(pieces, 12)
    assert set(there) <= set(range(1, 13))
    assert list(there) == sorted(there)
    for number, block in there.items():
        assert re.search(rf"week[ \t]*(#|№|no\.?)?[ \t]*0*{number}(?![0-9])", block, re.IGNORECASE)


@given(st.dictionaries(st.integers(1, 52), st.text("abc xyz,!'\n", min_size=1, max_size=30).filter(str.strip)),
       st.randoms(use_true_random=False))
def test_whatever_stands_in_blocks_that_are_written_as_asked_they_are_all_found(texts, draw):
    numbers = list(texts)
    draw.shuffle(numbers)
    answer = "".join(f"Week {number}\n{texts[number]}\n#*#\n" for number in numbers)
    there = found(answer, units=52)
    words = {number for number, text in texts.items() if re.search("[a-z]", text)}
    assert set(there) == words
    assert all(there[number].split() == f"Week {number} {texts[number]}".split() for number in words)


@pytest.mark.parametrize("text", [
    "#*#" * 100_000, "Week " * 100_000, "Week" + " " * 300_000, "Week 1 " + "#*#" * 100_000, "\n" * 300_000,
    "Week 1\n" * 40_000, "#" * 300_000, "Week 1" * 50_000, ("-" * 40 + "\n") * 8000, "Week " + "1" * 300_000,
])
def test_texts_made_to_be_slow_are_cut_too(text):
    # Anything quadratic in a third of a million characters would run into the suite's time limit.
    assert "".join(piece.text for piece in split_pieces(text, "Week")) == text
