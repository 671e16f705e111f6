"""Where the nodes of a search tree stand: layers from left to right, siblings below each other.

After Reingold and Tilford, Tidier Drawings of Trees (1981): a parent stands in the middle of its children, and subtrees
are moved together until their outlines touch. So a layer that few nodes go on from stays low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SIBLINGS_APART = 1.0
FAMILIES_APART = 1.35
"""Rows between the last child of one node and the first child of the next, at least."""

Outline = list[tuple[float, float]]
"""Lowest and highest row of a subtree in each of its layers, its own root's at row 0."""


@dataclass(frozen=True)
class Place:
    """Where a node stands, in units of layers and rows."""

    layer: int
    row: float


def lay_out(parents: Mapping[str, str | None]) -> dict[str, Place]:
    """Place the nodes of a tree.

    Args:
        parents: Node to its parent, a parent before its children, siblings from top to bottom. The first node is the
            root; so every node whose parent is not among them hangs on it.

    Returns:
        Node to its place. The topmost row is 0.
    """
    if not parents:
        return {}
    root, children, layers = _families(parents)
    below: dict[str, float] = {root: 0.0}  # rows below the parent; above it when negative
    outlines: dict[str, Outline] = {}
    for node in reversed(layers):
        offsets, outline = _beside([outlines.pop(child) for child in children[node]])
        middle = (offsets[0] + offsets[-1]) / 2 if offsets else 0.0
        below |= {child: offset - middle for child, offset in zip(children[node], offsets, strict=True)}
        outlines[node] = [(0.0, 0.0), *((low - middle, high - middle) for low, high in outline)]
    top = min(low for low, _ in outlines[root])
    rows = {root: -top}
    for node in layers:
        rows |= {child: rows[node] + below[child] for child in children[node]}
    return {node: Place(layer, round(rows[node], 3)) for node, layer in layers.items()}


def _families(parents: Mapping[str, str | None]) -> tuple[str, dict[str, list[str]], dict[str, int]]:
    """The root, the children of every node, and the layer of every node."""
    root = next(iter(parents))
    children: dict[str, list[str]] = {node: [] for node in parents}
    layers = {root: 0}
    for node, parent in parents.items():
        if node != root:
            above = parent if parent in layers else root
            children[above].append(node)
            layers[node] = layers[above] + 1
    return root, children, layers


def _beside(outlines: Sequence[Outline]) -> tuple[list[float], Outline]:
    """Put subtrees below each other, as near as their outlines allow: their offsets and the outline of all."""
    offsets: list[float] = []
    whole: Outline = []
    for outline in outlines:
        offset = max((whole[depth][1] - outline[depth][0] + (FAMILIES_APART if depth else SIBLINGS_APART)
                      for depth in range(min(len(whole), len(outline)))), default=0.0)
        offsets.append(offset)
        moved = [(low + offset, high + offset) for low, high in outline]
        whole = [(min(one[0], other[0]), max(one[1], other[1])) for one, other in zip(whole, moved, strict=False)] + (
            whole[len(moved):] or moved[len(whole):])
    return offsets, whole
