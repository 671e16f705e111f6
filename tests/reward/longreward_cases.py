"""A judge for LongReward whose replies are a function of what it is asked, and a document with planted facts."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from function_llm import FunctionLLM, Reply
from scripted_roles import quoted

from lpo.llm.base import Request

QUERY = "What does the log of the ferry say about its crew?"
DOCUMENT = "\n\n".join(
    f"Entry {day}. " + text + " The water was calm and the wind came from the west, as on most days of that year. " * 6
    for day, text in enumerate([
        "Captain Amara took command of the ferry.",
        "The engineer Tomas repaired the pump in two hours.",
        "Nothing of note.",
        "The cook Lin left the ferry at Northhaven and was not replaced.",
        "A passenger lost a red umbrella.",
    ], start=1)
)
ANSWER = "Captain Amara commanded the ferry. Tomas repaired the pump. Lin cooked for the queen. Nobody wore a hat."
SUPPORT = {"Captain Amara commanded the ferry.": "full", "Tomas repaired the pump.": "partial",
           "Lin cooked for the queen.": "none", "Nobody wore a hat.": "none"}


def text_of(request: Request) -> str:
    """The prompt as one text."""
    prompt = request.context.prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def dumped(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


@dataclass
class Judge:
    """Grades by purpose, support by statement; statements are the sentences of the answer, notes those of a passage
    that name one of the crew.

    Args:
        grades: Grade by purpose.
        support: Label by statement.
        replies: What is said instead, by purpose: one for each request in turn; None for the usual reply.
    """

    grades: dict[str, float] = field(default_factory=lambda: {"helpfulness": 8, "logicality": 6, "completeness": 5})
    support: dict[str, str] = field(default_factory=lambda: dict(SUPPORT))
    replies: dict[str, list[Reply | None]] = field(default_factory=dict)
    delay: Callable[[Request], int] = lambda request: 0

    def model(self) -> FunctionLLM:
        return FunctionLLM(write=self.write, delay=self.delay)

    def write(self, request: Request) -> Reply:
        planned = self.replies.get(request.purpose)
        said = planned.pop(0) if planned else None
        return self.usual(request) if said is None else said

    def usual(self, request: Request) -> str:
        texts = quoted(text_of(request))
        if request.purpose == "statements":
            return dumped(statements=sentences(texts[-1]))
        if request.purpose == "support":
            return dumped(analysis=f"About {texts[-1]}", support=self.support[texts[-1]])
        if request.purpose == "notes":
            named = [one for one in sentences(texts[-2]) if re.search("Amara|Tomas|Lin", one)]
            return dumped(notes=named)
        return dumped(analysis=f"The {request.purpose}.", grade=self.grades[request.purpose])


def calls(requests: Sequence[Request]) -> Counter[str]:
    return Counter(request.purpose for request in requests)
