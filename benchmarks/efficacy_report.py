"""The table of the efficacy benchmark: every arm against the base, with intervals over prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficacy_arms import METRICS, Arm

from lpo.intervals import Interval, bootstrap_mean
from lpo.storage import read_json, write_atomic, write_json

RESAMPLES = 10_000
Result = dict[str, Any]
Values = dict[tuple[int, str], float]
"""A metric of one arm, by seed and prompt."""

_HEADINGS = {"length_score": "S_l", "repetition": "repetition %", "coverage": "coverage %", "words": "words",
             "ended": "ended %"}
_IN_PERCENT = ("repetition", "coverage", "ended")


def write_report(folder: Path) -> str:
    """Write `report.json` and `report.md` of all results under a folder.

    Returns:
        The Markdown.
    """
    results = [read_json(path) for path in sorted(folder.glob("seed-*/*/result.json"))]
    if not results:
        return f"there are no results in {folder}"
    summary = summarise(results)
    write_json(folder / "report.json", summary)
    text = as_markdown(summary)
    write_atomic(folder / "report.md", text)
    return text


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Means, differences to the base and between methods, and what each arm took.

    Seeds are pooled: the answers to one prompt under all seeds are one group of the bootstrap, because they are not
    independent. A difference is taken within a seed and a prompt.
    """
    by_arm: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_arm[result["arm"]].append(result)
    arms = [arm.value for arm in Arm if arm.value in by_arm]
    values = {arm: {metric: _values(by_arm[arm], metric) for metric in METRICS} for arm in arms}
    pairs = [(arm, Arm.BASE.value) for arm in arms if arm != Arm.BASE and Arm.BASE in by_arm]
    pairs += [(arm.value, Arm.OUTCOME.value) for arm in (Arm.LONGDPO, Arm.ITERDPO, Arm.SFT)
              if arm in by_arm and Arm.OUTCOME in by_arm]
    return {
        "seeds": sorted({result["seed"] for result in results}),
        "mean": {arm: {metric: _interval(values[arm][metric]).to_json() for metric in METRICS} for arm in arms},
        "difference": {
            f"{one}-{other}": {metric: _interval(_paired(values[one][metric], values[other][metric])).to_json()
                               for metric in METRICS} for one, other in pairs},
        "by_seed": {arm: {str(result["seed"]): {metric: _mean(_values([result], metric)) for metric in METRICS}
                          for result in by_arm[arm]} for arm in arms},
        "took": {arm: {str(result["seed"]): {part: result[part]
                                             for part in ("build", "train", "eval") if part in result}
                       for result in by_arm[arm]} for arm in arms},
        "machine": results[0].get("machine"),
    }


def _values(results: Sequence[Result], metric: str) -> Values:
    return {(result["seed"], answer["prompt_id"]): float(answer[metric])
            for result in results for answer in result["answers"]}


def _paired(one: Values, other: Values) -> Values:
    """Differences where both arms answered under the same seed."""
    return {key: value - other[key] for key, value in one.items() if key in other}


def _interval(values: Values) -> Interval:
    return bootstrap_mean(list(values.values()), seed=0, resamples=RESAMPLES, groups=[prompt for _, prompt in values])


def _mean(values: Values) -> float:
    return sum(values.values()) / len(values)


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as tables."""
    seeds = ", ".join(map(str, summary["seeds"]))
    lines = [f"Seeds {seeds}. Means over prompts and seeds with 95 % intervals (bootstrap over prompts).", ""]
    lines += _table("arm", summary["mean"], _label)
    lines += ["", "Difference, paired by prompt and seed:", ""]
    lines += _table("", summary["difference"], _difference_label)
    lines += ["", "S_l / repetition % / coverage % by seed:", "",
              f"| arm | {' | '.join(f'seed {seed}' for seed in summary['seeds'])} |",
              "|---" * (len(summary["seeds"]) + 1) + "|"]
    for arm, by_seed in summary["by_seed"].items():
        cells = [_seed_cell(by_seed.get(str(seed))) for seed in summary["seeds"]]
        lines.append(f"| {_label(arm)} | {' | '.join(cells)} |")
    lines += ["", "What a seed took, on average:", "",
              "| arm | tokens sampled | of these shared | pairs | steps | build s | train s | answers s |",
              "|---|---|---|---|---|---|---|---|"]
    lines += [_took(arm, list(took.values())) for arm, took in summary["took"].items()]
    return "\n".join(lines) + "\n"


def _label(arm: str) -> str:
    return Arm(arm).label


def _difference_label(name: str) -> str:
    one, other = name.split("-")
    return f"{_label(one)} − {_label(other)}"


def _table(title: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]], label: Any) -> list[str]:
    lines = [f"| {title} | {' | '.join(_HEADINGS[metric] for metric in METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for name, intervals in rows.items():
        cells = [_cell(intervals[metric], metric) for metric in METRICS]
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    return lines


def _cell(interval: Mapping[str, Any], metric: str) -> str:
    scale = 100 if metric in _IN_PERCENT else 1
    mean, low, high = (interval[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "–"
    if low is None:
        return f"{mean * scale:.1f}"
    return f"{mean * scale:.1f} ({low * scale:.1f} to {high * scale:.1f})"


def _seed_cell(means: Mapping[str, float] | None) -> str:
    if means is None:
        return "–"
    return f"{means['length_score']:.1f} / {100 * means['repetition']:.1f} / {100 * means['coverage']:.1f}"


def _took(arm: str, took: Sequence[Mapping[str, Any]]) -> str:
    def average(part: str, name: str) -> str:
        values = [one[part][name] for one in took if part in one]
        return f"{sum(values) / len(values):,.0f}" if values else "–"

    cells = [average("build", "tokens"), average("build", "tokens_shared"), average("build", "pairs"),
             average("train", "steps"), average("build", "seconds"), average("train", "seconds"),
             average("eval", "seconds")]
    return f"| {_label(arm)} | {' | '.join(cells)} |"
