"""One group that does not fit: its trunk is kept, and what branches off it is computed one part at a time.

The gradients are those of the whole tree. Keys and values of the trunk are cut off its graph; every branch adds its
share to their gradients and to those of the trunk's log-probs, and at the end the trunk goes backward once with all of
it. Activations of the trunk and of one branch stand in memory at a time, in place of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from lpo.kernels.depth_first import BranchCall, TrunkCall
from lpo.packing import Branches, PackedTree, take_apart
from lpo.trainers.batches import Piece


def depth_first_step(
    model: Any, piece: Piece, step: Callable[[torch.Tensor, Piece], None],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Add the gradients of a group's pairs to the model's.

    Args:
        model: The policy with scoring attached.
        piece: One group, packed.
        step: Takes log-probs [N] of the group's scored tokens and those pairs of the piece whose tokens they hold;
            computes their loss and goes backward.
        autocast: The training's autocast.
    """
    assert isinstance(piece.tokens, PackedTree)
    parts = take_apart(piece.tokens)
    trunk_call = TrunkCall(parts.trunk)
    with autocast():
        trunk_n = model(tree=trunk_call)
    cut_n = trunk_n.detach().requires_grad_()
    cut = {layer: (keys.detach().requires_grad_(), values.detach().requires_grad_())
           for layer, (keys, values) in trunk_call.kept.items()}
    for branch_numbers, pairs in _together(parts, piece):
        branches = [parts.branches[number] for number in branch_numbers]
        with autocast():
            logprobs = [cut_n, *(model(tree=BranchCall(branch, cut)) for branch in branches)]
        index_n = torch.cat([part.scored_N for part in (parts.trunk, *branches)]).to(cut_n.device)
        logprobs_N = cut_n.new_zeros(piece.tokens.n_scored).index_copy(0, index_n, torch.cat(logprobs))
        step(logprobs_N, piece.restricted(pairs))
    heads = [(trunk_n, cut_n.grad)]
    for layer, pair in trunk_call.kept.items():
        heads += [(kept, leaf.grad) for kept, leaf in zip(pair, cut[layer], strict=True)]
    reached = [(tensor, grad) for tensor, grad in heads if grad is not None]
    torch.autograd.backward([tensor for tensor, _ in reached], [grad for _, grad in reached])


def _together(parts: Branches, piece: Piece) -> list[tuple[list[int], list[int]]]:
    """Branches that some pair needs at the same time, with the pairs that need them."""
    needs: list[set[int]] = [set() for _ in range(piece.chosen.n_sides)]
    for sides in (piece.chosen, piece.rejected):
        part_M = parts.part_N[sides.token_index_M.cpu()]
        for pair, part in zip(sides.side_id_M.tolist(), part_M.tolist(), strict=True):
            needs[pair].add(part)
    groups: list[tuple[set[int], list[int]]] = []
    for pair, needed in enumerate(needs):
        branches, pairs = needed - {0}, [pair]
        for group in [group for group in groups if group[0] & branches or not (group[0] or branches)]:
            groups.remove(group)
            branches, pairs = branches | group[0], group[1] + pairs
        groups.append((branches, pairs))
    return [(sorted(part - 1 for part in branches), pairs) for branches, pairs in groups]
