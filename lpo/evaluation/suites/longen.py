"""LonGen: is a text as long as its request wants, said in one of four ways (Self-Lengthen, arXiv 2410.23933)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lpo.errors import DataError
from lpo.eval_config import LonGenConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import ON_EVERY_ANSWER, Metric
from lpo.evaluation.quality import DIMENSIONS, QUALITY
from lpo.evaluation.suite import Curve
from lpo.evaluation.suites.graded import Own, measure_answers, select
from lpo.evaluation.suites.longen_tasks import LonGenTask, builtin_tasks
from lpo.evaluation.suites.longen_window import Kind, Window, count_longen_words, read_numbers
from lpo.prompts import read_rows
from lpo.records import Message, Prompt
from lpo.words import is_chinese

WINDOW = Metric("window_score", "Length score",
                "how near the length comes to the window asked for, counted as published")
WINDOW_WORDS = Metric("window_score_words", "Length score, words",
                      "the same, words counted as in LongBench-Write: without punctuation and digits")
_LANGUAGES: dict[str, Literal["en", "zh"]] = {
    "en": "en", "english": "en", "英文": "en", "英语": "en", "zh": "zh", "cn": "zh", "chinese": "zh", "中文": "zh",
}


@dataclass(frozen=True)
class LonGenSuite:
    """Tasks and the windows of their lengths.

    Args:
        prompts: What a model is asked.
        windows: Prompt id -> its window.
        source: Where the tasks are from.
        notes: What a reader must know of the numbers.
    """

    prompts: tuple[Prompt, ...]
    windows: Mapping[str, Window]
    source: str
    notes: tuple[str, ...]
    name = SuiteName.LONGEN
    title = "LonGen"
    metrics = (WINDOW, WINDOW_WORDS, QUALITY, *DIMENSIONS, *ON_EVERY_ANSWER)
    groups = tuple(kind.value for kind in Kind)
    group_name = "how the length is asked for"
    given: tuple[Answer, ...] = ()

    def judgements(self, answers: int) -> int:
        """One for each answer."""
        return answers

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """The length score, counted in two ways; with a judge also S_q and its six dimensions."""
        plain = [answer.model_copy(update={"scores": answer.scores.model_copy(update={"length": None})})
                 for answer in answers]  # S_l knows one length only: it is no score of this suite
        return await measure_answers(plain, judge, self._own, lambda answer: answer.kind, on_done=on_done, stop=stop)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()

    def _own(self, answer: Answer) -> Own:
        window, counted = self.windows[answer.prompt_id], count_longen_words(answer.text)
        return Own({WINDOW.key: window.score(counted), WINDOW_WORDS.key: window.score(answer.words)},
                   details={"window": [window.low, window.high], "words_longen": counted})


def longen(config: LonGenConfig) -> LonGenSuite:
    """The suite over the published file, or over tasks of our own in the same make-up.

    Args:
        config: The section.

    Raises:
        DataError: The file is missing or broken, a row cannot be read (the error names its line), or no task is left.
    """
    notes = ["S_q is that of LongBench-Write, on 0–100; the paper's own prompt (seven dimensions, 1–10) is not used"]
    if config.path == "builtin":
        tasks, source = builtin_tasks(), "after arXiv 2410.23933; tasks of our own in the published make-up"
        notes.append("tasks of our own: numbers are not those of the published ones")
    else:
        tasks, source = read_tasks(config.path), "arXiv 2410.23933; windows and length score as published"
    windows = {task.id: task.kind.window(task.numbers) for task in tasks}
    kept, filtered = select([_prompt(task) for task in tasks], where="eval.longen", wanted=config.language,
                            limit=config.limit)
    return LonGenSuite(kept, windows, source, (*notes, *filtered))


def read_tasks(path: str) -> tuple[LonGenTask, ...]:
    """The rows of a file in the published form.

    Args:
        path: A .jsonl file or `hub:<dataset>[:split]`.

    Raises:
        DataError: It is missing, broken or empty, or a row cannot be read; the error names the line.
    """
    tasks = tuple(_tasks(read_rows(path), path))
    if not tasks:
        raise DataError("there are no tasks in it", where=path, mend="give lines with language, range, type, "
                        "constraint and query")
    return tasks


def _tasks(rows: Iterable[tuple[int, dict[str, Any]]], path: str) -> Iterable[LonGenTask]:
    for line, row in rows:
        try:
            yield _task(row, line)
        except ValueError as error:
            raise DataError(f"this row is no LonGen task: {error}", where=f"{path}:{line}",
                            mend='compare it with {"language": "en", "range": "2-4k", "type": "range", "constraint": '
                            '"2000-4000 words", "query": "Write ..."}') from None


def _task(row: Mapping[str, Any], line: int) -> LonGenTask:
    query, kind = row.get("query"), row.get("type")
    if not isinstance(query, str) or not query.strip():
        raise ValueError("there is no query")
    if not isinstance(kind, str):
        raise ValueError("there is no type")
    if row.get("constraint") is None:
        raise ValueError("there is no constraint")
    read = Kind.read(kind)
    numbers = read_numbers(row["constraint"])
    try:
        read.window(numbers)
    except ValueError as error:
        raise ValueError(f"the constraint {row['constraint']!r}: {error}") from None
    named = row.get("range")
    return LonGenTask(f"longen-{line}", _language(row.get("language"), query), None if named is None else str(named),
                      read, numbers, query)


def _language(named: object, query: str) -> Literal["en", "zh"]:
    if named is None:
        return "zh" if is_chinese(query) else "en"
    found = _LANGUAGES.get(str(named).strip().casefold())
    if found is None:
        raise ValueError(f"the language {named!r} is neither en nor zh")
    return found


def _prompt(task: LonGenTask) -> Prompt:
    """A task as a prompt. Its words are what it asks for: the number, or the middle of a range."""
    return Prompt(id=task.id, prompt=(Message(role="user", content=task.query),),
                  target_words=round(sum(task.numbers) / len(task.numbers)),
                  meta={"kind": task.kind.value, "language": task.language, "range": task.range})
