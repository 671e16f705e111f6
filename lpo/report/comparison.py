"""The comparison: several runs on one self-contained HTML page that reaches for nothing outside itself.

The page has no script at all; which runs are shown is chosen by boxes that the style sheet reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lpo.report.comparison_charts import run_key
from lpo.report.comparison_data import ComparedRun, Comparison, read_compared, read_comparison
from lpo.report.comparison_runs import comparison_caveats, cost_columns, differing_settings, headline, stage_blocks
from lpo.report.comparison_scores import suite_views
from lpo.report.comparison_texts import TEXT_BYTES, SuiteTexts, length_figures, read_answers, suite_texts
from lpo.report.comparison_training import training_view
from lpo.report.comparison_wins import win_matrices
from lpo.report.document import document
from lpo.storage import write_atomic

STYLES = ("report.css", "comparison.css")
PAGE_BYTES = 2_900_000
"""Size of the page that its texts fill up to."""
TITLE_CHARACTERS = 60
"""Names of runs that together are longer stand below the title."""


def write_comparison(page: Path, runs: Sequence[Path], comparison: Mapping[str, Any] | None) -> Path:
    """Write the page that compares runs.

    Args:
        page: The file to write.
        runs: Run directories, two to eight; differences are to the first.
        comparison: What was computed over their evaluations, in the same order, as JSON values: `runs` (names),
            `models` (run -> which of its models), `suites` (suite -> scores, groups, differences with `interval` and
            `p`, curves, ...) and `win_rates` (suite -> run -> other run -> `interval`, `lc`, 0–100). None: nothing
            was; the page then shows what the directories themselves hold.

    Returns:
        The page.

    Raises:
        DataError: There are too few or too many runs, a folder is missing, or a file is damaged.
    """
    found = read_comparison(comparison, runs)
    write_atomic(page, render_comparison(read_compared(runs, found), found))
    return page


def render_comparison(runs: Sequence[ComparedRun], comparison: Comparison) -> str:
    """The page as HTML.

    Raises:
        DataError: A file of a run is damaged.
    """
    answers, settings, stages = read_answers(runs, comparison), differing_settings(runs), stage_blocks(runs)
    lengths = length_figures(answers, comparison)
    shown = {
        "title": f"{len(runs)} runs" if sum(len(run.name) for run in runs) > TITLE_CHARACTERS else "", "runs": runs,
        "keys": {run.letter: run_key(run.index) for run in runs}, "headline": headline(comparison, runs),
        "caveats": comparison_caveats(comparison, runs, settings), "settings": settings,
        "suites": suite_views(comparison, runs), "lengths": lengths,
        "more_lengths": [figure for name, figure in lengths.items() if name not in comparison.suites],
        "wins": win_matrices(comparison, runs), "training": training_view(runs), "stages": stages,
        "columns": cost_columns(stages), "today": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }

    def page(texts: Sequence[SuiteTexts]) -> str:
        return document("comparison.html.jinja", styles=STYLES, scripts=(), **shown, texts=texts)

    room = min(TEXT_BYTES, PAGE_BYTES - len(page(()).encode()))
    return page(suite_texts(answers, comparison, runs, room=room))
