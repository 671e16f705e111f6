"""Charts of an evaluation: curves with their intervals, length asked against length written, shares of a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup

from lpo.report.charts import LEFT, WIDTH, Axis, Format, grid_line, line, nice_ticks, plain, svg, text

END = WIDTH - 18
TOP = 22
WIDE = 20.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""
MOST_POINTS = 500
"""Of one model in a scatter."""

Place = Callable[[float], float]
"""From a value to its pixel."""


class Shape(StrEnum):
    """How a point of a scatter is drawn, so that colour is not all that tells models apart."""

    CIRCLE = "circle"
    SQUARE = "square"
    DIAMOND = "diamond"
    TRIANGLE = "triangle"

    def path(self, x: float, y: float) -> str:
        """The shape about a point, as commands of an SVG path."""
        match self:
            case Shape.CIRCLE:
                return f"M{x - 3:.4g} {y:.4g}a3 3 0 1 0 6 0a3 3 0 1 0-6 0"
            case Shape.SQUARE:
                return f"M{x - 2.7:.4g} {y - 2.7:.4g}h5.4v5.4h-5.4z"
            case Shape.DIAMOND:
                return f"M{x:.4g} {y - 3.7:.4g}l3.7 3.7-3.7 3.7-3.7-3.7z"
            case Shape.TRIANGLE:
                return f"M{x:.4g} {y - 3.6:.4g}l3.5 6.2h-7z"


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve.

    Args:
        x: Where it stands.
        y: The value.
        low: Lower end of its interval; None where it has none.
        high: Upper end, likewise.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CurveSeries:
    """A curve of one model or run.

    Args:
        name: As in the legend.
        css: Classes that give the colour and, where there are many, the kind of line.
        points: In order of x.
    """

    name: str
    css: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Cloud:
    """The points of one model or run in a scatter.

    Args:
        name: As in the legend.
        css: Class that gives the colour.
        points: `(x, y)`; at most `MOST_POINTS` are drawn.
        shape: How each is drawn.
    """

    name: str
    css: str
    points: tuple[tuple[float, float], ...]
    shape: Shape = Shape.CIRCLE


def number(value: float) -> str:
    """A number on an axis; counts with their thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else plain(value)


def curve_chart(key: str, title: str, description: str, series: Sequence[CurveSeries], *, x: str, y: str,
                diagonal: bool = False, write: Format = number, reference: float | None = None) -> Markup:
    """Curves with a band where their points have intervals.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        series: What is drawn, at least one point.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        diagonal: Draw the line where y equals x; both axes then have one scale, logarithmic where the range is wide.
        write: How values of the vertical axis are written.
        reference: A value of the vertical axis marked by a thin line.
    """
    bottom, height = 168, 206
    points = [point for one in series for point in one.points]
    xs = [point.x for point in points]
    ys = [value for point in points for value in (point.low, point.y, point.high) if value is not None]
    if reference is not None:
        ys.append(reference)
    if diagonal:
        across, up, parts = _one_scale([*xs, *ys], bottom, write)
    else:
        low = 0.0 if 0 <= min(ys) < 0.35 * max(ys) else min(ys)
        levels = nice_ticks(low, max(ys))
        first, last = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
        across, up = Axis(first, last, LEFT + 6, END), Axis(levels[0], levels[-1], bottom, TOP)
        parts = [grid_line(LEFT, up(level), END, up(level)) + text(LEFT - 7, up(level) + 4, write(level), "end")
                 for level in levels]
        parts += [text(across(tick), bottom + 18, number(tick), "middle") for tick in _at_points(xs, across)]
    if diagonal:
        ends = _diagonal_ends([*xs, *ys])
        parts.append(line(across(ends[0]), up(ends[0]), across(ends[1]), up(ends[1]), "reference"))
    if reference is not None:
        parts.append(line(LEFT, up(reference), END, up(reference), "reference"))
    parts += [_band(one, across, up) for one in series] + [_stroke(one, across, up) for one in series]
    return svg(key, title, description, height, [*parts, *_names(x, y, bottom)])


def scatter_chart(key: str, title: str, description: str, clouds: Sequence[Cloud], *, x: str, y: str) -> Markup:
    """Points about the line where y equals x, on one scale for both axes, logarithmic where the range is wide.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        clouds: The points, at least one; values of 0 stand at the edge of a logarithmic axis.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
    """
    bottom, height = 270, 308
    values = [value for cloud in clouds for point in cloud.points for value in point]
    across, up, parts = _one_scale(values, bottom, number)
    low, high = _diagonal_ends(values)
    parts.append(line(across(low), up(low), across(high), up(high), "reference"))
    for cloud in clouds:
        stride = -(-len(cloud.points) // MOST_POINTS)
        path = "".join(cloud.shape.path(across(left), up(right)) for left, right in cloud.points[::max(1, stride)])
        parts.append(Markup('<path class="{} cloud" d="{}"/>').format(cloud.css, path))
    return svg(key, title, description, height, [*parts, *_names(x, y, bottom)])


def share_bar(key: str, title: str, description: str, parts: Sequence[tuple[str, str, int]]) -> Markup:
    """A whole cut into its parts.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        parts: `(label, class, count)` from left to right; parts without a count are left out.
    """
    total = sum(count for _, _, count in parts) or 1
    drawn: list[Markup] = []
    at = 0.0
    for label, css, count in parts:
        if not count:
            continue
        width = WIDTH * count / total
        drawn.append(Markup('<rect class="{} share" x="{}" y="18" width="{}" height="20"/>').format(
            css, round(at, 2), round(max(0.5, width - 1.5), 2)))
        if width > 6.4 * len(f"{label} {count:,}"):
            drawn.append(text(at, 12, f"{label} {count:,}", "start"))
        at += width
    return svg(key, title, description, 42, drawn)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose the range, few enough to be labelled."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max((index for index, step in enumerate(steps) if step <= low * (1 + 1e-9)), default=0)
    end = min((index for index, step in enumerate(steps) if step >= high * (1 - 1e-9)), default=len(steps) - 1)
    return steps[start:max(end, start + 1) + 1]


def _one_scale(values: Sequence[float], bottom: float, write: Format) -> tuple[Place, Place, list[Markup]]:
    """The same ticks on both axes: from values to pixels, across and up, and the grid."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > WIDE:
        ticks = log_ticks(min(positive), max(positive))
        inner = Axis(math.log10(ticks[0]), math.log10(ticks[-1]), LEFT, END)
        outer = Axis(inner.low, inner.high, bottom, TOP)

        def across(value: float) -> float:
            return inner(math.log10(max(value, ticks[0])))

        def up(value: float) -> float:
            return outer(math.log10(max(value, ticks[0])))

        shown = [tick for index, tick in enumerate(ticks) if len(ticks) <= 6 or index % -(-len(ticks) // 6) == 0]
    else:
        shown = nice_ticks(0.0, max(values))
        across, up = Axis(shown[0], shown[-1], LEFT, END), Axis(shown[0], shown[-1], bottom, TOP)
    grid = [grid_line(LEFT, up(tick), END, up(tick)) + grid_line(across(tick), TOP, across(tick), bottom)
            + text(LEFT - 7, up(tick) + 4, write(tick), "end") + text(across(tick), bottom + 17, number(tick), "middle")
            for tick in shown]
    return across, up, grid


def _diagonal_ends(values: Sequence[float]) -> tuple[float, float]:
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > WIDE:
        ticks = log_ticks(min(positive), max(positive))
        return ticks[0], ticks[-1]
    return 0.0, nice_ticks(0.0, max(values))[-1]


def _at_points(xs: Sequence[float], across: Place) -> list[float]:
    """Ticks where points stand, as many as leave room between their labels."""
    shown: list[float] = []
    for x in sorted(set(xs)):
        if not shown or across(x) - across(shown[-1]) > 34:
            shown.append(x)
    return shown


def _band(one: CurveSeries, across: Place, up: Place) -> Markup:
    """The area between the ends of the intervals; a whisker for a curve of one point."""
    ends = [(across(point.x), up(point.low), up(point.high)) for point in one.points
            if point.low is not None and point.high is not None]
    if len(ends) == 1:
        [(x, low, high)] = ends
        return Markup('<line class="{} whisker" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(one.css, x, low, x, high)
    if not ends:
        return Markup("")
    outline = [f"{x},{high}" for x, _, high in ends] + [f"{x},{low}" for x, low, _ in reversed(ends)]
    return Markup('<polygon class="{} band" points="{}"/>').format(one.css, " ".join(outline))


def _stroke(one: CurveSeries, across: Place, up: Place) -> Markup:
    places = [(across(point.x), up(point.y)) for point in one.points]
    drawn = Markup("").join(Markup('<circle class="{} mark" cx="{}" cy="{}" r="3.5"/>').format(one.css, x, y)
                            for x, y in places)
    if len(places) < 2:
        return drawn
    path = " ".join(f"{x},{y}" for x, y in places)
    return Markup('<polyline class="{} stroke" points="{}"/>').format(one.css, path) + drawn


def _names(x: str, y: str, bottom: float) -> list[Markup]:
    return [text(0, 10, y, "start", "axis-name"), text(END, bottom + 34, x, "end", "axis-name")]
