"""Points covered: whole words, counted by hand."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.errors import DataError
from lpo.records import Prompt
from lpo.reward import CoverageScorer, Draft, create_scorer
from lpo.reward.coverage import coverage, points_of
from lpo.reward_config import RewardConfig

POINTS = ("the ruined abbey", "the fish market", "the weather")


@pytest.mark.parametrize(("text", "share"), [
    ("", 0), ("The ABBEY is ruined.", 1 / 3), ("An abbey.", 0), ("Markets of fish; weather; ruined, the Abbey!", 1),
    ("weathering", 0), ("The the THE", 0), ("fish\nmarket\n\nweather", 2 / 3),
])
def test_a_point_is_covered_when_all_its_content_words_stand_in_the_text(text, share):
    assert coverage(POINTS, text) == pytest.approx(share)


def test_plurals_are_the_same_word_and_other_endings_are_not():
    assert coverage(["a boat"], "Boats.") == coverage(["boats"], "a boat") == 1
    assert coverage(["the pass"], "a pas") == 0 and coverage(["his"], "hi") == 0
    assert coverage(["渡船"], "一艘渡的船") == 1 and coverage(["渡船"], "船") == 0
    assert coverage(["to be"], "to be or not") == 1, "a point of function words asks for all of them"
    for points in ([], ["?"], ["fish", " "]):
        with pytest.raises(ValueError, match="points"):
            coverage(points, "text")


@given(st.lists(st.text(alphabet="abc ", min_size=1).filter(str.strip), min_size=1, max_size=4), st.text("abc "))
def test_more_text_covers_no_less_and_the_points_themselves_cover_all(points, text):
    assert 0 <= coverage(points, text) <= coverage(points, text + " " + points[0]) <= 1
    assert coverage(points, " . ".join([text, *points])) == 1


def test_the_scorer_reads_the_prompts_points_and_what_stands_so_far():
    prompt = Prompt(id="p", prompt="Write.", meta={"cover": list(POINTS)})
    free = Prompt(id="q", prompt="Write.")
    drafts = [Draft(prompt, "Fish market. ", "Weather.", False, None), Draft(free, "", "Weather.", True, None)]
    covered, unscored = asyncio.run(CoverageScorer().score(drafts))
    assert covered.overall == pytest.approx(2 / 3) and covered.parts == {"points": 3}
    assert (unscored.overall, unscored.unscored) == (None, "no_points")


@pytest.mark.parametrize("cover", ["fish", [], [1], ["fish", ""], {"a": 1}])
def test_points_that_are_no_texts_are_named_with_their_prompt(cover):
    with pytest.raises(DataError, match="prompt p"):
        points_of(Prompt(id="p", prompt="Write.", meta={"cover": cover}))


def test_a_prompt_without_points_gives_their_weight_to_the_others():
    scorer = create_scorer(RewardConfig(judge=0, repetition=1, coverage=3), None)
    with_points = Prompt(id="p", prompt="Write.", meta={"cover": ["fish"]})
    without = Prompt(id="q", prompt="Write.")
    drafts = [Draft(prompt, "", "rain", True, None) for prompt in (with_points, without)]
    missed, free = asyncio.run(scorer.score(drafts))
    assert missed.overall == pytest.approx(1 / 4) and free.overall == 1
    alone = create_scorer(RewardConfig(judge=0, length=1, coverage=1), None)
    [judged] = asyncio.run(alone.score(drafts[1:]))
    assert judged.overall is None and judged.unscored in ("no_target", "no_points")
