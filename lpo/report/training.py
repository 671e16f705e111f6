"""Training curves, and the warning when the chosen sides grow less likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from lpo.report.charts import Series, line_chart, plain
from lpo.report.data import Event, RunData

MIN_POINTS = 6
"""Fewer logged steps than this show no trend."""


@dataclass(frozen=True)
class Panel:
    """What one chart of the section shows."""

    key: str
    title: str
    meaning: str
    metrics: tuple[tuple[str, str, str], ...]
    """`(name in metrics.jsonl, name in the legend, class)`."""
    reference: float | None = None
    span: tuple[float, float] | None = None


PANELS = (
    Panel("loss", "Loss", "what is minimised", (("loss", "loss", "trained"),)),
    Panel("margins", "Reward margin", "implicit reward of chosen minus that of rejected; should rise from 0",
          (("rewards/margins", "margin", "trained"),), reference=0.0),
    Panel("accuracies", "Reward accuracy", "share of pairs with a positive margin; the thin line is chance",
          (("rewards/accuracies", "accuracy", "trained"),), reference=0.5, span=(0.0, 1.0)),
    Panel("rewards", "Implicit rewards", "beta × log-ratio to the reference, of each side",
          (("rewards/chosen", "chosen", "chosen"), ("rewards/rejected", "rejected", "rejected")), reference=0.0),
    Panel("logps-chosen", "Log-probability of chosen", "sum over the tokens of a side, in nats; mean over the batch",
          (("logps/chosen", "chosen", "chosen"),)),
    Panel("logps-rejected", "Log-probability of rejected", "the same for the rejected side",
          (("logps/rejected", "rejected", "rejected"),)),
    Panel("kl", "KL to the reference", "how far the policy has moved, in nats", (("kl", "KL", "trained"),),
          reference=0.0),
)


@dataclass(frozen=True)
class Curve:
    """A chart of the section with its legend and numbers."""

    key: str
    title: str
    meaning: str
    chart: Markup
    legend: tuple[tuple[str, str], ...]
    """`(class, name)` of what is drawn, when there is more than one thing."""
    header: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TrainingSection:
    """Everything the section on training shows."""

    curves: tuple[Curve, ...]
    missing: tuple[str, ...]
    steps: int
    warning: str | None


def training_section(run: RunData) -> TrainingSection | None:
    """The section on training, or None before anything was logged."""
    if not run.events:
        return None
    curves = [(panel, _curve(panel, run.events)) for panel in PANELS]
    return TrainingSection(
        curves=tuple(curve for _, curve in curves if curve is not None),
        missing=tuple(panel.title for panel, curve in curves if curve is None),
        steps=run.events[-1].step,
        warning=falling_chosen(run.events),
    )


def falling_chosen(events: Sequence[Event]) -> str | None:
    """A warning when the chosen sides lose probability over the run, or None.

    The implicit reward is preferred to the raw log-probability, which also varies with the lengths in each batch. A
    steady fall: the last third lies below the first by more than the spread inside the thirds, and ranks agree.
    """
    for name, unit in (("rewards/chosen", "implicit reward"), ("logps/chosen", "log-probability")):
        values = _stretches([event.values[name] for event in events if name in event.values])
        if len(values) >= MIN_POINTS:
            if not _falls(values):
                return None
            third = len(values) // 3
            first, last = fmean(values[:third]), fmean(values[-third:])
            return (f"The chosen sides become less likely: their {unit} falls from {plain(round(first, 3))} (first "
                    f"third of the run) to {plain(round(last, 3))} (last third). The margin can still grow, as the "
                    "rejected sides fall faster; it is common with DPO, and texts get worse when it goes far. A "
                    "smaller learning rate, a larger beta or a likelihood term on the chosen side holds against it.")
    return None


def _stretches(values: Sequence[float], limit: int = 60) -> list[float]:
    """Means over stretches of the run, at most `limit` of them."""
    stride = -(-len(values) // limit) if values else 1
    return [fmean(values[start:start + stride]) for start in range(0, len(values), stride)]


def _falls(values: Sequence[float]) -> bool:
    third = len(values) // 3
    first, last = values[:third], values[-third:]
    spread = max(max(part) - min(part) for part in (first, last)) / 2
    pairs = [(early, late) for index, early in enumerate(values) for late in values[index + 1:]]
    downward = sum((early > late) - (early < late) for early, late in pairs) / len(pairs)
    return fmean(first) - fmean(last) > max(spread, 1e-3) and downward > 0.5


def _curve(panel: Panel, events: Sequence[Event]) -> Curve | None:
    series: list[Series] = []
    for name, label, css in panel.metrics:
        trained = _points(events, name)
        evaluated = _points(events, f"eval_{name}")
        if trained:
            series.append(Series(label, css, trained))
        if evaluated:
            series.append(Series(f"{label}, held-out pairs", f"{css} held-out", evaluated, dots=True))
    if not series:
        return None
    chart = line_chart(f"curve-{panel.key}", panel.title, f"{panel.meaning}. {'; '.join(map(_ends, series))}", series,
                       reference=panel.reference, span=panel.span)
    header, table = _table(series)
    legend = tuple((f"{one.css}{' dot' if one.dots else ''}", one.name) for one in series) if len(series) > 1 else ()
    return Curve(panel.key, panel.title, panel.meaning, chart, legend, header, table)


def _points(events: Sequence[Event], name: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(event.step), event.values[name]) for event in events if name in event.values)


def _ends(series: Series) -> str:
    (first, start), (last, end) = series.points[0], series.points[-1]
    return f"{series.name}: {plain(start)} at step {first:g}, {plain(end)} at step {last:g}"


def _table(series: Sequence[Series], limit: int = 40) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The numbers behind a chart; every k-th step when there are many."""
    steps = sorted({x for one in series for x, _ in one.points})
    stride = -(-len(steps) // limit)
    shown = sorted({*steps[::stride], steps[-1]})
    lookups = [dict(one.points) for one in series]
    rows = tuple((f"{step:g}", *(plain(lookup[step]) if step in lookup else "" for lookup in lookups))
                 for step in shown)
    return ("step", *(one.name for one in series)), rows
