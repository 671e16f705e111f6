"""Measured answers become scores: by hand, with one model and with two, for means, ratios and products of ratios."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from lpo.errors import UnsoundError
from lpo.eval_config import EvalConfig, SuiteName
from lpo.evaluation import Answer, score_text
from lpo.evaluation.comparing import compare, metric_from_json
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import LENGTH_SCORE, Metric, Unit
from lpo.evaluation.suite import Curve, summarise_suite
from lpo.evaluation.suites import create_suite
from lpo.intervals import Interval
from lpo.llm.base import Finish
from lpo.records import Prompt

DONE = Metric("done", "CR", "blocks written of those required", unit=Unit.SHARE, factors=(("blocks", "required"),))
BOTH = Metric("both", "wAvg", "CR times checks met", unit=Unit.SHARE,
              factors=(("blocks", "required"), ("met", "checks")))
DRAWS = {"seed": 1, "resamples": 300}


def row(index: int, *, blocks: float, met: float | None, group: str | None = "short", words: int = 3) -> Measured:
    answer = Answer(model="base", prompt_id=f"p{index}", request=f"Task {index}", text="word " * words, words=words,
                    finish=Finish.STOP)
    return Measured(answer=answer, group=group,
                    values={"blocks": blocks, "required": 4.0, "met": met, "checks": None if met is None else 2.0},
                    unscored={} if met is not None else {"met": "unparsable", "checks": "unparsable"})


@dataclass(frozen=True)
class Blocks:
    """A suite of known answers."""

    name = SuiteName.GOLDEN_THREAD
    title = "Blocks"
    source = "here"
    metrics = (DONE, BOTH)
    groups = ("short", "long")
    group_name = "length"
    prompts: tuple[Prompt, ...] = ()
    given: tuple[Answer, ...] = ()
    notes = ("a note",)

    def judgements(self, answers: int) -> int:
        return answers

    async def measure(self, answers: Sequence[Answer], judge: object, **_: object) -> list[Measured]:
        return []

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        return (Curve("c", "C", "x", "y", ()),)


def summarised(rows: dict[str, list[Measured]]):
    return summarise_suite(Blocks(), rows, judge={"name": "j"}, decoding={"temperature": 0.5}, **DRAWS)


def test_products_of_sums_over_answers_and_their_groups_are_those_worked_out_by_hand():
    base = [row(0, blocks=4, met=1), row(1, blocks=2, met=2), row(2, blocks=0, met=None, group="long")]
    trained = [row(0, blocks=4, met=2), row(1, blocks=4, met=2), row(2, blocks=2, met=1, group="long")]
    scores = summarised({"base": base, "trained": trained})
    assert scores.models["base"]["done"].mean == 6 / 12
    # The third answer has no verdict, so it counts in neither factor: (6/8) * (3/4).
    assert scores.models["base"]["both"] == Interval(6 / 8 * 3 / 4, None, None, 2, 1)
    assert scores.models["trained"]["both"].mean == pytest.approx(10 / 12 * 5 / 6)
    # The difference is over the two prompts that both sides were scored on.
    assert scores.difference["both"] == Interval(8 / 8 * 4 / 4 - 6 / 8 * 3 / 4, None, None, 2, 1)
    assert scores.groups["base"]["long"]["done"].mean == 0.0
    assert scores.group_difference["long"]["done"].mean == 0.5
    assert scores.unscored["base"] == {"met": {"unparsable": 1}, "checks": {"unparsable": 1}}
    assert scores.curves["trained"][0].key == "c" and scores.notes == ("a note",)
    assert json.loads(json.dumps(scores.to_json()))["metrics"][1]["factors"] == [["blocks", "required"],
                                                                                ["met", "checks"]]


def test_one_model_alone_has_no_difference():
    scores = summarised({"model": [row(index, blocks=2, met=1) for index in range(8)]})
    assert scores.difference == {} and scores.group_difference == {}
    assert scores.models["model"]["both"] == Interval(0.25, 0.25, 0.25, 8, 0)


def test_what_nobody_measured_is_no_score_at_all():
    rows = [row(index, blocks=1, met=None).model_copy(update={"values": {"blocks": 1.0, "required": 4.0},
                                                              "unscored": {}}) for index in range(3)]
    assert [metric.key for metric in summarised({"model": rows}).metrics] == ["done"]


def test_models_that_answered_other_prompts_are_refused():
    with pytest.raises(UnsoundError, match="different prompts"):
        summarised({"base": [row(0, blocks=1, met=1)], "trained": [row(1, blocks=1, met=1)]})


def test_runs_are_compared_over_the_prompts_they_share_and_the_same_id_must_be_the_same_task():
    first = [row(index, blocks=index % 4, met=1, group="short" if index < 7 else "long") for index in range(10)]
    second = [row(index, blocks=4, met=2, group="short" if index < 7 else "long") for index in range(2, 12)]
    other_task = second[0].model_copy(update={"answer": second[0].answer.model_copy(update={"request": "Another"})})
    found = compare({"a": first, "b": [other_task, *second[1:]]}, (DONE, BOTH), ("short", "long"), **DRAWS)
    assert found.n == {"a": 10, "b": 10} and found.shared == {"b": 7}
    shared = list(range(3, 10))
    expected = 1 - sum(index % 4 for index in shared) / (4 * len(shared))
    difference = found.difference["b"]["done"]
    assert difference.interval.mean == pytest.approx(expected) and difference.interval.n == 7
    assert difference.p == pytest.approx(2 / 2**7), "all seven got better: only no swap and all swaps are as extreme"
    assert found.group_difference["b"]["long"]["done"].interval.n == 3
    assert found.scores["a"]["done"].n == 10


def test_a_metric_is_read_from_json_as_it_was():
    for metric in (DONE, BOTH, LENGTH_SCORE):
        values = json.loads(json.dumps({**metric.__dict__, "better": metric.better, "unit": metric.unit}))
        assert metric_from_json(values) == metric


def test_held_out_answers_have_values_and_reasons():
    prompts = [Prompt(id="a", prompt="Write.", target_words=4), Prompt(id="b", prompt="Write."),
               Prompt(id="c", prompt="Write.", target_words=4)]
    suite = create_suite(SuiteName.HELD_OUT, EvalConfig(), prompts)
    answers = [score_text(prompts[0], "one two, trois été 4", Finish.STOP, model_name="model"),
               score_text(prompts[1], "w " * 9, Finish.LENGTH, model_name="model"),
               score_text(prompts[2], "", Finish.REFUSED, model_name="model", note="no")]
    first, second, third = asyncio.run(suite.measure(answers, None, seed=0, on_done=lambda: None, stop=None))
    assert first.values["length_score"] == 100 * (1 - (4 / 3 - 1) / 2), "three words as published: été has no bounds"
    assert first.values["words"] == 3 and first.values["words_all"] == 5 and first.group == "[0, 500)"
    assert second.unscored == {"length_score": "no_target"} and second.values["ended"] == 0.0
    assert set(third.unscored.values()) == {"refused"} and set(third.values.values()) == {None}
    assert basic_values(answers[2]) == dict.fromkeys(("repetition", "ended", "words", "words_all"))
