"""MMLongBench-Write: outputs that are there already, scored on length and quality (LongWriter-V, arXiv 2502.14834)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lpo.errors import DataError
from lpo.eval_config import MMLongBenchWriteConfig, SuiteName
from lpo.evaluation.answers import Answer, score_text
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import LENGTH_SCORE, REPETITION, WORDS, WORDS_ALL
from lpo.evaluation.quality import DIMENSIONS, QUALITY
from lpo.evaluation.suite import Curve
from lpo.evaluation.suites.graded import MEAN_SCORE, length_values, measure_answers
from lpo.llm.base import Finish
from lpo.prompts import read_rows
from lpo.records import Message, Prompt

BUCKETS = {"[0, 1500)": (0, 1500), "[1500, 2k)": (1500, 2000), "[2k, 3k)": (2000, 3000), "[3k, ...)": (3000, math.inf)}
"""Required words by the release's code: name -> first and one past the last."""
NO_PREDICTION = "the row has no prediction"


@dataclass(frozen=True)
class MMLongBenchWriteSuite:
    """Given outputs.

    Args:
        given: What is scored.
        notes: What a reader must know of the numbers.
    """

    given: tuple[Answer, ...]
    notes: tuple[str, ...]
    name = SuiteName.MMLONGBENCH_WRITE
    title = "MMLongBench-Write"
    source = "arXiv 2502.14834; S_l by the paper's equation, buckets by its code; the judge's prompt is our own"
    metrics = (MEAN_SCORE, LENGTH_SCORE, QUALITY, *DIMENSIONS, REPETITION, WORDS, WORDS_ALL)
    groups = tuple(BUCKETS)
    group_name = "words asked"
    prompts: tuple[Prompt, ...] = ()

    def judgements(self, answers: int) -> int:
        """One for each output."""
        return answers

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """S_l; with a judge also S_q, its six dimensions, and S̄. Refusals are unscored, and counted as such."""
        return await measure_answers(answers, judge, length_values, _group, on_done=on_done, stop=stop, mean=True)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()


def mmlongbench_write(config: MMLongBenchWriteConfig) -> MMLongBenchWriteSuite:
    """The suite over a file of outputs.

    Args:
        config: The section.

    Raises:
        DataError: The file is missing, broken or empty, or a row cannot be read; the error names its line.
    """
    rows = list(islice(_answers(read_rows(config.path), config.path), config.limit))
    if not rows:
        raise DataError("there are no outputs in it", where=config.path,
                        mend='give lines such as {"question": "Write ...", "L": 1000, "prediction": "..."}')
    notes = ["the judge does not see the images: what a text says of them is not checked, and S_q is not the "
             "published one"]
    missing = sum(answer.finish is Finish.REFUSED for answer in rows)
    if missing:
        notes.append(f"rows without a prediction: {missing} of {len(rows)}; they are unscored")
    if config.limit is not None and len(rows) == config.limit:
        notes.append(f"the first {config.limit} rows at most: limit")
    return MMLongBenchWriteSuite(tuple(rows), tuple(notes))


def _answers(rows: Iterable[tuple[int, dict[str, Any]]], path: str) -> Iterable[Answer]:
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            answer = _answer(row, line)
            if answer.prompt_id in lines:
                raise ValueError(f"its id {answer.prompt_id!r} stands in line {lines[answer.prompt_id]} too")
        except ValueError as error:
            raise DataError(f"this row is no output: {error}", where=f"{path}:{line}",
                            mend="it needs a question (text), L (words asked for), a prediction (text, or null), and "
                            "an id of its own, or none") from None
        lines[answer.prompt_id] = line
        yield answer


def _answer(row: Mapping[str, Any], line: int) -> Answer:
    question, text, named = row.get("question"), row.get("prediction"), row.get("id")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("there is no question")
    if text is not None and not isinstance(text, str):
        raise ValueError("the prediction is not text")
    if named is not None and (isinstance(named, bool) or not isinstance(named, (str, int))):
        raise ValueError("the id is neither text nor a whole number")
    task = row.get("task")
    prompt = Prompt(id=f"output-{line}" if named is None else str(named),
                    prompt=(Message(role="user", content=question),), target_words=_words(row.get("L")),
                    meta={} if task is None else {"kind": str(task)})
    if text is None:
        return score_text(prompt, "", Finish.REFUSED, model_name="model", note=NO_PREDICTION)
    return score_text(prompt, text, Finish.STOP, model_name="model")


def _words(value: object) -> int:
    """Words asked for; tables store whole numbers as floats."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf \
            or value != int(value):
        raise ValueError(f"L must be a whole number above 0, it is {value!r}")
    return int(value)


def _group(answer: Answer) -> str | None:
    words = answer.target_words
    return None if words is None else next(name for name, (low, end) in BUCKETS.items() if low <= words < end)
