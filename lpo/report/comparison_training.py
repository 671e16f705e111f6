"""Training curves of several runs, one chart for each thing that was logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lpo.report.charts import plain
from lpo.report.comparison_charts import Trace, overlay_chart
from lpo.report.comparison_data import ComparedRun
from lpo.report.scores import Figure
from lpo.report.training import PANELS, Panel

PANELS_OF_RUNS = (
    *PANELS,
    Panel("grad-norm", "Gradient norm", "L2 norm before clipping", (("grad_norm", "norm", "trained"),)),
    Panel("learning-rate", "Learning rate", "of the optimiser", (("learning_rate", "rate", "trained"),)),
)
TABLE_ROWS = 16


@dataclass(frozen=True)
class TrainingView:
    """Everything the section on training shows."""

    figures: tuple[Figure, ...]
    trained: tuple[ComparedRun, ...]
    untrained: tuple[ComparedRun, ...]
    losses: tuple[tuple[ComparedRun, str], ...]
    """What each run minimises, where that is not the same: their losses cannot be compared."""
    held_out: bool
    """Are there hollow marks?"""


def training_view(runs: Sequence[ComparedRun]) -> TrainingView | None:
    """The section on training, or None when no run has logged anything."""
    trained = [run for run in runs if run.events]
    if not trained:
        return None
    losses = tuple((run, _minimises(run)) for run in trained)
    return TrainingView(
        figures=tuple(_figures(trained)), trained=tuple(trained),
        untrained=tuple(run for run in runs if not run.events),
        losses=losses if len({name for _, name in losses}) > 1 else (),
        held_out=any(name.startswith("eval_") for run in trained for event in run.events for name in event.values))


def _minimises(run: ComparedRun) -> str:
    arguments = run.setting("train", "args") or {}
    loss = arguments.get("loss_type")
    named = " + ".join(map(str, loss)) if isinstance(loss, list) else loss
    parts = [run.setting("train", "trainer"), f"loss {named}" if named else None,
             f"beta {arguments['beta']}" if "beta" in arguments else None]
    return ", ".join(str(part) for part in parts if part) or "not known"


def _figures(runs: Sequence[ComparedRun]) -> Iterator[Figure]:
    for panel in PANELS_OF_RUNS:
        for name, label, _ in panel.metrics:
            traces = [Trace(run.index, _points(run, name)) for run in runs]
            dots = [Trace(run.index, _points(run, f"eval_{name}"), hollow=True) for run in runs]
            drawn = [trace for trace in (*traces, *dots) if trace.points]
            if not drawn:
                continue
            title = panel.title if len(panel.metrics) == 1 else f"{panel.title}: {label}"
            key = f"training-{panel.key}-{label.replace(' ', '-')}"
            chart = overlay_chart(key, title, f"{panel.meaning}; the numbers follow", drawn, x_name="optimiser step",
                                  reference=panel.reference, span=panel.span)
            yield Figure(title, panel.meaning, chart, *_table(runs, traces, dots))


def _points(run: ComparedRun, name: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(event.step), event.values[name]) for event in run.events if name in event.values)


def _table(runs: Sequence[ComparedRun], traces: Sequence[Trace],
           dots: Sequence[Trace]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The numbers behind a chart; some of the steps, spread evenly, when there are many."""
    columns = [(run.letter, dict(trace.points)) for run, trace in zip(runs, traces, strict=True) if trace.points]
    columns += [(f"{run.letter}, held-out", dict(trace.points)) for run, trace in zip(runs, dots, strict=True)
                if trace.points]
    steps = sorted({step for _, values in columns for step in values})
    stride = -(-len(steps) // TABLE_ROWS)
    shown = sorted({*steps[::stride], steps[-1]})
    table = tuple((f"{step:g}", *(plain(values[step]) if step in values else "" for _, values in columns))
                  for step in shown)
    return ("step", *(name for name, _ in columns)), table
