"""What inspectors do: reject segments, accept scripts or send them back. Each function is part of one transaction."""

from __future__ import annotations

import sqlite3

from lpo.annotate.store import record
from lpo.annotate.work import OutdatedError, WorkState, read_edit, read_work
from lpo.errors import DataError


def mark(db: sqlite3.Connection, now: float, inspector: str, *, script: int, annotator: str, segment: int,
         version: int, reason: str | None) -> None:
    """Reject a segment with a reason, or withdraw that. The annotator sees it once the script is sent back.

    Raises:
        DataError: There is no such segment.
        OutdatedError: The script does not wait for an inspector any more, or not in the version that was seen.
    """
    _check(db, script, annotator, version, {WorkState.FINISHED})
    row = read_edit(db, script, segment, annotator)
    if row is None:
        raise DataError("no such segment", where=f"script {script}, segment {segment}")
    db.execute("UPDATE edits SET rejected = ?, rejected_by = ? WHERE script = ? AND segment = ? AND annotator = ?",
               (reason, inspector if reason is not None else None, script, segment, annotator))
    record(db, now, inspector, "segment rejected" if reason is not None else "rejection withdrawn", script=script,
           annotator=annotator, segment=segment, reason=reason or "")


def decide(db: sqlite3.Connection, now: float, inspector: str, *, script: int, annotator: str, version: int,
           accept: bool, reason: str) -> None:
    """Accept a script, or send it back to its annotator: rejected segments are no longer done.

    An accepted script may still be sent back.

    Raises:
        DataError: Accepted with rejected segments, or sent back without saying why.
        OutdatedError: The script does not lie with the inspectors any more, or not in the version that was seen.
    """
    _check(db, script, annotator, version, {WorkState.FINISHED, WorkState.ACCEPTED})
    rejected = db.execute("SELECT count(*) FROM edits WHERE script = ? AND annotator = ? AND rejected IS NOT NULL",
                          (script, annotator)).fetchone()[0]
    if accept and rejected:
        raise DataError(f"{rejected} segments are rejected", mend="withdraw that, or send the script back")
    if not accept and not rejected and not reason.strip():
        raise DataError("a script is sent back with a reason", mend="say why, or reject a segment")
    state = WorkState.ACCEPTED if accept else WorkState.RETURNED
    db.execute("UPDATE works SET state = ?, version = version + 1, decided_by = ?, reason = ? "
               "WHERE script = ? AND annotator = ?", (state, inspector, reason, script, annotator))
    db.execute("UPDATE edits SET done = 0, version = version + 1, tab = '' "
               "WHERE script = ? AND annotator = ? AND rejected IS NOT NULL", (script, annotator))
    record(db, now, inspector, state.value, script=script, annotator=annotator, reason=reason)


def is_inspected(db: sqlite3.Connection) -> bool:
    """Has an inspector decided about any script?"""
    return db.execute("SELECT 1 FROM events WHERE what IN (?, ?) LIMIT 1",
                      (WorkState.ACCEPTED, WorkState.RETURNED)).fetchone() is not None


def _check(db: sqlite3.Connection, script: int, annotator: str, version: int, states: set[WorkState]) -> None:
    row = read_work(db, script, annotator)
    if row is None or row["version"] != version or row["state"] not in states:
        raise OutdatedError("this script has changed meanwhile", mend="look at it again")
