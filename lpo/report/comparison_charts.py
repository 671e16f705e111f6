"""Charts of several runs: each run has a letter, a shape, dashes and a colour, so that none of them is needed alone.

Pure functions from numbers to inline SVG, as in `lpo.report.charts`. Colours and dashes are those of the classes
`run-1` to `run-8` in the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lpo.report.charts import WIDTH, Axis, Bounds, Format, line, nice_ticks, plain, svg, text, thin, whisker
from lpo.report.suites_charts import WIDE, log_ticks

LEFT = 48
END = WIDTH - 14
SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-3.6-3.6h7.2v7.2h-7.2z",
    "m0-4.9l4.6 8.2h-9.2z",
    "m0-5.2l5.2 5.2-5.2 5.2-5.2-5.2z",
    "m0 4.9l-4.6-8.2h9.2z",
    "m-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
    "m0-2.3l2.6-2.6 2.3 2.3-2.6 2.6 2.6 2.6-2.3 2.3-2.6-2.6-2.6 2.6-2.3-2.3 2.6-2.6-2.6-2.6 2.3-2.3z",
    "m-4.6-4.6h9.2l-9.2 9.2h9.2z",
)
"""Around a point, run by run: circle, square, triangle, diamond, triangle on its tip, plus, cross, hourglass."""
Scale = Callable[[float], float]
"""From a value to its pixel."""


@dataclass(frozen=True)
class Trace:
    """What is drawn of one run over an axis.

    Args:
        run: Its place, from 0.
        points: `(x, y)`, in the order of x.
        bounds: The interval at each point, or None, for points that are measured each by itself; each then has a mark.
            Empty: a line of many points, with a mark at its end.
        hollow: Draw single hollow marks instead of a line.
    """

    run: int
    points: tuple[tuple[float, float], ...]
    bounds: tuple[Bounds | None, ...] = ()
    hollow: bool = False


@dataclass(frozen=True)
class Level:
    """A score of one run.

    Args:
        run: Its place, from 0.
        letter: Stands before it.
        mean: None is "nothing scored".
        bounds: Its interval; None when there is none.
    """

    run: int
    letter: str
    mean: float | None
    bounds: Bounds | None


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic scale from values to pixels; arguments as `Axis`. What lies below its start is drawn there."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 2)


def run_key(run: int) -> Markup:
    """A piece of a run's line with its mark, for legends and tables."""
    return (Markup('<svg class="run-key run-{0}" viewBox="0 0 34 14" aria-hidden="true">').format(run + 1)
            + line(2, 7, 32, 7, f"run-{run + 1} stroke") + _mark(17, 7, run) + Markup("</svg>"))


def overlay_chart(key: str, title: str, description: str, traces: Sequence[Trace], *, x_name: str,
                  reference: float | None = None, span: tuple[float, float] | None = None,
                  diagonal: bool = False) -> Markup:
    """Lines of several runs over one axis.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        traces: What is drawn; at least one point in all.
        x_name: Name of the horizontal axis.
        reference: A value marked by a thin line.
        span: Ends of the vertical axis; default: what the values need.
        diagonal: Mark where y equals x; both axes then have one scale, logarithmic where the values range widely.
    """
    height, top, bottom = 206, 8, 158
    xs = [x for trace in traces for x, _ in trace.points]
    ys = [y for trace in traces for _, y in trace.points]
    ys += [value for trace in traces for bounds in trace.bounds if bounds is not None for value in bounds]
    if diagonal:
        across, up, parts = _one_scale([*xs, *ys], top, bottom)
    else:
        levels = nice_ticks(*(span or (min([*ys, *_given(reference)]), max([*ys, *_given(reference)]))))
        first, last = (0.0 if 0 <= min(xs) <= 0.1 * max(xs) else min(xs)), max(xs)
        across = Axis(first, last, LEFT + 8, END) if last > first else Axis(first - 1, first + 1, LEFT + 8, END)
        up = Axis(levels[0], levels[-1], bottom, top)
        parts = _grid(across, [tick for tick in nice_ticks(first, last) if first <= tick <= last], up, levels, bottom)
    if reference is not None:
        parts.append(line(LEFT, up(reference), END, up(reference), "reference"))
    for place, trace in enumerate(traces):
        parts += _drawn(trace, across, up, (place - (len(traces) - 1) / 2) * 2.4 if trace.bounds else 0.0)
    parts.append(text(END, bottom + 38, x_name, "end", "axis-name"))
    return svg(key, title, description, height, parts)


def scatter_chart(key: str, title: str, description: str, dots: Sequence[tuple[int, float, float]], *, x_name: str,
                  y_name: str) -> Markup:
    """Dots of several runs on one scale for both axes, with the line where y equals x.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        dots: `(place of the run, x, y)`, at least one.
        x_name: Name of the horizontal axis.
        y_name: Name of the vertical axis.
    """
    height, top, bottom = 320, 24, 268
    across, up, parts = _one_scale([value for _, x, y in dots for value in (x, y)], top, bottom)
    parts += [_mark(across(x), up(y), run, "dot") for run, x, y in dots]
    parts += [text(END, bottom + 38, x_name, "end", "axis-name"), text(0, 12, y_name, "start", "axis-name")]
    return svg(key, title, description, height, parts)


def grouped_levels(key: str, title: str, description: str, groups: Sequence[tuple[str, Sequence[Level]]], *,
                   write: Format, limits: tuple[float, float] | None = None) -> Markup:
    """Means with 95 % intervals, run below run, group below group, on one axis.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        groups: Name and scores of each, from top to bottom.
        write: How values of the axis are written.
        limits: Ends of the scale, beyond which no value can lie.
    """
    row, apart, top = 17, 12, 6
    room = min(132, 14 + round(6.3 * max((len(name) for name, _ in groups), default=0)))
    longest = int((room - 14) / 6.3)
    ticks = level_ticks([one for _, levels in groups for one in levels], limits)
    axis = Axis(ticks[0], ticks[-1], room + 24, END - 8)
    bottom = top + sum(row * len(levels) + apart for _, levels in groups) - apart
    parts = [line(axis(tick), top, axis(tick), bottom, "grid") + text(axis(tick), bottom + 16, write(tick), "middle")
             for tick in ticks]
    y = float(top)
    for name, levels in groups:
        shown = name if len(name) <= longest else f"{name[:longest - 1]}…"
        parts.append(text(room - 4, y + 13, shown, "end", "row-name"))
        for one in levels:
            parts.append(text(room + 10, y + 13, one.letter, "middle", f"tick run-{one.run + 1}"))
            parts += _level(one, axis, y + row / 2) or [
                text(room + 24, y + 13, "nothing scored", "start", f"tick run-{one.run + 1}")]
            y += row
        y += apart
    return svg(key, title, description, bottom + 24, parts)


def level_ticks(levels: Sequence[Level], limits: tuple[float, float] | None = None) -> list[float]:
    """Round numbers that enclose means and intervals, none beyond the ends of the scale where it has some."""
    values = [value for one in levels if one.mean is not None for value in (one.mean, *(one.bounds or ()))]
    ticks = nice_ticks(min(values, default=0.0), max(values, default=1.0), count=3)
    low, high = limits or (ticks[0], ticks[-1])
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 1 else ticks


def level_mark(level: Level, ticks: Sequence[float]) -> Markup:
    """A score and its interval on an axis that the rows of a table share; its numbers stand beside it."""
    axis = Axis(ticks[0], ticks[-1], 8, 152)
    grid = [line(axis(tick), 0, axis(tick), 22, "grid") for tick in ticks]
    return _mini(160, [*grid, *_level(level, axis, 11)])


def level_axis(ticks: Sequence[float], write: Format) -> Markup:
    """The ends of that axis in numbers, to stand above the rows."""
    return _mini(160, [text(3, 16, write(ticks[0]), "start"), text(157, 16, write(ticks[-1]), "end")])


def change_mark(bounds: Bounds, reach: float, run: int) -> Markup:
    """A difference and its interval about a mark at zero; `reach` is where the axis ends on both sides."""
    axis = Axis(-reach, reach, 8, 124)
    return _mini(132, [line(8, 11, 124, 11, "grid"), line(axis(0), 2, axis(0), 20, "reference"),
                       *_level(Level(run, "", bounds[1], bounds), axis, 11)])


def _level(level: Level, axis: Axis, middle: float) -> list[Markup]:
    """The mark of a score on the whisker of its interval; nothing where there is no score."""
    if level.mean is None:
        return []
    interval = [] if level.bounds is None else [whisker(axis, level.bounds, middle, f"run-{level.run + 1}")]
    return [*interval, _mark(axis(level.mean), middle, level.run)]


def _drawn(trace: Trace, across: Scale, up: Scale, aside: float) -> list[Markup]:
    """A line with its marks and whiskers, or marks alone. `aside` moves it, so that the whiskers of two runs do not
    hide each other.
    """
    css = f"run-{trace.run + 1}"
    if trace.hollow:
        return [_mark(across(x), up(y), trace.run, "held-out") for x, y in trace.points]
    parts = [line(across(x) + aside, up(bounds[0]), across(x) + aside, up(bounds[2]), f"{css} whisker thin")
             for (x, _), bounds in zip(trace.points, trace.bounds, strict=False) if bounds is not None]
    points = thin(trace.points)
    if len(points) > 1:
        path = " ".join(f"{across(x) + aside:.4g},{up(y):.4g}" for x, y in points)
        parts.append(Markup('<polyline class="{} stroke" points="{}"/>').format(css, path))
    marked = points if trace.bounds else points[-1:]
    return parts + [_mark(across(x) + aside, up(y), trace.run) for x, y in marked]


def _one_scale(values: Sequence[float], top: float, bottom: float) -> tuple[Scale, Scale, list[Markup]]:
    """The same ticks on both axes: the scales across and up, and the grid with the line where both are equal."""
    positive = [value for value in values if value > 0]
    across: Axis | LogAxis
    up: Axis | LogAxis
    if positive and max(positive) / min(positive) > WIDE:
        ticks = log_ticks(min(positive), max(positive))
        across, up = LogAxis(ticks[0], ticks[-1], LEFT, END), LogAxis(ticks[0], ticks[-1], bottom, top)
    else:
        ticks = nice_ticks(0.0, max(values))
        across, up = Axis(ticks[0], ticks[-1], LEFT, END), Axis(ticks[0], ticks[-1], bottom, top)
    shown = ticks[::-(-len(ticks) // 7)]
    low, high = ticks[0], ticks[-1]
    return across, up, [*_grid(across, shown, up, shown, bottom),
                        line(across(low), up(low), across(high), up(high), "reference")]


def _grid(across: Scale, ticks: Sequence[float], up: Scale, levels: Sequence[float], bottom: float) -> list[Markup]:
    rows = [line(LEFT, up(level), END, up(level), "grid") + text(LEFT - 7, up(level) + 4, short(level), "end")
            for level in levels]
    return rows + [line(across(tick), bottom, across(tick), bottom + 4, "grid")
                   + text(across(tick), bottom + 18, short(tick), "middle") for tick in ticks]


def short(value: float) -> str:
    """A number for an axis: from ten thousand on in thousands, as `10k`."""
    return f"{plain(value / 1000)}k" if abs(value) >= 10_000 else plain(value)


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _mark(x: float, y: float, run: int, css: str = "") -> Markup:
    return Markup('<path class="run-{}{} mark" d="M{:g} {:g}{}"/>').format(run + 1, f" {css}" if css else "",
                                                                           round(x, 1), round(y, 1), SHAPES[run])


def _mini(width: int, parts: Sequence[Markup]) -> Markup:
    """A drawing in a table, whose numbers stand beside it: nothing for a screen reader."""
    head = Markup('<svg class="mini" viewBox="0 0 {} 22" aria-hidden="true">').format(width)
    return head + Markup("").join(parts) + Markup("</svg>")
