"""What reference log-probs depend on: the reference as a whole, and the tokens of each unit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lpo.records import fingerprint

CODE_VERSION = 1
"""Raised by hand whenever log-probs, or the order in which a unit's tokens stand, may come out different."""

DIGEST_LENGTH = 32
"""Hexadecimal digits kept of a SHA-256: 128 bits."""


@dataclass(frozen=True)
class ReferenceKey:
    """Everything that changes reference log-probs, except the tokens themselves (`unit_digest`).

    Neither versions of torch and transformers nor the device are part of it: they move the last bits only, and a
    cache must serve another machine. They are noted beside the numbers, and what they change beyond rounding is found
    by the spot check.

    Args:
        weights: Fingerprint of the weights without any adapter.
        architecture: The model's class and a fingerprint of the settings in its config that can change numbers.
        adapter: Fingerprint of the adapter; empty when the reference runs without one.
        dtype: Types of weights and of autocast, and the precision of float32 matrix products.
        tokenizer: Fingerprint of vocabulary, merges and special tokens.
        template: Fingerprint of the chat template; empty when there is none.
        computation: How it is computed: packing, attention back end, head path.
        code: Version of this library's code path.
    """

    weights: str
    architecture: str
    adapter: str
    dtype: str
    tokenizer: str
    template: str
    computation: str
    code: str

    def digest(self) -> str:
        """The key as one short name; the same in every process and on every machine."""
        return fingerprint(asdict(self), DIGEST_LENGTH)

    def differences(self, other: Mapping[str, object]) -> list[str]:
        """Names of the fields in which another key, given as a dict, differs."""
        return [name for name, value in asdict(self).items() if other.get(name) != value]


def unit_digest(rows: Iterable[tuple[Sequence[int], int, int]], *, ordered: bool) -> str:
    """A digest of a unit's tokens.

    Args:
        rows: For each row its token ids, the index of the first scored token and one past the last.
        ordered: Do the unit's log-probs stand in the order of these rows (a pair's sides)? In a packed tree their
            order depends on the set of rows only, so neither order nor repeats of rows count there.
    """
    digests = [hashlib.sha256(f"{len(ids)} {start} {stop};".encode() + np.asarray(ids, dtype="<i8").tobytes()).digest()
               for ids, start, stop in rows]
    kind, digests = (b"rows", digests) if ordered else (b"tree", sorted(set(digests)))
    return hashlib.sha256(kind + b"".join(digests)).hexdigest()[:DIGEST_LENGTH]
