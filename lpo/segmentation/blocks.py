r"""The blocks of a Markdown text, in one pass over its lines, whatever the text.

Only what a cut needs to know: headings, code fences and tables at the top level, and runs of other lines between blank
ones. What stands inside a list or a quotation is text, a fence in a list excepted. On real texts markdown-it says the
same (a test compares them); but it takes seconds for a megabyte of very short lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from markdown_it.common.html_blocks import block_names


class BlockKind(Enum):
    """What a block is to somebody who cuts."""

    TEXT = auto()
    """A paragraph, a run of list items, a quotation, a rule, ...: lines up to a blank one."""
    HEADING = auto()
    """It belongs to what follows."""
    FENCE = auto()
    """A fenced code block: never cut."""
    TABLE = auto()
    """Never cut."""


class Block(NamedTuple):
    """A stretch of a text: characters `start` to `end`, with the blank lines behind it."""

    kind: BlockKind
    start: int
    end: int


def markdown_blocks(text: str) -> list[Block]:
    r"""The blocks of a text, in order and without gaps; blank lines before the first belong to it.

    Lines end with `\n` or `\r\n` and nothing else. Setext headings are all lines of their paragraph.

    Args:
        text: Any text.

    Returns:
        Blocks that make up the text; none for the empty one.
    """
    scanner = _Scanner()
    start = 0
    for line in text.split("\n"):
        scanner.read(line, start)
        start += len(line) + 1
    if not scanner.starts:
        return [Block(BlockKind.TEXT, 0, len(text))] if text else []
    return list(map(Block, scanner.kinds, [0, *scanner.starts[1:]], [*scanner.starts[1:], len(text)]))


_BEGINNINGS = frozenset("#`~=-|:*_><+0123456789")
"""What a line begins with that is more than a line of a paragraph."""

_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_FENCE = re.compile(r"(`{3,}+)[^`]*+$|(~{3,}+)")
_UNDERLINE = re.compile(r"(?:=++|-++)$")
_RULE = re.compile(r"([-*_])(?:[ \t]*+\1){2,}+$")
_MARKER = re.compile(r"([-+*]|([0-9]{1,9})[.)])(?:([ \t]++)|$)")
_DELIMITER_ROW = re.compile(r"\|?+[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?+$")
_HTML = re.compile(r"</?+([a-zA-Z][a-zA-Z0-9-]*+)(?=[\s>/]|$)")
_HTML_ALONE = re.compile(r"</?+[a-zA-Z][a-zA-Z0-9-]*+(?:\s[^<>]*+)?+>$")
_RAW_HTML = (
    (re.compile(r"<(?:script|pre|style|textarea)(?=[\s>]|$)", re.IGNORECASE),
     re.compile(r"</(?:script|pre|style|textarea)>", re.IGNORECASE)),
    (re.compile(r"<!--"), re.compile(r"-->")),
    (re.compile(r"<\?"), re.compile(r"\?>")),
    (re.compile(r"<![a-zA-Z]"), re.compile(r">")),
    (re.compile(r"<!\[CDATA\["), re.compile(r"\]\]>")),
)
_BLOCK_NAMES = frozenset(block_names)


@dataclass
class _Fence:
    marker: str
    indent: int
    """Of the list it stands in: a line that is indented less ends the list, and the fence with it. 0: in none."""


class _Scanner:
    """What has been read so far: where blocks begin, and what they are."""

    __slots__ = ("_fence", "_fresh", "_html", "_list", "_nested", "_paragraph", "_row", "_table", "kinds", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.kinds: list[BlockKind] = []
        self._fresh = True  # the next line that holds something begins a block
        self._paragraph: int | None = None  # where the open paragraph at the top level begins
        self._nested = False  # is a paragraph open inside a list or a quotation, which a plain line would go on with?
        self._list = 0  # columns a line must be indented by to stand in the open list; 0: none is open
        self._fence: _Fence | None = None
        self._html: re.Pattern[str] | None = None  # what ends the open block of HTML
        self._table = False
        self._row = (0, "")  # the line before, where a table's head may be, and where it begins

    def read(self, line: str, start: int) -> None:
        words = line.strip(" \t\r")
        if (self._fence or self._html) and self._goes_on(line, words):
            return
        if not words:
            self._close()
            return
        if words[0] not in _BEGINNINGS and line[0] == words[0]:
            self._plain(line, start)
            return
        indent = 0 if line[0] == words[0] else _indent(line)
        if self._list and indent >= self._list:
            self._inside_list(words, start)
        elif indent > 3:
            if self._paragraph is None and not self._nested:
                self._list = 0
            if self._table:
                self._begin(BlockKind.TEXT, start)
            self._continue(start)
            self._row = (0, "")
        elif words[0] not in _BEGINNINGS or not self._opens(words, indent, start):
            self._plain(line, start)

    def _goes_on(self, line: str, words: str) -> bool:
        """Does the line belong to the open fence or HTML?"""
        if self._fence:
            marker, columns = self._fence.marker, self._fence.indent
            if words and columns and _indent(line) < columns:
                self._fence, self._fresh = None, True
                return False
            if words.startswith(marker) and not words.strip(marker[0]) and (columns or _indent(line) < 4):
                self._fence, self._fresh = None, True
            return True
        assert self._html is not None
        if self._html.search(words):
            self._html, self._fresh = None, True
        return True

    def _close(self) -> None:
        self._paragraph, self._nested, self._table, self._fresh, self._row = None, False, False, True, (0, "")

    def _begin(self, kind: BlockKind, start: int) -> None:
        if self.starts and self.starts[-1] == start:
            self.kinds[-1] = kind  # a paragraph that turned out to be a heading or the head of a table
        else:
            self.starts.append(start)
            self.kinds.append(kind)
        self._close()
        self._fresh = False

    def _continue(self, start: int) -> None:
        if self._fresh:
            self._begin(BlockKind.TEXT, start)

    def _plain(self, line: str, start: int) -> None:
        """A line that begins nothing: it goes on with what is open, or begins a paragraph."""
        if self._table:
            return
        self._continue(start)
        if not self._nested:
            self._list = 0
            if self._paragraph is None:
                self._paragraph = start
            self._row = (start, line)

    def _inside_list(self, words: str, start: int) -> None:
        content = _content(words)
        if not self._open_fence(content, start):
            self._continue(start)
            self._nested = _is_text(content)

    def _open_fence(self, content: str, start: int) -> bool:
        """Takes a line inside a list that opens a fence."""
        fence = _FENCE.match(content) if content[:1] in ("`", "~") else None
        if fence:
            self._begin(BlockKind.FENCE, start)
            self._fence = _Fence(fence[1] or fence[2], self._list)
        return fence is not None

    def _opens(self, words: str, indent: int, start: int) -> bool:
        """Takes a line at the top level that begins a block, or ends a paragraph as its underline."""
        first = words[0]
        if first == "#" and _HEADING.match(words):
            self._leaf(BlockKind.HEADING, start)
        elif first in "`~" and (fence := _FENCE.match(words)):
            self._leaf(BlockKind.FENCE, start)
            self._fence = _Fence(fence[1] or fence[2], 0)
        elif first in "|:-" and self._is_delimiter_row(words):
            self._begin(BlockKind.TABLE, self._row[0])
            self._table = True
        elif first in "=-" and self._paragraph is not None and _UNDERLINE.match(words):
            self._leaf(BlockKind.HEADING, self._paragraph)
        elif first in "-*_" and _RULE.match(words):
            self._leaf(BlockKind.TEXT, start)
        elif first == ">":
            self._container(words, start)
            self._list = 0
        elif first == "<" and self._opens_html(words):
            self._html_block(words, start)
        elif (marker := _MARKER.match(words)) and self._may_begin_list(words, marker):
            content = self._container(words, start)
            column = indent + len(marker[1])
            gap = len((" " * column + (marker[3] or " ")).expandtabs(4)) - column
            self._list = column + (gap if gap <= 4 else 1)  # more spaces belong to indented code
            self._open_fence(content, start)
        else:
            return False
        return True

    def _leaf(self, kind: BlockKind, start: int) -> None:
        """A block that what follows does not go on with."""
        self._begin(kind, start)
        self._list, self._fresh = 0, True

    def _container(self, words: str, start: int) -> str:
        """Takes a line that begins a list item or a quotation; returns what stands in it."""
        self._continue(start)
        if self._table:
            self._begin(BlockKind.TEXT, start)
        self._paragraph, self._row = None, (0, "")
        content = _content(words)
        self._nested = _is_text(content)
        return content

    def _may_begin_list(self, words: str, marker: re.Match[str]) -> bool:
        """In the midst of a paragraph only an item that holds something, and a number only if it is 1."""
        if self._paragraph is None:
            return True
        return marker.end() < len(words) and (marker[2] is None or int(marker[2]) == 1)

    def _is_delimiter_row(self, words: str) -> bool:
        head = self._row[1]
        is_row = len(words) > 1 and _DELIMITER_ROW.match(words) is not None
        return is_row and "|" in head and _cells(head) == _cells(words)

    def _opens_html(self, words: str) -> bool:
        if any(begin.match(words) for begin, _ in _RAW_HTML):
            return True
        name = _HTML.match(words)
        if name and name[1].lower() in _BLOCK_NAMES:
            return True
        interrupts = self._paragraph is not None or self._nested or self._table
        return not interrupts and _HTML_ALONE.match(words) is not None

    def _html_block(self, words: str, start: int) -> None:
        self._continue(start)
        if self._table:
            self._begin(BlockKind.TEXT, start)
        self._paragraph, self._nested, self._list, self._row = None, False, 0, (0, "")
        for begin, end in _RAW_HTML:
            if begin.match(words):
                self._html = None if end.search(words) else end
                self._fresh = self._html is None
                return
        self._html = _BLANK


_BLANK = re.compile(r"^$")


def _indent(line: str) -> int:
    """Columns of white space before the line, tabs to every fourth."""
    space = line[: len(line) - len(line.lstrip(" \t"))]
    return len(space.expandtabs(4)) if "\t" in space else len(space)


_MARKERS = re.compile(r"(?:(?:[-+*]|[0-9]{1,9}[.)])(?:[ \t]++|$)|>[ \t]*+)*+")


def _content(words: str) -> str:
    """What stands behind the markers of lists and quotations."""
    markers = _MARKERS.match(words)
    return words[markers.end():] if markers else words


def _is_text(content: str) -> bool:
    """Would a plain line after it go on with the same paragraph?"""
    if content[:1] not in _BEGINNINGS:
        return bool(content)
    return not (_HEADING.match(content) or _FENCE.match(content) or _RULE.match(content))


def _cells(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", row.strip(" \t\r").removeprefix("|").removesuffix("|")))
