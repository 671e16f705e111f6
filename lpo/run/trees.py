"""The trees of a run, as its build left them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from lpo.errors import DataError
from lpo.records import SearchTree
from lpo.storage import iter_jsonl


def read_trees(path: Path) -> Iterator[SearchTree]:
    """The trees of a run, one at a time.

    Raises:
        DataError: The file is missing, or a line is no tree.
    """
    for line, row in iter_jsonl(path):
        try:
            yield SearchTree.model_validate(row)
        except ValidationError as error:
            detail = error.errors()[0]
            raise DataError(f"line {line} is not a search tree: {'.'.join(map(str, detail['loc']))}: {detail['msg']}",
                            where=f"{path}:{line}", mend="build the run again: --redo build makes no call twice"
                            ) from None
