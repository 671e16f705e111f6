"""What annotators do: take scripts, save segments, hand scripts in. Each function is part of one transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from lpo.annotate.scripts import AnnotatedScript
from lpo.annotate.store import read_script, record
from lpo.errors import DataError

LEASE_SECONDS = 30 * 60
"""So long after an annotator's last sign of life a script is handed to nobody else."""


class WorkState(StrEnum):
    """Where an annotator's version of a script stands."""

    OPEN = "open"
    FINISHED = "finished"
    """Handed in; waits for an inspector, if there is one."""
    ACCEPTED = "accepted"
    RETURNED = "returned"
    """An inspector wants changes."""

    @property
    def editable(self) -> bool:
        """May the annotator change it?"""
        return self in (WorkState.OPEN, WorkState.RETURNED)

    @property
    def handed_in(self) -> bool:
        """Is it finished, as far as its annotator is concerned?"""
        return not self.editable


class OutdatedError(DataError):
    """What somebody wants to change is no longer as they saw it."""


@dataclass(frozen=True)
class Edit:
    """A segment as it stands in an annotator's text box.

    Args:
        script: Number of the script.
        segment: 0-based.
        annotator: Whose version.
        text: Without white space at its ends.
        note: For the inspector.
        done: Does the annotator take it for done?
        base: The version the page had when it began to change it; 0 for none.
        tab: Names the open page.
        sequence: Counts up with every save of that page.
        seconds: The page's working time on this script, in all.
    """

    script: int
    segment: int
    annotator: str
    text: str
    note: str
    done: bool
    base: int
    tab: str
    sequence: int
    seconds: float


@dataclass(frozen=True)
class Saved:
    """The edit is stored under this version."""

    version: int
    at: float


@dataclass(frozen=True)
class Conflict:
    """Somebody (the same annotator, in another tab) saved something else meanwhile; nothing was stored."""

    text: str
    note: str
    done: bool
    version: int


def save(db: sqlite3.Connection, now: float, edit: Edit) -> Saved | Conflict:
    """Store an edit unless it would overwrite what its page has not seen.

    A page's own saves follow one another by `sequence`: one that was already stored (its acknowledgement was lost), or
    is older than what is stored, changes nothing.

    Raises:
        DataError: There is no such segment.
        OutdatedError: The script was handed in.
    """
    script = read_script(db, edit.script)
    if not 0 <= edit.segment < len(script.segments):
        raise DataError("no such segment", where=f"script {edit.script}, segment {edit.segment}")
    if not open_work(db, now, edit.script, edit.annotator).editable:
        raise OutdatedError("this script was handed in: it can no longer be changed", mend="take it back first")
    _count_time(db, edit)
    row = read_edit(db, edit.script, edit.segment, edit.annotator)
    if row is not None:
        mine = row["tab"] == edit.tab
        equal = (row["text"], row["note"], bool(row["done"])) == (edit.text, edit.note, edit.done)
        if (mine and edit.sequence <= row["sequence"]) or (not mine and equal):
            return Saved(row["version"], now)
        if not mine and row["version"] != edit.base:
            return Conflict(row["text"], row["note"], bool(row["done"]), row["version"])
        if not mine:  # each page that goes on from here leaves what it found in the history
            record(db, now, edit.annotator, "edited again", script=edit.script, annotator=edit.annotator,
                   segment=edit.segment, text_before=row["text"])
    version = 1 if row is None else row["version"] + 1
    db.execute(
        "INSERT INTO edits (script, segment, annotator, text, note, done, version, tab, sequence) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text, note = excluded.note, "
        "done = excluded.done, version = excluded.version, tab = excluded.tab, sequence = excluded.sequence",
        (edit.script, edit.segment, edit.annotator, edit.text, edit.note, edit.done, version, edit.tab, edit.sequence))
    if row is None:
        record(db, now, edit.annotator, "began", script=edit.script, annotator=edit.annotator, segment=edit.segment)
    return Saved(version, now)


def open_work(db: sqlite3.Connection, now: float, script: int, annotator: str) -> WorkState:
    """Open a script for an annotator, or renew the lease: while it lasts, nobody else is handed this script.

    Raises:
        DataError: There is no such script.
    """
    row = read_work(db, script, annotator)
    if row is None:
        if db.execute("SELECT 1 FROM scripts WHERE number = ?", (script,)).fetchone() is None:
            raise DataError("no such script", where=str(script))
        db.execute("INSERT INTO works (script, annotator, state, version, lease_until) VALUES (?, ?, ?, 1, ?)",
                   (script, annotator, WorkState.OPEN, now + LEASE_SECONDS))
        record(db, now, annotator, "opened", script=script, annotator=annotator)
        return WorkState.OPEN
    state = WorkState(row["state"])
    if state.editable:
        db.execute("UPDATE works SET lease_until = ? WHERE script = ? AND annotator = ?",
                   (now + LEASE_SECONDS, script, annotator))
    return state


def next_script(db: sqlite3.Connection, now: float, annotator: str) -> int | None:
    """The script an annotator should work on, leased to them; None when there is none.

    First what an inspector returned to them, then what they began, then the first script that nobody has handed in,
    holds a lease of, or has begun; then those that others began and let lie.
    """
    own = db.execute(
        "SELECT script FROM works WHERE annotator = ? AND state IN (?, ?) ORDER BY state = ? DESC, script LIMIT 1",
        (annotator, WorkState.RETURNED, WorkState.OPEN, WorkState.RETURNED)).fetchone()
    if own is not None:
        open_work(db, now, own["script"], annotator)
        return own["script"]
    free = db.execute(
        "SELECT number, EXISTS (SELECT 1 FROM edits WHERE script = number) AS begun FROM scripts "
        "WHERE NOT EXISTS (SELECT 1 FROM works WHERE script = number AND (state != ? OR lease_until > ?)) "
        "ORDER BY begun, number LIMIT 1", (WorkState.OPEN, now)).fetchone()
    if free is None:
        return None
    open_work(db, now, free["number"], annotator)
    return free["number"]


def finish(db: sqlite3.Connection, now: float, script: int, annotator: str, version: int) -> None:
    """Hand a script in. The history keeps the texts as handed in.

    Raises:
        DataError: A segment is not marked as done.
        OutdatedError: It is no longer open, or not in the version that was seen.
    """
    _check_version(db, script, annotator, version, editable=True)
    segments = read_script(db, script).segments
    edits = read_edits(db, script, annotator)
    undone = [number + 1 for number in range(len(segments)) if number not in edits or not edits[number]["done"]]
    if undone:
        raise DataError(f"{len(undone)} of {len(segments)} segments are not marked as done, the first is {undone[0]}",
                        mend="mark each segment as done, those that stay as they are as well")
    db.execute("UPDATE edits SET rejected = NULL, rejected_by = NULL WHERE script = ? AND annotator = ?",
               (script, annotator))
    db.execute("UPDATE works SET state = ?, version = version + 1, lease_until = 0, finished_at = ?, "
               "decided_by = NULL, reason = NULL WHERE script = ? AND annotator = ?",
               (WorkState.FINISHED, now, script, annotator))
    record(db, now, annotator, "handed in", script=script, annotator=annotator,
           texts=[edits[number]["text"] for number in range(len(segments))])


def take_back(db: sqlite3.Connection, now: float, script: int, annotator: str, version: int) -> None:
    """Open a script again that waits for an inspector.

    Raises:
        OutdatedError: It does not wait any more, or not in the version that was seen.
    """
    _check_version(db, script, annotator, version, editable=False)
    row = read_work(db, script, annotator)
    if row is None or row["state"] != WorkState.FINISHED:
        raise OutdatedError("an inspector has accepted this script", mend="ask the inspector to return it")
    db.execute("UPDATE works SET state = ?, version = version + 1, lease_until = ? WHERE script = ? AND annotator = ?",
               (WorkState.OPEN, now + LEASE_SECONDS, script, annotator))
    record(db, now, annotator, "taken back", script=script, annotator=annotator)


def read_work(db: sqlite3.Connection, script: int, annotator: str) -> sqlite3.Row | None:
    """The row of an annotator's version of a script."""
    return db.execute("SELECT * FROM works WHERE script = ? AND annotator = ?", (script, annotator)).fetchone()


def read_edit(db: sqlite3.Connection, script: int, segment: int, annotator: str) -> sqlite3.Row | None:
    """The row of an annotator's version of a segment."""
    return db.execute("SELECT * FROM edits WHERE script = ? AND segment = ? AND annotator = ?",
                      (script, segment, annotator)).fetchone()


def read_edits(db: sqlite3.Connection, script: int, annotator: str) -> dict[int, sqlite3.Row]:
    """The rows of an annotator's version of a script, by segment."""
    rows = db.execute("SELECT * FROM edits WHERE script = ? AND annotator = ?", (script, annotator))
    return {row["segment"]: row for row in rows}


def texts_of(db: sqlite3.Connection, number: int, script: AnnotatedScript, annotator: str) -> list[str]:
    """The texts of an annotator's version of a script: as edited, or as the box holds them at first."""
    edits = read_edits(db, number, annotator)
    return [edits[index]["text"] if index in edits else segment.prefilled
            for index, segment in enumerate(script.segments)]


def seconds_of(db: sqlite3.Connection, script: int, annotator: str) -> float:
    """Working time on an annotator's version of a script, in seconds."""
    row = db.execute("SELECT total(seconds) FROM clocks WHERE script = ? AND annotator = ?", (script, annotator))
    return float(row.fetchone()[0])


def _count_time(db: sqlite3.Connection, edit: Edit) -> None:
    """Pages send their totals, so that a save that comes twice counts once."""
    db.execute("INSERT INTO clocks (script, annotator, tab, seconds) VALUES (?, ?, ?, ?) "
               "ON CONFLICT DO UPDATE SET seconds = max(seconds, excluded.seconds)",
               (edit.script, edit.annotator, edit.tab, edit.seconds))


def _check_version(db: sqlite3.Connection, script: int, annotator: str, version: int, *, editable: bool) -> None:
    row = read_work(db, script, annotator)
    if row is None or row["version"] != version or WorkState(row["state"]).editable != editable:
        raise OutdatedError("this script has changed meanwhile", mend="look at it again")
