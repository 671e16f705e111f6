"""Prompts, open answers and continuations as token ids: what every back end in this process gives its model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lpo.chat import render_context, turn_closing
from lpo.errors import DataError, RequestRejectedError
from lpo.llm.base import Context, Request, ScoreRequest
from lpo.records import Dialogue


@dataclass(frozen=True)
class Scoring:
    """Rows to be scored.

    Args:
        rows: Token ids of context and continuation.
        starts: Where in each row scoring begins; at least 1. A row of that length has nothing to score.
    """

    rows: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]


class PromptIds:
    """Turns what is asked into token ids.

    Args:
        tokenizer: Of transformers.
        template: Jinja source of the chat template; None for the tokenizer's own.
        limit: Tokens the model can read and write together; None when it does not say.
        end_ids: Tokens that end a text by the model's generation config, besides the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, template: str | None, *, limit: int | None, end_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._limit = limit
        own = tokenizer.eos_token_id
        self._plain_ends = frozenset(end_ids) | frozenset(() if own is None else [own])
        self._chat_ends: frozenset[int] | None = None
        self._appended = _appended_tokens(tokenizer)

    def context(self, request: Request) -> tuple[int, ...]:
        """What the model reads before it writes.

        Raises:
            RequestRejectedError: It is empty, cannot be rendered, or leaves no room for the answer.
        """
        ids = self._ids(request.context)
        if not ids:
            raise RequestRejectedError("the prompt is empty and the model has no beginning-of-text token to start from")
        if request.sampling.max_tokens < 1:
            raise RequestRejectedError("max_tokens is less than 1")
        self.check_room(len(ids), request.sampling.max_tokens)
        return ids

    def scoring(self, request: ScoreRequest) -> Scoring:
        """The rows of a request to score, context after context, by the token rule of `TokenLogprobs`.

        Raises:
            RequestRejectedError: A row cannot be rendered, is too long, or has nothing before its first token.
        """
        rows: list[tuple[int, ...]] = []
        starts: list[int] = []
        for context in request.contexts:
            before = self._ids(context)
            for continuation in request.continuations:
                row = self._ids(context, continuation)
                start = common_prefix([before, row])
                if start == 0 and row:
                    raise RequestRejectedError("the first token of a text has no probability: nothing stands before it",
                                               mend="give a context that is not empty")
                self.check_room(len(row) - 1, 1)
                rows.append(row)
                starts.append(start)
        return Scoring(tuple(rows), tuple(starts))

    def check_room(self, read: int, new: int) -> None:
        """Refuse what the model has no room for.

        Raises:
            RequestRejectedError: More tokens would be read and written than the model knows positions.
        """
        if self._limit is not None and read + new > self._limit:
            raise RequestRejectedError(f"{read} tokens read and {new} to write are more than the model's {self._limit}",
                                       mend="shorten the prompt or lower max_tokens")

    def ends(self, prompt: Dialogue) -> frozenset[int]:
        """Tokens that end an answer to this prompt; after messages also what the template closes a turn with."""
        if isinstance(prompt, str):
            return self._plain_ends
        if self._chat_ends is None:
            self._chat_ends = self._plain_ends | _turn_end_ids(self._tokenizer, self._template)
        return self._chat_ends

    def _ids(self, context: Context, continuation: str = "") -> tuple[int, ...]:
        try:
            text = render_context(self._tokenizer, context.prompt, context.prefix, self._template) + continuation
        except DataError as error:
            raise RequestRejectedError(error.cause, mend=error.mend) from error
        except TemplateError as error:
            raise RequestRejectedError(f"the chat template refuses these messages: {error}",
                                       mend="use turns the template knows, or another chat template") from error
        # Templates write their special tokens themselves.
        special = isinstance(context.prompt, str)
        ids = tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])
        # Some tokenizers put an end-of-text behind every text (`add_eos_token`); this one is to be continued.
        return ids[:len(ids) - self._appended] if special else ids


def end_ids(eos_token_id: int | list[int] | None) -> list[int]:
    """The ending tokens of a generation config, which names none, one or several."""
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id


def common_prefix(rows: list[tuple[int, ...]]) -> int:
    """Length of the longest common beginning of rows of token ids."""
    # Of rows in order, the first and the last differ first.
    first, last = min(rows), max(rows)
    return next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
                min(len(first), len(last)))


def distinct_tokens(scoring: Scoring) -> int:
    """Tokens the model has to read for this request: what its rows share at the beginning counts once."""
    rows = {row[:-1] for row, start in zip(scoring.rows, scoring.starts, strict=True) if start < len(row)}
    shared = common_prefix(list(rows)) if rows else 0
    return shared + sum(len(row) - shared for row in rows)


def by_context(
    values: tuple[tuple[float, ...], ...], request: ScoreRequest
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """The values of all rows as a table: contexts by continuations."""
    width = len(request.continuations)
    if not width:
        return tuple(() for _ in request.contexts)
    return tuple(values[place:place + width] for place in range(0, len(values), width))


def _appended_tokens(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts behind a text by itself."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    more = len(whole) - len(bare)
    before = next((place for place in range(more + 1) if whole[place:place + len(bare)] == bare), more)
    return more - before


def _turn_end_ids(tokenizer: Any, template: str | None) -> frozenset[int]:
    """The special token the chat template writes after an assistant turn, if it writes one."""
    try:
        closing = turn_closing(tokenizer, template)
    except DataError:
        return frozenset()
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
    return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)
