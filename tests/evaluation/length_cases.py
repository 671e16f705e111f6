"""Answers, judges and scores for the tests of suites that score single texts."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from function_llm import FunctionLLM, Reply

from lpo.config import SamplingConfig
from lpo.evaluation.answers import Answer, score_text
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.quality import Quality
from lpo.evaluation.suite import Suite, SuiteScores, summarise_suite
from lpo.llm.asking import Dialect
from lpo.llm.base import LLM, Finish, Request
from lpo.records import Prompt
from lpo.templates import load_templates

TEMPLATES = load_templates()


def write_rows(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def judge_of(llm: LLM, dialect: Dialect = Dialect.JSON) -> JudgeModel:
    return JudgeModel(llm, dialect, TEMPLATES, 200, SamplingConfig(temperature=0.5), "a judge")


def verdict(grades: Sequence[int]) -> str:
    return json.dumps({"analysis": "x"} | {one.value: grade for one, grade in zip(Quality, grades, strict=True)})


def grading(reply: Callable[[str], Reply]) -> JudgeModel:
    """A judge whose reply is a function of what it reads."""

    def write(request: Request) -> Reply:
        return reply(request.context.prompt[0].content)  # type: ignore[union-attr]

    return judge_of(FunctionLLM(write=write))


def answers_of(prompts: Sequence[Prompt], texts: Sequence[str | None], model: Any = "model") -> list[Answer]:
    """One answer for each prompt; None is one that was refused."""
    return [score_text(prompt, text or "", Finish.REFUSED if text is None else Finish.STOP, model_name=model)
            for prompt, text in zip(prompts, texts, strict=True)]


def measure(suite: Suite, answers: Sequence[Answer], judge: JudgeModel | None = None) -> list[Measured]:
    done: list[int] = []
    rows = asyncio.run(suite.measure(answers, judge, seed=0, on_done=lambda: done.append(1), stop=None))
    assert len(rows) == len(done) == len(answers)
    assert [row.answer.prompt_id for row in rows] == [answer.prompt_id for answer in answers]
    for row in rows:
        assert {name for name, value in row.values.items() if value is None} == set(row.unscored)
        assert Measured.model_validate(json.loads(json.dumps(row.to_json()))) == row
    return rows


def scores_of(suite: Suite, rows: Mapping[str, Sequence[Measured]]) -> SuiteScores:
    found = summarise_suite(suite, rows, judge=None, decoding={}, seed=0, resamples=100)
    json.dumps(found.to_json(), allow_nan=False)
    return found
