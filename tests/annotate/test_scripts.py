"""What is put before people, and what becomes of what they typed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample import ANSWER, BRIDGE, CHINESE, REVISED, answers_tree, judged, plain, sample_trees, script_tree

from lpo.annotate.scripts import AnnotatedSegment, Edges, best_answer, revised_segments, scripts_of, text_of
from lpo.errors import DataError
from lpo.records import Prompt, Refinement, RefinementOutcome, SearchNode, SearchTree
from lpo.segmentation import split_segments
from lpo.writing_config import SegmentsConfig

TEXTS = st.text(alphabet="ab 好\t\n\r.#", max_size=12)
SEGMENTS = st.builds(AnnotatedSegment, original=TEXTS, proposed=TEXTS)


def by_sections(text):
    return split_segments(text, SegmentsConfig())


def test_scripts_of_trees_and_best_answers_are_taken_the_rest_is_counted():
    trees = [*sample_trees(), answers_tree("blank", [(" \n", 0.5)])]
    intake = scripts_of(trees, by_sections)
    assert [script.id for script in intake.scripts] == ["bridge", "attack", "market", "bees"]
    assert intake.skipped == {"no whole answer has a score": 1, "the answer is empty": 1}
    assert len(intake.scripts) + intake.skipped.total() == len(trees) and intake.cut_here == 1
    bridge, _, _, bees = intake.scripts
    assert [segment.original for segment in bridge.segments] == BRIDGE
    assert bridge.segments[1].proposed == REVISED and bridge.segments[1].prefilled == REVISED.rstrip()
    assert [fault.quote for fault in bridge.segments[1].faults] == ["The bridge was too narrow. ", "nine to two"]
    assert "".join(segment.original for segment in bees.segments) == ANSWER and len(bees.segments) == 3
    assert bees.ends


def test_two_trees_with_one_id_are_refused():
    with pytest.raises(DataError, match="two trees have this id"):
        scripts_of([script_tree("a", "Write.", plain(["One."]))] * 2, by_sections)


def searched(*nodes: SearchNode) -> SearchTree:
    root = SearchNode(id="0", parent=None, depth=0, text="")
    return SearchTree(id="t", prompt=Prompt(id="t", prompt="Write."), method="longdpo", seed=0, nodes=(root, *nodes))


def step(name: str, text: str, score: float | None, **values) -> SearchNode:
    return SearchNode(id=name, parent=name.rpartition(".")[0], depth=name.count("."), text=text,
                      judgement=None if score is None else judged(score), **values)


def test_the_best_answer_is_whole_and_was_not_set_aside():
    replaced = Refinement(outcome=RefinementOutcome.ACCEPTED, node="0.0.2r")
    tree = searched(
        step("0.0", "A", 0.1), step("0.1", "not gone on from", 0.99), step("0.2", "short", 0.4, ends=True),
        step("0.0.0", "b", 0.5), step("0.0.1", "c", 0.9, note="duplicate of 0.0.0"),
        step("0.0.2", "d", 0.95, refinement=replaced), step("0.0.2r", "e", 0.5))
    best = best_answer(tree)
    assert best is not None and best.id == "0.0.0", "of equals the first"
    assert text_of(tree, best) == "Ab"


def test_an_only_answer_needs_no_score_several_do():
    planned = searched(step("0.0", "One. ", None), step("0.0.0", "Two.", None, ends=True))
    best = best_answer(planned)
    assert best is not None and text_of(planned, best) == "One. Two."
    assert best_answer(searched(step("0.0", "One.", None), step("0.1", "Two.", None))) is None
    assert best_answer(searched()) is None


@given(TEXTS)
def test_a_segment_is_its_edges_and_its_core(text):
    edges = Edges.of(text)
    assert (edges.lead + edges.core + edges.trail).replace("\r\n", "\n").replace("\r", "\n") \
        == text.replace("\r\n", "\n").replace("\r", "\n")
    assert "\r" not in edges.core and edges.core == edges.core.rstrip()
    assert not edges.core or edges.core.split("\n")[0].strip()


@given(st.lists(SEGMENTS, max_size=6))
def test_what_nobody_touches_is_what_was_proposed_letter_by_letter(segments):
    revised = revised_segments(segments, [segment.prefilled for segment in segments])
    for segment, text in zip(segments, revised, strict=True):
        if segment.proposed.strip():
            assert text == segment.proposed
        else:
            assert text == (segment.original if not segment.original.strip() else "")


@given(st.lists(SEGMENTS, max_size=6))
def test_what_is_reset_is_the_original_letter_by_letter(segments):
    revised = revised_segments(segments, [Edges.of(segment.original).core for segment in segments])
    for segment, text in zip(segments, revised, strict=True):
        same_words = Edges.of(segment.original).core == Edges.of(segment.proposed).core
        assert text == (segment.proposed if same_words and segment.original.strip() else segment.original)


@given(st.lists(st.tuples(SEGMENTS, TEXTS), max_size=6))
def test_typed_words_arrive_and_the_rest_of_a_segment_is_white_space(pairs):
    segments, typed = [one for one, _ in pairs], [text for _, text in pairs]
    revised = revised_segments(segments, typed)
    assert len(revised) == len(segments)
    for segment, text, result in zip(segments, typed, revised, strict=True):
        assert result.split() == text.split()
        assert bool(result.strip()) == bool(text.strip())
        if not text.strip() and segment.original.strip():
            assert result == ""


@given(st.lists(st.tuples(st.sampled_from(["", "Words.\n\n", "Words. "]), st.sampled_from(["", "Typed."])), min_size=2,
                max_size=6))
def test_written_segments_never_touch_their_neighbours(pairs):
    originals = [original if index + 1 < len(pairs) else original.rstrip() for index, (original, _) in enumerate(pairs)]
    segments = [AnnotatedSegment(original=text, proposed=text) for text in originals]
    revised = "".join(revised_segments(segments, [typed for _, typed in pairs]))
    assert not re.search(r"\.[A-Z]", revised) or any(
        not text[-1:].isspace() and text for text in originals[:-1])


def test_a_missing_segment_that_is_written_gets_blank_lines_and_changes_no_neighbour():
    segments = [AnnotatedSegment(original=text, proposed=text) for text in (*BRIDGE, "")]
    texts = [segment.prefilled for segment in segments]
    texts[2], texts[5] = "## The vote\n\nEight to three.", "## Afterwards\n\nDucks."
    revised = revised_segments(segments, texts)
    assert revised[2] == "## The vote\n\nEight to three.\n\n" and revised[5] == "\n\n## Afterwards\n\nDucks."
    assert [revised[index] for index in (0, 1, 3, 4)] == [BRIDGE[index] for index in (0, 1, 3, 4)]


def test_line_ends_of_another_kind_and_chinese_survive_a_text_box():
    segments = [AnnotatedSegment(original=text, proposed=text) for text in (BRIDGE[3], *CHINESE)]
    boxes = [segment.prefilled for segment in segments]
    assert "\r" not in boxes[0]
    assert revised_segments(segments, boxes) == [BRIDGE[3], *CHINESE]
    boxes[1] += "又一句。"
    assert revised_segments(segments, boxes)[1] == CHINESE[0] + "又一句。"


def test_long_runs_of_white_space_take_no_time_to_speak_of():
    segment = AnnotatedSegment(original="a" + " " * 300_000 + "b\n", proposed="a" + " " * 300_000 + "b\n")
    assert revised_segments([segment], [segment.prefilled]) == [segment.original]
