"""Reading the files of a run directory: JSON lines one at a time, and small files whole.

Nothing is changed: a run may be at work in the folder, so an unfinished last line is passed over, not repaired.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lpo.errors import DataError
from lpo.storage import clean_values, read_json

Row = TypeVar("Row", bound=BaseModel)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every finished line of a JSON lines file; none when there is no file.

    Raises:
        DataError: A line is damaged.
    """
    return (values for _, _, values in placed_rows(path))


def records(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """As `rows`, each as a record.

    Raises:
        DataError: A line is damaged, or is not such a record.
    """
    return tuple(record(values, kind, f"{path}:{number}") for number, _, values in placed_rows(path))


def placed_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """As `rows`, with the number of the line (from 1) and the byte at which it begins."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        start = 0
        for number, line in enumerate(handle, start=1):
            if line.strip():
                try:
                    yield number, start, row_of(line, f"{path}:{number}")
                except _NotJSONError as error:
                    if not line.endswith(b"\n"):  # it is being written, or a kill cut it
                        return
                    raise DataError(f"line {number} is not valid JSON: {error}", where=f"{path}:{number}",
                                    mend="mend or delete that line") from None
            start += len(line)


class _NotJSONError(ValueError):
    """The line cannot be parsed."""


def row_of(line: bytes, where: str) -> dict[str, Any]:
    """One line, parsed and without what UTF-8 cannot hold.

    Raises:
        DataError: It is JSON, but not an object.
        ValueError: It is not JSON.
    """
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise _NotJSONError(str(error)) from None
    if not isinstance(values, dict):
        raise DataError("the line is not a JSON object", where=where)
    if b"\\u" in line:  # half an emoji can only come in as an escape
        values, _ = clean_values(values)
    return values


def record(values: object, kind: type[Row], where: str) -> Row:
    """JSON values as a record.

    Raises:
        DataError: They are not one that this version reads; the error names the first field.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(all of it)"
        raise DataError(f"not a {kind.__name__} that this version reads: {field}: {first['msg']}", where=where,
                        mend="was it written by another version of lpo? run the stage again") from None


def whole(path: Path, kind: type[Row]) -> Row | None:
    """A JSON file as a record; None where there is none, or nothing in it.

    Raises:
        DataError: It is damaged, or is not such a record.
    """
    if not path.is_file() or not path.stat().st_size:
        return None
    values, _ = clean_values(read_json(path))
    return record(values, kind, str(path))


def settings(path: Path) -> Mapping[str, Any]:
    """A configuration as plain values; empty where there is none.

    Raises:
        DataError: It is not YAML.
    """
    if not path.is_file():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"not valid YAML: {' '.join(str(error).split())}", where=str(path)) from None
    return values if isinstance(values, dict) else {}
