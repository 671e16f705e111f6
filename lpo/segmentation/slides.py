r"""The marks of a slide script: lines that say where a page begins.

A page begins at a line that numbers it, whatever its case and decoration (`#`, `**`, `__`, brackets, up to three
spaces):

* `Slide 3`, `Page 3`, `Slide 3:`, `Slide 3 - Title`, `Slide 3/20`, `Page 3 of 20`, `Slide No. 3`, `Slide #3`
* `第3页`, `第 三 页`, `第3張幻燈片`, `幻灯片 3：标题`, `投影片 3`, `PPT 3`

In a line without decoration the number must be the last word, or be followed by one of `: ： - – — . 。 | /` or `of`:
`Slide 3 shows that ...` is prose. A page also begins behind a rule, a line of three or more `-`, `*` or `_` (`---`,
`* * *`), directly below a paragraph, too: that line and the blank ones after it belong to the page before. What stands
before the first mark is a segment of its own. Marks in code fences are none.
"""

from __future__ import annotations

import re
from itertools import pairwise

from lpo.segmentation.blocks import BlockKind, markdown_blocks

_NUMBER = r"[0-9０-９]{1,4}+"
_HAN_NUMBER = rf"(?:{_NUMBER}|[〇零一二三四五六七八九十百两]{{1,7}}+)"
_NAMED = rf"""(?:
    (?:slide|page)[ \t]*+(?:(?:no\.?|number|\#)[ \t]*+)?+{_NUMBER}
  | (?:幻灯片|幻燈片|投影片|ppt)[ \t]*+第?+[ \t]*+{_HAN_NUMBER}[ \t]*+[页頁张張]?+
  | 第[ \t]*+{_HAN_NUMBER}[ \t]*+[页頁张張](?:幻灯片|幻燈片|投影片|ppt)?+
)(?![0-9０-９])"""
_MARK = re.compile(rf"""
    ^[ ]{{0,3}}
    (?:
        (?:\#{{1,6}}[ \t]++ | (?:\*{{1,3}}+|_{{1,3}}+)(?![ \t]) | [\[【(（<《][ \t]*+)++ {_NAMED} (?![^\W_])
      | {_NAMED} (?= [ \t]*+ (?: \r?$ | [:：\-–—.。|/] | of\b ) )
    )""", re.VERBOSE | re.IGNORECASE | re.MULTILINE)
_RULE = re.compile(r"^ {0,3}([-*_])(?:[ \t]*+\1){2,}+[ \t\r]*+(?:\n(?:[ \t\r]*+\n)*+|\Z)", re.MULTILINE)


def slide_starts(text: str) -> list[int]:
    """Where the pages of a slide script begin.

    Args:
        text: Any text.

    Returns:
        Places in the text, ascending, without the text's own beginning. A page that would hold nothing but rules is
        left to the one before it, or to the first.
    """
    fences = [(block.start, block.end) for block in markdown_blocks(text) if block.kind is BlockKind.FENCE]
    pages = _outside([match.start() for match in _MARK.finditer(text)], fences)
    rules = {match.start(): match.end() for match in _RULE.finditer(text)}
    behind = (rules[start] for start in _outside(list(rules), fences))
    places = sorted({0, *pages, *behind, len(text)})
    with_text = [start for start, end in pairwise(places) if _RULE.sub("", text[start:end]).strip()]
    return with_text[1:]


def _outside(places: list[int], stretches: list[tuple[int, int]]) -> list[int]:
    """The places that lie in none of the stretches; both ascending."""
    kept: list[int] = []
    later = iter(stretches)
    stretch = next(later, None)
    for place in places:
        while stretch and stretch[1] <= place:
            stretch = next(later, None)
        if not stretch or place < stretch[0]:
            kept.append(place)
    return kept
