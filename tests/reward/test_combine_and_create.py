import asyncio
import math

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
    ProductScorer,
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


def combine(*parts, by=WeightedScorer):
    combined = by([Weighted(scorer, weight) for scorer, weight in parts])
    return asyncio.run(combined.score([FREE] * len(parts[0][0].values)))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=4))
def test_the_weighted_mean(parts):
    scorers = [(Fixed(f"s{index}", value), weight) for index, (value, weight) in enumerate(parts)]
    [judgement] = combine(*scorers)
    expected = sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)
    assert judgement.overall == pytest.approx(expected)
    assert judgement.scores["s0"] == parts[0][0]
    assert judgement.scores["s0.depth"] == parts[0][0]
    assert sum(part["weight"] for part in judgement.parts.values()) == pytest.approx(1)


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(0.01, 100)), min_size=1, max_size=4))
def test_the_product_is_the_weighted_geometric_mean(parts):
    scorers = [(Fixed(f"s{index}", value), weight) for index, (value, weight) in enumerate(parts)]
    [product], [mean] = combine(*scorers, by=ProductScorer), combine(*scorers)
    logs = sum(weight * math.log(value) for value, weight in parts) / sum(weight for _, weight in parts)
    assert product.overall == pytest.approx(math.exp(logs))
    assert product.overall <= mean.overall * (1 + 1e-9)
    assert product.scorer == "product" and (product.scores, product.parts) == (mean.scores, mean.parts)


def test_one_zero_makes_the_product_zero_and_nothing_else_does():
    judgements = combine((Fixed("a", 0.0, 1.0, 1e-300, 0.0), 1), (Fixed("b", 0.9, 1.0, 1e-300, "cut"), 3),
                         by=ProductScorer)
    assert [one.overall for one in judgements[:2]] == [0.0, 1.0] and judgements[2].overall > 0
    assert judgements[3].unscored == "cut"


@pytest.mark.parametrize("by", [WeightedScorer, ProductScorer])
def test_one_unscored_part_leaves_the_whole_unscored_with_its_reason(by):
    first, second = combine((Fixed("judge", "cut", 0.5), 1), (Fixed("repetition", 1.0, 0.7), 1), by=by)
    assert (first.overall, first.unscored, first.scorer) == (None, "cut", by.name)
    assert first.parts["judge"]["unscored"] == "cut"
    assert second.overall == pytest.approx(0.6 if by is WeightedScorer else math.sqrt(0.35))


def test_a_length_nobody_asked_for_is_no_factor():
    parts = [Weighted(Fixed("judge", 0.5), 1), Weighted(LengthScorer(), 2), Weighted(RepetitionScorer(), 1)]
    [free], [asked] = (asyncio.run(ProductScorer(parts).score([draft])) for draft in (FREE, ASKED))
    assert free.overall == pytest.approx(math.sqrt(0.5 * 0.8))
    assert asked.overall == pytest.approx((0.5 * 1**2 * 0.8) ** 0.25)
    assert free.parts["length"] == {"weight": 0.0, "unscored": "no_target"}


def test_the_weight_of_a_length_nobody_asked_for_goes_to_the_others():
    weighted = WeightedScorer([Weighted(Fixed("judge", 0.5), 1), Weighted(LengthScorer(), 2),
                               Weighted(RepetitionScorer(), 1)])
    [free], [asked] = asyncio.run(weighted.score([FREE])), asyncio.run(weighted.score([ASKED]))
    assert free.overall == pytest.approx((0.5 + 0.8) / 2)
    assert free.parts["length"] == {"weight": 0.0, "unscored": "no_target"}
    assert free.parts["judge"]["weight"] == 0.5
    assert asked.overall == pytest.approx(0.25 * 0.5 + 0.5 * 1 + 0.25 * 0.8)
    assert asked.parts["length"] == {"weight": 0.5, "unscored": None, "required": 8, "written": 8}


@pytest.mark.parametrize("by", [WeightedScorer, ProductScorer])
def test_where_nothing_counts_there_is_no_score(by):
    [judgement] = asyncio.run(by([Weighted(LengthScorer(), 1)]).score([FREE]))
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


def test_every_scorer_with_a_weight_counts_and_no_other():
    scorers = {name: Fixed(name, 0.25) for name in ("judge", "longreward", "reward_model")}
    given = {"longreward": scorers["longreward"], "reward_model": scorers["reward_model"]}
    assert create_scorer(RewardConfig(judge=0, longreward=1), None, **given) is scorers["longreward"]
    everything = RewardConfig(judge=1, longreward=4, reward_model=2, length=2, repetition=1)
    [judgement] = asyncio.run(create_scorer(everything, scorers["judge"], **given).score([ASKED]))
    assert {name: part["weight"] for name, part in judgement.parts.items()} == {
        "judge": 0.1, "longreward": 0.4, "reward_model": 0.2, "length": 0.2, "repetition": 0.1}
    assert judgement.overall == pytest.approx((7 * 0.25 + 2 * 1 + 0.8) / 10)
    product = create_scorer(RewardConfig(judge=1, length=1, combine="product"), scorers["judge"])
    [judgement] = asyncio.run(product.score([ASKED]))
    assert judgement.overall == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["judge", "longreward", "reward_model"])
def test_a_scorer_with_a_weight_must_be_there(name):
    given = {"longreward": Fixed("longreward", 1), "reward_model": Fixed("reward_model", 1), name: None}
    reward = RewardConfig(**{"judge": 0, name: 1})
    with pytest.raises(ConfigError, match=f"there is no {name.replace('_', ' ')}") as caught:
        create_scorer(reward, given.pop("judge", None), **given)
    assert caught.value.where == f"build.reward.{name}" and caught.value.mend
