"""`trees.jsonl`, read once from end to end for what is counted; single trees are read again where they stand.

Trees hold every text that a search saw, so a run of many prompts has more of them than should be in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lpo.errors import DataError
from lpo.records import SearchTree
from lpo.report.reading import placed_rows, record, row_of
from lpo.report.tree_counts import TreeCounts


@dataclass(frozen=True)
class TreeFile:
    """The trees of a run: their counts, and each of them by its id, read when asked for.

    Args:
        path: `trees.jsonl`.
        counts: Counted over all trees.
        places: Where the line of each tree begins, in bytes, in the order of the file.
    """

    path: Path
    counts: TreeCounts
    places: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> TreeFile:
        """Go through the file; one tree is held at a time.

        Raises:
            DataError: A line is damaged, or no tree that this version reads; the error names it.
        """
        counts, places = TreeCounts(), dict[str, int]()
        for number, start, values in placed_rows(path):
            tree = record(values, SearchTree, f"{path}:{number}")
            counts.add(tree)
            places[tree.id] = start
        return cls(path, counts, places)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def get(self, identifier: str) -> SearchTree | None:
        """One tree, or None when there is none of this id.

        Raises:
            DataError: Another process has written the file anew since it was read.
        """
        if identifier not in self.places:
            return None
        changed = DataError("the file was written anew while it was being read", where=str(self.path),
                            mend="run `lpo report` again")
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.places[identifier])
                tree = record(row_of(handle.readline(), str(self.path)), SearchTree, str(self.path))
        except (OSError, ValueError, DataError):
            raise changed from None
        if tree.id != identifier:
            raise changed
        return tree
