"""LongWrite-Ruler: the same tasks at growing lengths, to see where a model's answers stop growing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpo.errors import ConfigError, DataError
from lpo.eval_config import LongWriteRulerConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import LENGTH_SCORE, ON_EVERY_ANSWER, WORDS
from lpo.evaluation.suite import Curve, Point
from lpo.evaluation.suites.graded import length_values, measure_answers, rejected_note, select
from lpo.intervals import Interval, bootstrap_mean
from lpo.prompts import read_prompts
from lpo.records import Message, Prompt

TASKS = (
    ("en", "Fiction", "Write a {words}-word story about a lighthouse keeper's daughter who learns to build ships and "
                      "leads her town to the other side of the ocean."),
    ("zh", "Fiction", "请写一篇{words}字的小说，讲述一位修桥匠的女儿如何把散落在峡谷两岸的村庄重新连在一起。"),
    ("en", "History", "Write a {words}-word account of how writing systems came to be and spread over the world."),
    ("zh", "History", "请写一篇{words}字的文章，介绍茶叶从产地走向世界各地的历史。"),
    ("en", "Guide", "Write a {words}-word guide for travellers who want to cross Europe by train and ferry."),
    ("zh", "Guide", "请写一份{words}字的指南，教城市居民从零开始在阳台上种菜。"),
    ("en", "Report", "Write a {words}-word report on how growing cities can secure their drinking water."),
    ("zh", "Report", "请写一份{words}字的研究报告，分析人口老龄化对农村教育的影响。"),
)
"""Our own tasks: language, kind and wording; four in English, four in Chinese."""


@dataclass(frozen=True)
class LongWriteRulerSuite:
    """Tasks, each at several lengths.

    Args:
        prompts: What a model is asked.
        lengths: The words that are asked for, ascending.
        source: Where the tasks are from.
        notes: What a reader must know of the numbers.
    """

    prompts: tuple[Prompt, ...]
    lengths: tuple[int, ...]
    source: str
    notes: tuple[str, ...] = ()
    name = SuiteName.LONGWRITE_RULER
    title = "LongWrite-Ruler"
    metrics = (LENGTH_SCORE, *ON_EVERY_ANSWER)
    group_name = "words asked"
    given: tuple[Answer, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The lengths asked for."""
        return tuple(f"{length:,}" for length in self.lengths)

    def judgements(self, answers: int) -> int:
        """None: lengths are counted."""
        return 0

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """S_l and words; nobody is asked."""
        return await measure_answers(answers, None, length_values, _group, on_done=on_done, stop=stop)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """The longest answer (as published) and the mean length, over the length asked for.

        A largest value has no bootstrap interval: resamples never hold a larger one.
        """
        by_length = [(length, [row.values[WORDS.key] for row in rows if row.answer.target_words == length])
                     for length in self.lengths]
        longest = tuple(Point(length, _longest(written)) for length, written in by_length)
        means = tuple(Point(length, bootstrap_mean(written, seed=seed, resamples=resamples))
                      for length, written in by_length)
        return (
            Curve("longest", "Longest answer", "words asked", "words of the longest answer", longest, diagonal=True),
            Curve("mean_words", "Mean length", "words asked", "words written", means, diagonal=True),
        )


def longwrite_ruler(config: LongWriteRulerConfig) -> LongWriteRulerSuite:
    """The suite over the published file, or over tasks of our own.

    Args:
        config: The section. Of a file's prompts those are kept that ask for one of its lengths.

    Raises:
        ConfigError: The lengths are none, not above 0, or not all different.
        DataError: The file is missing or broken, one of its prompts asks for no length, or none is left.
        NothingLeftError: It has rows, but none can be used.
    """
    lengths = tuple(sorted(set(config.lengths)))
    if not lengths or lengths[0] <= 0 or len(lengths) < len(config.lengths):
        raise ConfigError("lengths must be whole numbers above 0, each once", where="eval.longwrite_ruler.lengths",
                          mend="for example [1000, 2000, 5000]")
    if config.path == "builtin":
        prompts, notes = builtin_tasks(lengths), ()
        source = "after arXiv 2408.07055; tasks of our own, so numbers are not those of the published ones"
    else:
        prompts, notes = _read(config.path, lengths)
        source = "arXiv 2408.07055"
    kept, filtered = select(prompts, where="eval.longwrite_ruler", limit=config.limit)
    asked = {prompt.target_words for prompt in kept}
    return LongWriteRulerSuite(kept, tuple(length for length in lengths if length in asked), source,
                               (*notes, *filtered))


def builtin_tasks(lengths: Sequence[int]) -> tuple[Prompt, ...]:
    """Our own eight tasks at each length, the shortest first."""
    return tuple(
        Prompt(id=f"ruler-{number}-{length}", prompt=(Message(role="user", content=wording.format(words=length)),),
               target_words=length, meta={"kind": kind, "language": language})
        for length in lengths for number, (language, kind, wording) in enumerate(TASKS, start=1)
    )


def _read(path: str, lengths: Sequence[int]) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    prompts, rejected = read_prompts(path)
    for prompt in prompts:
        if prompt.target_words is None:
            raise DataError(f"the prompt {prompt.request[:60]!r} asks for no length", where=path,
                            mend="give every row a 'length' (beside 'type') or 'target_words'")
    kept = tuple(prompt for prompt in prompts if prompt.target_words in lengths)
    if not kept:
        raise DataError("none of its prompts asks for one of the lengths", where=path,
                        mend="name lengths of the file in eval.longwrite_ruler.lengths")
    aside = len(prompts) - len(kept)
    note = (f"prompts set aside because their length is not in lengths: {aside} of {len(prompts)}",) if aside else ()
    return kept, (*rejected_note(rejected), *note)


def _group(answer: Answer) -> str:
    return f"{answer.target_words:,}"


def _longest(written: Sequence[float | None]) -> Interval:
    known = [words for words in written if words is not None]
    return Interval(max(known, default=None), None, None, len(known), len(written) - len(known))
