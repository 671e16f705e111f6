"""What was run, in words: the summary, the way through the stages, the facts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lpo.report.data import Interval, RunData
from lpo.report.scores import MEASURE, bracket, signed

SHOWN_ARGUMENTS = ("loss_type", "beta", "learning_rate", "max_length")


def plural(count: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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
        parts.append(f"{plural(run.build.prompts, 'prompt')} → {plural(run.build.layers, 'layer')} → "
                     f"{plural(len(run.pairs), 'pair')}")
    elif run.pairs:
        parts.append(plural(len(run.pairs), "pair"))
    if steps := training_steps(run):
        parts.append(plural(steps, "training step"))
    if run.scores is not None:
        parts.append(_headline(run))
    return "; ".join(parts) + "." if parts else "Nothing has been run yet."


def _headline(run: RunData) -> str:
    scores = run.scores
    assert scores is not None
    length = MEASURE["length_score"]
    base, trained = (scores.models.get(model, {}).get(length.key, Interval()) for model in ("base", "trained"))
    if base.mean is None or trained.mean is None:
        return "answers written, no length score"
    text = f"length score {length.write(base.mean)} → {length.write(trained.mean)}"
    difference = scores.difference.get(length.key, Interval())
    if difference.bounds is None:
        return f"{text}, too few answers for an interval"
    return f"{text}, 95 % interval of the change {bracket(length, difference, signed)}"


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


def stations(run: RunData) -> tuple[Station, ...]:
    """The way of the run, stage by stage, with the time and the calls each took."""
    build, scores = run.build, run.scores
    steps = training_steps(run)
    trained = run.training
    learned = [f"on {plural(trained.used, 'pair')}"] if trained else []
    answers = sum(len(rows) for rows in run.answers.values())
    return (
        Station(f"{build.prompts:,}" if build else "–", "prompts", (), build is not None),
        Station(f"{build.candidates:,}" if build else "–", "candidates",
                (*((f"in {plural(build.layers, 'layer')}",) if build else ()), *_took(run, "build")),
                build is not None),
        Station(f"{len(run.pairs):,}" if build or run.pairs else "–", "pairs",
                (f"{sum(build.rejected.values()):,} rejected",) if build else (), bool(build or run.pairs)),
        Station(f"{steps:,}" if steps else "–", "training steps", (*learned, *_took(run, "train")), steps > 0),
        Station(f"{answers:,}" if scores else "–", "held-out answers",
                (*((f"to {plural(scores.n_prompts, 'prompt')}",) if scores else ()), *_took(run, "eval")),
                scores is not None),
    )


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


def facts(run: RunData) -> tuple[tuple[str, str], ...]:
    """What was run: name and value, those that are known."""
    manifest = run.manifest
    judge = run.setting("judge")
    rows: list[tuple[str, Any]] = [
        ("Model", run.setting("policy", "model")),
        ("Judge", _judge(run, judge)),
        ("Pairs by", _method(run)),
        ("Trainer", _trainer(run)),
        ("Seed", manifest.seed if manifest.seed is not None else run.setting("seed")),
        ("Date", _date(run)),
        ("Hardware", _hardware(manifest.hardware)),
        ("Platform", manifest.platform),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (
            ("lpo", manifest.lpo), ("Python", manifest.python), *manifest.versions.items()) if version)),
        ("Commit", _commit(manifest.git)),
    ]
    return tuple((name, str(value)) for name, value in rows if value not in (None, ""))


def _judge(run: RunData, judge: Any) -> str | None:
    if not run.config:
        return None
    named = "the model itself, by expected grade"
    if isinstance(judge, Mapping):
        named = f"{judge.get('model')}, {str(judge.get('method', '')).replace('_', ' ')}"
    in_reward = run.setting("build", "reward", "judge") != 0
    return named if in_reward else f"{named}; not part of the training reward"


def _method(run: RunData) -> str | None:
    build = run.setting("build")
    if not isinstance(build, Mapping):
        return None
    reward = run.setting("build", "reward") or {}
    weights = [f"{name} × {weight:g}" for name, weight in reward.items() if isinstance(weight, (int, float)) and weight]
    parts = [str(build.get("method")), f"branching {build.get('branching')}", f"depth {build.get('depth')}",
             f"rejected: {build.get('rejected')}"]
    return ", ".join(parts) + (f"; reward: {' + '.join(weights)}" if weights else "")


def _trainer(run: RunData) -> str | None:
    train = run.setting("train")
    if not isinstance(train, Mapping):
        return None
    peft = train.get("peft")
    parts = [str(train.get("trainer")), f"LoRA r {peft.get('r')}" if isinstance(peft, Mapping) else "all weights"]
    arguments = train.get("args") or {}
    parts += [f"{name.replace('_', ' ')} {_listed(arguments[name])}" for name in SHOWN_ARGUMENTS if name in arguments]
    return ", ".join(parts)


def _listed(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _date(run: RunData) -> str | None:
    finished = [stage.finished for stage in run.manifest.stages.values() if stage.finished]
    if not finished:
        return None
    try:
        return datetime.fromisoformat(max(finished)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return max(finished)


def _hardware(hardware: Mapping[str, Any]) -> str:
    accelerators = hardware.get("accelerators")
    parts = [hardware.get("cpu"), f"{hardware['cores']} cores" if hardware.get("cores") else None,
             f"{hardware['memory_gb']} GB" if hardware.get("memory_gb") else None,
             ", ".join(map(str, accelerators)) if accelerators else None,
             "no accelerator" if accelerators == [] else None]  # None: nothing has looked for one
    return ", ".join(str(part) for part in parts if part)


def _commit(git: Mapping[str, Any] | None) -> str | None:
    if not git or not git.get("commit"):
        return None
    return f"{str(git['commit'])[:12]}{' with uncommitted changes' if git.get('dirty') else ''}"


def rerun_command(folder: Path, *extra: str) -> str:
    """The command that does what is left of a run."""
    return shlex.join(["lpo", "run", str(folder / "config.yaml"), *extra])
