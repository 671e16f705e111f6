"""Progress a person can follow: bars with rates and time left in a terminal, plain lines anywhere else."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

PLAIN_LINE_SECONDS = 15.0
"""Without a terminal, a long stage says where it is this often."""


class Update(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, note: str = "", left: float | None = None) -> None:
        """Show the state of a stage.

        Args:
            done: Units that are done.
            note: What else there is to say of it.
            left: Seconds that the rest will take; by default a guess by the units that are done.
        """
        ...


class Reporter:
    """Prints what a run does.

    Args:
        stream: Where to; standard error by default, so that standard output stays free for results.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line; square brackets in it are text, not markup."""
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Update]:
        """Follow a stage of `total` units.

        Yields:
            A function to call with how many units are done now.
        """
        if not self.console.is_terminal:
            yield _PlainBar(self.say, label, total, unit).update
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                   _RateColumn(), TimeElapsedColumn(), TextColumn("left"), _LeftColumn())
        with _TwoLines(*columns, console=self.console, transient=False) as progress:
            task = progress.add_task(label, total=total, note="", left=None)

            def update(done: int, note: str = "", left: float | None = None) -> None:
                progress.update(task, completed=done, note=note, left=left)

            yield update


    @contextmanager
    def counter(self, label: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
        """As `bar`, for units that are done one by one.

        Yields:
            A function to call after each unit.
        """
        done = itertools.count(1)
        with self.bar(label, total, unit) as update:
            yield lambda: update(next(done))


def rate(done: float, seconds: float) -> str:
    """Units per second, or per minute when they are slow; empty before there is anything to tell."""
    if not done or seconds <= 0:
        return ""
    speed = done / seconds
    return f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min"


class _RateColumn(ProgressColumn):
    """Average rate since the start."""

    def render(self, task: Task) -> Text:
        return Text(rate(task.completed, task.elapsed or 0.0))


class _LeftColumn(ProgressColumn):
    """Time left, as it was told or else guessed by the units of the last half minute."""

    def render(self, task: Task) -> Text:
        told = task.fields["left"]
        seconds = told if told is not None else task.time_remaining
        return Text("-:--:--" if seconds is None else str(timedelta(seconds=round(seconds))))


class _TwoLines(Progress):
    """The bar, and below it the note."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")


class _PlainBar:
    """A progress bar for log files: a line at the start, now and then, and at the end."""

    def __init__(self, say: Callable[[str], None], label: str, total: int, unit: str) -> None:
        self._say, self._label, self._total, self._unit = say, label, total, unit
        self._start = time.monotonic()
        self._last = float("-inf")
        self._finished = False

    def update(self, done: int, note: str = "", left: float | None = None) -> None:
        now = time.monotonic()
        last_one = done >= self._total
        if self._finished or (not last_one and now - self._last < PLAIN_LINE_SECONDS):
            return
        self._last, self._finished = now, last_one
        elapsed = now - self._start
        if left is None and done >= 0.1 * self._total and done:  # the first units say little about the rest
            left = elapsed / done * (self._total - done)
        guess = "" if left is None or last_one else f", about {left:.0f} s left"
        speed = rate(done, elapsed)
        remark = f"; {note}" if note else ""
        self._say(f"{self._label}: {done}/{self._total} {self._unit} in {elapsed:.0f} s"
                  f"{f' ({speed})' if speed else ''}{guess}{remark}")
