"""Scoring: log-probabilities of given tokens, with everything that rows share computed once.

All rows of a batch form a tree by their common beginnings. The tree is walked depth first: a shared beginning is read
once, alone, and its cache is copied for what follows. Small differences are not worth a pass of their own, so rows
part only where enough tokens are shared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lpo.llm.batching import AbandonedError
from lpo.llm.kv import CachedRows, pad
from lpo.llm.prompt_ids import Scoring, common_prefix

_MIN_SHARED = 16
"""Rows are read together when they share at least this many further tokens."""
_LOGIT_ELEMENTS = 2**25
"""Logits alive at once (128 MiB in float32)."""


@dataclass(frozen=True)
class _Target:
    """One wanted log-probability: of `token` after the tokens up to and including `position`."""

    position: int
    token: int
    slot: int


@dataclass(frozen=True)
class _Line:
    """A distinct model input with all that is wanted along it, by ascending position."""

    tokens: tuple[int, ...]
    targets: tuple[_Target, ...]

    def between(self, start: int, stop: int) -> tuple[_Target, ...]:
        low = bisect_left(self.targets, start, key=_position)
        return self.targets[low:bisect_left(self.targets, stop, key=_position)]


def _position(target: _Target) -> int:
    return target.position


@torch.no_grad()
def score(
    model: Any, batch: Sequence[Scoring], batch_size: int, abandoned: Callable[[], bool] = lambda: False
) -> list[tuple[tuple[float, ...], ...]]:
    """Score a batch.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        batch: What is scored.
        batch_size: Rows in one forward pass at most.
        abandoned: Asked before every pass whether nobody waits any more.

    Returns:
        For every element of the batch and every row of it, the natural-log probabilities of `row[start:]`.

    Raises:
        AbandonedError: Nobody waits any more.
    """
    lines, slots = _lines([(row, start) for scoring in batch
                           for row, start in zip(scoring.rows, scoring.starts, strict=True)])
    walk = _Walk(model, batch_size, slots, abandoned)
    if lines:
        walk.visit(lines, 0, CachedRows(model, 1))
    values = iter(walk.values)
    return [
        tuple(tuple(next(values) for _ in row[start:]) for row, start in zip(scoring.rows, scoring.starts, strict=True))
        for scoring in batch
    ]


def _lines(rows: Sequence[tuple[tuple[int, ...], int]]) -> tuple[list[_Line], int]:
    """Distinct inputs in lexicographic order, and the number of wanted values.

    The last token of a row is never read. An input that is the beginning of another one (`1` of `10`) is part of it.
    """
    wanted: dict[tuple[int, ...], list[_Target]] = {}
    slots = 0
    for row, start in rows:
        if start < len(row):
            targets = [_Target(position - 1, row[position], slots + position - start)
                       for position in range(start, len(row))]
            wanted.setdefault(row[:-1], []).extend(targets)
            slots += len(targets)
    lines: list[_Line] = []
    pending: list[_Target] = []
    ordered = sorted(wanted)
    for place, tokens in enumerate(ordered):
        pending += wanted[tokens]
        if place + 1 == len(ordered) or ordered[place + 1][:len(tokens)] != tokens:
            lines.append(_Line(tokens, tuple(sorted(pending, key=_position))))
            pending = []
    return lines, slots


def _groups(lines: Sequence[_Line], depth: int) -> list[list[_Line]]:
    """Cut sorted lines where neighbours share fewer than `_MIN_SHARED` tokens beyond `depth`."""
    groups = [[lines[0]]]
    for before, line in pairwise(lines):
        end = depth + _MIN_SHARED
        if len(line.tokens) >= end and before.tokens[depth:end] == line.tokens[depth:end]:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


class _Walk:
    """The walk over the tree; `values` fills up on the way."""

    def __init__(self, model: Any, batch_size: int, slots: int, abandoned: Callable[[], bool]) -> None:
        self.values = [0.0] * slots
        self._model = model
        self._batch_size = batch_size
        self._abandoned = abandoned

    def visit(self, lines: Sequence[_Line], depth: int, cached: CachedRows) -> None:
        """Read what the lines share beyond `depth`, then every part of them that shares more, then the rest together.

        Args:
            lines: Sorted; equal up to `depth`.
            depth: How many of their tokens `cached` holds.
            cached: One row; used up here.
        """
        shared = common_prefix([lines[0].tokens, lines[-1].tokens])
        if len(lines) > 1 and shared - depth >= _MIN_SHARED:
            targets = [target for line in lines for target in line.between(depth, shared)]
            self._read([_Line(lines[0].tokens[:shared], tuple(sorted(targets, key=_position)))], depth, cached)
            depth = shared
        groups = _groups(lines, depth)
        for group in groups:
            if len(group) > 1:
                self.visit(group, depth, cached.fork([0]))
        # By length, so that rows read together need little padding.
        single = sorted((group[0] for group in groups if len(group) == 1), key=lambda line: len(line.tokens))
        for first in range(0, len(single), self._batch_size):
            rows = single[first:first + self._batch_size]
            self._read(rows, depth, cached.fork([0] * len(rows)))

    def _read(self, lines: Sequence[_Line], depth: int, cached: CachedRows) -> None:
        """Read the lines beyond `depth` as one batch and store what is wanted there."""
        # Padding on the right: nothing reads these caches afterwards, and no token sees what comes after it.
        ids_BT, mask_BT = pad([line.tokens[depth:] for line in lines], left=False)
        width = ids_BT.shape[1]
        wanted = sorted({target.position - depth for line in lines for target in line.between(depth, depth + width)})
        limit = max(1, _LOGIT_ELEMENTS // (len(lines) * self._model.config.get_text_config().vocab_size))
        for start, stop, columns in _windows(width, wanted, limit):
            if self._abandoned():
                raise AbandonedError
            logits_BCV = cached.read(ids_BT[:, start:stop], mask_BT[:, start:stop], [c - start for c in columns])
            for row, line in enumerate(lines):
                targets = line.between(depth + start, depth + stop)
                if targets:
                    self._store(targets, logits_BCV[row], {depth + c: place for place, c in enumerate(columns)})

    def _store(self, targets: Sequence[_Target], logits_CV: Tensor, places: dict[int, int]) -> None:
        places_N = torch.tensor([places[target.position] for target in targets], device=logits_CV.device)
        tokens_N = torch.tensor([target.token for target in targets], device=logits_CV.device)
        logprobs_N = logits_CV[places_N, tokens_N] - logits_CV.logsumexp(-1)[places_N]
        for target, value in zip(targets, logprobs_N.tolist(), strict=True):
            self.values[target.slot] = value


def _windows(width: int, wanted: Sequence[int], limit: int) -> list[tuple[int, int, list[int]]]:
    """Cut columns into windows `(start, stop, wanted columns)` with at most `limit` wanted columns each."""
    cuts = [0, *wanted[limit::limit], width]
    return [(start, stop, [column for column in wanted if start <= column < stop])
            for start, stop in pairwise(cuts) if start < stop]
