"""A tree taken apart into its trunk and what branches off it, to be computed one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lpo.packing.tree import PackedTree
from lpo.packing.trie import Chain


@dataclass(frozen=True, eq=False)
class Branch:
    """Packed tokens that stand together: the trunk itself, or all that hangs below one of its tokens.

    Args:
        tree: The tokens as a tree of their own. Its chains are numbered as if the trunk's first `prefix` tokens stood
            before them; its rows are not kept. Scored are the tokens that one of its hidden states predicts.
        prefix: Tokens of the trunk that they see; 0 for the trunk, and for a branch that shares nothing with it.
        scored_N: int64, which of the whole tree's scored tokens those of `tree` are.
    """

    tree: PackedTree
    prefix: int
    scored_N: torch.Tensor


@dataclass(frozen=True, eq=False)
class Branches:
    """A whole tree in parts.

    Args:
        trunk: The first chain of the packed order: the longest way down.
        branches: The rest, in packed order.
        part_N: int64 [N], for each scored token the part whose hidden state predicts it: 0 the trunk, i + 1 branch i.
    """

    trunk: Branch
    branches: tuple[Branch, ...]
    part_N: torch.Tensor


def take_apart(tree: PackedTree) -> Branches:
    """Cut a tree into its trunk and the branches that hang off it.

    Args:
        tree: One group's tree.

    Returns:
        Its parts; together they hold every token and every scored token once.
    """
    # What hangs off a root other than the trunk's goes with that root.
    firsts = [number for number, chain in enumerate(tree.chains)
              if not chain.ancestors or chain.ancestors == ((0, chain.position),)]
    parts = [_branch(tree, tree.chains[first:after])
             for first, after in zip(firsts, [*firsts[1:], len(tree.chains)], strict=True)]
    part_N = torch.empty(tree.n_scored, dtype=torch.int64)
    for number, part in enumerate(parts):
        part_N[part.scored_N] = number
    return Branches(parts[0], tuple(parts[1:]), part_N)


def _branch(tree: PackedTree, chains: tuple[Chain, ...]) -> Branch:
    start, stop = chains[0].start, chains[-1].stop
    prefix = chains[0].position
    shift = prefix - start
    own = [replace(chain, start=chain.start + shift, stop=chain.stop + shift, ancestors=tuple(
        (first, last) if last <= start else (first + shift, last + shift) for first, last in chain.ancestors))
        for chain in chains]
    scored_N = torch.nonzero((tree.hidden_index_N >= start) & (tree.hidden_index_N < stop))[:, 0]
    part = replace(
        tree, input_ids_T=tree.input_ids_T[start:stop], position_ids_T=tree.position_ids_T[start:stop],
        subtree_end_T=tree.subtree_end_T[start:stop] - start, hidden_index_N=tree.hidden_index_N[scored_N] - start,
        target_id_N=tree.target_id_N[scored_N], row_tokens=(), row_end=(), chains=tuple(own),
        n_row_tokens=stop - start)
    return Branch(part, prefix, scored_N.cpu())
