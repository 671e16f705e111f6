"""A language model that is a hash: the replies of `scripted_server`, as pure functions of the request.

Texts are sentences of varied words; a token is a word with the white space before it. The next-token distribution is a
hash of the text before, over a small list of words and grades, so that listed and echoed log-probabilities agree.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripted_roles import last_turn, reply_as, role_of

SENTENCES = 40
VOCABULARY = """
the a of and to in with under beyond between morning river letter garden silence engine harbour winter teacher lantern
paper stone window mountain story answer question memory colour market bridge child doctor field forest machine music
number ocean planet report road science season shadow ship signal song street summer table theory train valley village
voice water wheel wind world year carries finds keeps leaves opens promises remembers returns shows slowly turns waits
writes quietly often never always almost perhaps because although while before after again further seven twelve bright
cold deep early empty gentle heavy late long narrow old quiet small strange warm wide
"""
WORDS = VOCABULARY.split()
FIRST_WORDS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "Yes", "No", "A", "B", "The"]
CANDIDATES = [*FIRST_WORDS, *(f" {word}" for word in FIRST_WORDS), "\n"]


def draw(*parts: object) -> random.Random:
    """A random generator that depends on the parts alone, in every process."""
    return random.Random(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest())


def tokens_of(text: str) -> list[str]:
    """Words with the white space before them; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


@functools.lru_cache(maxsize=100_000)
def next_token_logprobs(before: str) -> dict[str, float]:
    """The listed candidates hold nine tenths of the probability."""
    rng = draw("next", before)
    weights = {token: math.exp(2 * rng.gauss(0, 1)) for token in CANDIDATES}
    total = sum(weights.values())
    return {token: math.log(0.9 * weight / total) for token, weight in weights.items()}


def token_logprob(before: str, token: str) -> float:
    if token in CANDIDATES:
        return next_token_logprobs(before)[token]
    return -3 - 5 * draw("token", before, token).random()


def write_text(before: str, rng: random.Random) -> str:
    """An answer, or its rest: up to 40 sentences in paragraphs, of varied length, some with repetitions."""
    dullness = rng.random() ** 3
    sentences = [_sentence(rng) for _ in range(rng.randint(4, SENTENCES))]
    text = " " if before and not before[-1].isspace() else ""
    for index, sentence in enumerate(sentences):
        if index:
            text += "\n\n" if rng.random() < 0.2 else " "
        text += sentences[0] if rng.random() < dullness else sentence
    return text


def _sentence(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(4, 14))]
    if len(words) > 8:
        words[5] += ","
    return " ".join(words).capitalize() + rng.choice("....!?")


def value_for(schema: dict[str, Any], rng: random.Random) -> Any:
    """A JSON value that matches a simple schema."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return value_for(schema["anyOf"][0], rng)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: value_for(sub, rng) for name, sub in schema.get("properties", {}).items()}
    if kind == "array":
        count = rng.randint(schema.get("minItems", 1), max(schema.get("minItems", 1), schema.get("maxItems", 3)))
        return [value_for(schema["items"], rng) for _ in range(count)]
    low, high = schema.get("minimum", 0), schema.get("maximum", schema.get("minimum", 0) + 1)
    if kind == "integer":
        return rng.randint(int(low), int(max(high, low + 1) if "maximum" not in schema else high))
    if kind == "number":
        return round(rng.uniform(low, high), 3)
    if kind == "boolean":
        return rng.random() < 0.5
    return _sentence(rng) if kind == "string" else None


@dataclass(frozen=True)
class Written:
    """What the model writes for one request."""

    before: str
    text: str
    finish: str
    tokens: list[str]

    def logprobs(self) -> list[float]:
        return echo_logprobs(self.before, self.tokens)


def echo_logprobs(before: str, tokens: list[str]) -> list[float]:
    values: list[float] = []
    for token in tokens:
        values.append(token_logprob(before[-200:], token))
        before += token
    return values


Answer = Callable[[dict[str, Any], int], str | None]
"""What the model has to say to a request (its body, and which of several choices), before it runs out of tokens or
meets a stop; None leaves it to the hash."""


def write(body: dict[str, Any], choice: int = 0, answer: Answer | None = None) -> Written:
    """The text for a request: a function of model, prompt, schema, and (unless greedy) the seed and the choice.

    Choice 0 of several is the text that is written when only one is asked for, as real servers do it.
    """
    asked = body.get("messages") or body["prompt"]
    seed = body.get("seed", 0) if body.get("temperature", 1) > 0 else 0
    which = [choice] if choice and body.get("temperature", 1) > 0 else []
    rng = draw(body["model"], asked, seed, body.get("response_format"), *which)
    before = _standing(body)
    schema = schema_of(body)
    said = answer(body, choice) if answer is not None else None
    if said is not None:
        text = said
    elif schema:
        text = reply_as(role_of(schema), last_turn(body), rng) or json.dumps(value_for(schema, rng))
    elif body.get("max_tokens") == 1:
        listed = next_token_logprobs(_all_text(body)[-200:])
        text = max(listed, key=lambda token: listed[token])
    else:
        text = write_text(before, rng)
    finish, tokens = "stop", tokens_of(text)
    if len(tokens) > body.get("max_tokens", 16):
        finish, tokens = "length", tokens[: body.get("max_tokens", 16)]
    text = "".join(tokens)
    for stop in body.get("stop") or []:
        if stop in text:
            text, finish = text[: text.index(stop)], "stop"
    return Written(_all_text(body), text, finish, tokens_of(text))


def schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that the reply is to have."""
    return (body.get("response_format") or {}).get("json_schema", {}).get("schema")


def _standing(body: dict[str, Any]) -> str:
    """The part of the answer that stands already."""
    if "messages" not in body:
        return body["prompt"]
    return body["messages"][-1]["content"] if body.get("continue_final_message") else ""


def _all_text(body: dict[str, Any]) -> str:
    if "messages" not in body:
        return body["prompt"]
    turns = [f"{message['role']}: {message['content']}" for message in body["messages"]]
    return "\n".join(turns) if body.get("continue_final_message") else "\n".join([*turns, "assistant:"])


def reply_to(path: str, body: dict[str, Any], answer: Answer | None = None) -> dict[str, Any]:
    """The whole JSON reply, with `n` choices."""
    chat = path == "/v1/chat/completions"
    choices: list[dict[str, Any]] = []
    answered = 0
    for index in range(body.get("n", 1)):
        written = write(body, index, answer)
        answered += len(written.tokens)
        form = _chat_choice(written, body) if chat else _text_choice(written, body)
        choices.append({"index": index, "finish_reason": written.finish, **form})
    asked = len(tokens_of(_all_text(body)))
    return {
        "id": "scripted", "created": 0, "model": body["model"], "choices": choices,
        "object": "chat.completion" if chat else "text_completion",
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
    }


def _top(before: str, count: int) -> dict[str, float]:
    if not count:
        return {}
    listed = next_token_logprobs(before[-200:])
    return dict(sorted(listed.items(), key=lambda item: -item[1])[:count])


def _chat_choice(written: Written, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": written.text}}
    if body.get("logprobs"):
        before, content = written.before, []
        for token, value in zip(written.tokens, written.logprobs(), strict=True):
            top = _top(before, body.get("top_logprobs") or 0)
            content.append({"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": [
                {"token": other, "logprob": logprob, "bytes": list(other.encode())} for other, logprob in top.items()
            ]})
            before += token
        choice["logprobs"] = {"content": content}
    return choice


def _text_choice(written: Written, body: dict[str, Any]) -> dict[str, Any]:
    echoed = tokens_of(body["prompt"]) if body.get("echo") else []
    choice: dict[str, Any] = {"text": (body["prompt"] if body.get("echo") else "") + written.text}
    if body.get("logprobs") is not None:
        values: list[float | None] = [*echo_logprobs("", echoed), *written.logprobs()]
        if echoed:
            values[0] = None
        before, offsets = "" if echoed else body["prompt"], list[int]()
        for token in [*echoed, *written.tokens]:
            offsets.append(len(before))
            before += token
        tops: list[dict[str, float] | None] = [None] * len(values)
        if written.tokens:
            tops[len(echoed)] = _top(written.before, body["logprobs"])
        choice["logprobs"] = {"tokens": [*echoed, *written.tokens], "token_logprobs": values, "text_offset": offsets,
                              "top_logprobs": tops}
    return choice
