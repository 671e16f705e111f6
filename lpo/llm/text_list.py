"""Lists that a model writes as plain text: what is accepted as one, and nothing beside it."""

from __future__ import annotations

import re

from lpo.llm.asking import NoReply, NoReplyError

_ITEM = re.compile(r"(?:(?:[-*•]|[0-9]{1,3}[.)])\s+|[0-9]{1,3}、\s*)+(\S.*)")
_NOTHING = {"none", "no facts", "无", "没有"}


def read_list(reply: str) -> list[str]:
    """Read a list with bullets or numbers, from the first line to the first that is no item.

    What a model writes after its list is of no concern. A single item `none` says that there is nothing to list.

    Raises:
        NoReplyError: The first line is no item.
    """
    items: list[str] = []
    for line in reply.strip().split("\n"):
        match = _ITEM.fullmatch(line.strip())
        if match is None:
            break
        items.append(match[1])
    if not items:
        raise NoReplyError(NoReply.UNPARSABLE, "the reply does not begin with a list", reply)
    return [] if len(items) == 1 and items[0].strip(" .。()（）").casefold() in _NOTHING else items
