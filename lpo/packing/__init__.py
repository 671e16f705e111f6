"""Token trees: rows that begin alike, packed so that every shared token is computed once."""

from lpo.packing.rows import Group, Row
from lpo.packing.tree import PackedTree, pack
from lpo.packing.trie import Chain

__all__ = ["Chain", "Group", "PackedTree", "Row", "pack"]
