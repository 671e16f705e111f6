"""What a scripted model makes of the prompts of this library's other roles: it reads what stands between their marks.

The replies are functions of the prompt: facts are the passage's own sentences, and now and then (a hash decides) a
passage is said to contradict one of the facts that it is checked against.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

MARK = re.compile(r"^[0-9a-f]{12}$", re.MULTILINE)
"""The line before and after a text that is quoted in a prompt."""

CONTRADICTS = 0.15
"""Share of checks that find a contradiction."""


def last_turn(body: dict[str, Any]) -> str:
    """The prompt of a request: the last user's turn, or the text to be continued."""
    if "messages" not in body:
        return body["prompt"]
    return [turn["content"] for turn in body["messages"] if turn["role"] == "user"][-1]


def quoted(prompt: str) -> list[str]:
    """The texts between the prompt's marks, in order. A mark is the first such line; others may stand inside."""
    return [piece.removesuffix("\n") for piece in _pieces(prompt)[1::2]]


def instructions(prompt: str) -> str:
    """The prompt without the texts between its marks: all that is addressed to the model."""
    return "\n".join(_pieces(prompt)[::2])


def _pieces(prompt: str) -> list[str]:
    found = MARK.search(prompt)
    return re.split(rf"^{found[0]}\n?", prompt, flags=re.MULTILINE) if found else [prompt]


def sentences(text: str) -> list[str]:
    """Sentences in the plainest sense."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def role_of(schema: dict[str, Any] | None) -> str:
    """Who is asked, by the form of the reply."""
    names = set((schema or {}).get("properties", {}))
    roles = {"facts": "extractor", "contradictions": "checker", "suggestion": "critic", "sections": "planner",
             "faults": "editor", "revised": "reviser", "accuracy": "judge"}
    return next((role for name, role in roles.items() if name in names), "policy")


def reply_as(role: str, prompt: str, rng: random.Random) -> str | None:
    """The reply of the extractor, the checker or those who correct segments; None for other roles."""
    texts = quoted(prompt)
    if role == "extractor":
        return json.dumps({"facts": sentences(texts[-1])[:3]})
    if role == "checker":
        return json.dumps(_verdict(texts[-2], texts[-1], rng))
    if role == "editor":
        return json.dumps({"analysis": "Read.", "faults": _faults(texts[-1], rng)})
    if role == "reviser":
        return json.dumps({"revised": _revised(texts[-2], rng)})
    return None


def _faults(passage: str, rng: random.Random) -> list[dict[str, str]]:
    """None in one passage of four, else something about one of its sentences."""
    if rng.random() < 0.25:
        return []
    aspect = rng.choice(["factuality", "coherence", "repetition"])
    return [{"aspect": aspect, "quote": rng.choice(sentences(passage)), "advice": "Say it in other words."}]


def _revised(passage: str, rng: random.Random) -> str:
    """The passage with one of its sentences in other words; paragraphs are kept."""
    words = rng.choice(sentences(passage))
    return passage.replace(words, f"{words[:-1]}, in other words, number {rng.randint(0, 999)}.", 1)


def _verdict(facts: str, passage: str, rng: random.Random) -> dict[str, Any]:
    if rng.random() >= CONTRADICTS:
        return {"analysis": "They agree.", "contradictions": []}
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", facts, re.MULTILINE)]
    quote = rng.choice(sentences(passage))
    return {"analysis": "They do not agree.", "contradictions": [
        {"fact": rng.choice(numbers), "quote": quote, "explanation": "Both cannot be true."}]}
