"""Which trees of a run are on its page: spread evenly over the file, as many as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lpo.records import SearchTree
from lpo.report.entries import sample, spread
from lpo.report.tree_file import TreeFile

TEXT_CHARACTERS = (24_000, 6_000, 1_500)
"""How much of a text is shown: the most with which enough trees fit, or else the least."""
ENOUGH = 12

Entry = Callable[[SearchTree, int, int], dict[str, Any] | None]
"""A tree, its number in the file (from 1) and the characters of a text that are kept, as JSON values; None for a tree
that has nothing to show.
"""


def fitting(trees: TreeFile, entry: Entry, room: int) -> tuple[list[dict[str, Any]], int]:
    """Trees as JSON values, in the order of the file.

    Args:
        trees: Of the run.
        entry: Makes the values.
        room: Bytes they may take.

    Returns:
        The values, each with its `number`, and the characters of a text that are kept.
    """
    order = spread(list(trees))
    all_shown = False

    def made(limit: int) -> Iterator[dict[str, Any]]:
        nonlocal all_shown
        for index, identifier in order:
            tree = trees.get(identifier)
            values = None if tree is None else entry(tree, index + 1, limit)
            if values is not None:
                yield values
        all_shown = True

    entries: list[dict[str, Any]] = []
    limit = TEXT_CHARACTERS[0]
    for limit in TEXT_CHARACTERS:
        entries = sample(made(limit), room)
        if all_shown or len(entries) >= ENOUGH:
            break
    return sorted(entries, key=lambda values: values["number"]), limit
