"""LongBench-Write: how well a text keeps to the length asked for (S_l), and how good it is (S_q)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpo.eval_config import LongBenchWriteConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.buckets import BUCKETS, bucket
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import LENGTH_SCORE, ON_EVERY_ANSWER
from lpo.evaluation.quality import DIMENSIONS, QUALITY
from lpo.evaluation.suite import Curve
from lpo.evaluation.suites.graded import MEAN_SCORE, length_values, measure_answers, rejected_note, select
from lpo.prompts import read_prompts
from lpo.records import Prompt


@dataclass(frozen=True)
class LongBenchWriteSuite:
    """The 120 prompts, or those of them that the section keeps.

    Args:
        prompts: What a model is asked.
        notes: What a reader must know of the numbers.
    """

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()
    name = SuiteName.LONGBENCH_WRITE
    title = "LongBench-Write"
    source = "arXiv 2408.07055; S_l, word count, scale and buckets as published, the judge's prompt is our own"
    metrics = (MEAN_SCORE, LENGTH_SCORE, QUALITY, *DIMENSIONS, *ON_EVERY_ANSWER)
    groups = tuple(BUCKETS)
    group_name = "words asked"
    given: tuple[Answer, ...] = ()

    def judgements(self, answers: int) -> int:
        """One for each answer."""
        return answers

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """S_l; with a judge also S_q, its six dimensions, and S̄."""
        return await measure_answers(answers, judge, length_values, lambda answer: bucket(answer.target_words),
                                     on_done=on_done, stop=stop, mean=True)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()


def longbench_write(config: LongBenchWriteConfig) -> LongBenchWriteSuite:
    """The suite over the published file.

    Args:
        config: The section; its path may name any prompts that ask for a length.

    Raises:
        DataError: The file is missing or broken, or none of its prompts is left.
        NothingLeftError: It has rows, but none can be used.
    """
    prompts, rejected = read_prompts(config.path)
    kept, filtered = select(prompts, where="eval.longbench_write", wanted=config.language, max_words=config.max_words,
                            limit=config.limit)
    targets = [prompt.target_words for prompt in kept]
    notes = [*rejected_note(rejected), *filtered]
    if None in targets:
        notes.append(f"prompts that ask for no length: {targets.count(None)}; they have no S_l and stand in no group")
    above = sum(words is not None and bucket(words) is None for words in targets)
    if above:
        notes.append(f"prompts that ask for more than 20,000 words: {above}; they count in the whole and stand in no "
                     "group")
    return LongBenchWriteSuite(kept, tuple(notes))
