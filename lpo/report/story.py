"""What was run, in words: the summary and the way through the stages."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from lpo.report.data import Interval, RunData
from lpo.report.kinds import RunKind
from lpo.report.scores import bracket, in_sentence, measure_of, signed, suites_of
from lpo.report.suites_data import HELD_OUT


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 pair`, `2 pairs`; `2 people` where the noun needs it."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


@dataclass(frozen=True)
class Count:
    """One number above what a section shows."""

    value: str
    name: str
    detail: str = ""


def duration(seconds: float) -> str:
    """A duration in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def summary(run: RunData) -> str:
    """The run in one sentence, as far as it has come."""
    parts: list[str] = []
    if run.build is not None:
        made = plural(len(run.pairs), "pair") if run.kind.gives_pairs else plural(len(run.sft), "SFT row")
        parts.append(f"{plural(run.build.prompts, 'prompt')} → {_looked_at(run)} → {made}")
    elif run.pairs:
        parts.append(plural(len(run.pairs), "pair"))
    if steps := training_steps(run):
        parts.append(plural(steps, "training step"))
    if run.scores is not None:
        parts.append(_headline(run))
    return "; ".join(parts) + "." if parts else "Nothing has been run yet."


def _looked_at(run: RunData) -> str:
    counts = run.trees.counts
    match run.kind:
        case RunKind.STEPS:
            return plural(run.layers, "layer")
        case RunKind.ANSWERS | RunKind.SCORED:
            return plural(run.candidates, "answer")
        case RunKind.SCRIPTS:
            return f"{plural(counts.scripts.segments, 'segment')}, {counts.scripts.changed:,} corrected"
        case RunKind.PLANS:
            return plural(run.candidates, "section")
        case RunKind.MEASURED:
            return plural(sum(len(rows) for rows in run.answers.values()), "answer")


def _headline(run: RunData) -> str:
    """The main score of the first suite."""
    assert run.scores is not None
    suites = [suite for suite in suites_of(run.scores) if suite.metrics]
    if not suites:
        return "answers written, no score"
    suite, measure = suites[0], measure_of(suites[0].metrics[0])
    name = measure.name if suite.suite == HELD_OUT else f"{suite.title} {measure.name}"
    levels = [suite.of(model, measure.key) for model in suite.names]
    if any(level.mean is None for level in levels):
        return f"answers written, no {in_sentence(measure.name)}"
    text = f"{in_sentence(name)} {' → '.join(measure.write(level.mean or 0.0) for level in levels)}"
    if len(levels) == 1:
        ends = bracket(measure, levels[0])
        return f"{text}, 95 % interval {ends}" if ends else f"{text}, too few answers for an interval"
    difference = suite.difference.get(measure.key, Interval())
    if difference.bounds is None:
        return f"{text}, too few answers for an interval"
    return f"{text}, 95 % interval of the change {bracket(measure, difference, signed)}"


def training_steps(run: RunData) -> int:
    """Optimiser steps done so far."""
    return max(run.training.steps if run.training else 0, run.events[-1].step if run.events else 0)


@dataclass(frozen=True)
class Station:
    """One stage on the way from prompts to scores."""

    number: str
    name: str
    details: tuple[str, ...]
    done: bool

    @classmethod
    def of(cls, count: int, noun: str, details: tuple[str, ...], done: bool) -> Station:
        """A stage that has led to so many of something, or not yet to any."""
        return cls(f"{count:,}" if done else "–", noun if done and count == 1 else f"{noun}s", details, done)


def stations(run: RunData) -> tuple[Station, ...]:
    """The way of the run, stage by stage, with the time and the calls each took."""
    build, scores = run.build, run.scores
    answers = sum(len(rows) for measured in run.measured.values() for rows in measured.values())
    asked = sum(suite.n_prompts for suite in suites_of(scores)) if scores else 0
    if run.kind is RunKind.MEASURED:
        suites = len(suites_of(scores)) if scores else 0
        return (Station.of(asked, "prompt", (), scores is not None),
                Station.of(answers, "answer", _took(run, "eval"), scores is not None),
                Station.of(suites, "suite", (), scores is not None))
    prompts = Station.of(build.prompts if build else 0, "prompt", (), build is not None)
    rejected = (f"{sum(build.rejected.values()):,} rejected",) if build else ()
    if not run.kind.gives_pairs:
        made = Station.of(len(run.sft), "SFT row", rejected, bool(build or run.sft))
        return prompts, _written(run), made
    pairs = Station.of(len(run.pairs), "pair", rejected, bool(build or run.pairs))
    if not run.kind.trains:
        return prompts, _written(run), pairs
    steps = training_steps(run)
    learned = [f"on {plural(run.training.used, 'pair')}"] if run.training else []
    to = (f"to {plural(asked, 'prompt')}",) if scores else ()
    return (
        prompts,
        _written(run),
        pairs,
        Station.of(steps, "training step", (*learned, *_took(run, "train")), steps > 0),
        Station.of(answers, "held-out answer", (*to, *_took(run, "eval")), scores is not None),
    )


def _written(run: RunData) -> Station:
    """What the build wrote, and how it looked at it."""
    counts, scripts = run.trees.counts, run.trees.counts.scripts
    number, name, details = run.candidates, "candidate", [f"in {plural(run.layers, 'layer')}"]
    match run.kind:
        case RunKind.ANSWERS | RunKind.SCORED:
            name, details = "answer", [f"{counts.scored:,} with a score"]
        case RunKind.SCRIPTS:
            number, name, details = scripts.segments, "segment", [
                f"of {plural(scripts.scripts, 'answer')}", f"{scripts.changed:,} corrected"]
        case RunKind.PLANS:
            number, name, details = counts.written, "answer", [f"of {plural(run.candidates, 'section')}"]
        case RunKind.STEPS | RunKind.MEASURED:
            pass
    built = run.build is not None
    return Station.of(number, name, (*(details if built else ()), *_took(run, "build")), built)


def _took(run: RunData, name: str) -> tuple[str, ...]:
    stage = run.manifest.stages.get(name)
    if stage is None:
        return ()
    if stage.status != "complete":
        return (f"{stage.status}, not complete",)
    parts: list[str] = []
    if stage.seconds is not None:
        parts.append(duration(stage.seconds))
    if stage.peak_memory_mb is not None:
        parts.append(f"peak memory {stage.peak_memory_mb / 1024:.1f} GB")
    if stage.usage is not None:
        parts += [f"{stage.usage.calls:,} calls, {stage.usage.cached:,} from the journal",
                  f"{stage.usage.tokens_in:,} tokens read, {stage.usage.tokens_out:,} written"]
        if stage.usage.cost is not None:
            parts.append(f"cost {stage.usage.cost:.2f}")
    return tuple(parts)


def rerun_command(run: RunData, *extra: str) -> str:
    """The command that does what is left of a run. A run without pairs has nothing to train on: its build is all."""
    config = str(run.folder / "config.yaml")
    if run.scored is not None:
        return shlex.join(["lpo", "score", run.scored.file, "--config", config, *(extra or ("--to", run.name))])
    if run.kind is RunKind.MEASURED:
        return shlex.join(["lpo", "eval", str(run.folder), *extra])
    return shlex.join(["lpo", "run" if run.kind.trains else "build", config, *extra])


def again_command(run: RunData) -> str | None:
    """The command that does all of it once more, beside it; a model that was measured has none, as its directory is
    that of the model.
    """
    if run.kind is RunKind.MEASURED:
        return None
    name = f"{run.name}-again"
    return rerun_command(run, "--to", name) if run.scored is not None else rerun_command(run, f"name={name}")


def next_step(run: RunData) -> str:
    """Python that fine-tunes on the rows of a run, where it makes rows."""
    rows = str(run.folder / "sft.jsonl")
    return "\n".join([
        "from datasets import load_dataset", "from trl import SFTTrainer", "",
        f'rows = load_dataset("json", data_files={json.dumps(rows)}, split="train").select_columns("messages")',
        'SFTTrainer(model="...", train_dataset=rows).train()'])
