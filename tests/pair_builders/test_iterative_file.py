"""Corrections by people, from a file."""

import asyncio
import json

import pytest
from builder_cases import PLAIN, PROMPT, ByText, models
from function_llm import FunctionLLM

from lpo.build_config import BuildConfig
from lpo.errors import DataError
from lpo.pair_builders import create_builder, rows_of
from lpo.pair_builders.corrections_file import load_corrections
from lpo.records import CorrectionOutcome, Message, Prompt, Reason
from lpo.writing_config import SegmentsConfig

ORIGINAL = ["# One\n\nBad.\n\n", "# Two\n\nGood.\n\n", "# Three\n\nBad."]
REVISED = ["# One\n\nFine.\n\n", "# Two\n\nGood.\n\n", "# Three\n\nFine."]
SCRIPT = {"segments_original": ORIGINAL, "segments_revised": REVISED}


def write(folder, *rows):
    path = folder / "corrections.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(folder, *rows):
    return load_corrections(write(folder, *rows), SegmentsConfig())


def build(path, prompts, samples=1, write_answer=lambda request: "An answer.", score=lambda draft: 0.5, **correction):
    config = BuildConfig(method="iterdpo", answers={"samples": samples},
                         correction={"by": "file", "file": str(path), **correction}, pairs={"rejected": "worst"})
    policy, judge = FunctionLLM(write=write_answer), FunctionLLM()
    builder = create_builder(config, models(policy, ByText(score), judge))
    trees = [asyncio.run(builder.build(prompt, seed=0)) for prompt in prompts]
    return [rows_of(tree, config) for tree in trees], policy, judge


@pytest.mark.parametrize("name", [
    {"id": "p1"}, {"prompt": "Write a letter."}, {"id": "p1", "prompt": "Write a letter."},
    {"prompt": [{"role": "user", "content": " Write a letter.\n"}]},
])
def test_pairs_of_people_without_a_single_call(tmp_path, name):
    path = write(tmp_path, {**name, **SCRIPT, "annotator": "Ada", "seconds": 41})
    [corrected, other], policy, judge = build(path, [PROMPT, PLAIN])
    assert policy.requests == judge.requests == []
    assert corrected.tree.script.draft is None and corrected.tree.script.ends
    assert [pair.chosen for pair in corrected.pairs] == ["".join(REVISED[:count]) for count in (1, 2, 3)]
    assert [pair.chosen_ends for pair in corrected.pairs] == [False, False, True]
    assert {pair.prompt for pair in corrected.pairs} == {PROMPT.prompt}
    of_last = corrected.pairs[2].provenance
    assert of_last["by"] == ["Ada"] and of_last["corrections"] == {"given": 2}
    first, second, _ = corrected.tree.script.segments
    assert [one.outcome for one in first.corrections] == [CorrectionOutcome.GIVEN] and second.corrections == ()
    assert other.pairs == () and [row.reason for row in other.rejected] == [Reason.NO_CORRECTION]


def test_answers_are_still_written_where_they_are_compared(tmp_path):
    path = write(tmp_path, {"id": "p1", **SCRIPT, "ends": False})
    [corrected, other], policy, judge = build(
        path, [PROMPT, PLAIN], samples=2, write_answer=lambda request: f"Answer {request.index}.",
        score=lambda draft: 0.9 if "0" in draft.text else 0.1)
    assert len(policy.requests) == 4 and judge.requests == []
    assert [pair.id for pair in corrected.pairs] == ["p1/0", "p1/script/1", "p1/script/2", "p1/script/3"]
    assert not any(pair.chosen_ends for pair in corrected.pairs[1:]), "the file says that the answer is not finished"
    assert [pair.id for pair in other.pairs] == ["p2/0"]


def test_whole_texts_are_aligned(tmp_path):
    corrections = load(tmp_path, {"id": "p1", "original": "".join(ORIGINAL), "revised": "".join(REVISED)})
    script = corrections.script(PROMPT)
    assert script.original == "".join(ORIGINAL) and script.revised == "".join(REVISED)
    assert [(one.original, one.revised) for one in script.segments] == list(zip(ORIGINAL, REVISED, strict=True))


def test_a_prompt_with_a_document_is_found_with_it_or_without(tmp_path):
    """An export holds what the policy has read: the document before the request."""
    prompt = Prompt(id="p9", prompt=(Message(role="user", content="Sum it up."),), context="A long document.")
    exported = [message.to_json() for message in prompt.dialogue]
    for row in ({"id": "p9", "prompt": exported}, {"prompt": exported}, {"prompt": "Sum it up."}):
        assert load(tmp_path, {**row, **SCRIPT}).script(prompt) is not None


def test_lines_that_correct_nothing_here_are_known(tmp_path):
    corrections = load(tmp_path, {"id": "p1", **SCRIPT}, {"id": "q", **SCRIPT}, {"prompt": "A letter:\n", **SCRIPT},
                       {"prompt": "Another.", **SCRIPT})
    assert [where.rpartition("/")[2] for where in corrections.unmatched([PROMPT, PLAIN])] == [
        "corrections.jsonl:2", "corrections.jsonl:4"]
    with pytest.raises(DataError, match="is another one"):
        load(tmp_path, {"id": "p1", "prompt": "Write a novel.", **SCRIPT}).unmatched([PROMPT])


@pytest.mark.parametrize(("row", "cause"), [
    (SCRIPT, "it names no prompt"),
    ({"id": "p2"}, "it holds no correction"),
    ({"id": "p2", "segments_original": ORIGINAL}, "it holds segments_original"),
    ({"id": "p2", **SCRIPT, "original": "x", "revised": "y"}, "segments_revised and original"),
    ({"id": "p2", "segments_original": ORIGINAL, "segments_revised": REVISED[:2]}, "3 original segments but 2"),
    ({"id": "p2", "segments_original": "x", "segments_revised": "y"}, "not a list of texts"),
    ({"id": "p2", "segments_original": [1], "segments_revised": ["y"]}, "not a list of texts"),
    ({"id": "p2", "segments_original": [], "segments_revised": []}, "there is no text"),
    ({"id": "p2", "original": 1, "revised": "y"}, "must be texts"),
    ({"id": "p2", **SCRIPT, "annotator": 7}, '"annotator" is not a text'),
    ({"id": "p2", **SCRIPT, "ends": "yes"}, '"ends" is not true or false'),
    ({"prompt": 7, **SCRIPT}, "neither a text nor a list of messages"),
    ({"prompt": " ", **SCRIPT}, "neither a text nor a list of messages"),
    ({"prompt": [{"role": "user"}], **SCRIPT}, "neither a text nor a list of messages"),
    ({"id": "p1", **SCRIPT}, "corrects an answer to the same prompt"),
])
def test_a_line_that_cannot_be_used_is_named_before_anything_is_asked(tmp_path, row, cause):
    path = write(tmp_path, {"id": "p1", **SCRIPT}, row)
    with pytest.raises(DataError, match=cause) as caught:
        build(path, [])
    assert caught.value.where == f"{path}:2" and caught.value.mend


def test_a_file_that_is_missing_empty_or_broken(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        build(tmp_path / "none.jsonl", [])
    with pytest.raises(DataError, match="no corrections"):
        build(write(tmp_path), [])
    (tmp_path / "torn.jsonl").write_text('{"id": "p1", "orig')
    with pytest.raises(DataError, match="line 1 is not valid JSON"):
        build(tmp_path / "torn.jsonl", [])
