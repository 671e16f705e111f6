"""The highest resident memory of a stretch of work, from the kernel's own high-water mark (Linux)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Peak of this process above what it held when this was made, in MB (10^6 bytes).

    What earlier work has freed is given back to the system first, so that it cannot hide a peak; the high-water mark
    is reset, so that no sampling can miss one.
    """

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _CLEAR.write_text("5")
        self._before = _status("VmRSS")

    def megabytes(self) -> float:
        """The peak since then."""
        return (_status("VmHWM") - self._before) / 1e6


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
