"""Cutting a long answer into segments: at headings, paragraphs, the marks of slides, or a separator.

Put together again the segments are the text, character for character. None is empty, and none is white space alone
unless the text is. The time is linear in the length of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from lpo.segmentation.blocks import Block, BlockKind, markdown_blocks
from lpo.segmentation.slides import slide_starts
from lpo.segmentation.word_limit import WordLimit
from lpo.writing_config import SegmentsConfig


def split_segments(text: str, config: SegmentsConfig) -> list[str]:
    r"""Cut a text into segments.

    * `sections`: one begins at each Markdown heading at the top level (`# ...` or underlined; never in a code fence, a
      list or a quotation). Headings with nothing in between stay together, and what stands before the first heading
      is a segment of its own. Blank lines belong to the segment before them.
    * `paragraphs`: whole paragraphs, gathered up to the limit of words; a heading stays with what follows it.
    * `slides`: see `lpo.segmentation.slides` for the marks.
    * `separator`: a segment ends behind each one.

    With a limit of words a longer section is gathered from its paragraphs, and a longer paragraph is cut at sentence
    ends, else at line ends, else between words. Only code fences and tables may exceed it: they are never cut.

    Args:
        text: Any text.
        config: The rule. A word is a run of characters without white space, or one Chinese or Japanese character.

    Returns:
        Segments whose concatenation is the text; none for the empty text.
    """
    if config.by == "separator":
        return _without_blanks(text, _separator_ends(text, config.separator))
    if config.by == "slides":
        return _without_blanks(text, slide_starts(text))
    blocks = markdown_blocks(text)
    groups = _sections(blocks) if config.by == "sections" else [blocks]
    if config.words is None:
        return _without_blanks(text, (group[0].start for group in groups if group))
    limit = WordLimit(text, config.words)
    return _without_blanks(text, (start for group in groups for start in limit.starts(group)))


def _sections(blocks: list[Block]) -> list[list[Block]]:
    """Groups of blocks, each beginning at the first heading of a run of headings."""
    groups: list[list[Block]] = []
    before = None
    for block in blocks:
        if not groups or (block.kind is BlockKind.HEADING and before is not BlockKind.HEADING):
            groups.append([])
        groups[-1].append(block)
        before = block.kind
    return groups


def _separator_ends(text: str, separator: str | None) -> list[int]:
    assert separator is not None
    ends: list[int] = []
    at = text.find(separator)
    while at >= 0:
        ends.append(at + len(separator))
        at = text.find(separator, ends[-1])
    return ends


def _without_blanks(text: str, starts: Iterable[int]) -> list[str]:
    """The text cut at these places, ascending; a piece of white space alone goes with the one before it, or after it
    if it is the first.
    """
    cuts = sorted({0, *starts, len(text)})
    segments: list[str] = []
    blank = ""
    for start, end in pairwise(cuts):
        piece = text[start:end]
        if not piece.strip():
            if segments:
                segments[-1] += piece
            else:
                blank += piece
        else:
            segments.append(blank + piece)
            blank = ""
    return [*segments, blank] if blank else segments
