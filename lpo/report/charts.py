"""Charts as inline SVG: pure functions from numbers to markup.

Colours are classes (`base`, `trained`, `chosen`, `rejected`, ...), set by the style sheet for the reader's light or
dark theme. Nothing is positioned by style attributes, which the page's Content-Security-Policy refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Format = Callable[[float], str]
Bounds = tuple[float, float, float]
"""`(low, mean, high)`."""

WIDTH = 320
LEFT = 44
RIGHT = 12


def plain(value: float) -> str:
    """A number in as few digits as tell it from its neighbours on an axis, with a real minus sign."""
    if not value:
        return "0"
    if 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}".replace("-", "−")
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (steps of 1, 2 or 5) that enclose the range.

    Args:
        low: Smallest value to be shown.
        high: Largest value to be shown.
        count: About how many intervals.
    """
    if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels.

    Args:
        low: Value at the start.
        high: Value at the end; above `low`.
        start: Pixel of the start.
        end: Pixel of the end; smaller than `start` for an axis that grows upwards.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Series:
    """A line, or dots.

    Args:
        name: As in the legend and the table.
        css: Class that gives the colour.
        points: `(x, y)`, in order of x.
        dots: Draw single dots instead of a line.
    """

    name: str
    css: str
    points: tuple[tuple[float, float], ...]
    dots: bool = False


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval plot.

    Args:
        label: Stands before it.
        css: Class that gives the colour.
        mean: The dot; None is "nothing scored".
        bounds: The whiskers; None when there are too few values for an interval.
    """

    label: str
    css: str
    mean: float | None
    bounds: Bounds | None


def thin(points: Sequence[tuple[float, float]], limit: int = 240) -> tuple[tuple[float, float], ...]:
    """At most about `limit` points that keep every peak: the lowest and highest of each stretch, and both ends."""
    if len(points) <= limit:
        return tuple(points)
    stretch = math.ceil(len(points) / (limit / 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        indices = range(start, min(start + stretch, len(points)))
        kept |= {min(indices, key=lambda index: points[index][1]), max(indices, key=lambda index: points[index][1])}
    return tuple(points[index] for index in sorted(kept))


def line_chart(key: str, title: str, description: str, series: Sequence[Series], *, reference: float | None = None,
               span: tuple[float, float] | None = None) -> Markup:
    """Lines and dots over steps.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        series: What is drawn.
        reference: A value marked by a thin line.
        span: Ends of the vertical axis; default: what the values need.
    """
    height, top, bottom = 186, 8, 140
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    if reference is not None:
        ys.append(reference)
    low, high = span or (min(ys), max(ys))
    first, last = min(xs), max(xs)
    if first <= 0.1 * last:
        first = 0.0
    across = Axis(first, last, LEFT, WIDTH - RIGHT) if last > first else Axis(first - 1, first + 1, LEFT, WIDTH - RIGHT)
    levels = nice_ticks(low, high)
    up = Axis(levels[0], levels[-1], bottom, top)
    parts = [grid_line(LEFT, up(level), WIDTH - RIGHT, up(level)) + text(LEFT - 7, up(level) + 4, plain(level), "end")
             for level in levels]
    parts += [text(across(tick), bottom + 18, plain(tick), "middle") for tick in _step_ticks(first, last)]
    if reference is not None:
        parts.append(line(LEFT, up(reference), WIDTH - RIGHT, up(reference), "reference"))
    for one in series:
        points = thin(one.points)
        if one.dots or len(points) == 1:
            parts += [Markup('<circle class="{} mark" cx="{}" cy="{}" r="4"/>').format(one.css, across(x), up(y))
                      for x, y in points]
        else:
            path = " ".join(f"{across(x)},{up(y)}" for x, y in points)
            parts.append(Markup('<polyline class="{} stroke" points="{}"/>').format(one.css, path))
    parts.append(text(WIDTH - RIGHT, bottom + 36, "optimiser step", "end", "axis-name"))
    return svg(key, title, description, height, parts)


def _step_ticks(first: float, last: float) -> list[float]:
    """Whole round steps inside the axis, and none so near its end that labels touch."""
    if last <= first:
        return [first]
    return [tick for tick in nice_ticks(first, last) if first <= tick <= last and tick.is_integer()]


def interval_chart(key: str, title: str, description: str, rows: Sequence[IntervalRow], *, write: Format,
                   span: tuple[float, float] | None = None, reference: float | None = None) -> Markup:
    """Means with 95 % intervals, one line each, on a common axis.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        rows: From top to bottom.
        write: How values of the axis are written.
        span: Ends of the axis; default: what the intervals need.
        reference: A value marked by a thin line.
    """
    line_height, top = 28, 6
    label_width = max(72, 20 + round(6.3 * max((len(row.label) for row in rows), default=0)))
    values = [value for row in rows if row.mean is not None for value in (row.bounds or (row.mean,))]
    if reference is not None:
        values.append(reference)
    low, high = span or (min(values, default=0.0), max(values, default=1.0))
    ticks = nice_ticks(low, high, count=3)
    while len({write(tick) for tick in ticks}) < len(ticks):  # values nearer to each other than they are written
        low, high = low - (ticks[-1] - ticks[0]), high + (ticks[-1] - ticks[0])
        ticks = nice_ticks(low, high, count=3)
    axis = Axis(ticks[0], ticks[-1], label_width, WIDTH - RIGHT - 8)
    bottom = top + line_height * len(rows)
    parts = [grid_line(axis(tick), top, axis(tick), bottom) + text(axis(tick), bottom + 16, write(tick), "middle")
             for tick in ticks]
    if reference is not None:
        parts.append(line(axis(reference), top, axis(reference), bottom, "reference"))
    for index, row in enumerate(rows):
        middle = top + line_height * (index + 0.5)
        parts.append(text(label_width - 12, middle + 4, row.label, "end", "row-name"))
        if row.mean is None:
            parts.append(text(label_width + 6, middle + 4, "nothing scored", "start"))
            continue
        if row.bounds is not None:
            parts.append(whisker(axis, row.bounds, middle, row.css))
        parts.append(dot(axis(row.mean), middle, row.css))
    return svg(key, title, description, bottom + 24, parts)


def difference_mark(key: str, description: str, bounds: Bounds, css: str) -> Markup:
    """A small interval about a mark at zero, to stand in a table."""
    width, height = 132, 22
    reach = max(abs(value) for value in bounds) or 1.0
    axis = Axis(-reach, reach, 8, width - 8)
    parts = [grid_line(8, height / 2, width - 8, height / 2), line(axis(0), 3, axis(0), height - 3, "reference"),
             whisker(axis, bounds, height / 2, css), dot(axis(bounds[1]), height / 2, css)]
    return svg(key, "Difference and its interval about zero", description, height, parts, width=width, css="mini")


def bar_chart(key: str, title: str, description: str, bars: Sequence[tuple[str, float]], *, axis_name: str) -> Markup:
    """Upright bars with their values above them.

    Args:
        key: Makes ids unique on the page.
        title: Name of the chart, for screen readers.
        description: What it shows, for screen readers.
        bars: `(label, height)`.
        axis_name: What the labels are.
    """
    height, top, bottom = 150, 20, 112
    slot = (WIDTH - 2 * RIGHT) / max(1, len(bars))
    width = min(44.0, slot * 0.72)
    tallest = max((value for _, value in bars), default=1.0) or 1.0
    every = math.ceil(26 / slot)  # so that labels do not touch
    parts = [line(RIGHT, bottom, WIDTH - RIGHT, bottom, "baseline")]
    for index, (label, value) in enumerate(bars):
        middle = RIGHT + slot * (index + 0.5)
        tall = round((bottom - top) * value / tallest, 2)
        parts.append(Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}" rx="2"/>').format(
            round(middle - width / 2, 2), round(bottom - tall, 2), round(width, 2), tall))
        if value and slot > 16:
            parts.append(text(middle, bottom - tall - 5, plain(value), "middle"))
        if index % every == 0:
            parts.append(text(middle, bottom + 16, label, "middle"))
    parts.append(text(WIDTH - RIGHT, height - 3, axis_name, "end", "axis-name"))
    return svg(key, title, description, height, parts)


def length_bar(key: str, words: int, target: int | None, css: str) -> Markup:
    """Words written as a bar, words asked as a tick across it."""
    width, height = 180, 14
    axis = Axis(0, max(words, target or 0, 1) * 1.05, 0, width)
    asked = f" of {target} asked" if target else ""
    parts = [Markup('<rect class="track" x="0" y="5" width="{}" height="4" rx="2"/>').format(width),
             Markup('<rect class="{} fill" x="0" y="5" width="{}" height="4" rx="2"/>').format(css, axis(words))]
    if target:
        parts.append(line(axis(target), 0, axis(target), height, "target"))
    return svg(key, "Length", f"{words} words written{asked}", height, parts, width=width, css="length")


def svg(key: str, title: str, description: str, height: float, parts: Sequence[Markup], *, width: int = WIDTH,
        css: str = "chart") -> Markup:
    """The parts as one drawing with a title and a description for screen readers."""
    head = Markup('<svg class="{0}" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{3}-title {3}-desc">'
                  '<title id="{3}-title">{4}</title><desc id="{3}-desc">{5}</desc>')
    return head.format(css, width, height, key, title, description) + Markup("").join(parts) + Markup("</svg>")


def whisker(axis: Axis, bounds: Bounds, middle: float, css: str) -> Markup:
    """A horizontal stroke from the lower to the upper end of an interval."""
    return Markup('<line class="{} whisker" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css, axis(bounds[0]), middle, axis(bounds[2]), middle)


def dot(x: float, y: float, css: str) -> Markup:
    """A mean."""
    return Markup('<circle class="{} mark" cx="{}" cy="{}" r="5"/>').format(css, x, y)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(css, x1, y1, x2, y2)


def grid_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line of the grid."""
    return line(x1, y1, x2, y2, "grid")


def text(x: float, y: float, shown: str, anchor: str, css: str = "tick") -> Markup:
    """A word or number, anchored at its `start`, `middle` or `end`."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        css, round(x, 2), round(y, 2), anchor, escape(shown))
