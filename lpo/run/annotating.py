"""`lpo annotate`: people correct the answers of a run on a page of this machine, and their corrections are exported."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

from lpo.annotate.export import Export, export
from lpo.annotate.scripts import Intake, scripts_of
from lpo.annotate.store import Store
from lpo.config import raise_issues, suggestion, validate
from lpo.errors import BackendError, ConfigError, DataError, NothingLeftError
from lpo.run.directory import RunDirectory, Stage, find_run
from lpo.run.trees import read_trees
from lpo.segmentation import split_segments
from lpo.storage import write_jsonl
from lpo.writing_config import SegmentsConfig

DATABASE = "annotations.sqlite"
LOCK = ".annotate.lock"
CUTS = tuple(name for name in get_args(SegmentsConfig.model_fields["by"].annotation) if name != "separator")
"""Ways to cut that need no further setting."""


def annotate(run: str, *, by: str | None, host: str, port: int, token_env: str | None,
             say: Callable[[str], None]) -> None:
    """Serve the page until somebody asks this process to end.

    The run's own lock is not needed: nothing but the data base of annotations is written, so a run may train on while
    people correct. One server a run, though: it has a lock of its own.

    Args:
        run: A run directory, or its name under runs/; its build is complete.
        by: How answers are cut whose trees hold no script; None as the run's `build.segments` says.
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.
        token_env: Environment variable that holds the key; None for a new one.
        say: Prints a line.

    Raises:
        BackendError: The libraries are missing, or the port cannot be had.
        ConfigError: An option is wrong, or the annotated scripts are no longer those of the trees.
        DataError: There is no such run, its build is not complete, or a file is damaged.
        NothingLeftError: There is nothing to correct.
        RunLockedError: Another server has this run.
    """
    try:
        import uvicorn

        from lpo.annotate.security import is_loopback, key_from, new_key
        from lpo.annotate.server import make_app
    except ImportError as error:
        raise BackendError(f"the page needs {error.name}, which is not installed",
                           mend="pip install 'longform-lpo[annotate]'") from None
    directory = find_run(run)
    key = key_from(token_env) if token_env is not None else new_key()
    with _sigterm_as_ctrl_c(), directory.locked(LOCK, busy="the annotations of this run are open already",
                                                mend="open the address it printed, or end it"):
        store, lines = opened(directory, by)
        try:
            # The server ends in order at Ctrl-C, and then sends itself the signal again.
            with suppress(KeyboardInterrupt), _listening(host, port) as listener:
                port = listener.getsockname()[1]
                for line in lines:
                    say(line)
                if not is_loopback(host):
                    say(f"warning: {host} can be reached from other machines, and what goes over the network is not "
                        "encrypted; an ssh tunnel to 127.0.0.1 is")
                shown = key if token_env is None else f"THE-VALUE-OF-{token_env}"
                say(f"open http://{_reachable(host)}:{port}/?key={shown}")
                say("Ctrl-C ends it; every change is stored at once, and the same command goes on")
                app = make_app(store, run=directory.path.resolve().name, key=key, bound=host)
                # The log of requests would hold the key.
                server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                                                       proxy_headers=False, ws="none", timeout_graceful_shutdown=3))
                server.run(sockets=[listener])
            say(f"ended; the corrections are in {store.path}")
        finally:
            store.close()


def export_corrections(run: str, file: Path, *, accepted_only: bool) -> list[str]:
    """Write the corrections of a run to a file; a server may be at work.

    Returns:
        What was exported, as lines for a person.

    Raises:
        DataError: There is no such run, or nobody has annotated it.
    """
    directory = find_run(run)
    path = directory / DATABASE
    if not path.exists():
        raise DataError("nobody has annotated this run yet", where=str(directory.path), mend=f"lpo annotate {run}")
    store = Store(path)
    try:
        with store.reading() as db:
            made: Export = export(db, accepted_only=accepted_only)
    finally:
        store.close()
    write_jsonl(file, made.rows)
    return [*made.lines(), f"written: {file}"]


def opened(directory: RunDirectory, by: str | None) -> tuple[Store, list[str]]:
    """The store of a run's annotations, with its scripts in it, and what is in it, as lines for a person."""
    directory.require(Stage.BUILD)
    segments = _segments(directory, by)
    intake = scripts_of(read_trees(directory / "trees.jsonl"), lambda text: split_segments(text, segments))
    if by is not None and not intake.cut_here:
        raise ConfigError("every script of this run is cut already: --by would change nothing", where="--by",
                          mend="leave it out")
    if not intake.scripts:
        raise NothingLeftError(f"there is nothing to correct; {_skipped(intake)}", where=str(directory.path),
                               mend="annotate a run of method iterdpo, best_of_n or agent_write")
    store = Store(directory / DATABASE)
    try:
        synced = store.sync(intake.scripts)
    except BaseException:
        store.close()
        raise
    total = sum(len(script.segments) for script in intake.scripts)
    lines = [f"{len(intake.scripts)} scripts with {total} segments"
             + (f", {synced.added} of them new" if synced.known and synced.added else "")]
    if intake.cut_here:
        lines.append(f"  {intake.cut_here} of them are best answers, cut by {segments.by}")
    if intake.skipped:
        lines.append(f"  skipped {_skipped(intake)}")
    return store, lines


def _segments(directory: RunDirectory, by: str | None) -> SegmentsConfig:
    if by is not None:
        if by not in CUTS:
            raise ConfigError(f"there is no {by!r}{suggestion(by, CUTS)}", where="--by",
                              mend=f"one of: {', '.join(CUTS)}")
        return SegmentsConfig.model_validate({"by": by})
    config, issues = validate(directory.stored_values())
    raise_issues(issues, str(directory / "config.yaml"))
    assert config is not None
    return config.build.segments


def _skipped(intake: Intake) -> str:
    reasons = (f"{count} ({reason})" for reason, count in intake.skipped.most_common())
    return f"trees: {', '.join(reasons)}" if intake.skipped else "no trees"


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; before anything is said, so that the address printed is true."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"no such port: {port}", where="--port", mend="a port is at most 65535; 0 is any free one")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ConfigError(f"no such address: {host}", where="--host", mend="use 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the same port again after a restart
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BackendError(f"port {port} cannot be had: {(error.strerror or str(error)).lower()}", where=host,
                           mend="end what listens there, or choose another one: --port") from None
    return listener


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """A request to end is taken as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
