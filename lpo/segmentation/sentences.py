r"""Where sentences end: stable places for a cut, in many languages.

A cut is stable when tokenising the two sides apart gives the tokens of the whole. Byte-level tokenizers put a run of
newlines into tokens of its own and let a word take the one space before it. So a sentence is cut before the space of
the next one, and where a newline follows, after all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sentencex import get_sentence_boundaries  # pyright: ignore[reportAttributeAccessIssue] - compiled, no stubs

_WINDOW = 1_000
"""Characters that are searched at once: sentencex takes quadratic time on many texts, all Chinese ones among them."""

_LEAST_SENTENCE = 100
"""Characters before the end of a window that are searched again in the next: what ends there may only be cut off."""

_UNINDEXABLE = re.compile(r"[\ud800-\udfff\0]")
_LONE_RETURN = re.compile(r"\r(?!\n)")
_BLANK_LINES = re.compile(r"(?:[ \t\r]*+\n)*")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LIST_MARKER = re.compile(r"[\s>]*+(?:\d++[.)]|[-*+])\s*+")
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


def sentence_ends(text: str, start: int, end: int) -> list[int]:
    """Where sentences end in a paragraph.

    Args:
        text: An `indexable` text.
        start: Where the paragraph begins.
        end: Where it ends, its newlines included.

    Returns:
        Places in the whole text, ascending, each once: behind a full stop (question mark, ...) and what closes with
        it, before white space; behind the newlines that follow it; or behind CJK punctuation.
    """
    ends: set[int] = set()
    at = start
    while at < end:
        stop = min(at + _WINDOW, end)
        found = sorted(_ends_in_window(text, at, stop, end))
        ends.update(found)
        if stop == end:
            break
        sure = [place for place in found if place <= stop - _LEAST_SENTENCE]
        at = max(sure[-1] if sure else 0, stop - _WINDOW // 2)
    return sorted(ends)


def _ends_in_window(text: str, start: int, stop: int, end: int) -> Iterator[int]:
    language = "zh" if _HAN.search(text, start, stop) else "en"
    for sentence in get_sentence_boundaries(language, text[start:stop]):
        words = sentence["text"].rstrip()
        place = start + sentence["start_index"] + len(words)
        if place == stop < end:
            continue  # the window ends here, the sentence perhaps not
        gap = text[place:stop][: len(sentence["text"]) - len(words)]
        if "\n" in gap:
            place = min(after_blank_lines(text, place), end)
        if _ends_sentence(text, start, place, words):
            yield place
    # A text is often cut inside a quotation, and a quotation mark without its partner is what sentencex trips over.
    for match in _BEFORE_QUOTE.finditer(text, start, stop):
        if _ends_sentence(text, start, match.end(), match[0]):
            yield match.end()


def _ends_sentence(text: str, start: int, stop: int, words: str) -> bool:
    r"""Is this a sentence end, and a stable one: before white space, after a newline, or after CJK punctuation?"""
    if not _TERMINAL.search(words):
        return False
    line = text[max(text.rfind("\n", start, stop) + 1, start):stop]
    if line and _LIST_MARKER.fullmatch(line):
        return False
    return stop == len(text) or text[stop].isspace() or text[stop - 1] == "\n" or text[stop - 1] in _CJK_END
