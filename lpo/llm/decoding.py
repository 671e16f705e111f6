"""Writing: a batch of texts grows token by token over one key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lpo.llm.base import Finish, Sampling
from lpo.llm.batching import AbandonedError
from lpo.llm.kv import CachedRows, pad
from lpo.llm.sampling import choose_token, uniform

_ANCHOR_TOKENS = 8
"""Context tokens decoded together with the text: some tokenizers drop a space at the beginning of what they decode."""


@dataclass(frozen=True)
class Writing:
    """A text to be written, as token ids.

    Args:
        context: Ids of what the model has read; not empty.
        sampling: How tokens are drawn.
        seed: Seed of this text alone.
        index: Which sample of several this is.
        end_ids: Tokens that end the text.
    """

    context: tuple[int, ...]
    sampling: Sampling
    seed: int
    index: int
    end_ids: frozenset[int]


@dataclass(frozen=True)
class Written:
    """A text that was written.

    Args:
        text: Without the ending token and without the stop string.
        finish: Why it ended.
        tokens: How many tokens were drawn.
        logprobs: Of the drawn tokens under the model as it is, in nats.
    """

    text: str
    finish: Finish
    tokens: int
    logprobs: tuple[float, ...]


class _Row:
    """A text in the making."""

    def __init__(self, writing: Writing, tokenizer: Any, device: torch.device) -> None:
        self.writing = writing
        self._tokenizer = tokenizer
        self._anchor = list(writing.context[-_ANCHOR_TOKENS:])
        self._tail_tokens = _ANCHOR_TOKENS + max((len(stop.encode()) for stop in writing.sampling.stop), default=0)
        self._penalised = writing.sampling.repetition_penalty != 1.0
        self._seen_S = torch.tensor(writing.context if self._penalised else (), dtype=torch.long, device=device)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.result: Written | None = None

    def draw(self, logits_V: Tensor) -> Tensor:
        writing = self.writing
        draw = uniform(writing.seed, writing.index, len(self.tokens))
        return choose_token(logits_V, writing.sampling, draw, self._seen_S.to(logits_V.device))

    def append(self, token: int, logprob: float) -> None:
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self._penalised:
            self._seen_S = torch.cat([self._seen_S, self._seen_S.new_tensor([token])])
        if token in self.writing.end_ids:
            return self._end(self._decode(self.tokens[:-1]), Finish.STOP)
        cut = self._cut_at_stop()
        if cut is not None:
            return self._end(cut, Finish.STOP)
        if len(self.tokens) >= self.writing.sampling.max_tokens:
            # A character cut in the middle of its bytes decodes to U+FFFD; the whole characters before it stand.
            return self._end(self._decode(self.tokens).rstrip("\ufffd"), Finish.LENGTH)
        return None

    def _end(self, text: str, finish: Finish) -> None:
        self.result = Written(text, finish, len(self.tokens), tuple(self.logprobs))

    def _cut_at_stop(self) -> str | None:
        """The text before the first stop string, once there is one.

        A stop string of n bytes lies within the last n tokens, so only a tail is decoded at every step.
        """
        stops = self.writing.sampling.stop
        if not stops:
            return None
        tail = self._decode(self.tokens) if len(self.tokens) <= self._tail_tokens else self._plain(
            self.tokens[-self._tail_tokens:])
        if not any(stop in tail for stop in stops):
            return None
        text = self._decode(self.tokens)
        places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
        return text[:min(places)] if places else None

    def _decode(self, tokens: list[int]) -> str:
        anchor, whole = self._plain(self._anchor), self._plain(self._anchor + tokens)
        return whole[len(anchor):] if whole.startswith(anchor) else self._plain(tokens)

    def _plain(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@torch.no_grad()
def write(
    model: Any, tokenizer: Any, batch: Sequence[Writing], abandoned: Callable[[], bool] = lambda: False
) -> list[Written]:
    """Write a batch of texts.

    Contexts that are equal are read once. A text that is finished leaves the batch, so the passes shrink with it.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        batch: The texts.
        abandoned: Asked before every pass whether nobody waits any more.

    Returns:
        The texts, in the order of `batch`.

    Raises:
        AbandonedError: Nobody waits any more.
    """
    rows = [_Row(writing, tokenizer, model.device) for writing in batch]
    cached, logits_BV = _read_contexts(model, [row.writing.context for row in rows])
    active = rows
    while True:
        tokens_B = _draw(active, logits_BV)
        alive = [place for place, row in enumerate(active) if row.result is None]
        if not alive:
            return [_finished(row) for row in rows]
        if abandoned():
            raise AbandonedError
        if len(alive) < len(active):
            cached.select(alive)
            tokens_B = tokens_B[alive]
            active = [active[place] for place in alive]
        ids_B1 = tokens_B[:, None]
        logits_BV = cached.read(ids_B1, torch.ones_like(ids_B1), [0])[:, 0]


def _read_contexts(model: Any, contexts: Sequence[tuple[int, ...]]) -> tuple[CachedRows, Tensor]:
    """Read every distinct context once and give each text its own copy."""
    places = {context: place for place, context in enumerate(dict.fromkeys(contexts))}
    cached = CachedRows(model, len(places))
    ids_BT, mask_BT = pad(list(places), left=True)
    logits_BV = cached.read(ids_BT, mask_BT, [ids_BT.shape[1] - 1])[:, 0]
    order = [places[context] for context in contexts]
    if order != list(range(cached.rows)):
        cached.select(order)
        logits_BV = logits_BV[order]
    return cached, logits_BV


def _draw(rows: Sequence[_Row], logits_BV: Tensor) -> Tensor:
    """Draw every row's next token and let the row take it."""
    if logits_BV.device.type == "mps":
        logits_BV = logits_BV.cpu()  # no float64 there
    tokens_B = torch.stack([row.draw(logits_V) for row, logits_V in zip(rows, logits_BV, strict=True)])
    logprobs_B = logits_BV.gather(1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
    for row, token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
        row.append(token, logprob)
    return tokens_B


def _finished(row: _Row) -> Written:
    assert row.result is not None  # for the type checker: `write` returns when no row is without one
    return row.result
