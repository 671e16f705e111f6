"""Quality along the text: every answer cut into parts of equal length, and each part measured in its place."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from lpo.eval_config import AlongConfig
from lpo.evaluation.answers import AT_ONCE, Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.quality import grade_quality
from lpo.evaluation.suite import Curve, Point
from lpo.intervals import bootstrap_mean
from lpo.llm.base import Finish
from lpo.llm.side_by_side import side_by_side
from lpo.records import Judgement, Record
from lpo.reward.repetition import units
from lpo.segmentation.equal_parts import equal_parts
from lpo.words import count_all_words

FEWEST_WORDS = 20
"""Words a part must have on average."""
_N = 4
_STEM = 6
"""Letters of a word that count: `garden`, `gardens` and `gardening` are one."""

_HAN = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_HAN}]+|[^\W\d_{_HAN}]{{2,}}")
_FUNCTION_WORDS = frozenset(re.findall(r"\w+", """
    about above after again against all also am an and any are as at be because been before being below between
    both but by can cannot could did do does doing down during each even ever every few for from further get had
    has have having he her here hers herself him himself his how however if in into is it its itself just let like
    ll many may me might more most much must my myself no nor not now of off on once one only or other our ours
    ourselves out over own re same shall she should since so some still such than that the their theirs them
    themselves then there these they this those though through thus to too under until up upon us ve very was we
    were what when where whether which while who whom whose why will with within without would yet you your yours
    yourself yourselves don didn doesn isn wasn weren won aren couldn hadn hasn haven shouldn wouldn
"""))
"""English words that say nothing of a subject."""


class AlongPart(Record):
    """One part of an answer."""

    start: int
    """Where it begins in the text, in characters; it ends where the next one begins."""
    words: int
    repetition: float | None
    """Share of the part's 4-grams that stood before in the text, 0–1; a 4-gram belongs to the part it ends in. None
    when there is none."""
    drift: float | None
    """How little its content words have in common with the request's, 0–1."""
    drift_from_start: float | None
    """How little they have in common with those of the first part, 0–1."""
    judgement: Judgement | None = None
    """S_q of the part in its place; None without a judge."""


class AlongRow(Record):
    """One answer part by part: a line of `eval/<suite>/along.<model>.jsonl`."""

    prompt_id: str
    parts: tuple[AlongPart, ...] = ()
    left_out: str | None = None
    """Why there are no parts: `refused` or `short`."""


async def measure_along(
    answers: Sequence[Answer], judge: JudgeModel | None, config: AlongConfig, *,
    on_done: Callable[[], None] = lambda: None, stop: asyncio.Event | None = None,
) -> list[AlongRow]:
    """Measure answers part by part. An answer of fewer than 20 words a part is left out.

    Args:
        answers: Whole answers.
        judge: Grades each part, having read what stands before it; None: parts are not graded. With it
            `config.parts` judgements are made for each answer.
        config: Into how many parts.
        on_done: Called after each answer.
        stop: As in `side_by_side`.

    Returns:
        One row for each answer, in order.

    Raises:
        BackendError: The judge cannot be used. Calls in flight are finished first.
    """

    async def measure(answer: Answer) -> AlongRow:
        row = along_row(answer, config.parts)
        if judge is not None and row.parts:
            starts = [part.start for part in row.parts]

            async def grade(index: int) -> AlongPart:
                end = starts[index + 1] if index + 1 < len(starts) else None
                judgement = await grade_quality(judge, request=answer.request, text=answer.text[starts[index]:end],
                                                before=answer.text[:starts[index]])
                return row.parts[index].model_copy(update={"judgement": judgement})

            graded = await side_by_side(range(len(starts)), grade, at_once=len(starts), stop=stop)
            row = row.model_copy(update={"parts": tuple(graded)})
        on_done()
        return row

    at_once = AT_ONCE if judge is None else max(1, judge.at_once // config.parts)
    return await side_by_side(answers, measure, at_once=at_once, stop=stop)


def along_row(answer: Answer, parts: int) -> AlongRow:
    """What is measured on the parts of an answer without a judge.

    Args:
        answer: The answer.
        parts: How many parts it is cut into, at sentence ends.
    """
    if answer.finish is Finish.REFUSED:
        return AlongRow(prompt_id=answer.prompt_id, left_out="refused")
    if count_all_words(answer.text) < FEWEST_WORDS * parts:
        return AlongRow(prompt_id=answer.prompt_id, left_out="short")
    texts = equal_parts(answer.text, parts)
    asked, first = _content(answer.request), _content(texts[0])
    starts = [sum(map(len, texts[:index])) for index in range(parts)]
    return AlongRow(prompt_id=answer.prompt_id, parts=tuple(
        AlongPart(start=start, words=count_all_words(text), repetition=repeated, drift=_drift(_content(text), asked),
                  drift_from_start=_drift(_content(text), first))
        for start, text, repeated in zip(starts, texts, repetition_along(texts), strict=True)))


def repetition_along(parts: Iterable[str]) -> list[float | None]:
    """For each part of a text the share of its 4-grams that stood before, in an earlier part or in itself.

    Weighted by their 4-grams the shares have `repeated_ngram_share` of the whole text as their mean.
    """
    shares: list[float | None] = []
    seen: set[tuple[str, ...]] = set()
    before: list[str] = []
    for part in parts:
        words = [*before, *units(part)]
        ngrams = list(zip(*(words[start:] for start in range(_N)), strict=False))
        new = len(set(ngrams) - seen)
        seen.update(ngrams)
        shares.append(1 - new / len(ngrams) if ngrams else None)
        before = words[-(_N - 1):]
    return shares


def along_curves(rows: Sequence[AlongRow], config: AlongConfig, *, seed: int, resamples: int) -> tuple[Curve, ...]:
    """One model's answers as curves over the place in the text, with 95 % intervals over answers.

    Args:
        rows: As `measure_along` gives them; answers that were left out are counted as unscored.
        config: As there.
        seed: Of the bootstrap.
        resamples: Behind each interval.

    Returns:
        Repetition and drift; S_q of each part too where one was graded.
    """

    def curve(key: str, title: str, y: str, value: Callable[[AlongPart], float | None], first: int = 0) -> Curve:
        points = (Point(100 * (index + 0.5) / config.parts,
                        bootstrap_mean([value(row.parts[index]) if row.parts else None for row in rows], seed=seed,
                                       resamples=resamples))
                  for index in range(first, config.parts))
        return Curve(key, title, "place in the text (%)", y, tuple(points))

    curves = [
        curve("along_repetition", "Repetition along the text", "4-grams that stood before (%)",
              lambda part: None if part.repetition is None else 100 * part.repetition),
        curve("along_drift", "Drift from the request", "1 - cosine with the request's words", lambda part: part.drift),
        curve("along_drift_from_start", "Drift from the first part", "1 - cosine with the first part's words",
              lambda part: part.drift_from_start, first=1),
    ]
    if any(part.judgement is not None for row in rows for part in row.parts):
        curves.append(curve("along_quality", "Quality along the text", "S_q of the part",
                            lambda part: None if part.judgement is None else part.judgement.overall))
    return tuple(curves)


def _content(text: str) -> Counter[str]:
    """Content words by their beginnings; Chinese and Japanese by pairs of neighbouring characters."""
    counts: Counter[str] = Counter()
    for run in _RUN.findall(text.casefold()):
        if re.match(rf"[{_HAN}]", run):
            counts.update(run[at:at + 2] for at in range(max(1, len(run) - 1)))
        elif run not in _FUNCTION_WORDS:
            counts[run[:_STEM]] += 1
    return counts


def _drift(one: Counter[str], other: Counter[str]) -> float | None:
    """1 - cosine of the counts, each dampened to 1 + log; None where a side has no content word."""
    if not one or not other:
        return None
    weights = [{word: 1 + math.log(count) for word, count in side.items()} for side in (one, other)]
    dot = math.fsum(weight * weights[1].get(word, 0.0) for word, weight in weights[0].items())
    norms = [math.sqrt(math.fsum(weight * weight for weight in side.values())) for side in weights]
    return max(0.0, 1 - dot / (norms[0] * norms[1]))
