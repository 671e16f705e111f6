import re
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.errors import DataError
from lpo.segmentation import align, align_texts, split_segments
from lpo.segmentation.alignment import LEAST_SIMILARITY, similarities
from lpo.writing_config import SegmentsConfig

WORDS = st.sampled_from([
    "rain", "the", "a", "cat", "sat", "fell", "on", "he", "猫", "坐", "。", "\ud83d", "\x00", "B", "b", "\n", "1"])
SEGMENTS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), max_size=5)
PARAGRAPHS = [
    "The lighthouse stood at the end of the rock, and its keeper wrote a letter every night.\n\n",
    "Nobody in the village had seen a ship since the harbour silted up forty years ago.\n\n",
    "In spring a parcel came: brown paper, no stamp, her own name in her own hand.\n\n",
    "她把信放在桌上，听着窗外的雨声，一夜没有睡着。\n\n",
    "第二天早晨，灯塔里的灯还亮着，可是门开着，屋里没有人。\n\n",
    "| year | ships |\n|---|---|\n| 1931 | 12 |\n\n",
]
DISTINCT = st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=12).map(
    lambda numbers: [" ".join(f"w{number}x{place}" for place in range(9)) for number in numbers])


@given(SEGMENTS, SEGMENTS)
@settings(max_examples=300, deadline=None)
def test_both_texts_are_kept_in_order(original, revised):
    pairs = align(original, revised)
    assert [mine for mine, _ in pairs if mine] == original
    assert [theirs for _, theirs in pairs if theirs] == revised
    assert all(mine or theirs for mine, theirs in pairs)
    assert not any(not one[0] and not other[1] for one, other in pairwise(pairs)), "deletions before insertions"


def dice(one: str, other: str) -> float:
    """The similarity once more, from counters."""
    bags = []
    for text in (one, other):
        tokens = re.findall(r"[一-鿿]|[^\W一-鿿]+|[^\w\s]", text.lower())
        bags.append(Counter([*tokens, *pairwise(tokens)]))
    size = bags[0].total() + bags[1].total()
    return 2 * (bags[0] & bags[1]).total() / size if size else 0.0


@given(SEGMENTS, SEGMENTS)
@settings(max_examples=200, deadline=None)
def test_similarity_is_that_of_counters(original, revised):
    found = similarities(original, revised)
    assert found.shape == (len(original), len(revised))
    for i, mine in enumerate(original):
        assert found[i].tolist() == pytest.approx([dice(mine, theirs) for theirs in revised])


def worth(pairs) -> tuple[int, float]:
    """What the alignment makes as large as it can: equal segments first, then similarity."""
    partners = [(mine, theirs) for mine, theirs in pairs if mine and theirs]
    return (sum(mine == theirs for mine, theirs in partners),
            sum((1.0 if mine == theirs else dice(mine, theirs)) - LEAST_SIMILARITY for mine, theirs in partners))


def versions(length: int, ending: str):
    """Lists of whole paragraphs and of beginnings of them."""
    whole = PARAGRAPHS[:3]
    return st.lists(st.sampled_from([*whole, *(text[:length] + ending for text in whole)]), max_size=4)


@given(versions(30, " and other words"), versions(50, " and more words"))
@settings(max_examples=150, deadline=None)
def test_no_alignment_is_better(original, revised):
    every = [list(zip(mine, theirs, strict=True)) for size in range(min(len(original), len(revised)) + 1)
             for mine in combinations(original, size) for theirs in combinations(revised, size)]
    best = max(worth(pairs) for pairs in every)
    found = worth(align(original, revised))
    assert found[0] == max(worth(pairs)[0] for pairs in every)
    assert found == (best[0], pytest.approx(best[1]))


@given(st.lists(st.text(min_size=1, max_size=9), max_size=9))
@settings(max_examples=150, deadline=None)
def test_equal_versions_align_one_to_one(segments):
    assert align(segments, list(segments)) == [(text, text) for text in segments]


@given(DISTINCT, st.data())
@settings(max_examples=150, deadline=None)
def test_a_segment_put_in_or_taken_out_is_found(segments, data):
    place = data.draw(st.integers(0, len(segments) - 1))
    without = segments[:place] + segments[place + 1:]
    assert align(segments, without) == [(text, "" if text == segments[place] else text) for text in segments]
    assert align(without, segments) == [("" if text == segments[place] else text, text) for text in segments]


def test_edited_segments_keep_their_partners_and_new_ones_have_none():
    edited = [PARAGRAPHS[0].replace("every night", "each evening, by lamplight,"), PARAGRAPHS[1],
              "A chapter about something else altogether: mushrooms, umbrellas, tram lines.\n\n",
              PARAGRAPHS[3].replace("一夜没有睡着", "想了很久"), PARAGRAPHS[4], PARAGRAPHS[5].replace("12", "14")]
    assert align(PARAGRAPHS, edited) == [
        (PARAGRAPHS[0], edited[0]), (PARAGRAPHS[1], PARAGRAPHS[1]), (PARAGRAPHS[2], ""), ("", edited[2]),
        (PARAGRAPHS[3], edited[3]), (PARAGRAPHS[4], PARAGRAPHS[4]), (PARAGRAPHS[5], edited[5])]


def test_a_segment_wholly_rewritten_is_struck_out_and_put_in():
    assert align(["The cat sat."], ["It rains, they say."]) == [("The cat sat.", ""), ("", "It rains, they say.")]


def test_the_larger_part_of_a_split_or_merged_segment_is_the_partner():
    before, first, second, after = PARAGRAPHS[1], "The lighthouse stood at the end. ", PARAGRAPHS[0], PARAGRAPHS[2]
    assert align([before, first + second, after], [before, first, second, after]) == [
        (before, before), ("", first), (first + second, second), (after, after)]
    assert align([before, first, second, after], [before, first + second, after]) == [
        (before, before), (first, ""), (second, first + second), (after, after)]


def test_a_moved_segment_is_struck_out_and_put_in():
    a, b, c = PARAGRAPHS[:3]
    assert align([a, b, c], [b, c, a]) == [(a, ""), (b, b), (c, c), ("", a)]


def test_equal_segments_are_never_given_up_for_similar_ones():
    a, b = PARAGRAPHS[:2]
    assert align([a, b], [b[:-9], a]) == [("", b[:-9]), (a, a), (b, "")]


def test_empty_segments_are_left_out():
    assert align(["", "a", ""], ["a", ""]) == [("a", "a")]
    assert align([], []) == [] and align(["a"], []) == [("a", "")] and align([], ["a"]) == [("", "a")]


def scripts(slide: str):
    pieces = ["# One\n\n", "The rain fell. ", "她走了。", "\n\n", "---\n", slide]
    return st.lists(st.sampled_from(pieces), max_size=12).map("".join)


@given(scripts("Slide 2:\n"), scripts("Slide 3:\n"), st.sampled_from(["sections", "paragraphs", "slides"]))
@settings(max_examples=150, deadline=None)
def test_whole_texts_are_cut_and_aligned(original, revised, by):
    config = SegmentsConfig(by=by)
    pairs = align_texts(original, revised, config)
    assert ("".join(mine for mine, _ in pairs), "".join(theirs for _, theirs in pairs)) == (original, revised)
    assert pairs == align(split_segments(original, config), split_segments(revised, config))


def test_too_many_segments_are_refused_but_not_what_is_equal_at_both_ends():
    many = [f"segment {number}" for number in range(4_100)]
    changed = [*many[:7], "something else", *many[8:]]
    assert len(align(many, changed)) in (len(many), len(many) + 1)
    with pytest.raises(DataError, match="too many to align"):
        align(many, [text + "!" for text in many])
