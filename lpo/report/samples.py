"""Texts before and after training, and on the way."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from lpo.report.charts import length_bar
from lpo.report.data import Answer, RunData, Sample
from lpo.report.entries import spread
from lpo.report.scores import MEASURES, measure_of, suites_of
from lpo.report.suites_data import HELD_OUT, MODELS, TEXT_CHARACTERS, MeasuredData, MetricData

ANSWER_BYTES = 600_000
"""Room for answers on the page, all suites together."""
FEWEST_BYTES = 60_000
"""Room that every suite has, however many there are."""
SAMPLE_BYTES = 150_000
REQUEST_CHARACTERS = 4_000
SCORES_SHOWN = 6
"""Of one answer."""

_HOW_IT_ENDED = {"stop": "ended by itself", "length": "cut at the token limit", "refused": "refused"}


@dataclass(frozen=True)
class Text:
    """One text with what is said about it."""

    label: str
    css: str
    text: str
    left_out: int
    """Characters beyond what is shown."""
    length: str
    bar: Markup
    finish: str
    scores: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Group:
    """The texts of one prompt."""

    request: str
    kind: str | None
    texts: tuple[Text, ...]

    @property
    def room(self) -> int:
        """Bytes this takes on the page, about."""
        return _escaped(self.request) + sum(_escaped(text.text) + 1500 for text in self.texts)


@dataclass(frozen=True)
class SuiteTexts:
    """Answers to the prompts of one suite."""

    key: str
    title: str
    groups: tuple[Group, ...]
    left_out: int


@dataclass(frozen=True)
class SampleSection:
    """Everything the section on samples shows."""

    suites: tuple[SuiteTexts, ...]
    progress: tuple[Group, ...]
    progress_left_out: int
    paired: bool
    """Do two models answer the same prompts?"""


def sample_section(run: RunData, share: float = 1.0) -> SampleSection | None:
    """The section on samples, or None before any text was written.

    Args:
        run: The run.
        share: Of the room that texts usually have.
    """
    measured = {suite: groups for suite in run.measured if (groups := answer_groups(run, suite))}
    progress = progress_groups(run)
    if not measured and not progress:
        return None
    room = round(share * max(FEWEST_BYTES, ANSWER_BYTES // max(1, len(measured))))
    shown = {suite: _fitting(groups, room) for suite, groups in measured.items()}
    shown_progress = _fitting(progress, round(share * SAMPLE_BYTES))
    titles = suite_titles(run)
    return SampleSection(
        tuple(SuiteTexts(suite, titles.get(suite, suite), groups, len(measured[suite]) - len(groups))
              for suite, groups in shown.items()), shown_progress, len(progress) - len(shown_progress),
        paired=any(len(answers) > 1 for answers in run.measured.values()))


def suite_titles(run: RunData) -> dict[str, str]:
    """Suites by their names, as people read them."""
    known = {} if run.scores is None else {suite.suite: suite.title for suite in suites_of(run.scores)}
    return {HELD_OUT: "Held-out prompts"} | known


def _fitting(groups: list[Group], room: int) -> tuple[Group, ...]:
    """Groups spread evenly over the file, as many as there is room for, in the order of the file."""
    kept: list[tuple[int, Group]] = []
    for index, group in spread(groups):
        room -= group.room
        if room < 0:
            break
        kept.append((index, group))
    return tuple(group for _, group in sorted(kept, key=lambda item: item[0]))


def answer_groups(run: RunData, suite: str) -> list[Group]:
    """The answers to each prompt of a suite, model beside model."""
    by_prompt: dict[str, dict[str, MeasuredData]] = {}
    for model in MODELS:
        for row in run.measured.get(suite, {}).get(model, ()):
            by_prompt.setdefault(row.answer.prompt_id, {})[model] = row
    scores = [] if run.scores is None else [one for one in suites_of(run.scores) if one.suite == suite]
    metrics = scores[0].metrics if scores else ()
    groups: list[Group] = []
    for index, both in enumerate(by_prompt.values()):
        known = next(iter(both.values()))
        texts = tuple(_answer(both[model], metrics, f"answer-{suite}-{index}-{model}")
                      for model in MODELS if model in both)
        groups.append(Group(_shortened(known.answer.request), known.group if suite != HELD_OUT else known.answer.kind,
                            texts))
    return groups


def _answer(row: MeasuredData, metrics: tuple[MetricData, ...], key: str) -> Text:
    answer, values = row.answer, row.values
    if values or row.unscored:
        measures = [measure_of(metric) for metric in metrics if metric.unit != "words" and metric.key != "ended"]
        scores = [(measure.name, f"no score: {row.unscored[measure.key]}" if value is None else measure.write(value))
                  for measure in measures
                  if (value := values.get(measure.key)) is not None or measure.key in row.unscored][:SCORES_SHOWN]
    else:
        scores = [(measure.name, measure.write(value)) for measure in MEASURES
                  if (value := answer.scores.get(measure.key.removesuffix("_score"))) is not None]
        if answer.judgement is not None and answer.judgement.unscored is not None:
            scores.append(("Judge", f"no score: {answer.judgement.unscored}"))
    return _text(answer, answer.model, answer.model, key, tuple(scores), row.characters)


def progress_groups(run: RunData) -> list[Group]:
    """What was written for each prompt as training went on."""
    by_prompt: dict[str, list[Sample]] = {}
    for row in run.samples:
        by_prompt.setdefault(row.prompt_id, []).append(row)
    groups: list[Group] = []
    for index, rows in enumerate(by_prompt.values()):
        ordered = sorted(rows, key=lambda row: row.step)
        texts = tuple(_text(row, "before training" if row.step == 0 else f"step {row.step}",
                            "base" if row.step == 0 else "trained", f"sample-{index}-{row.step}") for row in ordered)
        groups.append(Group(_shortened(ordered[0].request), None, texts))
    return groups


def _text(row: Answer | Sample, label: str, css: str, key: str, scores: tuple[tuple[str, str], ...] = (),
          characters: int | None = None) -> Text:
    asked = f" of {row.target_words:,} words asked" if row.target_words else " words"
    whole = len(row.text) if characters is None else characters
    return Text(label=label, css=css, text=row.text[:TEXT_CHARACTERS], left_out=max(0, whole - TEXT_CHARACTERS),
                length=f"{row.words:,}{asked}", bar=length_bar(key, row.words, row.target_words, css),
                finish=_HOW_IT_ENDED.get(row.finish, row.finish), scores=scores)


def _shortened(request: str) -> str:
    return request if len(request) <= REQUEST_CHARACTERS else f"{request[:REQUEST_CHARACTERS]}…"


def _escaped(text: str) -> int:
    """Bytes of a text inside HTML."""
    return len(escape(text).encode())
