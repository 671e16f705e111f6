"""A command with all its children, which never outlives the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lpo.errors import BackendError
from lpo.run import group_watchdog

_GRACE = 5.0
"""Seconds between asking a group to end and killing it: vLLM waits for its clients, and they for it."""


class ProcessGroup:
    """Starts a command in a group and a session of its own, guarded from both sides.

    A small process beside it ends the group when this process ends, even by `kill -9`; when that small process is
    killed, this one ends the group.

    Args:
        command: What is run.
        log: File to which its output is appended.
        environment: Of the command.

    Raises:
        BackendError: The command cannot be started.
    """

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        guard = [sys.executable, "-I", group_watchdog.__file__, str(_GRACE), *command]
        with log.open("ab") as output:
            # The guard starts the command, so there is no moment in which the group is not guarded.
            self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                                           env=dict(environment), start_new_session=True)
        assert self._guard.stdout is not None
        number = self._guard.stdout.readline().strip()
        if not number:
            self._guard.wait()
            raise BackendError(f"{command[0]} cannot be started", where=str(log), mend="read the end of this file")
        self.number = int(number)

    def poll(self) -> int | None:
        """The command's exit code once it ended (128 + n after signal n), else None."""
        code = self._guard.poll()
        if code is not None and code < 0:  # the guard was killed, and with it what kept the group from being left over
            group_watchdog.end_group(self.number, 0.0)
            return 128 - code
        return code

    def stop(self) -> None:
        """End the group and wait until it is gone."""
        assert self._guard.stdin is not None and self._guard.stdout is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._guard.stdout.close()
        self.poll()

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def process_environment(**extra: str) -> dict[str, str]:
    """This process's environment with additions."""
    return {**os.environ, **extra}
