"""One answer with everything a suite measured on it: a line of `eval/<suite>/<model>.jsonl`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lpo.evaluation.answers import Answer
from lpo.evaluation.metrics import ENDED, REPETITION, WORDS, WORDS_ALL
from lpo.llm.base import Finish
from lpo.records import Record
from lpo.words import count_all_words


class Measured(Record):
    """An answer and its values."""

    answer: Answer
    group: str | None = None
    """What its suite breaks the scores down by: a bucket of lengths, a scenario, ..."""
    values: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    """Values by name; None where there is none."""
    unscored: dict[str, str] = Field(default_factory=dict[str, str])
    """For each value that is None: why."""
    unscored_parts: dict[str, dict[str, int]] = Field(default_factory=dict[str, dict[str, int]])
    """Judgements of parts that failed, where values are made from those that did not: what was judged -> reason -> how
    many."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What the values were made from: judgements, checks, counts."""


def basic_values(answer: Answer) -> dict[str, float | None]:
    """What is measured on every answer without a judge; None throughout for one that was refused."""
    if answer.finish is Finish.REFUSED:
        return dict.fromkeys((REPETITION.key, ENDED.key, WORDS.key, WORDS_ALL.key))
    return {REPETITION.key: answer.scores.repetition, ENDED.key: float(answer.finish is Finish.STOP),
            WORDS.key: float(answer.words), WORDS_ALL.key: float(count_all_words(answer.text))}
