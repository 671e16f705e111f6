"""What finished prompts gave, kept on disk until all have finished: files in the order of the prompts, and memory that
does not grow with them.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType


class Spool:
    """Blocks of bytes, put in by item in any order and read back in the order of the items.

    The file has no name: however the process ends, it is gone. A build that was killed finds its work in the journal.

    Args:
        folder: Where the file lies: the file system of the results, which have to have room there anyway.
        items: How many items there are.
        kinds: How many blocks each item has.
    """

    def __init__(self, folder: Path, items: int, kinds: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        self._kinds = kinds
        self._starts = array("q", [-1]) * items
        self._lengths = array("q", [0]) * (items * kinds)
        self._end = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()

    def put(self, item: int, blocks: Sequence[bytes]) -> None:
        """Store the blocks of an item, one of each kind."""
        assert len(blocks) == self._kinds and self._starts[item] < 0
        self._file.seek(self._end)
        self._file.writelines(blocks)
        self._starts[item] = self._end
        for kind, block in enumerate(blocks):
            self._lengths[item * self._kinds + kind] = len(block)
            self._end += len(block)

    def blocks(self, kind: int) -> Iterator[bytes]:
        """The blocks of one kind, in the order of the items; items that were not put in have none."""
        for item, start in enumerate(self._starts):
            if start < 0:
                continue
            lengths = self._lengths[item * self._kinds:(item + 1) * self._kinds]
            self._file.seek(start + sum(lengths[:kind]))
            yield self._file.read(lengths[kind])
