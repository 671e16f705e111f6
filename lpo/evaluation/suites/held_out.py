"""The run's own held-out prompts as a suite: S_l, repetition and the judge's grade, by the length asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpo.errors import DataError
from lpo.eval_config import EvalConfig, SuiteName
from lpo.evaluation.answers import Answer, select_prompts
from lpo.evaluation.buckets import BUCKETS, bucket
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import LENGTH_SCORE, ON_EVERY_ANSWER, Metric, Unit
from lpo.evaluation.suite import Curve
from lpo.llm.base import Finish
from lpo.records import Prompt

JUDGE = Metric("judge", "Judge", "the judge's mean score of the text", unit=Unit.SCORE)


@dataclass(frozen=True)
class HeldOutSuite:
    """Answers to held-out prompts. They come judged already: the judge of the run gives its own grade.

    Args:
        prompts: The prompts that are evaluated.
    """

    prompts: tuple[Prompt, ...]
    name = SuiteName.HELD_OUT
    title = "Held-out prompts"
    source = "the run's own prompts; S_l as in LongBench-Write (arXiv 2408.07055)"
    metrics = (LENGTH_SCORE, JUDGE, *ON_EVERY_ANSWER)
    groups = tuple(BUCKETS)
    group_name = "words asked"
    given: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()

    def judgements(self, answers: int) -> int:
        """None: the answers come judged."""
        return 0

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """The answers with their values."""
        return [measured_answer(answer) for answer in answers]

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()


def held_out_suite(prompts: Sequence[Prompt], config: EvalConfig) -> HeldOutSuite:
    """The suite over the held-out prompts that `eval` selects.

    Raises:
        DataError: None is left.
    """
    asked = select_prompts(prompts, config)
    if not asked:
        raise DataError("no held-out prompt is left", where="eval",
                        mend="check prompts.held_out_path and the filters prompts.max_words, eval.max_words")
    return HeldOutSuite(asked)


def measured_answer(answer: Answer) -> Measured:
    """An answer to a held-out prompt with its values, as its file does not hold them."""
    values, unscored = basic_values(answer), dict[str, str]()
    values[LENGTH_SCORE.key] = answer.scores.length
    if answer.finish is Finish.REFUSED:
        unscored = dict.fromkeys(values, "refused")
    elif answer.target_words is None:
        unscored[LENGTH_SCORE.key] = "no_target"
    if answer.judgement is not None or answer.scores.judge is not None:
        values[JUDGE.key] = answer.scores.judge
    if answer.judgement is not None and answer.judgement.unscored is not None:
        unscored[JUDGE.key] = answer.judgement.unscored
    return Measured(answer=answer, group=bucket(answer.target_words), values=values, unscored=unscored)
