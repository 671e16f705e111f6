"""The report: one self-contained HTML page that reaches for nothing outside itself."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lpo.report.data import RunData, read_run
from lpo.report.honesty import caveats
from lpo.report.pairs import pair_section
from lpo.report.samples import sample_section
from lpo.report.scores import score_section
from lpo.report.story import facts, rerun_command, stations, summary
from lpo.report.training import training_section
from lpo.report.trees import tree_section
from lpo.storage import write_atomic

FILES = (
    ("config.yaml", "the configuration as resolved; running it again continues this run"),
    ("manifest.json", "versions, hardware, commit, hashes, seed, time of each stage"),
    ("pairs.jsonl", "the preference pairs, one JSON object per line"),
    ("trees.jsonl", "every candidate the searches saw, with scores, facts and critiques"),
    ("rejected_rows.jsonl", "what was dropped, with the reason"),
    ("build.json", "counts of the build"),
    ("metrics.jsonl", "what training logged"),
    ("samples.jsonl", "texts written during training"),
    ("train/final", "the trained adapter or model"),
    ("eval/answers.base.jsonl", "held-out answers of the base model"),
    ("eval/answers.trained.jsonl", "held-out answers of the trained model"),
    ("eval/preferences.jsonl", "log-probabilities of held-out pairs"),
    ("scores.json", "scores with their intervals"),
    ("journal.sqlite", "every model call, so that none is made twice"),
    ("log.jsonl", "the log"),
)


@dataclass(frozen=True)
class RunFile:
    """A file of the run directory."""

    path: str
    meaning: str
    size: str | None
    """None when it is not there yet."""


@dataclass(frozen=True)
class Source:
    """A paper whose method this run used."""

    what: str
    title: str
    address: str


LONGDPO = Source("how the pairs are built", "LongDPO: Unlock Better Long-form Generation Abilities for LLMs via "
                 "Critique-augmented Stepwise Information", "arXiv 2502.02095")
DPO = Source("what training rests on", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
             "arXiv 2305.18290")
LONGWRITER = Source("the length score and the counting of words", "LongWriter: Unleashing 10,000+ Word Generation from "
                    "Long Context LLMs", "arXiv 2408.07055")


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
    css = "".join(map(_part, ("report.css", "trees.css")))
    script = "".join(map(_part, ("elements.js", "report.js", "node_panel.js", "trees.js")))
    return environment.get_template("page.html.jinja").render(
        run=run, summary=summary(run), stations=stations(run), facts=facts(run), caveats=caveats(run),
        scores=score_section(run), training=training_section(run), pairs=pair_section(run), trees=tree_section(run),
        samples=sample_section(run),
        files=_files(run.folder), sources=_sources(run), command=rerun_command(run.folder),
        again=rerun_command(run.folder, f"name={run.name}-again"), today=datetime.now().strftime("%Y-%m-%d %H:%M"),
        css=css, script=script, policy=content_policy(css, script),
    )


def content_policy(css: str, script: str) -> str:
    """A Content-Security-Policy under which only these very texts apply and nothing is loaded or sent."""
    return (f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("lpo.report").joinpath(name).read_text(encoding="utf-8")


def _files(folder: Path) -> tuple[RunFile, ...]:
    return tuple(RunFile(path, meaning, _size(folder / path)) for path, meaning in FILES)


def _size(path: Path) -> str | None:
    if not path.exists():
        return None
    size = float(path.stat().st_size if path.is_file() else
                 sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for name in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {name}" if name == "B" or size >= 10 else f"{size:.1f} {name}"
        size /= 1000
    return f"{size:.1f} GB"


def _sources(run: RunData) -> tuple[Source, ...]:
    """Papers behind what this run did."""
    used = ((LONGDPO, run.setting("build", "method") == "longdpo"), (DPO, bool(run.events)),
            (LONGWRITER, run.scores is not None))
    return tuple(source for source, applies in used if applies)
