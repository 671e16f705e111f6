"""Progress a person can follow: bars with rates and time left in a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_LINE_SECONDS = 15.0
"""Without a terminal, a long stage says where it is this often."""


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
    def bar(self, label: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """Follow a stage of `total` units.

        Yields:
            A function to call with how many units are done now and a short note about the state.
        """
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                       _RateColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                       TextColumn("{task.fields[note]}"))
            with Progress(*columns, console=self.console, transient=False) as progress:
                task = progress.add_task(label, total=total, note="")
                yield lambda done, note="": progress.update(task, completed=done, note=escape(note))
        else:
            yield _PlainBar(self.say, label, total, unit).update


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


class _PlainBar:
    """A progress bar for log files: a line at the start, now and then, and at the end."""

    def __init__(self, say: Callable[[str], None], label: str, total: int, unit: str) -> None:
        self._say, self._label, self._total, self._unit = say, label, total, unit
        self._start = time.monotonic()
        self._last = float("-inf")
        self._finished = False

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        last_one = done >= self._total
        if self._finished or (not last_one and now - self._last < PLAIN_LINE_SECONDS):
            return
        self._last, self._finished = now, last_one
        elapsed = now - self._start
        guess = not last_one and done >= 0.1 * self._total  # the first units say little about the rest
        left = f", about {elapsed / done * (self._total - done):.0f} s left" if guess else ""
        speed = rate(done, elapsed)
        remark = f"; {note}" if note else ""
        self._say(f"{self._label}: {done}/{self._total} {self._unit} in {elapsed:.0f} s"
                  f"{f' ({speed})' if speed else ''}{left}{remark}")
