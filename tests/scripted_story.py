"""A small story in which everything is planned: who writes it, judges it, remembers it and criticises it.

`Story.answer` plays every role for a `ScriptedServer`. It acts upon what a request says and nothing else: the judge on
the text it is shown, the checker on the facts it is shown, the policy on the text so far and the advice it is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripted_model import schema_of
from scripted_roles import instructions, last_turn, quoted, role_of, sentences

PRINCIPLES = ("accuracy", "purpose", "harmless", "consistency", "breadth", "reading", "insight")
REQUEST = "Write a short story about the house above the bay."
ADVICE = "Let Marta do one thing with her hands, and say nothing of what she feels."

BLUE = "The house above the bay is blue. Marta painted it with her father before he went to sea."
HARBOUR = "It was a cold autumn, and in the harbour the boats lay one beside the other."
WIND = "The wind blew. It blew all day, and when it was evening it blew still."

GREEN = " From the porch of the green house Marta counted the boats as they came home in the evening."
LAMP = " Each evening Marta set a lamp in the window, so that her father would see where home was."
RED = " From the roof of the red house Marta could see the whole bay and the islands."
CELLAR = " In the cellar of the green house Marta kept the nets, and the nets smelt of tar."
BREAD = " Each evening Marta baked bread and ate it alone, and each evening it was the same bread."

WEAK = " One night the lamp went out. Marta was sad about it, and because it was dark she was sad for long."
CLOCK = " The clock struck. Marta thought that clocks only ever count what is gone."
RAIN = " It rained all night. All night it rained, and it rained still at noon."
BETTER = " One night the lamp went out. Marta trimmed the wick, struck a match, and held it until it burnt her thumb."
WORSE = " One night the lamp went out, and with her hands Marta did a thing, and said nothing, and it was sad."
ALSO_GREEN = " One night the lamp went out. Marta took a brush and went over the green door of the green house again."

HOME = " In the morning a boat stood in the bay, and a man in it raised his hand to the light. The end."
QUAY = " In the morning she went down to the quay and asked, and nobody knew anything of him."
FOG = " In the morning there was fog, and after the fog there was more fog."

GRADES: Mapping[str, float | Mapping[str, float]] = {
    BLUE: 3.6, HARBOUR: 3.0, WIND: 2.2,
    GREEN: 4.6, RED: 3.1, CELLAR: 2.8, LAMP: 3.4, BREAD: 2.9,
    # Weak, and yet the best of its layer: only by its insight it is not.
    WEAK: {"insight": 1.0}, CLOCK: {"insight": 3.0}, RAIN: 1.2,
    BETTER: 3.8, WORSE: 1.8, ALSO_GREEN: 4.4,
    HOME: 4.0, QUAY: 3.0, FOG: 2.6,
}
OTHERWISE = {WEAK: 2.5, CLOCK: 1.5}
LAYERS = ((BLUE, HARBOUR, WIND), (LAMP, GREEN, BREAD), (CLOCK, WEAK, RAIN), (QUAY, FOG, HOME))

SETTINGS = {"branching": 3, "depth": 4, "step_tokens": 24, "search": {"num_paths": 4, "exploration": 0.0}}
"""Of the `build` section: four walks that go where the grades lead them."""

LOOSE_END = " and so" * 80
"""Follows every step but the last: the budget of a step ends in it, and the step is cut before it."""


def mean_grade(step: str) -> float:
    """What the judge gives a step, over all principles."""
    return sum(_grades(step).values()) / len(PRINCIPLES)


@dataclass(frozen=True)
class Story:
    """All replies.

    Args:
        layers: The candidates of each layer; the text so far decides which layer it is.
        rewritten: What the policy writes where it is given the advice.
        sections: Titles of the plan by which it is written, if there is one.
    """

    layers: Sequence[Sequence[str]] = LAYERS
    rewritten: str = BETTER
    sections: Sequence[str] = ()

    def answer(self, body: dict[str, Any], choice: int) -> str | None:
        """What is said to a request."""
        role = role_of(schema_of(body))
        if role == "policy":
            return self._write(body, choice)
        texts, prompt = quoted(last_turn(body)), instructions(last_turn(body))
        return json.dumps({
            "judge": self._judge, "extractor": _facts, "checker": _contradictions, "critic": _advice,
            "planner": self._plan,
        }[role](texts, prompt))

    def _write(self, body: dict[str, Any], choice: int) -> str:
        prefix = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
        layer = self.layers[self._depth(prefix)]
        step = self.rewritten if ADVICE in last_turn(body) else layer[choice]
        loose_end = "" if self.sections or step == HOME else LOOSE_END
        return step + loose_end

    def _depth(self, prefix: str) -> int:
        """How many steps a text consists of."""
        return sum(_flat(step) in _flat(prefix) for step in GRADES)

    def _judge(self, texts: Sequence[str], _prompt: str) -> dict[str, Any]:
        [step] = [step for step in GRADES if _flat(texts[-1]).endswith(_flat(step))]
        return verdict(_grades(step))

    def _plan(self, _texts: Sequence[str], _prompt: str) -> dict[str, Any]:
        return {"sections": [{"title": title, "words": 20} for title in self.sections]}


def verdict(grades: Mapping[str, float]) -> dict[str, Any]:
    """A judge's reply whose expected grades are these, by principle."""
    return {"analysis": "As planned.", **{name: _weights(grade) for name, grade in grades.items()}}


def _flat(text: str) -> str:
    return " ".join(text.split())


def _grades(step: str) -> dict[str, float]:
    given = GRADES[step]
    return {name: given if isinstance(given, float) else given.get(name, OTHERWISE[step]) for name in PRINCIPLES}


def _weights(grade: float) -> list[float]:
    """Soft weights whose mean is the grade."""
    low = min(4, int(grade))
    above = round(grade - low, 6)
    return [1 - above if place == low else above if place == low + 1 else 0.0 for place in range(1, 6)]


def _facts(texts: Sequence[str], _prompt: str) -> dict[str, Any]:
    return {"facts": sentences(texts[-1])}


def _contradictions(texts: Sequence[str], _prompt: str) -> dict[str, Any]:
    """The house has one colour."""
    said = re.search(r"the (green|red) house", texts[-1])
    facts = [line.partition(". ")[::2] for line in texts[-2].split("\n")]
    found = [{"fact": int(number), "quote": said[0], "explanation": "A house has one colour."}
             for number, fact in facts if said and "house" in fact and "is blue" in fact]
    return {"analysis": "Only colours count.", "contradictions": found}


def _advice(texts: Sequence[str], prompt: str) -> dict[str, Any]:
    assert "\n- insight:" in prompt, "by no other principle is a sibling better"
    assert _flat(texts[-2]) == _flat(CLOCK) and _flat(texts[-1]) == _flat(WEAK)
    return {"analysis": "The one thinks further, the other only names a feeling.", "relevant": "Marta was sad about it",
            "suggestion": ADVICE, "confidence": 4.5}
