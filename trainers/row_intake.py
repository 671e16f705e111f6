"""From a user's rows to units: tokenised, checked, counted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from lpo.errors import ConfigError, NothingLeftError
from lpo.packing import packed_tokens
from lpo.records import Reason, RejectedRow
from lpo.trainers.batches import Packing, Unit, UnitDataset
from lpo.trainers.tokenise import TokenisedPair, TokenisedRows, Tokeniser

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowIntake:
    """Reads rows.

    Args:
        tokeniser: Turns rows into token ids.
        packing: What makes a unit.
        max_pair_tokens: A pair whose two sides together have more distinct tokens is rejected; None for no limit.
    """

    tokeniser: Tokeniser
    packing: Packing
    max_pair_tokens: int | None = None

    def read(self, rows: Any, name: str) -> tuple[UnitDataset, list[RejectedRow]]:
        """Tokenise a set of rows.

        Args:
            rows: A `datasets.Dataset` or a list of dicts.
            name: Names the set in messages.

        Returns:
            What is trained on, and what is not: every row is in one of them.

        Raises:
            ConfigError: The rows cannot be counted.
            NothingLeftError: Every row was rejected.
        """
        if not hasattr(rows, "__len__"):
            raise ConfigError("rows must be countable: they are checked before training", where=name,
                              mend="give a datasets.Dataset or a list of dicts")
        result = self._within_limit(self.tokeniser.rows(rows, name))
        if result.rejected:
            log.warning("%d of %d rows rejected: %s", len(result.rejected), len(rows), result.reasons())
        if result.cleaned_characters:
            log.warning("%d unusable characters replaced", result.cleaned_characters)
        if result.straddling:
            log.info("%.2f %% of sides begin inside a token", 100 * result.straddling)
        if not result.pairs:
            first = f"the first one, {result.rejected[0].id}: {result.rejected[0].detail}" if result.rejected else None
            raise NothingLeftError(f"none of {len(rows)} rows is left: {result.reasons() or 'there are none'}",
                                   where=name, mend=first or "give some rows")
        return UnitDataset(result.pairs, self.packing), result.rejected

    def _within_limit(self, result: TokenisedRows) -> TokenisedRows:
        if self.max_pair_tokens is None:
            return result
        kept: list[TokenisedPair] = []
        rejected: list[RejectedRow] = []
        for pair in result.pairs:
            tokens = packed_tokens(Unit(0, (0,), (pair,), self.packing).group)
            if tokens <= self.max_pair_tokens:
                kept.append(pair)
            else:
                rejected.append(RejectedRow(
                    stage="train", id=pair.id, reason=Reason.TOO_LONG,
                    detail=f"the pair has {tokens} tokens, more than max_pack_tokens={self.max_pair_tokens} "
                           "(oversized='depth_first' trains it)"))
        return TokenisedRows(kept, [*result.rejected, *rejected], result.cleaned_characters)
