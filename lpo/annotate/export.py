"""Corrections as rows: for `IterDPOTrainer`, and as the `build.correction.file` of another run."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lpo.annotate.inspection import is_inspected
from lpo.annotate.scripts import AnnotatedScript, revised_segments
from lpo.annotate.store import parse_script
from lpo.annotate.work import WorkState, seconds_of, texts_of
from lpo.records import Message


@dataclass
class Export:
    """The corrections of a run. Kept and left out are all scripts.

    Args:
        rows: One for each script that is kept.
        left_out: How many scripts are not, by reason.
        other_versions: Versions of kept scripts by other annotators, which were not taken.
        unchanged: Kept scripts in which nothing was changed: they give no pair.
        accepted_only: Was acceptance by an inspector asked for?
    """

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    left_out: Counter[str] = field(default_factory=Counter[str])
    other_versions: int = 0
    unchanged: int = 0
    accepted_only: bool = False

    def lines(self) -> list[str]:
        """What was exported, for a person."""
        total = len(self.rows) + self.left_out.total()
        lines = [f"{len(self.rows)} of {total} scripts in the export"]
        if self.accepted_only:
            lines.append("  only those that an inspector accepted")
        lines += [f"  left out: {count} {reason}" for reason, count in self.left_out.most_common()]
        if self.other_versions:
            lines.append(f"  {self.other_versions} further versions of these, by other annotators, were not taken")
        if self.unchanged:
            lines.append(f"  {self.unchanged} of these were left as they are: they give no pair")
        return lines


def export(db: sqlite3.Connection, *, accepted_only: bool = False) -> Export:
    """The corrections of finished scripts.

    Of several versions of a script an accepted one is taken; of these, else of all, the one handed in last. Once an
    inspector has decided about any script, accepted ones alone are exported.

    Args:
        db: The data base, in a transaction.
        accepted_only: Export nothing that no inspector has accepted.
    """
    made = Export(accepted_only=accepted_only or is_inspected(db))
    for row in db.execute("SELECT number, content FROM scripts ORDER BY number").fetchall():
        works = db.execute("SELECT * FROM works WHERE script = ?", (row["number"],)).fetchall()
        allowed = {WorkState.ACCEPTED} if made.accepted_only else {WorkState.ACCEPTED, WorkState.FINISHED}
        usable = [work for work in works if work["state"] in allowed]
        if not usable:
            made.left_out[_why_not(works)] += 1
            continue
        taken = max(usable, key=lambda work: (work["state"] == WorkState.ACCEPTED, work["finished_at"]))
        made.other_versions += sum(WorkState(work["state"]).handed_in for work in works) - 1
        script = parse_script(row["content"])
        exported = _row(db, row["number"], script, taken)
        made.unchanged += exported["segments_original"] == exported["segments_revised"]
        made.rows.append(exported)
    return made


def _row(db: sqlite3.Connection, number: int, script: AnnotatedScript, work: sqlite3.Row) -> dict[str, Any]:
    annotator = work["annotator"]
    prompt = script.dialogue
    return {
        "id": script.id,
        "prompt": prompt if isinstance(prompt, str) else [_plain(message) for message in prompt],
        "segments_original": [segment.original for segment in script.segments],
        "segments_revised": revised_segments(script.segments, texts_of(db, number, script, annotator)),
        "ends": script.ends,
        "annotator": annotator,
        "accepted_by": work["decided_by"] if work["state"] == WorkState.ACCEPTED else None,
        "seconds": round(seconds_of(db, number, annotator)),
    }


def _plain(message: Message) -> dict[str, Any]:
    return message.to_json()


def _why_not(works: Sequence[sqlite3.Row]) -> str:
    """Of several versions the one that got furthest says why."""
    states = {WorkState(work["state"]) for work in works}
    if WorkState.FINISHED in states:
        return "wait for an inspector"
    if WorkState.RETURNED in states:
        return "were sent back by an inspector"
    return "are not finished" if states else "were not begun"
