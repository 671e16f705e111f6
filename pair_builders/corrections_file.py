"""Corrections made elsewhere, by people: JSON lines that bring an answer and its corrected version.

Each line names its prompt by `id` or by `prompt` (text or messages) and holds either `segments_original` and
`segments_revised`, as many of one as of the other, or whole texts `original` and `revised`, which are cut and aligned
here. `annotator` (who corrected it) and `ends` (does the answer end there? by default it does) may be given. Other
columns are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from lpo.errors import DataError
from lpo.records import (
    Correction,
    CorrectionOutcome,
    Dialogue,
    Message,
    Prompt,
    Script,
    ScriptSegment,
    fingerprint,
)
from lpo.segmentation import align_texts
from lpo.storage import clean_values, iter_jsonl
from lpo.writing_config import SegmentsConfig

SEGMENTS = ("segments_original", "segments_revised")
TEXTS = ("original", "revised")

_MEND = 'give "prompt" or "id", and "segments_original" and "segments_revised", or "original" and "revised"'


@dataclass(frozen=True)
class _Row:
    """A usable line.

    Args:
        where: File and line, for errors.
        prompt: Key of its prompt; None when it is named by `id` alone.
        script: The correction.
    """

    where: str
    prompt: str | None
    script: Script


class Corrections:
    """The corrections of a file, by their prompts."""

    def __init__(self, by_id: Mapping[str, _Row], by_prompt: Mapping[str, _Row]) -> None:
        self._by_id, self._by_prompt = by_id, by_prompt

    def script(self, prompt: Prompt) -> Script | None:
        """The corrected answer to a prompt, looked up by its id, then by its text; None when there is none.

        Raises:
            DataError: A line has its id and another prompt.
        """
        row = self._row(prompt)
        return row.script if row is not None else None

    def unmatched(self, prompts: Iterable[Prompt]) -> list[str]:
        """Lines that correct none of these prompts, as `file:line`, in order.

        Raises:
            DataError: A line has the id of one of them and another prompt.
        """
        used = {row.where for row in map(self._row, prompts) if row is not None}
        return [row.where for row in (*self._by_id.values(), *self._by_prompt.values()) if row.where not in used]

    def _row(self, prompt: Prompt) -> _Row | None:
        # A prompt with a document may stand there with it or without.
        keys = [_key(prompt.prompt), _key(prompt.dialogue)]
        row = self._by_id.get(prompt.id)
        if row is None:
            return next((self._by_prompt[key] for key in keys if key in self._by_prompt), None)
        if row.prompt is not None and row.prompt not in keys:
            raise DataError(f"the prompt {prompt.id!r} of this run is another one", where=row.where,
                            mend="correct the answers of this run's prompts, or leave the ids out")
        return row


def load_corrections(path: Path, segments: SegmentsConfig) -> Corrections:
    """Read a file of corrections.

    Args:
        path: JSON lines.
        segments: How whole texts are cut.

    Raises:
        DataError: The file is missing or empty, or a line cannot be used; the error names it.
    """
    by_id: dict[str, _Row] = {}
    by_prompt: dict[str, _Row] = {}
    for number, raw in iter_jsonl(path):
        where = f"{path}:{number}"
        values, _ = clean_values(raw)
        row_id, prompt = values.get("id"), values.get("prompt")
        if row_id is None and prompt is None:
            raise DataError("it names no prompt", where=where, mend=_MEND)
        row = _Row(where, None if prompt is None else _key(_dialogue(prompt, where)), _script(values, where, segments))
        key, index = (str(row_id), by_id) if row_id is not None else (row.prompt, by_prompt)
        assert key is not None
        first = index.setdefault(key, row)
        if first is not row:
            raise DataError(f"{first.where} corrects an answer to the same prompt", where=where,
                            mend="a run takes one correction of a prompt: keep one of the two")
    if not by_id and not by_prompt:
        raise DataError("there are no corrections in it", where=str(path), mend=_MEND)
    return Corrections(by_id, by_prompt)


def _script(values: Mapping[str, Any], where: str, config: SegmentsConfig) -> Script:
    annotator, ends = values.get("annotator"), values.get("ends")
    if not isinstance(annotator, str | None):
        raise DataError('"annotator" is not a text', where=where, mend="give a name, or leave it out")
    if not isinstance(ends, bool | None):
        raise DataError('"ends" is not true or false', where=where, mend="leave it out if the answer is finished")
    segments = tuple(_segment(original, revised, annotator) for original, revised in _aligned(values, where, config))
    if not any(segment.original.strip() or segment.revised.strip() for segment in segments):
        raise DataError("there is no text in it", where=where, mend=_MEND)
    return Script(draft=None, ends=ends is not False, segments=segments)


def _segment(original: str, revised: str, annotator: str | None) -> ScriptSegment:
    if original == revised:
        return ScriptSegment(original=original, revised=revised)
    given = Correction(round=0, outcome=CorrectionOutcome.GIVEN, text=revised, by=annotator)
    return ScriptSegment(original=original, revised=revised, corrections=(given,))


def _aligned(values: Mapping[str, Any], where: str, config: SegmentsConfig) -> list[tuple[str, str]]:
    columns = [name for name in (*SEGMENTS, *TEXTS) if values.get(name) is not None]
    if columns == list(SEGMENTS):
        original, revised = (_texts(values[name], name, where) for name in SEGMENTS)
        if len(original) != len(revised):
            raise DataError(f"{len(original)} original segments but {len(revised)} revised ones", where=where,
                            mend='align them; a segment that one side lacks is ""')
        return list(zip(original, revised, strict=True))
    if columns == list(TEXTS):
        whole = [values[name] for name in TEXTS]
        if not all(isinstance(text, str) for text in whole):
            raise DataError('"original" and "revised" must be texts', where=where, mend=_MEND)
        return align_texts(whole[0], whole[1], config)
    raise DataError("it holds " + (" and ".join(columns) if columns else "no correction"), where=where, mend=_MEND)


def _texts(value: object, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in cast("list[object]", value)):
        raise DataError(f'"{name}" is not a list of texts', where=where, mend='an empty segment is ""')
    return cast("list[str]", value)


def _dialogue(value: object, where: str) -> Dialogue:
    if isinstance(value, str) and value.strip():
        return value
    try:
        messages = tuple(Message.model_validate(turn) for turn in cast("list[object]", value))
    except (TypeError, ValidationError):
        messages = ()
    if not messages:
        raise DataError('"prompt" is neither a text nor a list of messages', where=where, mend=_MEND)
    return messages


def _key(dialogue: Dialogue) -> str:
    """Equal for a text and a conversation that is this one turn of the user's."""
    if isinstance(dialogue, str):
        dialogue = (Message(role="user", content=dialogue),)
    turns = [[message.role, message.content.strip()] for message in dialogue]
    return fingerprint(turns, 32)
