"""Candidates that end earlier than they were written: where, in which methods, and that no call is made for it."""

import asyncio

import pytest
from builder_cases import PROMPT, ByText, build, cut, models
from function_llm import FunctionLLM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lpo.build_config import BuildConfig
from lpo.pair_builders import create_builder
from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.early_ends import ended_early
from lpo.reward import length_score
from lpo.words import count_words

FOUR = "One two three four. "
PLAIN = {"answers": {"samples": 2}, "early_ends": True}


@pytest.mark.parametrize(("text", "before", "target", "ended"), [
    (FOUR * 4, "", 8, (FOUR * 2).strip()), (FOUR * 4, FOUR, 8, FOUR.strip()), (FOUR * 2, "", 100, None),
    (FOUR * 2, "", 8, None),
    (FOUR, "", 100, None), ("no end at all", "", 2, None), (FOUR * 4, "", None, None), ("", "", 5, None),
    ("* one\n* two\n* three", "", 2, "* one\n* two"), ("“One.” Two three.", "", 1, "“One.”"),
])
def test_the_end_is_the_sentence_or_line_end_with_the_best_length_score(text, before, target, ended):
    assert ended_early(text, before, target) == ended


@given(st.text(alphabet="ab .\n!，。", max_size=60), st.integers(1, 30))
def test_what_is_ended_early_is_a_beginning_of_the_text_and_shorter(text, target):
    ended = ended_early(text, "", target)
    if ended is not None:
        assert count_words(text) > target
        assert text.startswith(ended) and ended.strip() and len(ended) < len(text.rstrip())
        places = [text[:place].rstrip() for place, char in enumerate(text) if char == "\n"]
        scores = [length_score(required=target, written=count_words(place)) for place in places if place.strip()]
        assert length_score(required=target, written=count_words(ended)) >= max(scores, default=0)


def by_length(draft):
    return length_score(required=draft.required_words, written=count_words(draft.so_far)) / 100


def test_every_answer_is_there_once_more_ended_early():
    policy = FunctionLLM(write=lambda request: cut(FOUR * 20 + str(request.seed)))
    config = BuildConfig(method="best_of_n", **PLAIN)
    tree = asyncio.run(create_builder(config, models(policy, ByText(by_length)), lambda event: None)
                       .build(PROMPT, seed=0))
    assert len(policy.requests) == 2
    assert [(node.id, node.ends, node.origin) for node in tree.nodes[1:]] == [
        ("0.0", False, "sampled"), ("0.1", False, "sampled"), ("0.0s", True, "ended"), ("0.1s", True, "ended")]
    assert count_words(tree.nodes[3].text) == 40 and tree.nodes[4].note == "duplicate of 0.0s"
    [pair] = answer_pairs(tree, config).pairs
    assert (pair.chosen_ends, pair.rejected_ends) == (True, False)


def test_a_search_can_end_where_no_candidate_does():
    built, _ = build(lambda request: cut(FOUR * 5 + "And"), ByText(by_length), early_ends=True, depth=4, branching=2,
                     step_tokens=64, pairs={"chosen": "best_score", "min_margin": 0.01})
    ends = [node for node in built.tree.nodes if node.ends]
    assert ends and all(node.id.endswith("s") and node.origin == "ended" for node in ends)
    assert built.tree.paths[0].nodes[-1] in {node.id for node in ends}
    answer = "".join(node.text for node in built.tree.nodes if node.id in built.tree.paths[0].nodes)
    assert count_words(answer) == 44, "the search stops near the length asked for"
    assert [(pair.chosen_ends, pair.rejected_ends) for pair in built.pairs][-1] == (True, False)


def test_a_segment_can_end_the_answer_where_it_stands():
    policy = FunctionLLM(write=lambda request: cut(FOUR * 30))
    config = BuildConfig(
        method="iterdpo", answers={"samples": 1}, segments={"by": "paragraphs", "max_words": 24}, early_ends=True,
        correction={"by": "resample", "samples": 1, "segment_tokens": 20, "mode": "local"})
    tree = asyncio.run(create_builder(config, models(policy, ByText(by_length)), lambda event: None)
                       .build(PROMPT.model_copy(update={"target_words": 30}), seed=0))
    assert tree.script.revised_ends and abs(count_words(tree.script.revised) - 30) <= 2


def test_methods_that_write_no_such_candidates_refuse_the_setting():
    for method in ("longdpo_released", "agent_write"):
        with pytest.raises(ValidationError, match="early_ends"):
            BuildConfig(method=method, early_ends=True)
