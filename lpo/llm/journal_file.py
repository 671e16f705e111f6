"""The journal's SQLite file: opened, inspected, repaired and written to.

A file that is corrupt or of another version is set aside, never used and never deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lpo.errors import LpoError, RunLockedError
from lpo.records import Usage

SCHEMA_VERSION = 2

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE replies (key TEXT PRIMARY KEY, purpose TEXT NOT NULL, value TEXT NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE calls (outcome TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE spent (calls INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
                    seconds REAL NOT NULL, cost REAL);
INSERT INTO spent VALUES (0, 0, 0, 0, NULL);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a call that reached the model. Calls cut off by a kill or a cancellation are not finished."""

    ANSWER = "answer"
    """Stored."""
    CUT = "cut"
    """Ended at the token limit where that is no answer."""
    REFUSED = "refused"
    """Filtered or refused."""
    REJECTED = "rejected"
    """The server would not take this request."""
    FAILED = "failed"
    """The back end could not be used."""


@dataclass(frozen=True)
class Entry:
    """A finished call.

    Args:
        key: From `request_key`.
        purpose: Of the request.
        outcome: Only an answer is stored; everything else is counted.
        usage: What it took; it is paid whatever the outcome.
        value: The answer as JSON text, its usage under `usage`.
    """

    key: str
    purpose: str
    outcome: Outcome
    usage: Usage
    value: str = ""


def _checksum(key: str, value: str) -> str:
    return hashlib.sha256(f"{key}\n{value}".encode()).hexdigest()[:16]


class JournalFile:
    """The file, open. One writer at a time.

    Args:
        path: Made when missing. A file that is corrupt or of another version is renamed to `<name>.broken-<n>` with a
            warning, and every reply in it that is provably whole is taken over.

    Raises:
        RunLockedError: Another process writes to it.
        LpoError: The file cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open(path)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self, key: str) -> str | None:
        """The stored answer, as JSON text; None when there is none.

        Raises:
            LpoError: The file cannot be read, or the reply does not match its checksum.
        """
        try:
            row = self._connection.execute("SELECT value, checksum FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from None
        if row is None:
            return None
        if not _is_whole(key, row[0], row[1]):
            raise LpoError("a stored reply changed while the file was open", where=str(self.path),
                           mend="check the disk, then run again: the file is inspected and repaired at the start")
        return row[0]

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit entries and what they took in one transaction: all of it or nothing.

        Raises:
            LpoError: The file cannot be written to.
        """
        try:
            with _transaction(self._connection) as connection:
                for entry in entries:
                    if entry.outcome is Outcome.ANSWER:
                        _insert(connection, entry.key, entry.purpose, entry.value)
                counted = Counter(entry.outcome for entry in entries)
                connection.executemany("INSERT INTO calls VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                                       counted.items())
                _add_spent(connection, total(entry.usage for entry in entries))
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from None

    def entries(self) -> int:
        """How many replies are stored."""
        return _count(self._connection)

    def calls(self) -> dict[Outcome, int]:
        """How many calls ever finished, by outcome."""
        rows = self._connection.execute("SELECT outcome, n FROM calls")
        return {**dict.fromkeys(Outcome, 0), **{Outcome(name): int(n) for name, n in rows}}

    def spent(self) -> Usage:
        """What all calls ever took that finished, whatever became of them."""
        return _spent(self._connection)


def copy_journal(source: Path, target: Path) -> None:
    """Give another run the replies of this one. What they took stays on this one's account.

    Args:
        source: A journal; another process may be writing to it.
        target: A file that does not exist yet.

    Raises:
        LpoError: One of them cannot be used.
    """
    try:
        with closing(_connect(source)) as old, closing(_connect(target)) as new:
            old.backup(new)
            if new.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                new.execute("UPDATE spent SET calls = 0, tokens_in = 0, tokens_out = 0, seconds = 0, cost = NULL")
    except sqlite3.Error as error:
        raise _unusable(source, error) from None


def total(usages: Iterable[Usage]) -> Usage:
    """The sum."""
    return sum(usages, Usage())


def _spent(connection: sqlite3.Connection) -> Usage:
    calls, tokens_in, tokens_out, seconds, cost = connection.execute("SELECT * FROM spent").fetchone()
    return Usage(calls=calls, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, cost=cost)


def _add_spent(connection: sqlite3.Connection, usage: Usage) -> None:
    connection.execute(
        "UPDATE spent SET calls = calls + ?1, tokens_in = tokens_in + ?2, tokens_out = tokens_out + ?3, "
        "seconds = seconds + ?4, cost = coalesce(cost + ?5, cost, ?5)",
        (usage.calls, usage.tokens_in, usage.tokens_out, usage.seconds, usage.cost),
    )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back already
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, key: str, purpose: str, value: str) -> bool:
    """Store a reply; False when there is one."""
    row = (key, purpose, value, _checksum(key, value))
    return connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", row).rowcount > 0


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])


def _open(path: Path) -> sqlite3.Connection:
    """Open a sound file; set an unsound one aside first."""
    connection = _connect(path)
    damage = _damage(connection)
    if damage is None:
        return _prepare(connection)
    connection.close()
    broken = _set_aside(path)
    connection = _prepare(_connect(path))
    saved = _take_over(broken, connection)
    _log.warning("%s: %s; the file is kept as %s, %d replies were taken over", path, damage, broken.name, saved)
    return connection


def _prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.executescript(_SCHEMA)
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Notebooks run the event loop on another thread than the one that opened the file; only one is ever at work.
    return sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)


def _damage(connection: sqlite3.Connection) -> str | None:
    """Why the file cannot be trusted; None for a sound file and for an empty one."""
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables == 0:
            return None
        if version != SCHEMA_VERSION:
            return f"the journal has version {version}, this program writes version {SCHEMA_VERSION}"
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            return f"the journal is corrupt ({' '.join(str(verdict).split())})"
        bad = sum(1 for row in connection.execute("SELECT key, value, checksum FROM replies") if not _is_whole(*row))
        return f"the journal is corrupt ({bad} replies do not match their checksums)" if bad else None
    except sqlite3.DatabaseError as error:
        if _error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR",
                                          "SQLITE_PERM", "SQLITE_READONLY", "SQLITE_FULL")):
            raise
        return f"the journal is corrupt ({error})"


def _is_whole(key: object, value: object, checksum: object) -> bool:
    return isinstance(key, str) and isinstance(value, str) and checksum == _checksum(key, value)


def _set_aside(path: Path) -> Path:
    number = 1
    while path.with_name(f"{path.name}.broken-{number}").exists():
        number += 1
    broken = path.with_name(f"{path.name}.broken-{number}")
    for suffix in ("", "-wal", "-shm"):  # the log is part of the file
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(broken.with_name(broken.name + suffix))
    return broken


def _take_over(broken: Path, connection: sqlite3.Connection) -> int:
    """Copy every reply of a broken file that matches its checksum. Read from both ends: a bad page stops a scan."""
    source = _connect(broken)
    paid = Usage()
    with _transaction(connection):
        for order in ("ASC", "DESC"):
            with suppress(sqlite3.DatabaseError):
                if source.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                    break
                for row in source.execute(f"SELECT key, purpose, value, checksum FROM replies ORDER BY rowid {order}"):
                    if _is_whole(row[0], row[2], row[3]) and _insert(connection, row[0], str(row[1]), row[2]):
                        paid += Usage.model_validate(json.loads(row[2])["usage"])
        saved = _count(connection)
        # The old counters are lost with the file; what was taken over was called once.
        connection.execute("INSERT INTO calls VALUES (?, ?)", (Outcome.ANSWER, saved))
        _add_spent(connection, _still_readable(source) or paid)
    source.close()
    return saved


def _still_readable(source: sqlite3.Connection) -> Usage | None:
    """The totals of a broken file; a damaged page elsewhere leaves them legible."""
    try:
        return _spent(source) if source.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION else None
    except (sqlite3.DatabaseError, TypeError, ValueError):
        return None


def _unusable(path: Path, error: sqlite3.Error | OSError) -> LpoError:
    name = _error_name(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return RunLockedError("another process writes to the journal", where=str(path),
                              mend="wait for it to end, or stop it, and run again")
    if name.startswith("SQLITE_FULL"):
        return LpoError("the disk is full; the replies of the last moment are not stored", where=str(path),
                        mend="free space and run again: everything stored before is kept")
    return LpoError(f"the journal cannot be used: {error}", where=str(path),
                    mend="check that the folder exists on a local disk and may be written to, then run again")


def _error_name(error: BaseException) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
