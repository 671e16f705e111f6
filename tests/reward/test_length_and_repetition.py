import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.records import Prompt
from lpo.reward import Draft, LengthScorer, RepetitionScorer, length_score, repeated_ngram_share

PROMPT = Prompt(id="p", prompt="Write.")


@pytest.mark.parametrize(("required", "written", "score"), [
    (1000, 1000, 100), (1000, 2000, 66.67), (1000, 4000, 0), (1000, 800, 87.5), (1000, 500, 50), (1000, 333, 0),
    (1000, 0, 0), (1000, 9000, 0), (1, 1, 100), (100, 250, 50),
])
def test_length_score_on_published_vectors(required, written, score):
    assert length_score(required=required, written=written) == pytest.approx(score, abs=0.005)


@given(st.integers(1, 20_000), st.integers(0, 100_000))
def test_length_score_is_100_only_at_the_required_length_and_stays_in_range(required, written):
    score = length_score(required=required, written=written)
    assert 0 <= score <= 100
    assert (score == 100) == (written == required)
    if written > required:
        assert length_score(required=required, written=written + 1) <= score
    elif written < required:
        assert length_score(required=required, written=written + 1) >= score


def test_a_required_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="positive"):
        length_score(required=0, written=5)


def test_the_length_scorer_counts_prefix_and_step_and_leaves_a_free_length_unscored():
    drafts = [Draft(PROMPT, "one two ", "three four", False, 4), Draft(PROMPT, "one two ", "three four", False, None),
              Draft(PROMPT, "一二", "三四", True, 8)]
    exact, free, short = asyncio.run(LengthScorer().score(drafts))
    assert exact.overall == 1
    assert exact.parts == {"required": 4, "written": 4}
    assert free.overall is None
    assert free.unscored == "no_target"
    assert short.overall == 0.5


@pytest.mark.parametrize(("text", "share"), [
    ("", 0), ("one two three", 0), ("one two three four", 0), ("a b c d a b c d", 1 / 5), ("x " * 13, 9 / 10),
    ("It Rained, it rained; it rained - it rained.", 3 / 5), ("天地玄黄天地玄黄", 1 / 5), ("天地玄黄宇宙洪荒", 0),
    ("天地，玄黄。天地玄黄", 1 / 5),
])
def test_share_of_repeated_four_grams(text, share):
    assert repeated_ngram_share(text) == pytest.approx(share)


@given(st.lists(st.sampled_from(["a", "b", "天", "地", "."]), max_size=60), st.integers(1, 5))
def test_repeated_share_agrees_with_counting_one_by_one(words, n):
    units = [word for word in words if word != "."]
    seen, repeated, total = [], 0, 0
    for start in range(len(units) - n + 1):
        gram = units[start:start + n]
        repeated += gram in seen
        seen.append(gram)
        total += 1
    assert repeated_ngram_share(" ".join(words), n) == pytest.approx(repeated / total if total else 0)


def test_the_repetition_scorer_sees_what_the_step_repeats_of_its_prefix():
    fresh, stale = asyncio.run(RepetitionScorer().score([
        Draft(PROMPT, "one two three four ", "five six seven eight", False, None),
        Draft(PROMPT, "one two three four ", "one two three four", False, None),
    ]))
    assert fresh.overall == 1
    assert stale.overall == pytest.approx(4 / 5)
