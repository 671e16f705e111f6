"""From rows to token ids: which tokens are read and which are scored.

One boundary rule. Prompt, prefix and side are rendered and tokenised whole. Scoring begins after the longest token
prefix that the row has in common with (prompt + prefix) tokenised alone, which is what generation reads. A token that
straddles that boundary belongs to the side.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2

from lpo.chat import render_row, require_chat_template
from lpo.errors import DataError
from lpo.records import PreferencePair, Reason, RejectedRow
from lpo.storage import clean_values
from lpo.trainers.columns import read_pair


def reasons(rejected: Iterable[RejectedRow]) -> str:
    """Counts of rejected rows by reason, in words."""
    counts = Counter(row.reason.value for row in rejected)
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common())


@dataclass(frozen=True)
class TokenisedSide:
    """One row of a batch.

    Args:
        ids: Tokens of prompt, prefix and side, [T].
        start: Index in `ids` of the first scored token, at least 1; all tokens from there on are scored.
        straddles: Does the first scored token also hold characters of (prompt + prefix)?
    """

    ids: array[int]
    start: int
    straddles: bool

    @property
    def n_scored(self) -> int:
        """How many tokens are scored."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class TokenisedPair:
    """A pair ready for a batch."""

    id: str
    group: str
    step: int
    chosen: TokenisedSide
    rejected: TokenisedSide


@dataclass(frozen=True)
class TokenisedRows:
    """A whole set: every input row is either a pair or a rejected row.

    Args:
        pairs: What is trained on.
        rejected: What is not, and why.
        cleaned_characters: Lone surrogates and NULs replaced or dropped, which no tokenizer accepts.
    """

    pairs: list[TokenisedPair]
    rejected: list[RejectedRow]
    cleaned_characters: int

    @property
    def straddling(self) -> float:
        """Share of sides whose first scored token straddles the boundary."""
        sides = [side.straddles for pair in self.pairs for side in (pair.chosen, pair.rejected)]
        return sum(sides) / len(sides) if sides else 0.0

    def reasons(self) -> str:
        """Counts of rejected rows by reason, in words."""
        return reasons(self.rejected)


@dataclass(frozen=True)
class Tokeniser:
    """Turns rows into token ids; a pure function of the row.

    Args:
        tokenizer: A transformers tokenizer.
        template: Jinja source of the chat template, or None for the tokenizer's own.
        max_length: Rows with a longer side are rejected.
    """

    tokenizer: Any
    template: str | None = None
    max_length: int | None = None

    def rows(self, rows: Iterable[Mapping[str, Any]], name: str = "row") -> TokenisedRows:
        """Tokenise a set of rows.

        Raises:
            ConfigError: There are messages but no chat template.
        """
        pairs: list[TokenisedPair] = []
        rejected: list[RejectedRow] = []
        cleaned = 0
        for number, row in enumerate(rows):
            values, count = clean_values(dict(row))
            cleaned += count
            result = self.row(values, f"{name} {number}")
            if isinstance(result, TokenisedPair):
                pairs.append(result)
            else:
                rejected.append(result)
        return TokenisedRows(pairs, rejected, cleaned)

    def row(self, row: Mapping[str, Any], row_id: str) -> TokenisedPair | RejectedRow:
        """Tokenise one row.

        Args:
            row: Its columns, see `read_pair`.
            row_id: Names the row when it has no `id`.

        Returns:
            The pair, or why it cannot be used.
        """
        try:
            pair = read_pair(row, row_id)
        except DataError as error:
            return _reject(str(row.get("id") or row_id), Reason.MALFORMED, error.cause)
        if not pair.chosen.strip() or not pair.rejected.strip():
            return _reject(pair.id, Reason.EMPTY, "a side has no text")
        if _normalised(pair.chosen) == _normalised(pair.rejected):
            return _reject(pair.id, Reason.EQUAL_TEXTS, "both sides say the same")
        if not isinstance(pair.prompt, str):
            require_chat_template(self.tokenizer, self.template)
        try:
            chosen = self._side(pair, pair.chosen, pair.chosen_ends)
            rejected = self._side(pair, pair.rejected, pair.rejected_ends)
        except (DataError, jinja2.TemplateError) as error:
            return _reject(pair.id, Reason.TEMPLATE, getattr(error, "cause", str(error)))
        return self._usable(TokenisedPair(pair.id, pair.group, pair.step, chosen, rejected))

    def _usable(self, pair: TokenisedPair) -> TokenisedPair | RejectedRow:
        longest = max(len(pair.chosen.ids), len(pair.rejected.ids))
        if self.max_length is not None and longest > self.max_length:
            return _reject(pair.id, Reason.TOO_LONG, f"{longest} tokens, more than {self.max_length}")
        if min(pair.chosen.n_scored, pair.rejected.n_scored) < 1:
            return _reject(pair.id, Reason.NOTHING_TO_SCORE, "a side has no token of its own")
        if pair.chosen.ids == pair.rejected.ids:
            return _reject(pair.id, Reason.EQUAL_TEXTS, "both sides have the same tokens")
        return pair

    def _side(self, pair: PreferencePair, text: str, ends: bool) -> TokenisedSide:
        rendered = render_row(self.tokenizer, pair.prompt, pair.prefix, text, ends, self.template, name=pair.id)
        context = self.encode(rendered.context, rendered.special_tokens)
        ids = self.encode(rendered.row, rendered.special_tokens)
        shared = _common_prefix(context, ids)
        # The first token of a row has nothing before it to be predicted from.
        return TokenisedSide(array("i", ids), max(shared, 1), straddles=shared < len(context))

    def encode(self, text: str, special_tokens: bool) -> list[int]:
        """Token ids of a text, without the special tokens that some tokenizers put after it: our text goes on, or
        ends with what the template or `render_row` wrote.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=special_tokens)["input_ids"]
        return ids[: len(ids) - self._n_appended] if special_tokens and self._n_appended else ids

    @cached_property
    def _n_appended(self) -> int:
        """How many special tokens the tokenizer puts after a text, seen on a letter that every tokenizer knows."""
        plain: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        ids: list[int] = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        starts = [i for i in range(len(ids)) if ids[i : i + len(plain)] == plain]
        return len(ids) - starts[0] - len(plain) if starts else 0


def _reject(row_id: str, reason: Reason, detail: str) -> RejectedRow:
    return RejectedRow(stage="train", id=row_id, reason=reason, detail=detail)


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
