"""Starts a command in a process group of its own, and ends the whole group when its leader ends or its owner does.

A program by itself (standard library only): `python group_watchdog.py GRACE COMMAND...`. Its owner holds the other end
of its standard input and never writes: when the owner ends, however it ends, the pipe closes. It prints the group's
number; what the command prints goes to standard error. Its exit code is the command's, 128 + n after signal n.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SHM = Path("/dev/shm")
_SHARED = ("psm_", "sem.mp-")
"""What Python's multiprocessing leaves there when it is killed."""
_PROC = Path("/proc")
_KILL_SECONDS = 5.0


def end_group(group: int, grace: float) -> None:
    """Ask a process group to end, kill what is left of it, and remove the shared memory it leaves.

    Args:
        group: Its number.
        grace: Seconds between asking and killing.
    """
    shared = _shared_memory(group)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            break
        if _gone(group, seconds):
            break
    for path in shared:
        path.unlink(missing_ok=True)


def _gone(group: int, seconds: float) -> bool:
    """Is nobody left of the group, or only the dead, within this time?"""
    end = time.monotonic() + seconds
    while any(_lives(pid) for pid in _members(group)) if _has_proc() else _exists(group):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _has_proc() -> bool:
    """Can processes be looked at? Not on macOS."""
    return (_PROC / "self" / "stat").exists()


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _members(group: int) -> list[int]:
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _group_of(pid) == group]


def _group_of(pid: int) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getpgid(pid)
    return None


def _lives(pid: int) -> bool:
    """Not ended: a process whose parent has not asked for its exit code is still listed."""
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _shared_memory(group: int) -> set[Path]:
    """Shared memory that the group's processes have open, found by its inode: a semaphore is mapped under the name it
    had while it was made.
    """
    inodes: set[int] = set()
    for pid in _members(group) if _has_proc() else ():
        with suppress(OSError):
            maps = (_PROC / str(pid) / "maps").read_text().splitlines()
            inodes |= {int(line.split()[4]) for line in maps if f" {_SHM}/" in line}
    if not inodes:
        return set()
    return {path for prefix in _SHARED for path in _SHM.glob(f"{prefix}*") if _inode(path) in inodes}


def _inode(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_ino
    return None


def watch(command: Sequence[str], grace: float) -> int:
    """Run a command as a group until it ends, standard input closes, or this process is asked to end.

    Returns:
        The exit code.
    """
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    asked = False
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    print(child.pid, flush=True)
    while child.poll() is None and not asked:
        ready, _, _ = select.select([0, wake_read], [], [])
        signals = set(os.read(wake_read, 512)) if wake_read in ready else set()
        asked = 0 in ready or bool(signals - {signal.SIGCHLD})
    # Once the leader is gone, the others have nobody to end for: no grace.
    end_group(child.pid, grace if child.poll() is None else 0.0)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(watch(sys.argv[2:], float(sys.argv[1])))
