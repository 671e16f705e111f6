"""What each stage took: time, calls, tokens, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lpo.report.data import Manifest, Stage
from lpo.report.story import duration

NAMES = {"build": "Build", "train": "Training", "eval": "Evaluation"}
UNKNOWN = "–"


@dataclass(frozen=True)
class StageCost:
    """What a stage took.

    Args:
        name: Of the stage.
        status: `complete`, or how far it has come; empty for all stages together.
        values: `(what, how much)`, the same whats for every stage of a run; a dash where nothing is known.
    """

    name: str
    status: str
    values: tuple[tuple[str, str], ...]


def stage_costs(manifest: Manifest) -> tuple[StageCost, ...]:
    """What the stages of a run took that have been started, and all together where there are several.

    What no stage has, as a cost where no prices are given, is left out.
    """
    if not manifest.stages:
        return ()
    costs = [StageCost(NAMES.get(name, name), stage.status, _values(stage)) for name, stage in manifest.stages.items()]
    if len(costs) > 1:
        costs.append(StageCost("All stages", "", _values(_together(list(manifest.stages.values())))))
    known = [place for place in range(len(costs[0].values)) if any(cost.values[place][1] != UNKNOWN for cost in costs)]
    return tuple(StageCost(cost.name, cost.status, tuple(cost.values[place] for place in known)) for cost in costs)


def _values(stage: Stage) -> tuple[tuple[str, str], ...]:
    usage = stage.usage
    return (
        ("time", UNKNOWN if stage.seconds is None else duration(stage.seconds)),
        ("peak memory", UNKNOWN if stage.peak_memory_mb is None else f"{stage.peak_memory_mb / 1024:.1f} GB"),
        ("calls", UNKNOWN if usage is None else f"{usage.calls:,}"),
        ("from the journal", UNKNOWN if usage is None else f"{usage.cached:,}"),
        ("tokens read", UNKNOWN if usage is None else f"{usage.tokens_in:,}"),
        ("tokens written", UNKNOWN if usage is None else f"{usage.tokens_out:,}"),
        ("cost", UNKNOWN if usage is None or usage.cost is None else f"{usage.cost:,.2f}"),
    )


def _together(stages: Sequence[Stage]) -> Stage:
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    used = [stage.usage for stage in stages if stage.usage is not None]
    return Stage(seconds=sum(seconds) if seconds else None, usage=sum(used[1:], used[0]) if used else None,
                 peak_memory_mb=max((stage.peak_memory_mb for stage in stages if stage.peak_memory_mb is not None),
                                    default=None))
