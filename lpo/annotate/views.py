"""What the pages are told: plain JSON values, read in one transaction. The pages set texts as text only."""

from __future__ import annotations

import sqlite3
from typing import Any

from lpo.annotate.scripts import AnnotatedSegment
from lpo.annotate.store import history, read_script
from lpo.annotate.work import WorkState, read_edits, read_work, seconds_of


def overview(db: sqlite3.Connection, now: float) -> dict[str, Any]:
    """Every script with everybody's work on it, and the progress of all."""
    done = {(row["script"], row["annotator"]): row["done"] for row in db.execute(
        "SELECT script, annotator, sum(done) AS done FROM edits GROUP BY script, annotator")}
    works: dict[int, list[dict[str, Any]]] = {}
    for row in db.execute("SELECT * FROM works ORDER BY script, annotator"):
        state = WorkState(row["state"])
        works.setdefault(row["script"], []).append({
            "annotator": row["annotator"], "state": state.value, "done": done.get((row["script"], row["annotator"]), 0),
            "working": state is WorkState.OPEN and row["lease_until"] > now, "by": row["decided_by"]})
    scripts: list[dict[str, Any]] = []
    for row in db.execute("SELECT number, id, title, segments, missing FROM scripts ORDER BY number"):
        scripts.append({**dict(row), "works": works.get(row["number"], [])})
    return {"scripts": scripts, "progress": _progress(scripts)}


def script_view(db: sqlite3.Connection, number: int, annotator: str) -> dict[str, Any]:
    """An annotator's version of a script.

    Raises:
        DataError: There is no such script.
    """
    script = read_script(db, number)
    work = read_work(db, number, annotator)
    edits = read_edits(db, number, annotator)
    state = WorkState(work["state"]) if work is not None else WorkState.OPEN
    return {
        "number": number, "id": script.id, "request": script.prompt.request, "context": script.prompt.context,
        "target_words": script.prompt.target_words, "annotator": annotator, "state": state.value,
        "editable": state.editable, "version": work["version"] if work is not None else 1,
        "decided_by": work["decided_by"] if work is not None else None,
        "reason": (work["reason"] if work is not None else None) or "",
        "seconds": seconds_of(db, number, annotator),
        "segments": [_segment(segment, edits.get(index), shown=state is WorkState.RETURNED or state.handed_in)
                     for index, segment in enumerate(script.segments)],
    }


def inspection(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every version that was handed in, the longest waiting first; then what was decided about."""
    rows = db.execute("SELECT number, id, title, annotator, state, decided_by AS \"by\" FROM works "
                      "JOIN scripts ON number = script WHERE state != ? ORDER BY state != ?, finished_at",
                      (WorkState.OPEN, WorkState.FINISHED))
    return [dict(row) for row in rows]


def inspected_script(db: sqlite3.Connection, number: int, annotator: str) -> dict[str, Any]:
    """An annotator's version of a script, with its history.

    Raises:
        DataError: There is no such script.
    """
    events = [{name: value for name, value in event.items() if name != "texts"}
              for event in history(db, number, annotator) if event["what"] not in ("began", "edited again")]
    return {**script_view(db, number, annotator), "history": events}


def _segment(segment: AnnotatedSegment, edit: sqlite3.Row | None, *, shown: bool) -> dict[str, Any]:
    edges = segment.edges
    original = AnnotatedSegment(original=segment.original, proposed=segment.original).prefilled
    return {
        "original": original, "missing": not segment.original.strip(), "lead": edges.lead, "trail": edges.trail,
        "prefilled": segment.prefilled, "outcomes": [outcome.value for outcome in segment.outcomes],
        "faults": [fault.to_json() for fault in segment.faults],
        "text": edit["text"] if edit is not None else segment.prefilled,
        "note": edit["note"] if edit is not None else "", "done": bool(edit["done"]) if edit is not None else False,
        "version": edit["version"] if edit is not None else 0, "tab": edit["tab"] if edit is not None else "",
        "rejected": edit["rejected"] if edit is not None and shown else None,
        "rejected_by": edit["rejected_by"] if edit is not None and shown else None,
    }


def _progress(scripts: list[dict[str, Any]]) -> dict[str, int]:
    """Of several versions of a script, the one that got furthest counts."""
    states = [{work["state"] for work in script["works"]} for script in scripts]
    return {
        "scripts": len(scripts),
        "finished": sum(bool(found & {WorkState.FINISHED, WorkState.ACCEPTED}) for found in states),
        "accepted": sum(WorkState.ACCEPTED in found for found in states),
        "returned": sum(WorkState.RETURNED in found for found in states),
        "segments": sum(script["segments"] for script in scripts),
        "done": sum(max((work["done"] for work in script["works"]), default=0) for script in scripts),
    }
