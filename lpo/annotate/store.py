"""The data base of a run's annotations: one SQLite file, in which an acknowledged change is safe."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lpo.annotate.scripts import AnnotatedScript
from lpo.errors import ConfigError, DataError, LpoError
from lpo.records import fingerprint

SCHEMA_VERSION = 1

_SCHEMA = f"""
CREATE TABLE scripts (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL, title TEXT NOT NULL,
  segments INTEGER NOT NULL, missing INTEGER NOT NULL, content TEXT NOT NULL);
CREATE TABLE edits (
  script INTEGER NOT NULL REFERENCES scripts, segment INTEGER NOT NULL, annotator TEXT NOT NULL,
  text TEXT NOT NULL, note TEXT NOT NULL, done INTEGER NOT NULL, version INTEGER NOT NULL,
  tab TEXT NOT NULL, sequence INTEGER NOT NULL,
  rejected TEXT, rejected_by TEXT,
  PRIMARY KEY (script, segment, annotator)) WITHOUT ROWID;
CREATE TABLE works (
  script INTEGER NOT NULL REFERENCES scripts, annotator TEXT NOT NULL, state TEXT NOT NULL, version INTEGER NOT NULL,
  lease_until REAL NOT NULL, finished_at REAL, decided_by TEXT, reason TEXT,
  PRIMARY KEY (script, annotator)) WITHOUT ROWID;
CREATE TABLE clocks (
  script INTEGER NOT NULL REFERENCES scripts, annotator TEXT NOT NULL, tab TEXT NOT NULL, seconds REAL NOT NULL,
  PRIMARY KEY (script, annotator, tab)) WITHOUT ROWID;
CREATE TABLE events (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
  script INTEGER, annotator TEXT, segment INTEGER, detail TEXT NOT NULL);
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
  BEGIN SELECT RAISE(ABORT, 'events are only ever appended'); END;
CREATE TRIGGER events_are_never_removed BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'events are only ever appended'); END;
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True)
class Synced:
    """What `Store.sync` did.

    Args:
        added: Scripts that were not known.
        known: Scripts that were.
    """

    added: int
    known: int


class Store:
    """The annotations of one run. May be used from several threads.

    Write-ahead log with `synchronous=FULL`: a commit, and so every acknowledged save, outlives a kill of this process
    and a loss of power; a person's keystrokes come slowly enough for an fsync each.

    Args:
        path: The file; made when missing.
        clock: Seconds since 1970.

    Raises:
        DataError: The file is no data base of annotations, or of another version of lpo.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(f"this is no data base of annotations: {error}", where=str(path),
                            mend="set the file aside and start again") from None
        except LpoError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when the block has ended, or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the data base, whoever writes meanwhile."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    def sync(self, scripts: Iterable[AnnotatedScript]) -> Synced:
        """Take the scripts of a run: new ones are added; known ones must be as they were once somebody works on them.

        Raises:
            ConfigError: A script on which somebody has worked is another one now, or gone.
        """
        wanted = {script.id: script for script in scripts}
        with self.writing() as db:
            known = {row["id"]: row for row in db.execute("SELECT number, id, fingerprint FROM scripts")}
            worked = {row["script"] for row in db.execute("SELECT DISTINCT script FROM edits")}
            changed = [row for name, row in known.items()
                       if name not in wanted or row["fingerprint"] != identity(wanted[name])]
            lost = [row["id"] for row in changed if row["number"] in worked]
            if lost:
                raise ConfigError(
                    f"{len(lost)} annotated scripts are no longer what the trees hold, the first is {lost[0]!r}",
                    where=str(self.path), mend="export them (--export FILE), then set this file aside; or cut the "
                    "answers as before (--by)")
            for row in changed:
                for table, column in (("works", "script"), ("clocks", "script"), ("scripts", "number")):
                    db.execute(f"DELETE FROM {table} WHERE {column} = ?", (row["number"],))
            kept = known.keys() - {row["id"] for row in changed}
            for script in wanted.values():
                if script.id not in kept:
                    missing = sum(not segment.original.strip() for segment in script.segments)
                    db.execute("INSERT INTO scripts (id, fingerprint, title, segments, missing, content) "
                               "VALUES (?, ?, ?, ?, ?, ?)",
                               (script.id, identity(script), script.title, len(script.segments), missing,
                                json.dumps(script.to_json(), ensure_ascii=False)))
            return Synced(added=len(wanted.keys() - kept), known=len(kept))

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DataError(f"its schema is version {version}, this lpo reads version {SCHEMA_VERSION}",
                            where=str(self.path), mend="use the version of lpo that wrote it")
        if version == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise DataError("this data base holds something else", where=str(self.path),
                            mend="set the file aside and start again")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if version == 0:
            # A kill in the middle leaves an empty data base: the schema and its version are one transaction.
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def identity(script: AnnotatedScript) -> str:
    """Hash of what people are shown of a script."""
    return fingerprint(script)


def read_script(db: sqlite3.Connection, number: int) -> AnnotatedScript:
    """A script by its number.

    Raises:
        DataError: There is none.
    """
    row = db.execute("SELECT content FROM scripts WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise DataError("no such script", where=str(number))
    return parse_script(row["content"])


def parse_script(content: str) -> AnnotatedScript:
    """A stored script.

    Raises:
        DataError: It was damaged.
    """
    try:
        return AnnotatedScript.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"a stored script is damaged: {error.errors()[0]['msg']}",
                        mend="set the data base aside and start again") from None


def record(db: sqlite3.Connection, at: float, who: str, what: str, *, script: int | None = None,
           annotator: str | None = None, segment: int | None = None, **detail: Any) -> None:
    """Append an event to the history."""
    db.execute("INSERT INTO events (at, who, what, script, annotator, segment, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
               (at, who, what, script, annotator, segment, json.dumps(detail, ensure_ascii=False)))


def history(db: sqlite3.Connection, script: int, annotator: str) -> list[dict[str, Any]]:
    """What happened to an annotator's version of a script, the first event first."""
    rows = db.execute("SELECT at, who, what, segment, detail FROM events WHERE script = ? AND annotator = ? "
                      "ORDER BY number", (script, annotator))
    return [{"at": row["at"], "who": row["who"], "what": row["what"], "segment": row["segment"],
             **json.loads(row["detail"])} for row in rows]
