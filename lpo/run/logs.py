"""The run's log: one JSON object per line, with every configured secret struck out."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpo.config import RunConfig


def secrets_of(config: RunConfig) -> list[str]:
    """Values of the environment variables that the configuration names as keys."""
    names = [model.api_key_env for model in (config.policy, config.judge, config.critic) if model is not None]
    return [os.environ[name] for name in names if name and os.environ.get(name)]


class JsonLines(logging.Formatter):
    """Formats records as JSON lines.

    Args:
        secrets: Strings that must never be written.
    """

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created)),
                 "level": record.levelname, "name": record.name, "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        line = json.dumps(entry, ensure_ascii=False)
        for secret in self._secrets:
            line = line.replace(json.dumps(secret, ensure_ascii=False)[1:-1], "***")
        return line


@contextmanager
def log_to(path: Path, config: RunConfig) -> Iterator[None]:
    """Write the library's log records to a file while the run works."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines(secrets_of(config)))
    root = logging.getLogger("lpo")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        # for the file alone: a person gets one line of cause and one of mend
        handler.handle(root.makeRecord("lpo.run", logging.ERROR, __file__, 0, "the run stopped", (), sys.exc_info()))
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
