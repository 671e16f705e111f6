"""What the runs wrote: length asked against length written, and their texts to the same prompts side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import length_bar
from lpo.report.comparison_charts import scatter_chart
from lpo.report.comparison_data import ComparedRun, Comparison
from lpo.report.entries import REQUEST_CHARACTERS, beginning, cut_end, spread
from lpo.report.scores import MEASURES, Figure, Measure, measure_of
from lpo.report.suites_data import HELD_OUT, MeasuredData

TEXT_BYTES = 800_000
"""Room for texts on the page, where there is as much."""
TEXT_CHARACTERS = 6_000
PROMPTS = 5
"""Prompts of a suite whose texts are shown."""
DOTS = 2_400
"""Dots on the page, over all suites and runs."""
MEASURE_OF_ANSWER = {"length": "length_score"}
"""The names of an answer's own scores, where a suite's are others."""
SAID_ALREADY = ("words", "words_all", "ended")
"""Scores that say of one answer what stands beside it."""
HOW_IT_ENDED = {"stop": "ended by itself", "length": "cut at the token limit", "refused": "refused"}

Answers = Mapping[str, Mapping[ComparedRun, Mapping[str, MeasuredData]]]
"""Suite -> run -> prompt id -> answer."""


@dataclass(frozen=True)
class RunText:
    """What one run wrote for a prompt."""

    run: ComparedRun
    text: str
    cut: int
    """Characters beyond what is shown."""
    length: str
    bar: Markup
    finish: str
    scores: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PromptTexts:
    """The texts of all runs to one prompt."""

    title: str
    """The beginning of the request."""
    request: str
    """All of it; empty where the title is that already."""
    request_cut: int
    kind: str | None
    texts: tuple[RunText, ...]

    @property
    def room(self) -> int:
        """Bytes on the page, about."""
        return len(self.request.encode()) + sum(len(one.text.encode()) + 1_500 for one in self.texts)


@dataclass(frozen=True)
class SuiteTexts:
    """The texts of one suite."""

    title: str
    prompts: tuple[PromptTexts, ...]
    answered: int
    """Prompts that all of these runs answered."""
    absent: tuple[ComparedRun, ...]
    """Runs that did not answer it."""


def read_answers(runs: Sequence[ComparedRun], comparison: Comparison) -> Answers:
    """The measured answers of all runs, suite by suite, those that were compared first.

    Raises:
        DataError: A line of their files is damaged.
    """
    there = dict.fromkeys(name for run in runs for name in run.suites)
    names = dict.fromkeys([*(name for name in comparison.suites if name in there), *there])
    found = {name: {run: {row.answer.prompt_id: row for row in run.measured(name)} for run in runs} for name in names}
    return {name: {run: rows for run, rows in of_runs.items() if rows} for name, of_runs in found.items()}


def length_figures(answers: Answers, comparison: Comparison) -> dict[str, Figure]:
    """Suite -> length asked against length written, where its prompts ask for lengths."""
    asked = {suite: {run: targets for run, rows in of_runs.items() if (targets := _targets(list(rows.values())))}
             for suite, of_runs in answers.items()}
    scattered = sum(len(of_runs) for of_runs in asked.values())
    figures: dict[str, Figure] = {}
    for suite, of_runs in asked.items():
        if not of_runs:
            continue
        each = max(30, DOTS // scattered)
        dots = [(run.index, *dot) for run, found in of_runs.items() for _, dot in sorted(spread(found)[:each])]
        left_out = sum(max(0, len(found) - each) for found in of_runs.values())
        table = tuple((f"{run.letter} {run.name}", f"{len(found):,}", f"{sum(y < x for x, y in found):,}",
                       f"{sum(0.9 * x <= y <= 1.1 * x for x, y in found):,}", f"{sum(y > x for x, y in found):,}")
                      for run, found in of_runs.items())
        title = "Length asked and written"
        more = f"; {left_out:,} of them are left out, evenly" if left_out else ""
        figures[suite] = Figure(
            title, f"one mark an answer, in words; on the dashed line it is as long as asked{more}",
            scatter_chart(f"lengths-{suite}", title, f"{_title(suite, comparison)}; the numbers follow", dots,
                          x_name="words asked", y_name="words written"),
            ("run", "answers", "shorter than asked", "within 10 %", "longer than asked"), table)
    return figures


def _targets(rows: Sequence[MeasuredData]) -> list[tuple[float, float]]:
    """Words asked and words written of answers that were asked for a length and not refused."""
    return [(float(row.answer.target_words), float(row.answer.words)) for row in rows
            if row.answer.target_words and row.answer.finish != "refused"]


def suite_texts(answers: Answers, comparison: Comparison, runs: Sequence[ComparedRun], *,
                room: int = TEXT_BYTES) -> tuple[SuiteTexts, ...]:
    """Texts to a few prompts of each suite, spread evenly over those that all of its runs answered.

    Args:
        answers: Of all runs.
        comparison: Names the suites and their scores.
        runs: All of them.
        room: Bytes that all texts may take.
    """
    each = room // max(1, len(answers))
    found: list[SuiteTexts] = []
    for suite, of_runs in answers.items():
        if len(of_runs) < 2:
            continue
        shared = [name for name in next(iter(of_runs.values())) if all(name in rows for rows in of_runs.values())]
        measures = _measures(suite, comparison)
        shown: list[tuple[int, PromptTexts]] = []
        left = each
        for place, name in spread(shared)[:PROMPTS]:
            made = _prompt(suite, {run: rows[name] for run, rows in of_runs.items()}, measures, place)
            left -= made.room
            if left < 0:
                break
            shown.append((place, made))
        if shown:
            found.append(SuiteTexts(
                _title(suite, comparison), tuple(texts for _, texts in sorted(shown, key=lambda one: one[0])),
                len(shared), tuple(run for run in runs if run not in of_runs)))
    return tuple(found)


def _prompt(suite: str, rows: Mapping[ComparedRun, MeasuredData], measures: Sequence[Measure],
            place: int) -> PromptTexts:
    known = next(iter(rows.values())).answer
    request, cut = cut_end(known.request, REQUEST_CHARACTERS)
    texts = tuple(_text(run, row, measures, f"text-{suite}-{place}-{run.letter}") for run, row in rows.items())
    title = beginning(known.request, 140)
    return PromptTexts(title, "" if title == request else request, cut, known.kind, texts)


def _text(run: ComparedRun, row: MeasuredData, measures: Sequence[Measure], key: str) -> RunText:
    answer = row.answer
    text, _ = cut_end(answer.text, TEXT_CHARACTERS)
    values = row.values or {MEASURE_OF_ANSWER.get(name, name): value for name, value in answer.scores.items()}
    scores = [(measure.name, measure.write(value)) for measure in measures
              if measure.key not in SAID_ALREADY and (value := values.get(measure.key)) is not None]
    scores += [(measure.name, f"no score: {row.unscored[measure.key]}") for measure in measures
               if measure.key in row.unscored and measure.key not in SAID_ALREADY]
    asked = f" of {answer.target_words:,} words asked" if answer.target_words else " words"
    return RunText(run, text, max(0, row.characters - len(text)), f"{answer.words:,}{asked}",
                   length_bar(key, answer.words, answer.target_words, run.css),
                   HOW_IT_ENDED.get(answer.finish, answer.finish), tuple(scores))


def _measures(suite: str, comparison: Comparison) -> tuple[Measure, ...]:
    if suite in comparison.suites:
        return tuple(measure_of(metric) for metric in comparison.suites[suite].metrics)
    return MEASURES


def _title(suite: str, comparison: Comparison) -> str:
    if suite in comparison.suites:
        return comparison.suites[suite].title
    return "Held-out prompts" if suite == HELD_OUT else suite.replace("_", " ")
