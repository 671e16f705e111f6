"""Texts before and after training, and on the way."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import length_bar
from lpo.report.data import Answer, RunData, Sample
from lpo.report.scores import MEASURES, MODELS

ANSWER_BYTES = 700_000
SAMPLE_BYTES = 250_000
TEXT_CHARACTERS = 24_000
REQUEST_CHARACTERS = 4_000

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
        return len(self.request.encode()) + sum(len(text.text.encode()) + 1500 for text in self.texts)


@dataclass(frozen=True)
class SampleSection:
    """Everything the section on samples shows."""

    answers: tuple[Group, ...]
    answers_left_out: int
    progress: tuple[Group, ...]
    progress_left_out: int


def sample_section(run: RunData) -> SampleSection | None:
    """The section on samples, or None before any text was written."""
    answers = _answers(run)
    progress = _progress(run)
    if not answers and not progress:
        return None
    shown_answers, shown_progress = _fitting(answers, ANSWER_BYTES), _fitting(progress, SAMPLE_BYTES)
    return SampleSection(shown_answers, len(answers) - len(shown_answers), shown_progress,
                         len(progress) - len(shown_progress))


def _fitting(groups: list[Group], room: int) -> tuple[Group, ...]:
    kept: list[Group] = []
    for group in groups:
        room -= group.room
        if room < 0:
            break
        kept.append(group)
    return tuple(kept)


def _answers(run: RunData) -> list[Group]:
    by_prompt: dict[str, dict[str, Answer]] = {}
    for model in MODELS:
        for answer in run.answers.get(model, ()):
            by_prompt.setdefault(answer.prompt_id, {})[model] = answer
    groups: list[Group] = []
    for index, both in enumerate(by_prompt.values()):
        known = next(iter(both.values()))
        texts = tuple(_answer(both[model], f"answer-{index}-{model}") for model in MODELS if model in both)
        groups.append(Group(_shortened(known.request), known.kind, texts))
    return groups


def _answer(answer: Answer, key: str) -> Text:
    scores = [(measure.name, measure.write(value)) for measure in MEASURES
              if (value := answer.scores.get(measure.key.removesuffix("_score"))) is not None]
    if answer.judgement is not None and answer.judgement.unscored is not None:
        scores.append(("Judge", f"no score: {answer.judgement.unscored}"))
    return _text(answer, answer.model, answer.model, key, tuple(scores))


def _progress(run: RunData) -> list[Group]:
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


def _text(row: Answer | Sample, label: str, css: str, key: str, scores: tuple[tuple[str, str], ...] = ()) -> Text:
    asked = f" of {row.target_words:,} words asked" if row.target_words else " words"
    return Text(label=label, css=css, text=row.text[:TEXT_CHARACTERS], left_out=max(0, len(row.text) - TEXT_CHARACTERS),
                length=f"{row.words:,}{asked}", bar=length_bar(key, row.words, row.target_words, css),
                finish=_HOW_IT_ENDED.get(row.finish, row.finish), scores=scores)


def _shortened(request: str) -> str:
    return request if len(request) <= REQUEST_CHARACTERS else f"{request[:REQUEST_CHARACTERS]}…"
