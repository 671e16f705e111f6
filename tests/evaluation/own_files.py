"""Files of tasks, answers to them and judges, as the tests of checklists and rubrics need them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from function_llm import FunctionLLM

from lpo.config import SamplingConfig
from lpo.evaluation.answers import Answer, score_text
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.suite import Suite
from lpo.llm.asking import Dialect
from lpo.llm.base import Context, Finish
from lpo.records import Prompt
from lpo.templates import load_templates

TEMPLATES = load_templates()


def write_rows(folder: Path, *rows: Any) -> str:
    path = folder / "tasks.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def judge_of(llm: Any, dialect: Dialect = Dialect.JSON) -> JudgeModel:
    return JudgeModel(llm, dialect, TEMPLATES, 400, SamplingConfig(temperature=0), "a judge")


def answer_to(prompt: Prompt, text: str, finish: Finish = Finish.STOP) -> Answer:
    return score_text(prompt, text, finish, model_name="base")


def measured(suite: Suite, texts: Sequence[str | Answer], llm: FunctionLLM,
             dialect: Dialect = Dialect.JSON) -> list[Measured]:
    answers = [text if isinstance(text, Answer) else answer_to(prompt, text)
               for prompt, text in zip(suite.prompts, texts, strict=False)]
    done: list[None] = []
    rows = asyncio.run(suite.measure(answers, judge_of(llm, dialect), seed=0, on_done=lambda: done.append(None),
                                     stop=None))
    assert len(done) == len(rows) == len(answers)
    assert [row.answer for row in rows] == answers
    return rows


def asked(context: Context) -> str:
    """What the judge reads, as text."""
    return context.prompt if isinstance(context.prompt, str) else context.prompt[-1].content


def fenced(context: Context) -> list[str]:
    """The texts between the marks of a question, in order, marks standing on lines of their own."""
    lines = asked(context).split("\n")
    mark = next(line for line in lines if len(line) == 12 and set(line) <= set("0123456789abcdef"))
    return [part.strip("\n") for part in asked(context).split(f"\n{mark}\n")[1::2]]
