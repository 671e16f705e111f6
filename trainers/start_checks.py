"""Checks before the first step: is the model understood, and does the policy start at its reference?"""

from __future__ import annotations

from typing import Any

import torch

from lpo.errors import UnsoundError
from lpo.packing import Group, Row, pack
from lpo.trainers import reference
from lpo.trainers.scoring import check_head

_LOOK = 32
"""Tokens of a row that the checks read."""


@torch.no_grad()
def check_tree(model: Any, input_ids_T: torch.Tensor, tolerance: float) -> None:
    """Compare log-probs of a small tree with those of its rows, one at a time.

    Args:
        model: The policy, with scoring attached and tree attention enabled.
        input_ids_T: Some tokens of a row, at least 4.
        tolerance: Largest difference allowed, in nats.

    Raises:
        UnsoundError: They differ: some layer of the model does not take the tree as it is.
    """
    fork = len(input_ids_T) // 2
    other_T = torch.cat((input_ids_T[:fork], input_ids_T[fork:].flip(0)))
    rows_T = [input_ids_T, other_T]
    tree = pack([Group(tuple(Row(row_T.tolist(), 1) for row_T in rows_T))])
    shared_N = model(tree=tree.to(input_ids_T.device))
    for row_T, tokens in zip(rows_T, tree.row_tokens, strict=True):
        alone_N = model(input_ids=row_T[None], scored_index=torch.arange(len(row_T) - 1, device=row_T.device),
                        scored_targets=row_T[1:])
        difference = float((shared_N[tokens.to(row_T.device)] - alone_N).abs().max())
        if not difference <= tolerance:
            raise UnsoundError(f"log-probs in a tree differ from those of single rows by {difference:.3g} nats",
                               where="model", mend="this architecture needs packing: rows; please report its name")


def check_model(model: Any, input_ids_T: torch.Tensor, tolerance: float, *, tree: bool) -> None:
    """Check that log-probs are those of the model's own logits.

    Args:
        model: The policy, with scoring attached.
        input_ids_T: Tokens of a row, at least 2.
        tolerance: Largest difference allowed, in nats.
        tree: Does the model read trees?

    Raises:
        UnsoundError: They are not.
    """
    check_head(model, input_ids_T[:_LOOK], tolerance)
    if tree and len(input_ids_T) >= 4:
        check_tree(model, input_ids_T[:_LOOK], tolerance)


def check_reference(model: Any, policy_N: torch.Tensor, reference_N: torch.Tensor, tolerance: float) -> None:
    """Check that policy and reference start equal.

    Args:
        model: The policy, unwrapped.
        policy_N: Its log-probs of some tokens before the first step.
        reference_N: The reference's.
        tolerance: Largest difference allowed, in nats.

    Raises:
        UnsoundError: They differ.
    """
    difference = reference.start_difference(policy_N, reference_N)
    if not difference <= tolerance:
        cause, mend = reference.explain_difference(model)
        raise UnsoundError(f"policy and reference differ by {difference:.3g} nats on a token before the first step "
                           f"(allowed: {tolerance:g}): {cause}", where="StepDPOTrainer", mend=mend)
