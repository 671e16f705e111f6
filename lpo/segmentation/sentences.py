r"""Where sentences end: stable places for a cut, in many languages.

A cut is stable when tokenising the two sides apart gives the tokens of the whole. Byte-level tokenizers put a run of
newlines into tokens of its own and let a word take the one space before it. So a sentence is cut before the space of
the next one, and where a newline follows, after all of them.
"""

from __future__ import annotations

import re

from sentencex import get_sentence_boundaries  # pyright: ignore[reportAttributeAccessIssue] - compiled, no stubs

_WINDOW = 500
"""Characters that are searched at once: sentencex takes quadratic time on many texts, all Chinese ones among them."""

_LOOK_AHEAD = 40
"""Characters behind a place that tell whether a sentence ends there (`Dr. Smith`)."""

_UNINDEXABLE = re.compile(r"[\ud800-\udfff\0]")
_LONE_RETURN = re.compile(r"\r(?!\n)")
_BLANK_LINES = re.compile(r"(?:[ \t\r]*+\n)*")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LIST_MARKER = re.compile(r"[\s>]*+(?:\d++[.)]|[-*+])\s*+")
_MARK = re.compile(r"[.!?。！？…]")
_TERMINAL = re.compile(r"[.!?。！？…]['\"’”»)\]）】」』*_]*+$")
_BEFORE_QUOTE = re.compile(r"[.!?…](?=\s+[\"“‘'])|[。！？…](?=[“‘「『])")
_CJK_END = "。！？…’”」』）】》"


def indexable(text: str) -> str:
    r"""The text with what trips over other programs replaced, letter by letter: lone surrogates, NUL, and `\r` where no
    `\n` follows (a line end to Markdown, but not to us).
    """
    return _LONE_RETURN.sub(" ", _UNINDEXABLE.sub("\ufffd", text))


def after_blank_lines(text: str, position: int) -> int:
    """The start of the next line that holds something; the end of the text if none does."""
    rest = _BLANK_LINES.match(text, position)
    return rest.end() if rest else position


def last_sentence_end(text: str, start: int, end: int, last: int) -> int | None:
    """The last place in a paragraph where a sentence ends.

    Args:
        text: An `indexable` text.
        start: Where the paragraph begins, or what shall be searched of it.
        end: Where it ends, its newlines included.
        last: The last place that is wanted.

    Returns:
        A place in the whole text, more than `start`, at most `last`: behind a full stop (question mark, ...) and what
        closes with it, before white space; behind the newlines that follow it; or behind CJK punctuation. None if
        there is none.
    """
    stop = last
    while stop > start:
        begin = max(start, stop - _WINDOW)
        if _MARK.search(text, begin, stop):
            place = _last_in_window(text, begin, min(stop + _LOOK_AHEAD, end), end, last)
            if place is not None and place > start:
                return place
        stop = begin
    return None


def _last_in_window(text: str, start: int, stop: int, end: int, last: int) -> int | None:
    best: int | None = None
    language = "zh" if _HAN.search(text, start, stop) else "en"
    for sentence in reversed(get_sentence_boundaries(language, text[start:stop])):
        words = sentence["text"].rstrip()
        place = start + sentence["start_index"] + len(words)
        if "\n" in sentence["text"][len(words):]:
            place = min(after_blank_lines(text, place), end)
        if place <= last and _ends_sentence(text, start, place, words):
            best = place
            break
    # A text is often cut inside a quotation, and a quotation mark without its partner is what sentencex trips over.
    for match in _BEFORE_QUOTE.finditer(text, start if best is None else best, min(stop, last)):
        if _ends_sentence(text, start, match.end(), match[0]):
            best = match.end()
    return best


def _ends_sentence(text: str, start: int, stop: int, words: str) -> bool:
    r"""Is this a sentence end, and a stable one: before white space, after a newline, or after CJK punctuation?"""
    if not _TERMINAL.search(words):
        return False
    line = text[max(text.rfind("\n", start, stop) + 1, start):stop]
    if line and _LIST_MARKER.fullmatch(line):
        return False
    return stop == len(text) or text[stop].isspace() or text[stop - 1] == "\n" or text[stop - 1] in _CJK_END
