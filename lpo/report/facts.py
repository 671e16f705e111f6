"""The facts of a run: which models, method and settings, where and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from lpo.report.data import RunData
from lpo.report.kinds import RunKind
from lpo.report.scores import percent

SHOWN_ARGUMENTS = ("loss_type", "beta", "learning_rate", "max_length")


def facts(run: RunData) -> tuple[tuple[str, str], ...]:
    """What was run: name and value, those that are known."""
    manifest = run.manifest
    pairs, scored = run.kind.gives_pairs, run.scored
    rows: list[tuple[str, Any]] = [
        ("Answers from", scored.file if scored is not None else None),
        ("Model", run.setting("policy", "model") if scored is None else None),
        ("Judge", _judge(run)),
        ("Pairs by" if pairs else "Rows by", _method(run) if run.kind is not RunKind.MEASURED else None),
        ("Reward", _reward(run) if pairs else None),
        ("Trainer", _trainer(run) if run.kind.trains else None),
        ("Seed", manifest.seed if manifest.seed is not None else run.setting("seed")),
        ("Date", _date(run)),
        ("Hardware", _hardware(manifest.hardware)),
        ("Platform", manifest.platform),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (
            ("lpo", manifest.lpo), ("Python", manifest.python), *manifest.versions.items()) if version)),
        ("Commit", _commit(manifest.git)),
    ]
    return tuple((name, str(value)) for name, value in rows if value not in (None, ""))


def _judge(run: RunData) -> str | None:
    judge = run.setting("judge")
    if not run.config or not judge_is_asked(run):
        return None
    named = "the model itself, by expected grade"
    if isinstance(judge, Mapping):
        named = f"{judge.get('model')}, {str(judge.get('method', '')).replace('_', ' ')}"
    in_reward = run.setting("build", "reward", "judge") != 0 or run.setting("build", "reward", "longreward")
    return named if in_reward or not run.kind.trains else f"{named}; not part of the training reward"


def judge_is_asked(run: RunData) -> bool:
    """Is the judge's model asked at all?"""
    match run.kind:
        case RunKind.PLANS:
            return run.setting("build", "plan", "by") == "judge"
        case RunKind.SCORED:
            return any(run.setting("build", "reward", name) for name in ("judge", "longreward"))
        case RunKind.MEASURED:
            return run.setting("eval", "judge") is not False
        case _:  # the evaluation asks it too
            return True


def _method(run: RunData) -> str | None:
    """The method with the settings that it reads."""
    build = run.setting("build")
    if not isinstance(build, Mapping):
        return None
    name = str(build.get("method"))
    describe = _given if run.scored is not None else _METHODS.get(name)
    return ", ".join([name, *(describe(build) if describe else [])])


def _longdpo(build: Mapping[str, Any]) -> list[str]:
    search, parts = _of(build, "search"), _released(build)
    if build.get("boundary"):
        parts.append(f"steps by {build['boundary']}")
    if search.get("algorithm"):
        paths = "" if search["algorithm"] == "greedy" else f" over {search.get('num_paths')} paths"
        parts.append(f"search {search['algorithm']}{paths}")
    parts += [f"no {part}" for part in ("memory", "critique") if _of(build, part).get("enabled") is False]
    return parts + _sides(build)


def _released(build: Mapping[str, Any]) -> list[str]:
    return [f"branching {build.get('branching')}", f"depth {build.get('depth')}"]


def _best_of_n(build: Mapping[str, Any]) -> list[str]:
    return _answers(build) + _sides(build)


def _given(build: Mapping[str, Any]) -> list[str]:
    return ["given answers", *_sides(build)]


def _iterdpo(build: Mapping[str, Any]) -> list[str]:
    segments, correction = _of(build, "segments"), _of(build, "correction")
    rounds = correction.get("rounds")
    by = "people" if correction.get("by") == "file" else f"the {correction.get('by')}"
    return [*_answers(build), f"segments by {segments.get('by')}",
            f"corrected by {by}" + (f" in {rounds} rounds" if rounds and rounds > 1 and by != "people" else ""),
            f"pairs: {correction.get('mode')}"]


def _agent_write(build: Mapping[str, Any]) -> list[str]:
    writing = _of(build, "agent_write")
    parts = [f"sections {'in parallel' if writing.get('mode') == 'parallel' else 'one after the other'}"]
    if writing.get("tolerance") is not None:
        parts.append(f"plans within {percent(writing['tolerance'])} of the length asked for")
    if writing.get("min_length_score") is not None:
        parts.append(f"kept from a length score of {writing['min_length_score']:g}")
    if writing.get("explicit_length"):
        parts.append("only where a length is asked for")
    return parts


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "longdpo": _longdpo, "longdpo_released": _released, "best_of_n": _best_of_n, "iterdpo": _iterdpo,
    "agent_write": _agent_write,
}


def _answers(build: Mapping[str, Any]) -> list[str]:
    answers = _of(build, "answers")
    samples = answers.get("samples")
    return [f"{samples} answer{'' if samples == 1 else 's'} per prompt"
            + (", each lengthened too" if answers.get("extension") else "")]


def _sides(build: Mapping[str, Any]) -> list[str]:
    pairs = _of(build, "pairs")
    if not pairs:
        return []
    chosen = "best_score" if build.get("method") == "best_of_n" else pairs.get("chosen")  # no path leads on to answers
    rule = "by margin" if pairs.get("rejected") == "margin" else f"{chosen} against {pairs.get('rejected')}"
    penalty = pairs.get("length_penalty")
    return [f"pairs: {rule.replace('_', ' ')}" + (f", length penalty {penalty:g}" if penalty else "")]


def _of(build: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    values = build.get(section)
    return values if isinstance(values, Mapping) else {}


def _reward(run: RunData) -> str | None:
    """`judge × 1 + length × 0.5`, with what the scorers are."""
    build = run.setting("build")
    if not isinstance(build, Mapping) or not isinstance(reward := build.get("reward"), Mapping):
        return None
    weights = {name: weight for name, weight in reward.items() if isinstance(weight, (int, float)) and weight}
    product = reward.get("combine") == "product" and len(weights) > 1
    named = [f"{name.replace('_', ' ')} {'^' if product else '×'} {weight:g}" for name, weight in weights.items()]
    parts = [f"product of {', '.join(named)}" if product else " + ".join(named)]
    if "longreward" in weights:
        settings = _of(build, "longreward")
        parts.append(f"LongReward: {settings.get('passages')} passages by {settings.get('retrieval')}")
    if "reward_model" in weights:
        parts.append(f"reward model {_of(build, 'reward_model').get('model')}")
    return "; ".join(parts)


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
