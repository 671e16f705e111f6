"""Writing prompts: read from any source, cleaned at the door, and split by a rule that never moves a prompt.

Sources: the built-in set, JSON lines (our own format, LongBench-Write's, or anything with a `prompt` column) and
datasets of the Hugging Face hub. Whatever a row holds beyond the fields of `Prompt` is kept in its `meta`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from lpo.config import PromptsConfig
from lpo.configs import DOCUMENTS_PATH, PROMPTS_PATH
from lpo.errors import DataError, NothingLeftError
from lpo.records import Dialogue, Message, Prompt, Reason, RejectedRow, fingerprint
from lpo.storage import clean_values, iter_jsonl

SHIPPED = {"builtin": PROMPTS_PATH, "builtin:documents": DOCUMENTS_PATH}
"""The project's own prompts, by the name they are given by."""
HELD_OUT_SHARE = 4
"""One prompt in this many is held out."""
NEAR = 0.8
"""Jaccard similarity of 3-gram sets from which two prompts count as nearly the same."""

_HAN = re.compile(r"[\u4e00-\u9fff]")
_TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+")


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a run. Rows read = build + held_out + rejected + filtered.

    Args:
        build: Prompts that pairs are built from, in the order of the file.
        held_out: Prompts that models are measured on, in the order of the file.
        rejected: Rows that cannot be used, each with its reason and line.
        cleaned: Characters that were replaced or dropped (lone surrogates, NUL).
        filtered: How many usable prompts each filter of the configuration set aside: a choice, not a fault.
    """

    build: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    rejected: tuple[RejectedRow, ...]
    cleaned: int
    filtered: dict[str, int] = field(default_factory=dict[str, int])


def load_prompts(config: PromptsConfig) -> PromptSet:
    """Read, clean, split and filter the prompts of a run.

    Args:
        config: The `prompts` section of a run configuration.

    Raises:
        DataError: A source is missing, broken (the error names the line) or empty; two prompts share an id; or the
            split and the filters leave nothing to build from.
        NothingLeftError: A source has rows, but none can be used.
    """
    source = _read(config.path, plain_text=config.plain_text)
    if config.held_out_path is None:
        build, held_out = split_prompts(source.prompts)
        rejected, cleaned = source.rejected, source.cleaned
    else:
        other = _read(config.held_out_path, plain_text=config.plain_text)
        build, held_out = source.prompts, other.prompts
        rejected, cleaned = source.rejected + other.rejected, source.cleaned + other.cleaned
    filtered: Counter[str] = Counter()
    build = _select(build, config, filtered)
    held_out = _select(held_out, config, filtered)
    if config.limit is not None and len(build) > config.limit:
        filtered["limit"] = len(build) - config.limit
        build = build[: config.limit]
    if not build:
        raise DataError("no prompt is left to build from", where=config.path, mend=_nothing_to_build(config, filtered))
    return PromptSet(tuple(build), tuple(held_out), tuple(rejected), cleaned, dict(filtered))


def read_prompts(
    path: str, aliases: Mapping[str, str] = MappingProxyType({}),
) -> tuple[tuple[Prompt, ...], tuple[RejectedRow, ...]]:
    """Every usable prompt of one source, unsplit and unfiltered, and the rows that cannot be used.

    Args:
        path: As `prompts.path`: `builtin`, a .jsonl file or `hub:<dataset>[:split]`.
        aliases: Other names of columns -> our names; taken in rows that lack ours.

    Raises:
        DataError: As `load_prompts`.
        NothingLeftError: It has rows, but none can be used.
    """
    source = _read(path, plain_text=False, aliases=aliases)
    return tuple(source.prompts), source.rejected


def read_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line, row)` of a .jsonl file or `hub:<dataset>[:split]`, strings cleaned, for files that are not prompts.

    Raises:
        DataError: It is missing or broken; the error names the line.
    """
    for line, raw in _rows(path):
        yield line, clean_values(raw)[0]


def split_prompts(prompts: Iterable[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Split into build and held-out prompts by the hash of each text.

    The side depends on the prompt's own letters only, so adding, removing or reordering prompts moves none, and
    variants that differ in digits or punctuation (the same task at two lengths) stay on one side.

    Returns:
        Build prompts (about three in four) and held-out prompts, both in the given order.
    """
    build: list[Prompt] = []
    held_out: list[Prompt] = []
    for prompt in prompts:
        digest = hashlib.sha256(" ".join(_tokens(prompt)).encode()).digest()
        side = held_out if int.from_bytes(digest[:8]) % HELD_OUT_SHARE == 0 else build
        side.append(prompt)
    return build, held_out


def overlap(build: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[tuple[str, str]]:
    """Find held-out prompts that are also, or nearly, build prompts: a model measured on them would look too good.

    Texts are compared by their letters (case, digits, punctuation and spacing ignored); nearly the same means that
    the sets of 3-grams (of words; of characters in Chinese) have a Jaccard similarity of at least 0.8.

    Returns:
        `(build id, held-out id)` for every such pair, in the order of the held-out prompts.
    """
    if not build or not held_out:
        return []
    import numpy as np
    from scipy.sparse import csr_array

    rows = [np.array(sorted(_grams(prompt)), dtype=np.uint64) for prompt in (*build, *held_out)]
    names, columns = np.unique(np.concatenate(rows), return_inverse=True)
    ends = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    shape = (len(rows), len(names))
    grams: Any = csr_array((np.ones(len(columns), dtype=np.int32), columns, ends), shape=shape)
    build_grams, held_out_grams = grams[:len(build)], grams[len(build):]
    by_gram, sizes = build_grams.T.tocsr(), build_grams.sum(axis=1)
    found: list[tuple[str, str]] = []
    for start in range(0, len(held_out), 256):  # in blocks: prompts made from one template share much
        block = held_out_grams[start:start + 256]
        shared, block_sizes = (block @ by_gram).tocoo(), block.sum(axis=1)
        rows, others = shared.coords
        near = shared.data >= NEAR * (block_sizes[rows] + sizes[others] - shared.data)
        found += [(build[other].id, held_out[start + row].id)
                  for row, other in sorted(zip(rows[near].tolist(), others[near].tolist(), strict=True))]
    return found


def language(prompt: Prompt) -> Literal["en", "zh"]:
    """What the prompt's own `language` says, `en` or `zh`; otherwise `zh` for a text with Han script, else `en`."""
    said = prompt.meta.get("language")
    if said == "zh" or said == "en":
        return said
    return "zh" if _HAN.search(prompt.request) else "en"


@dataclass(frozen=True)
class _Source:
    prompts: list[Prompt]
    rejected: tuple[RejectedRow, ...]
    cleaned: int


class _RowError(Exception):
    """A row that cannot be a prompt."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _read(path: str, *, plain_text: bool, aliases: Mapping[str, str] = MappingProxyType({})) -> _Source:
    """Every usable prompt of one source; the others with their reasons."""
    prompts: list[Prompt] = []
    rejected: list[RejectedRow] = []
    lines_of_text: dict[str, int] = {}
    lines_of_id: dict[str, int] = {}
    cleaned = 0
    for line, raw in _rows(path):
        row, count = clean_values(raw)
        cleaned += count
        row = {name if (ours := aliases.get(name, name)) in row else ours: value for name, value in row.items()}
        try:
            prompt = _prompt(row, plain_text=plain_text)
            first = lines_of_text.setdefault(_duplicate_key(prompt), line)
            if first != line:
                raise _RowError(Reason.DUPLICATE, f"the same prompt stands in line {first}")
        except _RowError as error:
            rejected.append(RejectedRow(stage="prompts", id=f"{Path(path).name}:{line}", reason=error.reason,
                                        detail=f"line {line}: {error.detail}"))
            continue
        if prompt.id in lines_of_id:
            raise DataError(f"lines {lines_of_id[prompt.id]} and {line} have the same id {prompt.id!r}",
                            where=f"{path}:{line}", mend="give each prompt its own id, or leave the ids out")
        lines_of_id[prompt.id] = line
        prompts.append(prompt)
    if not prompts and not rejected:
        raise DataError("there are no prompts in it", where=path,
                        mend='give at least one line such as {"prompt": "Write ...", "target_words": 300}')
    if not prompts:
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row.reason.value for row in rejected).items())
        raise NothingLeftError(f"none of its {len(rejected)} rows can be used ({reasons})", where=path,
                               mend=f"the first: {rejected[0].detail}")
    return _Source(prompts, tuple(rejected), cleaned)


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, row)` of any source; rows of a dataset are numbered from 1 as well."""
    if path.startswith("hub:"):
        return enumerate(hub_rows(path.removeprefix("hub:")), start=1)
    file = SHIPPED.get(path) or Path(path).expanduser()
    if file.is_dir():
        raise DataError("this is a folder", where=path, mend="give a .jsonl file, 'builtin' or hub:<dataset>")
    return iter_jsonl(file)


def hub_rows(spec: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of the hub.

    Args:
        spec: `<dataset>` or `<dataset>:<split>`; the split is `train` by default.

    Raises:
        DataError: It cannot be loaded.
    """
    import datasets

    name, _, split = spec.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the hub's clients raise dozens of classes, all for the same three causes
        raise DataError(f"the dataset cannot be loaded: {' '.join(str(error).split())[:300]}", where=f"hub:{spec}",
                        mend="check its name, the split (hub:<dataset>:<split>) and your network") from None
    for row in rows:
        yield dict(row)


def _prompt(row: dict[str, Any], *, plain_text: bool) -> Prompt:
    """A row as a prompt.

    Raises:
        _RowError: It cannot be one.
    """
    meta = dict(row)
    dialogue = _dialogue(meta.pop("prompt", None), plain_text=plain_text, columns=list(row))
    # LongBench-Write's columns; `length` alone may mean anything, so it is taken only beside `type`.
    if "target_words" not in meta and "type" in meta and "length" in meta:
        meta["target_words"] = meta.pop("length")
        meta["kind"] = meta.pop("type")
    target = _target_words(meta.pop("target_words", None))
    context = meta.pop("context", None)
    if context is not None and not isinstance(context, str):
        raise _RowError(Reason.MALFORMED, "'context' must be text")
    given_id = meta.pop("id", None)
    named = str(given_id).strip() if isinstance(given_id, (str, int)) else ""
    inner = meta.pop("meta", None)  # a Prompt that was written by us
    meta = _json_values({**meta, **(inner if isinstance(inner, dict) else {} if inner is None else {"meta": inner})})
    prompt = Prompt(id=named or "p-" + fingerprint([dialogue, context], 12), prompt=dialogue, context=context,
                    target_words=target, meta=meta)
    if meta.get("language"):
        return prompt
    return prompt.model_copy(update={"meta": {**meta, "language": language(prompt)}})


def _dialogue(value: object, *, plain_text: bool, columns: list[str]) -> Dialogue:
    if value is None:
        raise _RowError(Reason.MALFORMED, f"there is no 'prompt' (columns: {', '.join(columns) or 'none'})")
    if isinstance(value, str):
        if not value.strip():
            raise _RowError(Reason.EMPTY, "the prompt is empty")
        return value if plain_text else (Message(role="user", content=value),)
    if not isinstance(value, list):
        raise _RowError(Reason.MALFORMED, "'prompt' must be text or a list of messages")
    if not value:
        raise _RowError(Reason.EMPTY, "the list of messages is empty")
    try:
        messages = tuple(Message.model_validate({k: v for k, v in item.items() if v is not None}) for item in value)
    except (AttributeError, ValidationError):
        raise _RowError(Reason.MALFORMED, "a message must be an object with the two keys 'role' (system, user or "
                        "assistant) and 'content' (text)") from None
    if messages[-1].role != "user":
        raise _RowError(Reason.MALFORMED, f"the last message must be the user's, it is the {messages[-1].role}'s")
    if not messages[-1].content.strip():
        raise _RowError(Reason.EMPTY, "the user's message is empty")
    return messages


def _target_words(value: object) -> int | None:
    """A positive whole number, or None; tables store a missing number as NaN and whole numbers as floats."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or not value > 0:
        raise _RowError(Reason.MALFORMED, f"'target_words' must be a whole number above 0, it is {value!r}")
    return int(value)


def _json_values(row: dict[str, Any]) -> dict[str, Any]:
    """Columns as JSON values: NaN becomes null, dates and the like become text."""
    return json.loads(json.dumps(row, ensure_ascii=False, default=str), parse_constant=lambda _: None)


def _duplicate_key(prompt: Prompt) -> str:
    """Equal for prompts that differ in case and spacing at most."""
    turns = [prompt.prompt] if isinstance(prompt.prompt, str) else [f"{m.role}: {m.content}" for m in prompt.prompt]
    text = "\n".join([*turns, prompt.context or ""])
    return fingerprint(" ".join(unicodedata.normalize("NFKC", text).casefold().split()), 32)


def _tokens(prompt: Prompt) -> list[str]:
    """The request's (and the context's) words and Chinese characters, without case, digits and punctuation."""
    text = f"{prompt.request}\n{prompt.context}" if prompt.context else prompt.request
    text = unicodedata.normalize("NFKC", text).casefold()
    return _TOKEN.findall(text) or [text.strip()]


def _grams(prompt: Prompt) -> set[int]:
    """Its 3-grams, each as a hash of 64 bits: ten thousand prompts have a million of them."""
    tokens = _tokens(prompt)
    grams = (" ".join(tokens[start:start + 3]) for start in range(max(1, len(tokens) - 2)))
    return {int.from_bytes(hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            for gram in grams}


def _select(prompts: list[Prompt], config: PromptsConfig, filtered: Counter[str]) -> list[Prompt]:
    kept: list[Prompt] = []
    for prompt in prompts:
        words = prompt.target_words
        if config.language not in ("any", language(prompt)):
            filtered["language"] += 1
        elif config.max_words is not None and (words is None or words > config.max_words):
            filtered["max_words"] += 1
        else:
            kept.append(prompt)
    return kept


def _nothing_to_build(config: PromptsConfig, filtered: Counter[str]) -> str:
    if filtered:
        counts = ", ".join(f"prompts.{name} set {n} aside" for name, n in filtered.items())
        return f"loosen the filters: {counts}"
    return "every prompt fell into the held-out split: give more prompts, or a file of their own to " \
           "prompts.held_out_path"
