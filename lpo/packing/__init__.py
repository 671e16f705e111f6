"""Token trees: rows that begin alike, packed so that every shared token is computed once."""

from lpo.packing.branches import Branch, Branches, take_apart
from lpo.packing.cost import CostModel, Flops, training_flops
from lpo.packing.packer import Filled, Oversized, Pack, Part, Sharing, fill, packed_tokens, sharing
from lpo.packing.rows import Group, Row
from lpo.packing.split import Budget, Split, split_group
from lpo.packing.tree import PackedTree, pack
from lpo.packing.trie import Chain

__all__ = [
    "Branch", "Branches", "Budget", "Chain", "CostModel", "Filled", "Flops", "Group", "Oversized", "Pack", "PackedTree",
    "Part", "Row", "Sharing", "Split", "fill", "pack", "packed_tokens", "sharing", "split_group", "take_apart",
    "training_flops",
]
