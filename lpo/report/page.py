"""The report: one self-contained HTML page that reaches for nothing outside itself."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lpo.report.answers import answer_section
from lpo.report.corrections import CorrectionSection, correction_section
from lpo.report.data import RunData, read_run
from lpo.report.facts import facts
from lpo.report.honesty import caveats
from lpo.report.kinds import RunKind
from lpo.report.pairs import PairSection, pair_section
from lpo.report.plans import plan_section, row_section
from lpo.report.run_files import run_files
from lpo.report.samples import sample_section
from lpo.report.sources import sources
from lpo.report.story import again_command, next_step, rerun_command, stations, summary
from lpo.report.suites import score_section
from lpo.report.training import training_section
from lpo.report.trees import TreeSection, tree_section
from lpo.storage import write_atomic

STYLES = ("report.css", "trees.css", "corrections.css", "answers.css", "suites.css")
SCRIPTS = ("elements.js", "texts.js", "report.js", "node_panel.js", "trees.js", "corrections.js")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, from whatever its stages have left there so far.

    Args:
        run_dir: The run directory.

    Returns:
        The page.

    Raises:
        DataError: The folder is missing, or a file in it is damaged; the error names the file and the line.
    """
    page = run_dir / "report.html"
    write_atomic(page, render(read_run(run_dir)))
    return page


def render(run: RunData) -> str:
    """The page of a run, as HTML.

    All texts pass through Jinja's escaping or, as JSON, through `tojson`, which also escapes `<`, `>`, `&` and `'`; the
    script sets them as text only. The Content-Security-Policy allows this script and this style sheet and nothing else.
    """
    environment = Environment(loader=PackageLoader("lpo.report", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    css = "".join(map(_part, STYLES))
    script = "".join(map(_part, SCRIPTS))
    pairs, trees, corrections = _looked_at(run)
    return environment.get_template("page.html.jinja").render(
        run=run, sections=sections(run), summary=summary(run), stations=stations(run), facts=facts(run),
        caveats=caveats(run),
        scores=score_section(run), training=training_section(run), pairs=pairs, trees=trees, corrections=corrections,
        answers=answer_section(run) if _has(run, "answers") else None,
        rows=row_section(run) if _has(run, "rows") else None, plans=plan_section(run) if _has(run, "plans") else None,
        samples=sample_section(run), more=dict.fromkeys(("pairs", "trees", "corrections", "answers", "texts")),
        data={name: {"entries": section.entries, "scales": section.scales} for name, section in (
            ("pair-data", pairs), ("tree-data", trees), ("correction-data", corrections))
            if section is not None and section.entries},
        files=run_files(run), sources=sources(run), command=rerun_command(run), again=again_command(run),
        next_step=next_step(run) if not run.kind.gives_pairs else None,
        today=datetime.now().strftime("%Y-%m-%d %H:%M"),
        css=css, script=script, policy=content_policy(css, script),
    )


def sections(run: RunData) -> tuple[tuple[str, str], ...]:
    """`(id, title)` of the sections of the page."""
    return tuple(section for section in run.kind.sections if section[0] != "answers" or run.kind is not RunKind.SCRIPTS
                 or run.candidates)  # corrections of a file come without answers of their own


def _has(run: RunData, name: str) -> bool:
    return name in dict(run.kind.sections)


def _looked_at(run: RunData) -> tuple[PairSection | None, TreeSection | None, CorrectionSection | None]:
    return (pair_section(run) if _has(run, "pairs") else None, tree_section(run) if _has(run, "trees") else None,
            correction_section(run) if _has(run, "corrections") else None)


def content_policy(css: str, script: str) -> str:
    """A Content-Security-Policy under which only these very texts apply and nothing is loaded or sent."""
    return (f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("lpo.report").joinpath(name).read_text(encoding="utf-8")
