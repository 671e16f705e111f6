"""The files of a run directory, and what each holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lpo.report.data import RunData
from lpo.report.kinds import RunKind
from lpo.report.scores import suites_of
from lpo.report.suites_data import HELD_OUT

Applies = Callable[[RunKind], bool]


def _always(_kind: RunKind) -> bool:
    return True


def _builds(kind: RunKind) -> bool:
    return kind is not RunKind.MEASURED


def _pairs(kind: RunKind) -> bool:
    return kind.gives_pairs


def _trains(kind: RunKind) -> bool:
    return kind.trains


FILES: tuple[tuple[str, str, Applies], ...] = (
    ("config.yaml", "the configuration as resolved; running it again continues this run", _always),
    ("manifest.json", "versions, hardware, commit, hashes, seed, time of each stage", _always),
    ("scored.jsonl", "the score of each answer, one JSON object per line", lambda kind: kind is RunKind.SCORED),
    ("score.json", "means of the scores with their intervals", lambda kind: kind is RunKind.SCORED),
    ("sft.jsonl", "the rows for supervised fine-tuning, one JSON object per line", lambda kind: not kind.gives_pairs),
    ("pairs.jsonl", "the preference pairs, one JSON object per line", _pairs),
    ("trees.jsonl", "every text that was written or given, with its scores, faults and corrections", _builds),
    ("rejected_rows.jsonl", "what was dropped, with the reason", _builds),
    ("build.json", "counts of the build", _builds),
    ("metrics.jsonl", "what training logged", _trains),
    ("samples.jsonl", "texts written during training", _trains),
    ("train/final", "the trained adapter or model", _trains),
    ("eval/answers.base.jsonl", "held-out answers of the base model", _trains),
    ("eval/answers.trained.jsonl", "held-out answers of the trained model", _trains),
    ("eval/answers.model.jsonl", "held-out answers", lambda kind: kind is RunKind.MEASURED),
    ("eval/preferences.jsonl", "log-probabilities of held-out pairs", _trains),
    ("scores.json", "scores with their intervals", lambda kind: kind.measures),
    ("journal.sqlite", "every model call, so that none is made twice", _always),
    ("log.jsonl", "the log", _always),
)


@dataclass(frozen=True)
class RunFile:
    """A file of the run directory."""

    path: str
    meaning: str
    size: str | None
    """None when it is not there yet."""


def run_files(run: RunData) -> tuple[RunFile, ...]:
    """The files that a run of this kind leaves, and what its suites have left."""
    suites = [] if run.scores is None else [
        (f"eval/{suite.suite}", f"answers to {suite.title}, measured one by one") for suite in suites_of(run.scores)
        if suite.suite != HELD_OUT]
    asked = {"eval/answers.model.jsonl"} if HELD_OUT not in run.measured else set[str]()
    known = [(path, meaning) for path, meaning, applies in FILES if applies(run.kind) and path not in asked]
    place = next((index for index, (path, _) in enumerate(known) if path == "scores.json"), len(known))
    return tuple(RunFile(path, meaning, _size(run.folder / path))
                 for path, meaning in (*known[:place], *suites, *known[place:]))


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
