"""How one token is drawn from logits: pure functions, one row at a time, no random state.

A row's draw depends on its own seed, index and position alone, never on what else is in the batch.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lpo.llm.base import Sampling

_FIRST_CANDIDATES = 1024
"""How many of the most probable tokens are looked at first for top-p; grown until they hold enough probability."""


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) that belongs to this seed, sample index and token position.

    A hash instead of a generator: there is no state that batching could advance, and any position can be drawn first.
    """
    digest = hashlib.blake2b(f"{seed}:{index}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def choose_token(logits_V: Tensor, sampling: Sampling, draw: float, seen_S: Tensor) -> Tensor:
    """The next token of one row.

    Penalty, temperature, top-k and top-p are applied in the order of transformers; the token is then read off the
    cumulative distribution of what is left, in vocabulary order.

    Args:
        logits_V: float32 logits.
        sampling: How the token is drawn.
        draw: The row's uniform number in [0, 1).
        seen_S: Ids of the tokens read and written so far (repeats allowed).

    Returns:
        The token's id, a tensor without dimensions.
    """
    if sampling.repetition_penalty != 1.0:
        logits_V = penalise(logits_V, seen_S, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_V.argmax()
    logits_V = logits_V / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1:
        return _invert(logits_V, draw)
    ids_K = keep(logits_V, sampling.top_k, sampling.top_p)
    return ids_K[_invert(logits_V[ids_K], draw)]


def penalise(logits_V: Tensor, seen_S: Tensor, penalty: float) -> Tensor:
    """Repetition penalty: logits of seen tokens are divided by it when positive, multiplied when negative.

    Source: CTRL (arXiv 1909.05858), as in transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    seen_logits_S = logits_V[seen_S]
    changed_S = torch.where(seen_logits_S < 0, seen_logits_S * penalty, seen_logits_S / penalty)
    return logits_V.scatter(0, seen_S, changed_S)


def keep(logits_V: Tensor, top_k: int, top_p: float) -> Tensor:
    """Ids that survive top-k and then top-p, in ascending order.

    Top-p keeps the smallest set of most probable tokens whose probability reaches `top_p`, never less than one token.
    Only as many tokens are sorted as the set needs: a whole vocabulary takes longer to sort than a forward pass.
    """
    vocabulary = logits_V.shape[0]
    if top_k:
        logits_K, ids_K = logits_V.topk(min(top_k, vocabulary))
        probabilities_K = logits_K.softmax(-1, dtype=torch.float64)
    else:
        total = logits_V.logsumexp(-1)
        count = _FIRST_CANDIDATES
        while True:
            count = min(count, vocabulary)
            logits_K, ids_K = logits_V.topk(count)
            probabilities_K = (logits_K - total).double().exp()
            if count == vocabulary or probabilities_K.sum() >= top_p:
                break
            count *= 8
    if top_p < 1:
        before_K = probabilities_K.cumsum(-1) - probabilities_K
        # The first token is kept whatever rounding says: its `before` is zero.
        ids_K = ids_K[before_K < top_p]
    return ids_K.sort().values


def _invert(logits_K: Tensor, draw: float) -> Tensor:
    """Index at which the cumulative distribution passes `draw`; float64, so that far-away tokens do not vanish."""
    cumulative_K = logits_K.softmax(-1).cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(cumulative_K, cumulative_K[-1:] * draw, right=True)
    return place[0].clamp(max=logits_K.shape[0] - 1)
