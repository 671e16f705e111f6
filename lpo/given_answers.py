"""Answers that are there already, to be scored: read from JSON lines and put together by the question they answer.

Each row is an answer (`query` and `answer`, as in LongReward's data, or `prompt` and `answer`) or a question with all
its answers (`prompt` and `answers`). The document stands in the row (`context`) or in a second file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lpo.errors import DataError, NothingLeftError
from lpo.records import Dialogue, Message, Prompt, Reason, RejectedRow, fingerprint
from lpo.storage import clean_values, iter_jsonl

ANSWERS, ANSWER_IDS = "answers", "answer_ids"
"""The keys of a prompt's `meta` under which the texts of its answers stand, and what they are called."""


@dataclass(frozen=True)
class AnswerFile:
    """What a file of answers holds. Answers read = answers of the prompts + rejected; a row that holds none that could
    be read counts as one.

    Args:
        prompts: One for each question about a document, its answers and what they are called in `meta`, all in the
            order of the file.
        rejected: What cannot be used, each with its reason and line.
        cleaned: Characters that were replaced or dropped (lone surrogates, NUL).
    """

    prompts: tuple[Prompt, ...]
    rejected: tuple[RejectedRow, ...]
    cleaned: int

    @property
    def answers(self) -> int:
        """How many answers can be scored."""
        return sum(len(prompt.meta[ANSWERS]) for prompt in self.prompts)


def read_answers(path: Path, contexts: Path | None = None) -> AnswerFile:
    """Read answers, and put those to one question about one document together.

    Args:
        path: A .jsonl file.
        contexts: A .jsonl file of documents for rows that have none: `context` by `idx` (or `id`). An answer called
            `11-7` belongs to the document 11, as in LongReward's data.

    Raises:
        DataError: A file is missing or broken (the error names the line), has no rows, or no row needs the documents.
        NothingLeftError: There are rows, but none can be used.
    """
    documents = _Documents(contexts)
    groups: dict[str, list[_Row]] = {}
    lines_of_id: dict[str, int] = {}
    rejected: list[RejectedRow] = []
    cleaned = 0

    def reject(line: int, error: _RowError, part: str = "") -> None:
        rejected.append(RejectedRow(stage="prompts", id=f"{path.name}:{line}{part}", reason=error.reason,
                                    detail=f"line {line}: {error.detail}"))

    for line, raw in iter_jsonl(path):
        row, count = clean_values(raw)
        cleaned += count
        try:
            entries = list(_entries(row, line))
        except _RowError as error:
            reject(line, error)
            continue
        for number, entry in enumerate(entries):
            try:
                usable = _usable(entry, row, line, documents)
                first = lines_of_id.setdefault(usable.id, line)
                if first != line:
                    raise _RowError(Reason.DUPLICATE, f"the answer {usable.id!r} stands in line {first}")
            except _RowError as error:
                reject(line, error, f"#{number}" if "answers" in row else "")
                continue
            groups.setdefault(usable.key, []).append(usable)
    if not groups:
        _nothing(path, rejected)
    if contexts is not None and not documents.asked:
        raise DataError("no answer needs it: every row has its own context", where=str(contexts),
                        mend="leave --contexts out")
    return AnswerFile(tuple(_prompts(groups.values())), tuple(rejected), cleaned + documents.cleaned)


class _RowError(Exception):
    """A row, or one of its answers, that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class _Row:
    """An answer with all that belongs to it."""

    id: str
    text: str
    dialogue: Dialogue
    context: str | None
    target_words: int | None

    @property
    def stem(self) -> str:
        """`11` of `11-7`."""
        return self.id.rpartition("-")[0] or self.id

    @property
    def key(self) -> str:
        """Equal for answers to one question about one document."""
        return fingerprint([self.dialogue, self.context, self.target_words], 32)


def _entries(row: Mapping[str, Any], line: int) -> Iterator[tuple[str, object]]:
    """`(id, text)` of every answer of a row."""
    named = _id(row)
    if ("answer" in row) == ("answers" in row):
        raise _RowError(Reason.MALFORMED, f"a row needs 'answer' or 'answers' (columns: {', '.join(row) or 'none'})")
    if "answer" in row:
        yield named or f"line-{line}", row["answer"]
        return
    if not isinstance(row["answers"], list) or not row["answers"]:
        raise _RowError(Reason.MALFORMED, "'answers' must be a list of texts with at least one of them")
    for number, text in enumerate(row["answers"]):
        yield f"{named or f'line-{line}'}-{number}", text


def _id(row: Mapping[str, Any]) -> str:
    """The row's own id; empty when it has none."""
    found = row.get("id", row.get("idx"))
    return str(found).strip() if isinstance(found, (str, int)) and not isinstance(found, bool) else ""


def _usable(entry: tuple[str, object], row: Mapping[str, Any], line: int, documents: _Documents) -> _Row:
    name, text = entry
    if not isinstance(text, str):
        raise _RowError(Reason.MALFORMED, "an answer must be text")
    if not text.strip():
        raise _RowError(Reason.EMPTY, "the answer is empty")
    dialogue = _dialogue(row)
    context = row.get("context")
    if context is None:
        context = documents.of(name, dialogue)
    if context is not None and not isinstance(context, str):
        raise _RowError(Reason.MALFORMED, "'context' must be text")
    if context is not None and not context.strip():
        raise _RowError(Reason.EMPTY, "the context is empty")
    target = row.get("target_words")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int) or target <= 0):
        raise _RowError(Reason.MALFORMED, f"'target_words' must be a whole number above 0, it is {target!r}")
    return _Row(name, text, dialogue, context, target)


def _dialogue(row: Mapping[str, Any]) -> Dialogue:
    """The question: a text is the user's turn of a conversation."""
    if ("query" in row) == ("prompt" in row):
        raise _RowError(Reason.MALFORMED, f"a row needs 'query' or 'prompt' (columns: {', '.join(row)})")
    asked = row.get("query", row.get("prompt"))
    try:
        turns = (Message(role="user", content=asked),) if isinstance(asked, str) else tuple(
            Message.model_validate(turn) for turn in asked)
    except (TypeError, ValidationError):
        raise _RowError(Reason.MALFORMED, "the question must be text, or messages with 'role' and 'content'") from None
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise _RowError(Reason.EMPTY, "the question is empty, or its last turn is not the user's")
    return turns


class _Documents:
    """The file of documents.

    Args:
        path: None: there is none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, tuple[str, object]] = {}
        self.cleaned = 0
        self.asked = 0
        """Answers that looked for their document here."""
        for line, raw in iter_jsonl(path) if path is not None else ():
            row, count = clean_values(raw)
            self.cleaned += count
            self._take(row, f"{path}:{line}")

    def _take(self, row: Mapping[str, Any], where: str) -> None:
        name, context = _id(row), row.get("context")
        if not name or not isinstance(context, str):
            raise DataError("a row needs 'idx' (or 'id') and the text 'context'", where=where,
                            mend='a row looks like {"idx": 11, "query": "...", "context": "..."}')
        if name in self._rows:
            raise DataError(f"the document {name!r} stands there twice", where=where, mend="keep one of them")
        self._rows[name] = context, row.get("query", row.get("prompt"))

    def of(self, answer: str, dialogue: Dialogue) -> str | None:
        """The document of an answer; None when there is no file of them."""
        if self._path is None:
            return None
        self.asked += 1
        name = next((name for name in (answer, answer.rpartition("-")[0]) if name in self._rows), None)
        if name is None:
            raise _RowError(Reason.MALFORMED, f"{self._path.name} has no document for {answer!r}")
        context, question = self._rows[name]
        if isinstance(question, str) and question.strip() != _text(dialogue).strip():
            raise _RowError(Reason.MALFORMED, f"it answers another question than the one about the document {name!r}")
        return context


def _text(dialogue: Dialogue) -> str:
    return dialogue if isinstance(dialogue, str) else dialogue[-1].content


def _prompts(groups: Iterable[list[_Row]]) -> Iterator[Prompt]:
    """One prompt for each group; it is called what all ids of the group begin with, where that is no other's name."""
    taken: set[str] = set()
    for rows in groups:
        stems = {row.stem for row in rows} if len(rows) > 1 else {rows[0].id}
        name = stems.pop() if len(stems) == 1 else ""
        if not name or name in taken:
            name = f"q-{rows[0].key[:12]}"
        taken.add(name)
        first = rows[0]
        yield Prompt(id=name, prompt=first.dialogue, context=first.context, target_words=first.target_words,
                     meta={ANSWERS: [row.text for row in rows], ANSWER_IDS: [row.id for row in rows]})


def _nothing(path: Path, rejected: Sequence[RejectedRow]) -> None:
    if not rejected:
        raise DataError("there are no answers in it", where=str(path),
                        mend='give at least one line such as {"query": "...", "context": "...", "answer": "..."}')
    reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row.reason.value for row in rejected).items())
    raise NothingLeftError(f"none of its {len(rejected)} rows can be used ({reasons})", where=str(path),
                           mend=f"the first: {rejected[0].detail}")
