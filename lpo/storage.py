"""Files that survive a kill: atomic writes, JSON lines with a repaired tail, text cleaned at the door."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from lpo.errors import DataError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees either the old or the new content, whenever the process is killed.

    Args:
        path: The file; its folder is made when missing.
        data: Text (written as UTF-8) or bytes.
    """
    with open_atomic(path) as handle:
        handle.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_atomic(path: Path) -> Generator[BinaryIO]:
    """As `write_atomic`, for content that is written bit by bit: it takes the file's place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write JSON values to a file, atomically and readably."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path)) from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", where=str(path)) from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines, atomically; they are taken one by one."""
    with open_atomic(path) as handle:
        for row in rows:
            handle.write(json_line(row).encode())


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one row; a kill in the middle leaves a torn last line, which `read_jsonl(..., torn_tail=True)` repairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json_line(row))


def json_line(row: dict[str, Any]) -> str:
    """One row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def read_jsonl(path: Path, *, torn_tail: bool = False) -> list[dict[str, Any]]:
    """Read JSON lines.

    Args:
        path: The file.
        torn_tail: The file is appended to by us: a broken last line is what a kill leaves, so it is moved to
            `<name>.torn` and the rest is kept.

    Raises:
        DataError: The file is missing, or a line is broken; the error names the line.
    """
    return [row for _, row in iter_jsonl(path, torn_tail=torn_tail)]


def iter_jsonl(path: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, one `(line number, row)` at a time."""
    if torn_tail:
        _cut_torn_tail(path)
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), mend="check the path; it is relative to the folder you "
                        "started in") from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise DataError(f"line {number} is not valid JSON: {error}", where=f"{path}:{number}",
                                mend="mend or delete that line") from None
            if not isinstance(row, dict):
                raise DataError(f"line {number} is not a JSON object", where=f"{path}:{number}",
                                mend='every line must look like {"prompt": "..."}')
            yield number, row


def _cut_torn_tail(path: Path) -> None:
    """Set an unfinished last line aside. A complete line always ends with a newline, so it is the only suspect."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return
    with path.with_name(path.name + ".torn").open("ab") as torn:
        torn.write(content[end:] + b"\n")
    write_atomic(path, content[:end])


def clean_text(text: str) -> tuple[str, int]:
    r"""Remove what no tokenizer, database or browser accepts: lone surrogates and NUL.

    A lone surrogate (half an emoji, from a cut `\ud83d` escape) becomes U+FFFD; NUL is dropped.

    Returns:
        The clean text and how many characters were replaced or dropped.
    """
    if "\0" not in text and (text.isascii() or not _LONE_SURROGATE.search(text)):
        return text, 0
    cleaned, lone = _LONE_SURROGATE.subn("\ufffd", text)
    return cleaned.replace("\0", ""), lone + text.count("\0")


def clean_values(value: Any) -> tuple[Any, int]:
    """`clean_text` on every string inside JSON values."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        pairs = [clean_values(item) for item in cast("list[Any]", value)]
        return [item for item, _ in pairs], sum(count for _, count in pairs)
    if isinstance(value, dict):
        cleaned: dict[str, Any] = {}
        total = 0
        for key, item in cast("dict[Any, Any]", value).items():
            new_key, in_key = clean_text(str(key))
            cleaned[new_key], in_item = clean_values(item)
            total += in_key + in_item
        return cleaned, total
    return value, 0
