"""The report: one self-contained HTML page that reaches for nothing outside itself.

A page is for reading and sending, so it stays small whatever the run's size: it holds a part of the pairs, trees and
texts, spread evenly, and pages of the same make beside it hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from lpo.report.contents import NAMES, Contents, browser_data, contents, sections
from lpo.report.data import RunData, read_run
from lpo.report.document import document
from lpo.report.facts import facts
from lpo.report.honesty import caveats
from lpo.report.more import More, remove_more, write_more
from lpo.report.plans import row_section
from lpo.report.run_files import run_files
from lpo.report.sources import sources
from lpo.report.stages import stage_costs
from lpo.report.story import again_command, next_step, rerun_command, stations, summary
from lpo.report.suites import score_section
from lpo.report.training import training_section
from lpo.storage import write_atomic

PAGE_BYTES = 2_900_000
"""What the page may take."""
SHARES = (1.0, 0.6, 0.3, 0.1)
"""Of the room for pairs, trees and texts, tried in turn: a run with many suites needs some of it for its scores."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, from whatever its stages have left there so far.

    What does not fit the page goes into `report_more.html` beside it, and further ones where that gets large.

    Args:
        run_dir: The run directory.

    Returns:
        The page.

    Raises:
        DataError: The folder is missing, or a file in it is damaged; the error names the file and the line.
    """
    run = read_run(run_dir)
    left_out: frozenset[str] = frozenset()
    more, html = More({}, ()), ""
    for share in SHARES:
        shown = contents(run, share)
        if shown.left_out != left_out:
            left_out, more = shown.left_out, write_more(run, shown)
        html = render(run, shown, more.links)
        if len(html.encode()) <= PAGE_BYTES:
            break
    remove_more(run_dir, keep=more.files)
    page = run_dir / "report.html"
    write_atomic(page, html)
    return page


def render(run: RunData, shown: Contents, links: Mapping[str, str]) -> str:
    """The page of a run, as HTML.

    Args:
        run: The run.
        shown: What is on the page of pairs, trees and texts.
        links: Where all of them can be looked at: `pairs`, `trees`, ... -> address.
    """
    return document(
        "page.html.jinja",
        run=run, sections=sections(run), summary=summary(run), stations=stations(run), facts=facts(run),
        caveats=caveats(run), costs=stage_costs(run.manifest), scores=score_section(run),
        training=training_section(run),
        pairs=shown.pairs, trees=shown.trees, corrections=shown.corrections, answers=shown.answers, plans=shown.plans,
        rows=row_section(run) if "rows" in dict(sections(run)) else None, samples=shown.samples,
        data=browser_data(shown.pairs, shown.trees, shown.corrections), links={name: links.get(name) for name in NAMES},
        files=run_files(run), sources=sources(run), command=rerun_command(run), again=again_command(run),
        next_step=next_step(run) if not run.kind.gives_pairs else None,
        today=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
