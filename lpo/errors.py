"""Every error a user can meet: one line of cause, where it is, one line of mend, and the exit code it leads to."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpo.records import Usage


class ExitCode(IntEnum):
    """What the `lpo` command exits with."""

    OK = 0
    FAILED = 1
    """Something unforeseen; run again with --debug for the traceback."""
    BAD_INPUT = 2
    """The configuration or a data file is wrong; nothing was started."""
    NOTHING_LEFT = 3
    """Every row was rejected; the reasons are printed and stored."""
    LOCKED = 4
    """Another process works in this run directory."""
    BACKEND = 5
    """A model or a server could not be used."""
    UNSOUND = 6
    """A self-check failed: going on would have produced wrong numbers."""
    BUDGET = 7
    """The budget is spent; raise it and run the same command again."""
    INTERRUPTED = 130


class LpoError(Exception):
    """An error with a cause, a place and a mend.

    Args:
        cause: What is wrong, in one line.
        where: The file, row, key or path it is about.
        mend: What to do about it, in one line.

    Attributes:
        usage: What model calls took before it, where that is known.
    """

    exit_code = ExitCode.FAILED
    usage: Usage | None = None

    def __init__(self, cause: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.where = where
        self.mend = mend

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.cause, self.where, self.mend)

    def __str__(self) -> str:
        """The error as the three lines a person reads."""
        lines = [f"{self.where}: {self.cause}" if self.where else self.cause]
        if self.mend:
            lines.append(f"  -> {self.mend}")
        return "\n".join(lines)


def _rebuild(kind: type[LpoError], cause: str, where: str | None, mend: str | None) -> LpoError:
    """Unpickle an error: keyword arguments do not survive `Exception`'s own protocol."""
    return kind(cause, where=where, mend=mend)


class ConfigError(LpoError, ValueError):
    """The configuration cannot be used."""

    exit_code = ExitCode.BAD_INPUT


class DataError(LpoError, ValueError):
    """A data file or a row of it cannot be used."""

    exit_code = ExitCode.BAD_INPUT


class NothingLeftError(LpoError):
    """Every row was rejected."""

    exit_code = ExitCode.NOTHING_LEFT


class RunLockedError(LpoError):
    """Another process works in the run directory."""

    exit_code = ExitCode.LOCKED


class BackendError(LpoError):
    """A model or a server could not be used: it is missing, refuses the key, or keeps failing."""

    exit_code = ExitCode.BACKEND


class RequestRejectedError(BackendError):
    """The server refuses this one request (too long, malformed, filtered): other rows are not affected."""


class NotCalledError(LpoError):
    """A call was not made, and nothing was paid: the user stopped the run, or its budget is spent."""


class StoppedError(NotCalledError):
    """The user asked the run to stop: calls in flight were finished and stored, no new one was made."""

    exit_code = ExitCode.INTERRUPTED


class BudgetSpentError(NotCalledError):
    """The budget is spent: calls in flight were finished and stored, no new one was made."""

    exit_code = ExitCode.BUDGET


class UnsoundError(LpoError):
    """A self-check failed, so that going on would produce wrong numbers."""

    exit_code = ExitCode.UNSOUND
