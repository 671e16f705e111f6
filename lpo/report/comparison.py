"""The comparison: several runs on one self-contained HTML page that reaches for nothing outside itself.

The page has no script at all; which runs are shown is chosen by boxes that the style sheet reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lpo.report.comparison_charts import run_key
from lpo.report.comparison_data import ComparedRun, Comparison, read_compared, read_comparison
from lpo.report.comparison_runs import comparison_caveats, cost_columns, differing_settings, headline, stage_blocks
from lpo.report.comparison_scores import suite_views
from lpo.report.comparison_texts import TEXT_BYTES, length_figures, read_answers, suite_texts
from lpo.report.comparison_training import training_view
from lpo.report.comparison_wins import win_matrices
from lpo.report.document import content_policy
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
    """The page as HTML. All texts pass through Jinja's escaping, and the Content-Security-Policy allows this style
    sheet and nothing else: no script, no picture, no request.

    Raises:
        DataError: A file of a run is damaged.
    """
    environment = Environment(loader=PackageLoader("lpo.report", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    css = "".join(resources.files("lpo.report").joinpath(name).read_text(encoding="utf-8") for name in STYLES)
    answers = read_answers(runs, comparison)
    settings = differing_settings(runs)
    lengths = length_figures(answers, comparison)
    template = environment.get_template("comparison.html.jinja")
    stages = stage_blocks(runs)
    together = sum(len(run.name) for run in runs)
    shown = {
        "title": f"{len(runs)} runs" if together > TITLE_CHARACTERS else "", "runs": runs,
        "keys": {run.letter: run_key(run.index) for run in runs}, "headline": headline(comparison, runs),
        "caveats": comparison_caveats(comparison, runs, settings), "settings": settings,
        "suites": suite_views(comparison, runs), "lengths": lengths,
        "more_lengths": [figure for name, figure in lengths.items() if name not in comparison.suites],
        "wins": win_matrices(comparison, runs), "training": training_view(runs), "stages": stages,
        "columns": cost_columns(stages),
        "today": datetime.now().strftime("%Y-%m-%d %H:%M"), "css": css, "policy": content_policy(css, ""),
    }
    room = min(TEXT_BYTES, PAGE_BYTES - len(template.render(shown, texts=()).encode()))
    return template.render(shown, texts=suite_texts(answers, comparison, runs, room=room))
