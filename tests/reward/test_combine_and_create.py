import asyncio

import pytest
from function_llm import FunctionLLM
from hypothesis import given
from hypothesis import strategies as st

from lpo.config import JudgeConfig
from lpo.errors import ConfigError
from lpo.records import Judgement, Prompt
from lpo.reward import (
    Draft,
    ExpectedGradeJudge,
    JsonJudge,
    LengthScorer,
    RepetitionScorer,
    Weighted,
    WeightedScorer,
    create_judge,
    create_scorer,
)
from lpo.reward_config import RewardConfig

PROMPT = Prompt(id="p", prompt="Write.")
FREE = Draft(PROMPT, "", "one two three four one two three four", False, None)
ASKED = Draft(PROMPT, "", "one two three four one two three four", False, 8)


class Fixed:
    """A scorer that says what it is told to say."""

    def __init__(self, name, *values):
        self.name = name
        self.values = values

    async def score(self, drafts):
        return [
            Judgement(scorer=self.name, unscored=value) if isinstance(value, str)
            else Judgement(scorer=self.name, overall=value, scores={"depth": value}) for value in self.values
        ]


def combine(*parts):
    weighted = WeightedScorer([Weighted(scorer, weight) for scorer, weight in parts])
    return asyncio.run(weighted.score([FREE] * len(parts[0][0].values)))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=4))
def test_the_weighted_mean(parts):
    scorers = [(Fixed(f"s{index}", value), weight) for index, (value, weight) in enumerate(parts)]
    [judgement] = combine(*scorers)
    expected = sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)
    assert judgement.overall == pytest.approx(expected)
    assert judgement.scores["s0"] == parts[0][0]
    assert judgement.scores["s0.depth"] == parts[0][0]
    assert sum(part["weight"] for part in judgement.parts.values()) == pytest.approx(1)


def test_one_unscored_part_leaves_the_whole_unscored_with_its_reason():
    first, second = combine((Fixed("judge", "cut", 0.5), 1), (Fixed("repetition", 1.0, 0.7), 1))
    assert (first.overall, first.unscored) == (None, "cut")
    assert first.parts["judge"]["unscored"] == "cut"
    assert second.overall == pytest.approx(0.6)


def test_the_weight_of_a_length_nobody_asked_for_goes_to_the_others():
    weighted = WeightedScorer([Weighted(Fixed("judge", 0.5), 1), Weighted(LengthScorer(), 2),
                               Weighted(RepetitionScorer(), 1)])
    [free], [asked] = asyncio.run(weighted.score([FREE])), asyncio.run(weighted.score([ASKED]))
    assert free.overall == pytest.approx((0.5 + 0.8) / 2)
    assert free.parts["length"] == {"weight": 0.0, "unscored": "no_target"}
    assert free.parts["judge"]["weight"] == 0.5
    assert asked.overall == pytest.approx(0.25 * 0.5 + 0.5 * 1 + 0.25 * 0.8)
    assert asked.parts["length"] == {"weight": 0.5, "unscored": None, "required": 8, "written": 8}


def test_where_nothing_counts_there_is_no_score():
    [judgement] = asyncio.run(WeightedScorer([Weighted(LengthScorer(), 1)]).score([FREE]))
    assert judgement.unscored == "no_target"


@pytest.mark.parametrize("parts", [[], [(Fixed("a", 1), 0)], [(Fixed("a", 1), 1), (Fixed("a", 1), 1)]])
def test_weights_and_names_are_checked(parts):
    with pytest.raises(ValueError, match=r"weight|same name"):
        WeightedScorer([Weighted(scorer, weight) for scorer, weight in parts])


def test_the_configuration_names_the_judge():
    llm = FunctionLLM(grade=lambda context, grade: -1.0)
    judges = {method: create_judge(JudgeConfig(method=method), llm)
              for method in ("expected_grade", "expected_grade_chat", "json")}
    assert {method: type(judge) for method, judge in judges.items()} == {
        "expected_grade": ExpectedGradeJudge, "expected_grade_chat": ExpectedGradeJudge, "json": JsonJudge}
    asyncio.run(judges["expected_grade"].score([FREE]))
    asyncio.run(judges["expected_grade_chat"].score([FREE]))
    text, chat = llm.score_requests
    assert isinstance(text.contexts[0].prompt, str)
    assert isinstance(chat.contexts[0].prompt, tuple)


def test_the_users_templates_reach_the_judge(tmp_path):
    (tmp_path / "expected_grade.jinja").write_text("Mine: {{ text }} {{ principle }}")
    llm = FunctionLLM(grade=lambda context, grade: -1.0)
    asyncio.run(create_judge(JudgeConfig(templates=str(tmp_path)), llm).score([FREE]))
    assert llm.score_requests[0].contexts[0].prompt == f"Mine: {FREE.text} accuracy"


def test_the_configuration_names_the_scorers():
    judge = Fixed("judge", 1)
    assert create_scorer(RewardConfig(), judge) is judge
    assert isinstance(create_scorer(RewardConfig(judge=0, length=3), None), LengthScorer)
    [judgement] = asyncio.run(create_scorer(RewardConfig(judge=2, length=1, repetition=1), judge).score([ASKED]))
    assert {name: part["weight"] for name, part in judgement.parts.items()} == {
        "judge": 0.5, "length": 0.25, "repetition": 0.25}
    with pytest.raises(ConfigError, match="no judge"):
        create_scorer(RewardConfig(), None)
