"""Scripts corrected segment by segment, expanded into preference pairs.

A script is one row: `prompt`, and the same number of `segments_original` and `segments_revised`. Segments are put
together as they are: whatever stands between them (blank lines) belongs to one of them. Nothing is inserted, as
between the steps of a search tree, so that the joined segments are the answer, letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lpo.errors import DataError
from lpo.records import Reason, RejectedRow
from lpo.segment_pairs import IterMode, SegmentPair
from lpo.storage import clean_values

SEGMENTS = ("segments_original", "segments_revised")
PAIR_COLUMNS = ("prefix", "chosen", "rejected", "chosen_ends", "rejected_ends", "step")
"""What the expansion writes; a row that brings segments may not bring these as well."""

_MEND = "give prompt, segments_original and segments_revised; or prompt, chosen and rejected"


@dataclass(frozen=True)
class Expansion:
    """A data set of scripts and plain pairs, as pairs.

    Args:
        rows: Training rows as `read_pair` takes them.
        refused: Rows that are no usable script, under their own id.
        skipped: Pairs of usable scripts with equal sides, under the pair's id.
        n_glued: Places in revised scripts where two words meet without a blank.
        cleaned_characters: Lone surrogates and NULs replaced or dropped.
    """

    rows: list[dict[str, Any]]
    refused: list[RejectedRow]
    skipped: list[RejectedRow]
    n_glued: int
    cleaned_characters: int


def expand_rows(
    rows: Iterable[Mapping[str, Any]], mode: IterMode, *, prefixes_end: bool = False, name: str = "row"
) -> Expansion:
    """Expand the scripts of a data set; plain pairs among them pass through.

    Args:
        rows: Scripts and plain pairs, mixed at will. A column that is None counts as missing.
        mode: Which pairs are made of a script.
        prefixes_end: See `IterMode.pairs`.
        name: Rows without an id are called `<name> <number>`.
    """
    expanded: list[dict[str, Any]] = []
    refused: list[RejectedRow] = []
    skipped: list[RejectedRow] = []
    glued = cleaned = 0
    for number, row in enumerate(rows):
        values, count = clean_values(dict(row))
        cleaned += count
        row_id = str(values["id"]) if values.get("id") is not None else f"{name} {number}"
        if all(values.get(column) is None for column in SEGMENTS):
            expanded.append({**values, "id": row_id})
            continue
        try:
            original, revised = read_segments(values, row_id)
        except DataError as error:
            refused.append(_reject(row_id, Reason.MALFORMED, error.cause))
            continue
        if original == revised:
            refused.append(_reject(row_id, Reason.EQUAL_TEXTS, "no segment was changed"))
            continue
        glued += n_glued(revised)
        pairs, equal = expand_script(values, row_id, mode.pairs(original, revised, prefixes_end))
        expanded += pairs
        skipped += equal
    return Expansion(expanded, refused, skipped, glued, cleaned)


def expand_script(
    row: Mapping[str, Any], row_id: str, pairs: Iterable[SegmentPair]
) -> tuple[list[dict[str, Any]], list[RejectedRow]]:
    """Training rows of one script; pairs with equal sides are set aside.

    Args:
        row: The script. Its other columns go to every pair, so that all of them have one `group`.
        row_id: Its id; the pair that ends with segment i is called `<row_id>/<i>`.
        pairs: What its mode makes of it.
    """
    shared = {name: value for name, value in row.items() if name not in (*SEGMENTS, *PAIR_COLUMNS)}
    rows: list[dict[str, Any]] = []
    skipped: list[RejectedRow] = []
    for pair in pairs:
        pair_id = row_id if pair.number is None else f"{row_id}/{pair.number}"
        if pair.chosen == pair.rejected:
            skipped.append(_reject(pair_id, Reason.EQUAL_TEXTS, "nothing was changed here"))
            continue
        rows.append({**shared, "id": pair_id, "prefix": pair.prefix, "chosen": pair.chosen, "rejected": pair.rejected,
                     "chosen_ends": pair.ends, "rejected_ends": pair.ends, "step": pair.step})
    return rows, skipped


def read_segments(row: Mapping[str, Any], row_id: str) -> tuple[list[str], list[str]]:
    """The original and the revised segments of a script. Some may be empty: pages the writer missed, or struck out.

    Args:
        row: Its columns.
        row_id: Names it in errors.

    Raises:
        DataError: The row is no script: both kinds of columns, one list missing, other lengths, no text.
    """
    both = [name for name in PAIR_COLUMNS if row.get(name) is not None]
    if both:
        raise DataError(f"segments and the column {both[0]!r} in one row", where=row_id, mend=_MEND)
    if row.get("prompt") is None:
        raise DataError("segments without a prompt", where=row_id, mend=_MEND)
    original, revised = (_texts(row.get(name), name, row_id) for name in SEGMENTS)
    if len(original) != len(revised):
        raise DataError(f"{len(original)} original segments but {len(revised)} revised ones", where=row_id,
                        mend='align them; a segment that one side lacks is ""')
    if not revised:
        raise DataError("there are no segments", where=row_id, mend=_MEND)
    return original, revised


def n_glued(segments: Sequence[str]) -> int:
    """At how many places do two words meet without a blank, as when each segment comes from a stripped file?

    Writing that puts no blanks between sentences (Chinese) is not counted.
    """
    texts = [text for text in segments if text]
    return sum(not before[-1].isspace() and after[0].isascii() and after[0].isalnum()
               for before, after in pairwise(texts))


def _texts(value: Any, name: str, row_id: str) -> list[str]:
    if value is None:
        raise DataError(f"no column {name!r}", where=row_id, mend=_MEND)
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{name!r} is not a list of texts", where=row_id, mend='an empty segment is ""')
    return list(value)


def _reject(row_id: str, reason: Reason, detail: str) -> RejectedRow:
    return RejectedRow(stage="train", id=row_id, reason=reason, detail=detail)
