"""What two texts share and where they differ, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_TOKEN = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+|[^\w\s]")
MIN_SHARED = 4
"""Words (Chinese: characters) that must agree in a row inside the texts: shorter matches are `the` and `of`."""
LONGEST = 4000
"""Words beyond which only the beginning and the end are compared."""


@dataclass(frozen=True)
class Comparison:
    """Two texts, each cut into alternating parts: differing, shared, differing, ...

    Args:
        chosen: Parts of the chosen side; the first is differing and may be empty.
        rejected: The same for the rejected side; its shared parts are those of `chosen`.
        shared: Share of the words of both sides that stand in shared parts, 0 to 1.
    """

    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    shared: float


def compare(chosen: str, rejected: str, longest: int = LONGEST) -> Comparison:
    """Mark what two texts have in common: their beginning, their end, and passages of several words in between.

    Two samples of one prompt agree in many single words by chance; marking those would make both unreadable.

    Args:
        chosen: One text.
        rejected: The other.
        longest: Words beyond which only the beginning and the end are compared.
    """
    first, second = _TOKEN.findall(chosen), _TOKEN.findall(rejected)
    blocks = _blocks(first, second, longest)
    total = _words(first) + _words(second)
    shared = 2 * sum(_words(first[start:start + size]) for start, _, size in blocks)
    return Comparison(_cut(first, [(start, size) for start, _, size in blocks]),
                      _cut(second, [(start, size) for _, start, size in blocks]), shared / total if total else 0.0)


def _blocks(first: list[str], second: list[str], longest: int) -> list[tuple[int, int, int]]:
    """`(start in first, start in second, size)` of every shared part, in order."""
    head = 0
    while head < min(len(first), len(second)) and first[head] == second[head]:
        head += 1
    tail = 0
    while tail < min(len(first), len(second)) - head and first[-1 - tail] == second[-1 - tail]:
        tail += 1
    blocks = [(0, 0, head)] if head else []
    end_first, end_second = len(first) - tail, len(second) - tail
    if max(end_first, end_second) - head <= longest:
        # In longer texts a passage is found by its rarer words: one that repeats itself would take minutes otherwise.
        matcher = SequenceMatcher(None, first[head:end_first], second[head:end_second], autojunk=True)
        blocks += [(block.a + head, block.b + head, block.size) for block in matcher.get_matching_blocks()
                   if _words(first[block.a + head:block.a + head + block.size]) >= MIN_SHARED]
    if tail:
        blocks.append((end_first, end_second, tail))
    return blocks


def _words(tokens: list[str]) -> int:
    return sum(1 for token in tokens if token[0].isalnum())


def _cut(tokens: list[str], spans: list[tuple[int, int]]) -> tuple[str, ...]:
    parts: list[str] = []
    position = 0
    for start, size in spans:
        parts += ["".join(tokens[position:start]), "".join(tokens[start:start + size])]
        position = start + size
    return (*parts, "".join(tokens[position:]))
