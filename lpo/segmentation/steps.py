r"""Where a step that ran to its token budget is cut: at a paragraph end, else at a sentence end.

Lines are what Markdown sees: they end with `\n` (or `\r\n`), never with the other characters `str.splitlines` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lpo.segmentation.sentences import after_blank_lines, indexable, last_sentence_end

MIN_KEPT = 1 / 3
"""Smallest share of a step's characters that a cut may leave: a shorter step wastes what was sampled."""

_RUN_UP = 500
"""Characters before the first place for a cut that are read along: a sentence begins somewhere among them."""


@dataclass(frozen=True)
class CutStep:
    """A step after the cut: `text + dropped` is the step that was sampled, character for character."""

    text: str
    dropped: str


def cut_step(text: str, *, boundary: Literal["sentence", "tokens"], prefix: str = "") -> CutStep:
    r"""Cut a text that ran to its token budget where a reader would pause.

    The last paragraph end is taken, else the last sentence end; never a place inside a code fence or a table row, nor
    right after a heading or a list marker. Each must leave `MIN_KEPT` of the text; if none does, the text stays whole.

    Args:
        text: What was sampled.
        boundary: `sentence` looks for an end; `tokens` keeps the text whole, cut where the budget ran out.
        prefix: The answer before it, so that a fence, table or paragraph opened there is known.

    Returns:
        What is kept and what is dropped.
    """
    if boundary == "tokens" or not text.strip():
        return CutStep(text, "")
    whole = prefix + text
    first = len(prefix) + max(1, round(len(text) * MIN_KEPT))
    cut = _last_end(whole, first)
    if cut is None or not whole[len(prefix):cut].strip():
        return CutStep(text, "")
    return CutStep(whole[len(prefix):cut], whole[cut:])


def _last_end(text: str, first: int) -> int | None:
    """The last paragraph end at or after `first`, else the last sentence (or table row) end there, else None."""
    safe = indexable(text)
    starts = [0, *accumulate(len(line) + 1 for line in safe.split("\n"))]
    blocks = [block for block in _markdown().parse(safe) if block.map]
    paragraphs = [end for end in _paragraph_ends(safe, starts, blocks) if end >= first]
    if paragraphs:
        return max(paragraphs)
    return max((end for end in _inner_ends(safe, starts, blocks, first) if end >= first), default=None)


@cache
def _markdown() -> MarkdownIt:
    """Only the block structure is needed, and inline parsing is what takes time on hostile text."""
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _paragraph_ends(text: str, starts: list[int], blocks: list[Token]) -> Iterator[int]:
    """Ends of finished blocks, after all the newlines that follow.

    A cut is stable when tokenising the two sides apart gives the tokens of the whole. Byte-level tokenizers put a run
    of newlines into tokens of its own and let a word take the one space before it. So a paragraph is cut after its
    newlines (never between them), and a sentence before the space of the next one.
    """
    for block in blocks:
        if block.type not in ("paragraph_open", "fence", "table_open", "blockquote_open", "hr"):
            continue  # a heading belongs to what follows; other blocks have no end of their own to rely on
        end = after_blank_lines(text, _end_of(block, text, starts))
        if end < len(text) or _is_finished(block, text, starts):
            yield end


def _end_of(block: Token, text: str, starts: list[int]) -> int:
    assert block.map is not None
    return min(starts[min(block.map[1], len(starts) - 1)], len(text))


def _is_finished(block: Token, text: str, starts: list[int]) -> bool:
    """Is the text's last block complete, although nothing follows it?"""
    assert block.map is not None
    lines = text[starts[block.map[0]]:_end_of(block, text, starts)].rstrip().split("\n")
    if block.type == "fence":
        return len(lines) > 1 and lines[-1].strip(" \t\r>") == block.markup
    return re.search(r"\n[ \t\r]*\n[ \t\r]*$", text) is not None


def _inner_ends(text: str, starts: list[int], blocks: list[Token], first: int) -> Iterator[int]:
    """Ends of sentences inside paragraphs and of rows inside table bodies, from the last block backwards."""
    in_body = False
    units: list[Token] = []
    for block in blocks:
        in_body = block.type == "tbody_open" or (in_body and block.type not in ("thead_open", "table_open"))
        if block.type == "paragraph_open" or (block.type == "tr_open" and in_body):
            units.append(block)
    for block in reversed(units):
        assert block.map is not None
        start, end = starts[block.map[0]], _end_of(block, text, starts)
        if end < first:
            return
        if block.type == "tr_open":
            if text[end - 1:end] == "\n":
                yield end
            continue
        place = last_sentence_end(text, max(start, first - _RUN_UP), end, end)
        if place is not None:
            yield place
