"""A search tree while it grows: nodes, paths walked, and what was back-propagated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lpo.records import Fact, SearchNode, SearchPath

ROOT = SearchNode(id="0", parent=None, depth=0, text="", role="root")


class GrowingTree:
    """Nodes by id, in the order they were made. Values come from scored ends of paths only."""

    def __init__(self) -> None:
        self._nodes: dict[str, SearchNode] = {ROOT.id: ROOT}
        self._children: dict[str, list[str]] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self.paths: list[SearchPath] = []

    @property
    def nodes(self) -> tuple[SearchNode, ...]:
        """All nodes."""
        return tuple(self._nodes.values())

    def __getitem__(self, node_id: str) -> SearchNode:
        return self._nodes[node_id]

    def is_expanded(self, node_id: str) -> bool:
        """Were its children written?"""
        return node_id in self._children

    def children(self, node_id: str) -> list[SearchNode]:
        """Its children, rewritten ones last."""
        return [self._nodes[child] for child in self._children.get(node_id, [])]

    def add_layer(self, parent: str, nodes: Iterable[SearchNode]) -> None:
        """Hang a layer of siblings under a node; none at all is a layer, too."""
        self._children[parent] = []
        for node in nodes:
            self.add(node)

    def add(self, node: SearchNode) -> None:
        """Hang one more child under its parent."""
        assert node.parent is not None and node.id not in self._nodes
        self._nodes[node.id] = node
        self._children[node.parent].append(node.id)

    def update(self, node_id: str, **changes: Any) -> SearchNode:
        """Change fields of a node."""
        self._nodes[node_id] = self._nodes[node_id].model_copy(update=changes)
        return self._nodes[node_id]

    def way_to(self, node_id: str) -> list[SearchNode]:
        """The nodes from the root to this one."""
        way: list[SearchNode] = []
        current: str | None = node_id
        while current is not None:
            way.append(self._nodes[current])
            current = self._nodes[current].parent
        return way[::-1]

    def text_to(self, node_id: str) -> str:
        """The answer up to and including a node."""
        return "".join(node.text for node in self.way_to(node_id))

    def facts_to(self, node_id: str) -> list[Fact]:
        """What the answer has stated up to and including a node."""
        return [fact for node in self.way_to(node_id) for fact in node.facts]

    def back_propagate(self, path: SearchPath) -> None:
        """Count a walk on every node it went through: N += 1, and W += value when its end has one."""
        self.paths.append(path)
        for node_id in path.nodes:
            total, scored = self._sums.get(node_id, (0.0, 0))
            if path.value is not None:
                total, scored = total + path.value, scored + 1
            self._sums[node_id] = (total, scored)
            self.update(node_id, visits=self._nodes[node_id].visits + 1, value=total / scored if scored else None)
