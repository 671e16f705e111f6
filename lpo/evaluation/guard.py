"""Did anything else get lost? What lm-eval found of two models, put side by side, document by document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from lpo.errors import UnsoundError
from lpo.intervals import Interval, paired_difference
from lpo.records import Record

_EXACT = 1e-6
"""How far a mean over documents may lie from what lm-eval reports, relative to its size, to be the same number."""


class Measure(Record):
    """One measure of one task, as lm-eval reports it."""

    value: float | None
    """None: it is not finite."""
    stderr: float | None = None
    n: int
    """Documents."""
    higher_is_better: bool | None = None
    documents: dict[str, float] | None = None
    """Document -> its value, where the measure is their mean; None where it is something else (a perplexity, say)."""


class Abilities(Record):
    """What lm-eval found of one model."""

    shown: tuple[str, ...]
    """The tasks and groups that were asked for; those inside them are in `tasks` too."""
    tasks: dict[str, dict[str, Measure]]
    """Task or group -> measure, by lm-eval's own name of measure and filter (`acc,none`) -> what was found."""
    shots: dict[str, int] = Field(default_factory=dict[str, int])
    """Task -> examples in the prompt."""
    task_versions: dict[str, str] = Field(default_factory=dict[str, str])
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    """Packages."""


@dataclass(frozen=True)
class GuardMeasure:
    """One measure of one task on both models.

    Args:
        base: The base model's value (or that of the only model).
        trained: The trained model's.
        difference: Trained minus base over the same documents. Without an interval where the measure is no mean over
            documents; None where there is one model only.
        base_stderr: As lm-eval gives it: over documents, of this model alone.
        trained_stderr: Likewise.
        n: Documents.
        higher_is_better: None: lm-eval does not say.
    """

    base: float | None
    trained: float | None
    difference: Interval | None
    base_stderr: float | None
    trained_stderr: float | None
    n: int
    higher_is_better: bool | None


@dataclass(frozen=True)
class GuardScores:
    """General abilities of both models: `guard` in scores.json; the fields have its keys.

    Args:
        tasks: The tasks and groups that were asked for -> measure -> values.
        subtasks: The members of groups, likewise.
        versions: Of packages.
        task_versions: Task -> lm-eval's version of it.
        limit: Documents of each task at most; None: all.
        shots: Task -> examples in the prompt.
        notes: What a reader must know.
    """

    tasks: dict[str, dict[str, GuardMeasure]]
    subtasks: dict[str, dict[str, GuardMeasure]]
    versions: dict[str, str]
    task_versions: dict[str, str]
    limit: int | None
    shots: dict[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


def read_results(results: Mapping[str, Any], versions: Mapping[str, str]) -> Abilities:
    """What `lm_eval.simple_evaluate(..., log_samples=True)` returned.

    Args:
        results: Its dictionary: `results`, `samples`, `group_subtasks`, `higher_is_better`, `n-samples`, ...
        versions: Of the packages involved.
    """
    found, members = results["results"], results.get("group_subtasks", {})
    tasks = {name: dict(_measures(name, results)) for name in found}
    inside = {child for children in members.values() for child in children}
    shown = tuple(name for top in found if top not in inside for name in _with_measures(top, members, tasks))
    return Abilities(
        shown=shown, tasks=tasks, versions=dict(versions),
        shots={name: int(number) for name, number in results.get("n-shot", {}).items()},
        task_versions={name: str(version) for name, version in results.get("versions", {}).items()},
    )


def guard_scores(base: Abilities, trained: Abilities | None, *, limit: int | None, seed: int, resamples: int,
                 notes: Sequence[str] = ()) -> GuardScores:
    """Both models side by side, with paired intervals of the differences.

    Args:
        base: Of the base model, or of the only one.
        trained: Of the trained model; None: there is one model only.
        limit: Documents of each task at most, for the record.
        seed: Of the bootstrap.
        resamples: Behind each interval.
        notes: What else a reader must know.

    Raises:
        UnsoundError: The two were not measured on the same tasks and documents.
    """
    after = trained if trained is not None else base
    if {name: set(measures) for name, measures in base.tasks.items()} \
            != {name: set(measures) for name, measures in after.tasks.items()}:
        raise UnsoundError("base and trained model were measured on different tasks", where="eval.guard",
                           mend="remove the folder eval/guard of the run and evaluate again")
    rows = {task: {key: _side_by_side(measure, after.tasks[task][key] if trained is not None else None,
                                      f"{task} {key}", seed=seed, resamples=resamples)
                   for key, measure in measures.items()}
            for task, measures in base.tasks.items() if measures}
    open_ended = [f"{task} ({key.removesuffix(',none')})" for task in base.shown
                  for key, row in rows[task].items() if row.difference is not None and row.difference.low is None
                  and base.tasks[task][key].documents is None]
    told = list(notes)
    if limit is not None:
        told.append(f"at most {limit:,} documents of each task: a look, no result to be compared with others'")
    if open_ended:
        told.append(f"no mean over documents, so the difference has no interval: {', '.join(open_ended)}")
    return GuardScores(
        tasks={task: rows[task] for task in base.shown},
        subtasks={task: measures for task, measures in rows.items() if task not in base.shown},
        versions=dict(base.versions), task_versions=dict(base.task_versions), limit=limit, shots=dict(base.shots),
        notes=tuple(told),
    )


def _with_measures(name: str, members: Mapping[str, Sequence[str]],
                   tasks: Mapping[str, Mapping[str, Measure]]) -> Iterator[str]:
    """A task or group; a group that has no measure of its own is shown as its members."""
    if tasks.get(name):
        yield name
    else:
        for child in members.get(name, ()):
            yield from _with_measures(child, members, tasks)


def _measures(task: str, results: Mapping[str, Any]) -> Iterator[tuple[str, Measure]]:
    values: Mapping[str, Any] = results["results"][task]
    counts = values.get("sample_count", {})
    directions = results.get("higher_is_better", {}).get(task, {})
    for key, value in values.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = values.get(f"{metric}_stderr,{filtered}")
        documents = dict(_documents(task, metric, filtered, results))
        n = counts.get(key) or len(documents) or values.get("sample_len", 0)
        yield key, Measure(
            value=float(value) if math.isfinite(value) else None,
            stderr=float(stderr) if _is_number(stderr) and math.isfinite(stderr) else None, n=int(n),
            higher_is_better=directions.get(metric),
            documents=documents if _is_mean(float(value), documents, int(n)) else None,
        )


def _documents(task: str, metric: str, filtered: str, results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Values of a task's documents, or of those of a group's members; their names hold a hash of the document."""
    children = results.get("group_subtasks", {}).get(task)
    if children:
        for child in children:
            for name, value in _documents(child, metric, filtered, results):
                yield f"{child}/{name}", value
        return
    for sample in results.get("samples", {}).get(task, ()):
        value = sample.get(metric)
        if sample["filter"] == filtered and _is_number(value) and math.isfinite(value):
            yield f"{sample['doc_id']}:{sample['doc_hash'][:8]}", float(value)


def _is_mean(value: float, documents: Mapping[str, float], n: int) -> bool:
    """Is what is reported the mean over documents, every one of them?"""
    if len(documents) != n or not n:
        return False
    return abs(sum(documents.values()) / n - value) <= _EXACT * max(1.0, abs(value))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _side_by_side(base: Measure, trained: Measure | None, where: str, *, seed: int, resamples: int) -> GuardMeasure:
    return GuardMeasure(
        base=base.value, trained=trained.value if trained else None,
        difference=_difference(base, trained, where, seed=seed, resamples=resamples) if trained else None,
        base_stderr=base.stderr, trained_stderr=trained.stderr if trained else None, n=base.n,
        higher_is_better=base.higher_is_better,
    )


def _difference(base: Measure, trained: Measure, where: str, *, seed: int, resamples: int) -> Interval:
    if base.documents is not None and trained.documents is not None:
        if base.documents.keys() != trained.documents.keys():
            raise UnsoundError("base and trained model were measured on different documents", where=where,
                               mend="remove the folder eval/guard of the run and evaluate again")
        return paired_difference(base.documents, trained.documents, seed=seed, resamples=resamples)
    if base.value is None or trained.value is None:
        return Interval(None, None, None, 0, base.n)
    return Interval(trained.value - base.value, None, None, base.n, 0)
