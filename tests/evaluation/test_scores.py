import json
from pathlib import Path
from typing import Literal

import pytest

from lpo.errors import UnsoundError
from lpo.evaluation import (
    Answer,
    AnswerScores,
    Interval,
    JudgeNote,
    OverlapNote,
    PreferenceRow,
    Scores,
    SideLogprobs,
    bucket,
    summarise,
)
from lpo.llm.base import Finish
from lpo.report.data import read_run
from lpo.storage import write_json, write_jsonl

METRICS = {"length_score", "repetition", "judge", "words", "ended"}
ASKED = (100, 499, 500, 1999, 2000, 4000, None)


def answers(model: Literal["base", "trained"], gain: float) -> list[Answer]:
    made = []
    for index, target in enumerate(ASKED):
        made.append(Answer(
            model=model, prompt_id=f"q{index}", request="Write.", target_words=target, text="word " * (index + 1),
            words=index + 1, finish=Finish.STOP if index % 2 else Finish.LENGTH,
            scores=AnswerScores(length=None if target is None else 10.0 * index + gain, repetition=0.1 * index,
                                judge=None if index == 3 else 0.5 + gain / 100)))
    return made


PREFERENCES = [
    PreferenceRow(pair_id=f"p{index}", group=f"g{index % 3}", step=0,
                  base=SideLogprobs(chosen=-2.0, rejected=-1.0 - 2.0 * (index < 2)),
                  trained=SideLogprobs(chosen=-1.0, rejected=-1.5 + (index == 5)))
    for index in range(6)
]
JUDGE = JudgeNote(name="expected_grade", model="demo", was_training_reward=True)


def scores(
    base: list[Answer] | None = None, trained: list[Answer] | None = None, judge: JudgeNote | None = JUDGE,
    preferences: list[PreferenceRow] = PREFERENCES,
) -> Scores:
    return summarise(
        answers("base", 0.0) if base is None else base, answers("trained", 5.0) if trained is None else trained,
        preferences, judge=judge, decoding={"temperature": 0.5}, versions={"lpo": "0"},
        overlap=OverlapNote(checked=7, found=0), seed=0, resamples=300)


def test_means_are_those_worked_out_by_hand() -> None:
    result = scores()
    base, trained = result.models["base"], result.models["trained"]
    assert result.n_prompts == 7
    assert (base["length_score"].mean, base["length_score"].n, base["length_score"].unscored) == (25.0, 6, 1)
    assert trained["length_score"].mean == 30.0
    assert base["repetition"].mean == pytest.approx(0.3)
    assert (base["judge"].mean, base["judge"].n, base["judge"].unscored) == (0.5, 6, 1)
    assert base["words"].mean == 4.0
    assert base["ended"].mean == pytest.approx(3 / 7)
    assert result.preference_accuracy["base"].mean == pytest.approx(2 / 6)
    assert result.preference_accuracy["trained"].mean == pytest.approx(5 / 6)


def test_difference_is_paired_by_prompt_whatever_the_order() -> None:
    result = scores(trained=list(reversed(answers("trained", 5.0))))
    assert result.difference["length_score"] == Interval(5.0, 5.0, 5.0, 6, 1)
    assert result.difference["judge"].mean == pytest.approx(0.05)
    assert (result.difference["words"].mean, result.difference["ended"].mean) == (0.0, 0.0)


def test_buckets_are_longbench_writes() -> None:
    assert [bucket(words) for words in ASKED] == \
        ["[0, 500)", "[0, 500)", "[500, 2k)", "[500, 2k)", "[2k, 4k)", "[4k, 20k]", None]
    assert (bucket(20_000), bucket(20_001)) == ("[4k, 20k]", None)
    base = scores().buckets["base"]
    assert list(base) == ["[0, 500)", "[500, 2k)", "[2k, 4k)", "[4k, 20k]"]
    assert [base[name].mean for name in base] == [5.0, 25.0, 40.0, 50.0]
    assert [base[name].n for name in base] == [2, 2, 1, 1]
    assert base["[2k, 4k)"].low is None


def test_refused_answers_are_unscored_in_every_metric() -> None:
    base = answers("base", 0.0)
    base[1] = base[1].model_copy(update={"finish": Finish.REFUSED, "scores": AnswerScores(), "words": 0})
    result = scores(base=base)
    assert {metric: interval.unscored for metric, interval in result.models["base"].items()} == \
        {"length_score": 2, "repetition": 1, "judge": 2, "words": 1, "ended": 1}
    assert result.difference["words"].unscored == 1


def test_without_a_judge_its_metric_is_empty_and_nothing_is_called_unscored() -> None:
    result = scores(judge=None)
    nothing = Interval(None, None, None, 0, 0)
    assert result.judge is None
    assert result.models["base"]["judge"] == result.difference["judge"] == nothing
    assert set(result.models["base"]) == METRICS


def test_without_preferences_or_answers_the_file_is_still_whole() -> None:
    result = scores(base=[], trained=[], preferences=[]).to_json()
    assert result["n_prompts"] == 0
    assert result["models"]["base"]["words"] == {"mean": None, "low": None, "high": None, "n": 0, "unscored": 0}
    assert result["preference_accuracy"]["trained"]["n"] == 0


def test_models_that_answered_different_prompts_are_not_compared() -> None:
    with pytest.raises(UnsoundError, match="different prompts"):
        scores(trained=answers("trained", 5.0)[:-1])


def test_the_file_has_the_agreed_keys_and_the_report_reads_it(tmp_path: Path) -> None:
    result = scores()
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(values) == {"n_prompts", "models", "difference", "buckets", "preference_accuracy", "judge", "decoding",
                           "versions", "overlap"}
    assert set(values["models"]) == set(values["buckets"]) == set(values["preference_accuracy"]) == {"base", "trained"}
    assert set(values["models"]["trained"]) == set(values["difference"]) == METRICS
    assert set(values["difference"]["words"]) == {"mean", "low", "high", "n", "unscored"}
    assert values["judge"] == {"name": "expected_grade", "model": "demo", "was_training_reward": True}
    assert values["overlap"] == {"checked": 7, "found": 0}

    write_json(tmp_path / "scores.json", result.to_json())
    write_jsonl(tmp_path / "eval" / "answers.base.jsonl", [answer.to_json() for answer in answers("base", 0.0)])
    write_jsonl(tmp_path / "eval" / "preferences.jsonl", [row.to_json() for row in PREFERENCES])
    run = read_run(tmp_path)
    assert run.scores is not None
    assert run.scores.difference["length_score"].mean == 5.0
    assert run.scores.judge is not None and run.scores.judge.was_training_reward
    assert len(run.answers["base"]) == 7 and run.held_out_pairs == 6
