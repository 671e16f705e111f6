"""General preference data, mixed in: rows as TRL and UltraFeedback write them, and how many of them are taken."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from lpo.errors import DataError
from lpo.pair_builders.pairs import normalised
from lpo.prompts import hub_rows
from lpo.records import Dialogue, Message, PreferencePair, Reason, RejectedRow, fingerprint
from lpo.storage import clean_values, iter_jsonl

METHOD = "general"
UNSUPPORTED = ("images", "image", "tools", "chat_template_kwargs")
"""Columns of TRL that change what the model reads and that are not supported: never ignored."""


@dataclass(frozen=True)
class General:
    """The rows of a file or data set. Rows read = pairs + rejected.

    Args:
        pairs: Usable rows, in the order of the file; each is a group of its own.
        rejected: The others, each with its reason and line.
        cleaned: Characters that were replaced or dropped (lone surrogates, NUL).
    """

    pairs: tuple[PreferencePair, ...]
    rejected: tuple[RejectedRow, ...]
    cleaned: int = 0


def read_general(path: str, *, plain_text: bool = False) -> General:
    """Read preference data.

    `prompt` is text or messages; `chosen` and `rejected` are texts, or lists of messages of which the last one, the
    assistant's, is the side. Such a list may repeat the prompt, as UltraFeedback's do; without `prompt` what both begin
    with is it. Both sides end the answer. Equal `score_chosen` and `score_rejected` are a tie.

    Args:
        path: A .jsonl file or `hub:<dataset>[:split]`.
        plain_text: Leave a prompt given as text as it is, instead of making it the user's turn of a conversation.

    Raises:
        DataError: The source is missing, or a line is no JSON.
    """
    pairs: list[PreferencePair] = []
    rejected: list[RejectedRow] = []
    lines: dict[str, int] = {}
    cleaned = 0
    for line, raw in _rows(path):
        row, count = clean_values(raw)
        cleaned += count
        try:
            pair = _pair(row, line, Path(path).name, plain_text=plain_text)
            first = lines.setdefault(fingerprint([pair.prompt, pair.chosen, pair.rejected]), line)
            if first != line:
                raise _RowError(Reason.DUPLICATE, f"the same pair stands in line {first}")
        except _RowError as error:
            rejected.append(RejectedRow(stage="build", id=f"{Path(path).name}:{line}", reason=error.reason,
                                        detail=f"line {line}: {error.detail}"))
        else:
            pairs.append(pair)
    return General(tuple(pairs), tuple(rejected), cleaned)


def mix(built: int, general: Sequence[PreferencePair], ratio: float, seed: int) -> list[PreferencePair]:
    """As many general pairs as make them this share of all pairs, as nearly as whole numbers and the data allow.

    Which ones depends on the seed and on their ids, not on their order: each pair's place in the draw is a hash.

    Args:
        built: Pairs that were built.
        general: What there is.
        ratio: Share of general pairs among all, above 0 and below 1.
        seed: Of the run.

    Returns:
        The pairs, in the given order.
    """
    def miss(count: int) -> float:
        return abs(count / (count + built) - ratio)

    below = int(built * ratio / (1 - ratio)) if built else 0
    count = below + (built > 0 and miss(below + 1) < miss(below))
    taken = heapq.nsmallest(count, general, key=lambda pair: fingerprint([seed, pair.id, METHOD], 32))
    ids = {pair.id for pair in taken}
    return [pair for pair in general if pair.id in ids]


class _RowError(Exception):
    """A row that cannot be a pair."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.startswith("hub:"):
        return enumerate(hub_rows(path.removeprefix("hub:")), start=1)
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError("this is a folder", where=path, mend="give a .jsonl file or hub:<dataset>")
    return iter_jsonl(file)


@dataclass(frozen=True)
class _Side:
    """One side of a row.

    Args:
        context: The messages before the answer; None when the side is given as text alone.
        text: The answer.
    """

    context: tuple[Message, ...] | None
    text: str


def _pair(row: Mapping[str, Any], line: int, source: str, *, plain_text: bool) -> PreferencePair:
    given = {name: value for name, value in row.items() if value is not None}
    unsupported = next((name for name in UNSUPPORTED if given.get(name)), None)
    if unsupported is not None:
        raise _RowError(Reason.MALFORMED, f"the column {unsupported!r} is not supported")
    chosen, rejected = _side(given, "chosen"), _side(given, "rejected")
    prompt = _prompt(given.get("prompt"), chosen, rejected, plain_text=plain_text)
    if not chosen.text.strip() or not rejected.text.strip():
        raise _RowError(Reason.EMPTY, "a side has no text")
    if normalised(chosen.text) == normalised(rejected.text):
        raise _RowError(Reason.EQUAL_TEXTS, "both sides say the same")
    scores = _scores(given)
    return PreferencePair(
        id=f"{METHOD}/{source}:{line}", group=f"{METHOD}/{source}:{line}", prompt=prompt, chosen=chosen.text,
        rejected=rejected.text, method=METHOD, provenance={"source": source, "line": line, **scores},
    )


def _side(row: Mapping[str, Any], name: str) -> _Side:
    if name not in row:
        raise _RowError(Reason.MALFORMED, f"there is no {name!r} (columns: {', '.join(row) or 'none'})")
    value = row[name]
    if isinstance(value, str):
        return _Side(None, value)
    *context, answer = _messages(value, name)
    if answer.role != "assistant":
        raise _RowError(Reason.MALFORMED, f"the last message of {name!r} must be the assistant's, it is the "
                        f"{answer.role}'s")
    return _Side(tuple(context), answer.content)


def _messages(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _RowError(Reason.MALFORMED, f"{name!r} must be text or a list of messages")
    messages: list[Message] = []
    for item in cast("list[Any]", value):
        try:  # a data set with one column type for all rows fills absent keys with None
            messages.append(Message.model_validate({key: entry for key, entry in item.items() if entry is not None}))
        except (AttributeError, ValidationError):
            raise _RowError(Reason.MALFORMED, f"a message of {name!r} must be an object with the two keys 'role' "
                            "(system, user or assistant) and 'content' (text)") from None
    return tuple(messages)


def _prompt(value: object, chosen: _Side, rejected: _Side, *, plain_text: bool) -> Dialogue:
    """What both sides answer: the conversation before them where there is one, else the column `prompt`."""
    conversation = chosen.context or rejected.context
    if not conversation:
        return _given_prompt(value, plain_text=plain_text)
    if chosen.context != rejected.context:
        raise _RowError(Reason.MALFORMED, "the two conversations differ before their last message")
    if isinstance(value, str):
        asked = [normalised(message.content) for message in conversation if message.role == "user"]
        repeated = normalised(value) in asked
    else:
        repeated = value is None or _messages(value, "prompt") == conversation
    if not repeated:
        raise _RowError(Reason.MALFORMED, "the conversations do not hold the prompt")
    return _asked(conversation)


def _given_prompt(value: object, *, plain_text: bool) -> Dialogue:
    if value is None:
        raise _RowError(Reason.MALFORMED, "there is no 'prompt', and the sides are no conversations that begin alike")
    if not isinstance(value, str):
        return _asked(_messages(value, "prompt"))
    if not value.strip():
        raise _RowError(Reason.EMPTY, "the prompt is empty")
    return value if plain_text else (Message(role="user", content=value),)


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if messages[-1].role != "user":
        raise _RowError(Reason.MALFORMED, f"the last message before the answer must be the user's, it is the "
                        f"{messages[-1].role}'s")
    if not messages[-1].content.strip():
        raise _RowError(Reason.EMPTY, "the user's message is empty")
    return messages


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """UltraFeedback's scores where they are given; they must say what the columns say."""
    found = {name: row[name] for name in ("score_chosen", "score_rejected") if name in row}
    if len(found) < 2:
        return {}
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
           for value in found.values()):
        raise _RowError(Reason.MALFORMED, "'score_chosen' and 'score_rejected' must be numbers")
    if found["score_chosen"] == found["score_rejected"]:
        raise _RowError(Reason.TIE, f"both sides score {found['score_chosen']:g}")
    if found["score_chosen"] < found["score_rejected"]:
        raise _RowError(Reason.MALFORMED, "the chosen side has the lower score")
    return found
