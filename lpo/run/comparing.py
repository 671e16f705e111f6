"""Finished runs beside each other (`lpo eval --compare`, `lpo report A B`): paired differences and one page.

What was measured is read from the runs; nothing is generated. Only `--pairwise` asks a judge, and its calls are
journaled in the comparison's own folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpo.config import RunConfig
from lpo.errors import ConfigError
from lpo.eval_config import SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.comparing import Comparison, Difference, compare, metric_from_json
from lpo.evaluation.measured import Measured
from lpo.evaluation.metrics import Metric
from lpo.evaluation.suites.held_out import HeldOutSuite, measured_answer
from lpo.intervals import Interval
from lpo.records import Prompt
from lpo.run.directory import find_run
from lpo.run.evaluating import judge_model
from lpo.run.measuring import answers_file
from lpo.run.models import Models, judge_config
from lpo.run.pipeline import with_models
from lpo.run.progress import Reporter
from lpo.storage import iter_jsonl, read_json, write_json, write_jsonl

MOST = 8
"""Runs on one page."""


@dataclass(frozen=True)
class Compared:
    """A run and what of it is compared: its trained model, or the model that was measured alone.

    Args:
        name: As on the page.
        folder: The run directory.
        model: `trained`, `model`, or `base` where there is nothing else.
        scores: Its scores.json; empty without an evaluation.
    """

    name: str
    folder: Path
    model: str
    scores: Mapping[str, Any]

    def rows(self, suite: str) -> list[Measured]:
        """Its measured answers to a suite; empty where it was not measured on it."""
        path = answers_file(self.folder / "eval", suite, self.model)
        if not path.is_file():
            return []
        lines = [row for _, row in iter_jsonl(path)]
        if suite == SuiteName.HELD_OUT:
            return [measured_answer(Answer.model_validate(row)) for row in lines]
        return [Measured.model_validate(row) for row in lines]


def compare_runs(runs: Sequence[str], *, pairwise: bool = False, to: Path | None = None,
                 reporter: Reporter | None = None) -> list[str]:
    """Compare finished runs with the first of them, suite by suite, and write the page.

    Args:
        runs: Run directories, or names under runs/.
        pairwise: Let the first run's judge compare their answers, in both orders.
        to: Where the page goes; default: `comparison.html` in a folder beside the first run.
        reporter: Told how it goes; default: standard error.

    Returns:
        What came of it, as lines for a person.

    Raises:
        ConfigError: Fewer than two runs, the same one twice, or too many.
        DataError: A run is not there.
    """
    from lpo.report import write_comparison

    reporter = reporter or Reporter()
    found = _named([_compared(run) for run in _checked(runs)])
    folder = found[0].folder.parent / ("compare-" + "-".join(_file_name(run.name) for run in found))[:120]
    folder.mkdir(exist_ok=True)
    seed, resamples = _draws(found[0])
    result: dict[str, Any] = {"runs": [run.name for run in found], "models": {run.name: run.model for run in found},
                              "suites": {}, "win_rates": {}}
    lines: list[str] = []
    for suite in _suites(found):
        rows = {run.name: of_run for run in found if (of_run := run.rows(suite))}
        if not rows:
            continue
        stored = _stored(found, suite)
        comparison = compare(rows, stored.metrics, stored.groups, seed=seed, resamples=resamples)
        result["suites"][suite] = _suite_json(found, suite, stored, comparison)
        lines += _told(suite, stored.metrics, comparison)
        if pairwise:
            result["win_rates"][suite] = _win_rates(folder, found[0], rows, reporter, seed, resamples)
    if not result["suites"]:
        lines.append("none of these runs has an evaluation: `lpo eval RUN` makes one")
    write_json(folder / "comparison.json", result)
    page = write_comparison(to or folder / "comparison.html", [run.folder for run in found], result)
    return [*lines, f"page: {page}"]


def _checked(runs: Sequence[str]) -> Sequence[str]:
    if len(runs) < 2:
        raise ConfigError("a comparison needs two runs or more", where="command line",
                          mend="lpo eval --compare RUN RUN")
    if len(runs) > MOST:
        raise ConfigError(f"{len(runs)} runs are too many for one page", where="command line",
                          mend=f"give at most {MOST}")
    return runs


def _named(runs: list[Compared]) -> list[Compared]:
    """The runs, those of one name told apart by the folders they stand in.

    Raises:
        ConfigError: A run stands there twice.
    """
    paths = [run.folder.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError("a run cannot be compared with itself", where=str(path), mend="name each run once")
    names = [run.name for run in runs]
    return [replace(run, name=f"{path.parent.name}/{run.name}") if names.count(run.name) > 1 else run
            for run, path in zip(runs, paths, strict=True)]


def _compared(run: str) -> Compared:
    directory = find_run(run)
    name = directory.path.resolve().name
    scores = read_json(directory / "scores.json") if (directory / "scores.json").is_file() else {}
    models = [*next(iter(scores.get("suites", {}).values()), {}).get("models", {}), *scores.get("models", {})]
    model = next((model for model in ("trained", "model", "base") if model in models), "trained")
    return Compared(name, directory.path, model, scores)


def _draws(run: Compared) -> tuple[int, int]:
    config = find_run(str(run.folder)).stored_values()
    return int(config.get("seed") or 0), int((config.get("eval") or {}).get("bootstrap") or 2000)


def _suites(runs: Sequence[Compared]) -> list[str]:
    """Suites any run was measured on; a run made before suites were stored has its held-out prompts."""
    return list(dict.fromkeys([*(name for run in runs for name in run.scores.get("suites", {})),
                               *(SuiteName.HELD_OUT.value for run in runs if run.scores.get("models"))]))


@dataclass(frozen=True)
class _Stored:
    """What scores.json says of a suite, whichever run has it."""

    title: str
    source: str
    metrics: tuple[Metric, ...]
    group_name: str
    groups: tuple[str, ...]


def _stored(runs: Sequence[Compared], suite: str) -> _Stored:
    for run in runs:
        values = run.scores.get("suites", {}).get(suite)
        if values is not None:
            groups = next(iter(values["groups"].values()), {})
            return _Stored(values["title"], values["source"], tuple(map(metric_from_json, values["metrics"])),
                           values["group_name"], tuple(groups))
    return _Stored(HeldOutSuite.title, HeldOutSuite.source, HeldOutSuite.metrics, HeldOutSuite.group_name,
                   HeldOutSuite.groups)


def _suite_json(runs: Sequence[Compared], suite: str, stored: _Stored, comparison: Comparison) -> dict[str, Any]:
    entries = {run.name: run.scores.get("suites", {}).get(suite, {}) for run in runs if run.name in comparison.n}
    return {
        "title": stored.title, "source": stored.source, "group_name": stored.group_name,
        "metrics": [metric.__dict__ | {"better": metric.better.value, "unit": metric.unit.value}
                    for metric in stored.metrics],
        "n": comparison.n, "shared": comparison.shared,
        "scores": _plain(comparison.scores), "groups": _plain(comparison.groups),
        "difference": _plain(comparison.difference), "group_difference": _plain(comparison.group_difference),
        "curves": {name: entry.get("curves", {}).get(_model_of(runs, name), []) for name, entry in entries.items()},
        "notes": list(dict.fromkeys(note for entry in entries.values() for note in entry.get("notes", ()))),
        "judge": {name: entry.get("judge") for name, entry in entries.items()},
        "decoding": {name: entry.get("decoding") for name, entry in entries.items()},
        "warnings": _warnings(entries, comparison),
    }


def _model_of(runs: Sequence[Compared], name: str) -> str:
    return next(run.model for run in runs if run.name == name)


def _warnings(entries: Mapping[str, Mapping[str, Any]], comparison: Comparison) -> list[str]:
    """What makes a difference say less than it seems to."""
    warnings: list[str] = []
    for key, what in (("decoding", "decoding settings"), ("judge", "judges")):
        values = {repr({name: value for name, value in (entry.get(key) or {}).items() if name != "was_training_reward"})
                  for entry in entries.values()}
        if len(values) > 1:
            warnings.append(f"the runs were measured with different {what}")
    first = next(iter(comparison.n))
    warnings += [f"{name} shares {shared} of its {comparison.n[name]} prompts with {first}: the difference is over "
                 "these alone"
                 for name, shared in comparison.shared.items() if shared < max(comparison.n[name], comparison.n[first])]
    return warnings


def _plain(value: Any) -> Any:
    if isinstance(value, (Interval, Difference)):
        return value.to_json()
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _told(suite: str, metrics: Sequence[Metric], comparison: Comparison) -> list[str]:
    first = next(iter(comparison.n))
    lines: list[str] = []
    for metric in metrics:
        for other, differences in comparison.difference.items():
            found = differences[metric.key]
            level = comparison.scores[first][metric.key].mean, comparison.scores[other][metric.key].mean
            if found.interval.mean is None or level[0] is None or level[1] is None:
                continue
            between = "too few for an interval" if found.interval.low is None or found.interval.high is None else \
                f"95 % interval {found.interval.low:+.3f} to {found.interval.high:+.3f}"
            lines.append(f"{suite}: {metric.name}: {first} {level[0]:.3f}, {other} {level[1]:.3f}, difference "
                         f"{found.interval.mean:+.3f} ({between}, paired permutation test p = {_p(found.p)}, "
                         f"n = {found.interval.n})")
    return lines


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _win_rates(folder: Path, judging: Compared, rows: Mapping[str, Sequence[Measured]], reporter: Reporter, seed: int,
               resamples: int) -> dict[str, Any]:
    """Every pair of runs, compared answer by answer by the first run's judge."""
    from lpo.evaluation.pairwise import compare_answers, summarise_pairwise
    from lpo.evaluation.win_rates import win_matrix
    from lpo.run.directory import RunDirectory

    config = RunConfig.model_validate(find_run(str(judging.folder)).stored_values())
    names = list(rows)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1:]]

    async def work(models: Models) -> dict[str, Any]:
        judge = judge_model(judge_config(config), models)
        rates: list[tuple[str, str, Interval, Interval | None]] = []
        with reporter.counter("pairwise", sum(len(rows[a]) for a, _ in pairs), "comparisons") as on_done:
            for a, b in pairs:
                tasks = {row.answer.prompt_id: row.answer for row in rows[a]}
                theirs = [row.answer for row in rows[b] if row.answer.prompt_id in tasks]
                ours = [tasks[answer.prompt_id] for answer in theirs]
                prompts = [Prompt(id=answer.prompt_id, prompt=answer.request, target_words=answer.target_words)
                           for answer in ours]
                found = await compare_answers(ours, theirs, prompts, judge, on_done=on_done, stop=models.stop)
                path = folder / f"pairwise.{_file_name(a)}.{_file_name(b)}.jsonl"
                write_jsonl(path, (row.to_json() for row in found))
                scores = summarise_pairwise(found, baseline=a, model=b, length_control=True, seed=seed,
                                            resamples=resamples)
                rates.append((a, b, scores.win_rate, scores.lc_win_rate))
        return {name: {other: rate.to_json() for other, rate in row.items()}
                for name, row in win_matrix(rates).items()}

    return with_models(RunDirectory(folder), reporter, work)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
