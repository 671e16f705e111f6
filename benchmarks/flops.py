"""What each way of training must compute for one document, counted: the limit that the measured ratios are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cells import Cell, Pair
from subjects import Subject

from lpo.packing import Group, Row, pack
from lpo.packing.cost import CostModel, training_flops


class Mode(StrEnum):
    """A way of training on the same pairs."""

    TREE = "tree"
    ROWS = "rows"
    TRL = "trl"


@dataclass(frozen=True)
class Work:
    """What training on some pairs once takes, by the model.

    Args:
        tokens: Tokens that go through the layers in one forward pass.
        scored: Positions that go through the head in one forward pass.
        flops: Floating-point operations of policy and reference, forward and backward.
    """

    tokens: int
    scored: int
    flops: float


def work(mode: Mode, subject: Subject, cell: Cell, pairs: Sequence[Pair]) -> Work:
    """Count the work of one optimiser step over some pairs with a live reference.

    A row-wise trainer computes each row by itself, the tree each distinct token once. Both score the sides' tokens.
    On a CPU TRL scores every position of every row, and computes the logits twice even for a frozen head. The adapter's
    own products are left out of all three (2 to 3 % of the layers').
    """
    group = _group(subject, pairs, all_positions=mode is Mode.TRL)
    model = CostModel.of(subject.config)
    forward = model.tree([group]) if mode is Mode.TREE else model.rows([group])
    flops = training_flops(forward, body_trains=not subject.lora, head_trains=not subject.lora,
                           checkpointing=subject.checkpointing(cell))
    if mode is Mode.TRL and subject.lora:
        flops += forward.head  # 3 passes where a frozen head needs 2
    tokens = pack([group]).n_tokens if mode is Mode.TREE else group.n_row_tokens
    return Work(tokens, forward.head // model.head_flops, flops)


def _group(subject: Subject, pairs: Sequence[Pair], *, all_positions: bool) -> Group:
    rows: list[Row] = []
    for pair in pairs:
        context, *sides = subject.lexicon.sides(pair)
        start = 1 if all_positions else len(context)
        rows += [Row(context + side, start) for side in sides]
    return Group(tuple(rows), tuple((2 * i, 2 * i + 1) for i in range(len(pairs))))
