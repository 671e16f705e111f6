"""Whole answers to one prompt, scored by LongReward as it stores its judgements."""

import random
from collections.abc import Sequence
from typing import Any

from lpo.records import Judgement, Message, Origin, Prompt, SearchNode, SearchTree

DOCUMENT = (
    "Chapter 1. The lighthouse at Skagen was lit in 1858 and stands 46 metres high. Its first keeper, Jens Holm, "
    "counted ships for eleven years. Chapter 2. In the winter of 1862 the lamp went out for two nights. A schooner, "
    "the Anna Maria, ran aground; nobody drowned. Holm wrote that the oil had frozen. Chapter 3. The inquiry of 1863 "
    "found that the oil had been sold. Holm was pardoned, the merchant was not.")
QUESTION = "What does the report say about the winter of 1862, and who was to blame?"
GOOD = (
    "In the winter of 1862 the lamp went out for two nights and the schooner Anna Maria ran aground, though nobody "
    "drowned. Holm blamed frozen oil; the inquiry of 1863 found that the oil had been sold, pardoned Holm and held "
    "the merchant responsible.")
SHORT = "The lamp went out and a ship ran aground. The merchant was to blame."
LONG = (
    "The report, which is about a lighthouse, says many things. It says that the lighthouse is 46 metres high. It "
    "says that a schooner ran aground and that twelve sailors drowned. It says that the oil had frozen, and that "
    "Holm was to blame for it, because he was the keeper. In conclusion, the winter of 1862 was a hard winter, and "
    "hard winters are hard.")
GIVEN = "According to Holm the oil had frozen; the inquiry did not believe it."
STATEMENTS: dict[str, tuple[tuple[str, str | None], ...]] = {
    GOOD: (("The lamp went out for two nights in the winter of 1862.", "full"),
           ("The Anna Maria ran aground and nobody drowned.", "full"),
           ("The inquiry of 1863 held the merchant responsible.", "partial")),
    SHORT: (("A ship ran aground.", "full"),),
    LONG: (("The lighthouse is 46 metres high.", "full"), ("Twelve sailors drowned.", "none"),
           ("Holm was to blame.", "none")),
    GIVEN: (("Holm wrote that the oil had frozen.", "full"), ("The inquiry did not believe it.", None)),
}
GRADES = {GOOD: (9.0, 9.0, 8.33, 9.0), SHORT: (6.0, 8.0, 10.0, 4.0), LONG: (4.0, 5.0, 3.33, 6.0)}
NOTES = [{"start": 0, "end": 140, "notes": [], "tries": 1},
         {"start": 140, "end": len(DOCUMENT), "notes": ["The lamp went out for two nights; a schooner ran aground.",
                                                        "The oil had been sold; the merchant was not pardoned."],
          "tries": 2}]


def longreward(text: str) -> Judgement:
    """As LongReward stores it: dimensions on 0–10, statements with spans of the document, notes of its chunks."""
    statements: list[dict[str, Any]] = []
    for number, (statement, support) in enumerate(STATEMENTS[text]):
        row: dict[str, Any] = {"statement": statement, "evidence": [[140 * number, 140 * number + 120], [0, 60]]}
        row |= {"support": None} if support is None else {
            "support": support, "analysis": f"The passages say as much about: {statement}", "tries": 1}
        statements.append(row)
    grades = GRADES.get(text)
    said = {"analysis": "It answers both halves of the question, and plainly.", "tries": 1}
    parts: dict[str, Any] = {"language": "en", "helpfulness": said, "logicality": {**said, "tries": 2},
                             "faithfulness": {"tries": 1, "statements": statements},
                             "completeness": {**said, "notes": NOTES}}
    if grades is None:
        parts["faithfulness"]["failed"] = "support: unparsable"
        return Judgement(scorer="longreward", unscored="unparsable", parts=parts)
    scores = dict(zip(("helpfulness", "logicality", "faithfulness", "completeness"), grades, strict=True))
    return Judgement(scorer="longreward", overall=sum(grades) / 40, scores=scores, parts=parts)


def about_a_document(identifier: str, *, given_names: bool = False) -> SearchTree:
    """Four answers about a document and one that repeats another; `given_names`: as `lpo score` leaves them."""
    meta = {"answers": [SHORT, GOOD, LONG, GIVEN, GOOD], "answer_ids": [f"11-{place}" for place in range(5)]}
    prompt = Prompt(id=identifier, prompt=(Message(role="user", content=QUESTION),), context=DOCUMENT,
                    meta=meta if given_names else {})
    origins = [Origin.SAMPLED, Origin.SAMPLED, Origin.EXTENDED, Origin.GIVEN, Origin.SAMPLED]
    names = ["0.0", "0.1", "0.0e", "0.3", "0.4"]
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root")]
    for name, origin, text in zip(names, origins, (SHORT, GOOD, LONG, GIVEN, GOOD), strict=True):
        again = name == "0.4"
        nodes.append(SearchNode(
            id=name, parent="0", depth=1, text=text, ends=text is not LONG,
            origin=Origin.GIVEN if given_names else origin,
            extends="0.0" if origin is Origin.EXTENDED and not given_names else None,
            judgement=None if again else longreward(text), note="duplicate of 0.1" if again else None,
            failures={"extend": "not longer than 1.2 times"} if name == "0.1" and not given_names else {}))
    return SearchTree(id=identifier, prompt=prompt, method="best_of_n", seed=7, nodes=tuple(nodes))


def essays(identifier: str, request: str, texts: Sequence[str], judge: Any, rng: random.Random,
           target: int | None = None) -> SearchTree:
    """Answers that a judge and a length score were combined for; the first is the best."""
    prompt = Prompt(id=identifier, prompt=(Message(role="user", content=request),), target_words=target)
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root")]
    nodes += [SearchNode(id=f"0.{place}", parent="0", depth=1, text=text, ends=place != 1, tokens=70,
                         judgement=judge(0.8 - 0.25 * place, rng)) for place, text in enumerate(texts)]
    return SearchTree(id=identifier, prompt=prompt, method="best_of_n", seed=7, nodes=tuple(nodes))
