"""The whole search against a server that misbehaves in every role: policy, judge, extractor, checker and critic."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from http_builds import asks, bodies_to, build, run_config
from scripted_roles import last_turn, quoted
from scripted_server import EMPTY, FILTERED, NO_CONTENT, REFUSAL, Fault, ScriptedServer, content, rate_limited
from scripted_story import (
    ADVICE,
    BETTER,
    BLUE,
    BREAD,
    GREEN,
    LAMP,
    LAYERS,
    LOOSE_END,
    PRINCIPLES,
    REQUEST,
    SETTINGS,
    WEAK,
    Story,
    verdict,
)

from lpo.build_config import PairsConfig
from lpo.llm import retry
from lpo.pair_builders.pairs import Derived, derive_pairs
from lpo.records import Message, Prompt, Reason, RefinementOutcome, SearchNode
from lpo.run.build_counts import count_tree

Answer = Callable[[dict[str, Any], int], str | None]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.05)


def task(request: str, name: str = "p1") -> Prompt:
    return Prompt(id=name, prompt=(Message(role="user", content=request),))


def lasting(fault: Fault, when: Callable[[dict[str, Any]], bool]) -> Fault:
    return replace(fault, lasting=True, when=when)


def searched(folder, answer: Answer | None, *faults: Fault, prompts: list[Prompt] | None = None,
             **settings: Any) -> tuple[list[Derived], ScriptedServer]:
    """Trees and pairs of prompts, and the server they came from."""
    with ScriptedServer(answer=answer) as server:
        server.misbehave(*faults)
        return build(folder, run_config(server.url, **settings), prompts or [task(REQUEST)]), server


# The planted story, one layer of which fails

AS_PLANNED = Story().answer


def tell(folder, *faults: Fault, answer: Answer = AS_PLANNED, **changes: Any) -> tuple[Derived, ScriptedServer]:
    [derived], server = searched(folder, answer, *faults, **{**SETTINGS, **changes})
    return derived, server


def node(derived: Derived, step: str) -> SearchNode:
    [found] = [one for one in derived.tree.nodes if one.text == step and one.note is None]
    return found


def test_a_judge_that_talks_nonsense_at_one_depth_ends_the_path_there_and_is_counted(tmp_path):
    nonsense = lasting(content("Nice work, 9 out of 10!"), lambda body: (
        asks(body, "judge") and any(step in last_turn(body) for step in LAYERS[2])))
    derived, server = tell(tmp_path, nonsense)
    unscored = [one for one in derived.tree.nodes if one.judgement is not None and one.judgement.unscored]
    assert {one.text for one in unscored} == set(LAYERS[2])
    assert {(one.judgement.unscored, one.score) for one in unscored} == {("unparsable", None)}
    assert "Nice work" in unscored[0].judgement.parts["reply"]
    lamp = node(derived, LAMP)
    assert {path.nodes[-1] for path in derived.tree.paths} == {lamp.id} and len(derived.tree.paths) == 4
    assert {path.value for path in derived.tree.paths} == {lamp.score}, "the last step that has a score"
    assert [pair.chosen for pair in derived.pairs] == [BLUE, LAMP]
    assert [(row.id, row.reason) for row in derived.rejected] == [(f"p1/{lamp.id}", Reason.UNSCORED)]
    assert count_tree(derived.tree).unscored == {"unparsable": 3}
    assert len(bodies_to(server, "judge")) == 9, "what was answered, however badly, is not asked again"


def test_when_every_candidate_of_a_layer_is_refused_the_path_ends_there_and_nobody_is_asked_again(tmp_path):
    refused = lasting(Fault(status=400, message="context too long"), lambda body: (
        asks(body, "policy") and body["messages"][-1]["content"] == BLUE + LAMP))
    derived, server = tell(tmp_path, refused)
    lost = [one for one in derived.tree.nodes if one.depth == 3]
    assert [one.text for one in lost] == [""] * 3
    assert all(one.note.startswith("request_rejected: ") and "context too long" in one.note for one in lost)
    assert all(one.judgement is None and one.visits == 0 for one in lost)
    assert [(row.id, row.reason) for row in derived.rejected] \
        == [(f"p1/{node(derived, LAMP).id}", Reason.REQUEST_REJECTED)]
    assert [path.value for path in derived.tree.paths] == [node(derived, LAMP).score] * 4
    assert len(bodies_to(server, "policy")) == 3, "one call for each layer"
    assert [pair.chosen for pair in derived.pairs] == [BLUE, LAMP]


def test_a_candidate_that_is_refused_leaves_its_siblings_alone(tmp_path):
    refused = lasting(replace(FILTERED, index=1), lambda body: (
        asks(body, "policy") and body["messages"][-1]["content"] == BLUE))
    derived, _ = tell(tmp_path, refused)
    layer = [one for one in derived.tree.nodes if one.depth == 2]
    assert [(one.text, one.note) for one in layer] == [(LAMP, None), ("", "refused"), (BREAD, None)]
    assert not any(one.vetoes for one in derived.tree.nodes), "it was the one that contradicts"
    assert [pair.chosen for pair in derived.pairs][1:3] == [LAMP, BETTER]


def test_candidates_that_are_one_text_are_judged_and_checked_once_and_make_no_pair(tmp_path):
    same = Story(layers=(LAYERS[0], (LAMP, LAMP, f"{LAMP} "), *LAYERS[2:]))
    derived, server = tell(tmp_path, answer=same.answer)
    assert [one.note for one in derived.tree.nodes if one.depth == 2] == [None] + ["duplicate of 0.0.0"] * 2
    for role in ("judge", "checker"):
        about = [body for body in bodies_to(server, role) if quoted(last_turn(body))[-1].endswith(LAMP)]
        assert len(about) == 1
    assert [(row.id, row.reason) for row in derived.rejected] == [("p1/0.0", Reason.EQUAL_TEXTS)]
    assert node(derived, BETTER).visits == 4, "the search goes on from the one text"


def test_where_all_grades_are_equal_the_first_sibling_is_taken_and_only_a_contradiction_makes_a_pair(tmp_path):
    def even(body: dict[str, Any], choice: int) -> str | None:
        if asks(body, "judge"):
            return json.dumps(verdict(dict.fromkeys(PRINCIPLES, 3.0)))
        return Story(layers=(*LAYERS[:2], (BETTER, *LAYERS[2][:2]), LAYERS[3])).answer(body, choice)

    derived, _ = tell(tmp_path, answer=even)
    assert {one.score for one in derived.tree.nodes if one.parent is not None} == {0.5}
    assert {path.nodes for path in derived.tree.paths} == {("0", "0.0", "0.0.0", "0.0.0.0", "0.0.0.0.0")}
    assert derived.pairs == () and [row.reason for row in derived.rejected] == [Reason.TIE] * 4
    [pair] = derive_pairs(derived.tree, PairsConfig(rejected="vetoed")).pairs
    assert (pair.chosen, pair.rejected, pair.margin) == (LAMP, GREEN, 0.0)


@pytest.mark.parametrize(("fault", "outcome"), [
    (Fault(status=400, message="no"), RefinementOutcome.REQUEST_REJECTED),
    (FILTERED, RefinementOutcome.REQUEST_REJECTED),
    (EMPTY, RefinementOutcome.EQUAL),
])
def test_a_weak_step_that_cannot_be_written_anew_stays(tmp_path, fault, outcome):
    derived, _ = tell(tmp_path, lasting(fault, lambda body: asks(body, "policy") and ADVICE in last_turn(body)))
    weak = node(derived, WEAK)
    assert (weak.refinement.outcome, weak.visits) == (outcome, 4)
    [kept] = [one for one in derived.tree.nodes if one.refines]
    assert kept.note is not None and kept.judgement is None and kept.id == weak.refinement.node
    assert [pair.chosen for pair in derived.pairs][2:] == [WEAK, LAYERS[3][-1]]


def test_replies_that_are_cut_once_get_more_room_and_change_nothing(tmp_path):
    (tmp_path / "undisturbed").mkdir()
    undisturbed, calm = tell(tmp_path / "undisturbed")
    cut = lasting(content('{"analysis": "It', finish="length"), lambda body: (
        not asks(body, "policy") and body["max_tokens"] == 1024))
    derived, server = tell(tmp_path, cut)
    assert derived == undisturbed
    for role in ("judge", "extractor", "checker", "critic"):
        assert len(bodies_to(server, role)) == 2 * len(bodies_to(calm, role)) > 0
    assert len(bodies_to(server, "policy")) == len(bodies_to(calm, "policy"))


# Every kind of bad reply, to every role

GOOD = {
    "judge": json.dumps(verdict(dict.fromkeys(PRINCIPLES, 3.0))),
    "extractor": '{"facts": ["Marta has a lamp."]}',
    "checker": '{"analysis": "They agree.", "contradictions": []}',
    "critic": json.dumps({"analysis": "Flat.", "relevant": "says", "suggestion": ADVICE, "confidence": 3}),
}
ACCURACY = '"accuracy": [0.0, 0.0, 1.0, 0.0, 0.0]'
CONTRADICTION = '[{"fact": 1, "quote": "says", "explanation": "No."}]'
VARIANTS = {
    "judge": [(ACCURACY, f'"accuracy": {wrong}', reason) for wrong, reason in (
        ("11", "unparsable"), ("[0, 0, true, 0, 0]", "unparsable"), ("[0, 0, NaN, 0, 1]", "unparsable"),
        ("[0, 0, 1, 0, 0, 0]", "unparsable"), ("[0, 0, 1e999, 0, 0]", "out_of_range"),
        ("[0, 0, -1, 0, 2]", "out_of_range"), ("[0, 0, 0, 0, 0]", "out_of_range"))],
    "extractor": [('["Marta has a lamp."]', wrong, "unparsable") for wrong in (
        "[true]", "[11]", "[NaN]", '"none"', 'null, "facts": []', '[""]')],
    "checker": [("[]", CONTRADICTION.replace(*wrong), "unparsable") for wrong in (
        ("1", "11"), ("1", "true"), ("1", "NaN"), ("1", "0"), ("says", "never said"))],
    "critic": [('"confidence": 3', f'"confidence": {wrong}', "unparsable") for wrong in ("11", "true", "NaN", '"3"')],
}


@dataclass(frozen=True)
class Bad:
    """A reply, and the reason that is recorded; None where it is good enough after all."""

    fault: Fault
    reason: str | None


def bad_replies(role: str) -> list[Bad]:
    good = GOOD[role]
    said = {
        f"Here you are:\n{good}\nI hope this helps.": None,
        "I would rather not say.": "unparsable",
        f"{good}\n{good}": "unparsable",
        f'I give {{"score": 5}}, or: {good}': "unparsable",
        good[:-1]: "unparsable",
        **{good.replace(right, wrong): reason for right, wrong, reason in VARIANTS[role]},
    }
    assert good not in said, "every variant differs"
    return [
        Bad(content(good), None), Bad(content(good, finish="length"), "cut"), Bad(EMPTY, "empty"),
        Bad(NO_CONTENT, "empty"), Bad(FILTERED, "refused"), Bad(REFUSAL, "refused"),
        Bad(Fault(status=400, message="too long"), "request_rejected"),
        *(Bad(content(text), reason) for text, reason in said.items()),
    ]


def faults_by_words(role: str, bad: list[Bad], words: str) -> list[Fault]:
    """Number i of the bad replies meets every request to the role about the text with these words and that number."""
    return [lasting(one.fault, lambda body, number=number: asks(body, role)
                    and f"{words} {number}." in quoted(last_turn(body))[-1]) for number, one in enumerate(bad)]


def drafts(body: dict[str, Any], choice: int) -> str | None:
    """Steps by number, the first of them weak and yet the best; good replies from everybody else."""
    if asks(body, "policy"):
        first = not body.get("continue_final_message")
        return f"{'Draft' if first else ' Second'} {choice}. It says what it says and nothing beyond that.{LOOSE_END}"
    for role in ("extractor", "checker", "critic"):
        if asks(body, role):
            return GOOD[role]
    best = "Draft 0." in quoted(last_turn(body))[-1]
    return json.dumps(verdict({name: (2.0 if best else 1.0) if name != "insight" else (1.0 if best else 3.0)
                               for name in PRINCIPLES}))


LEAN = {"depth": 1, "step_tokens": 24, "search": {"algorithm": "greedy"}, "critique": {"enabled": False}}
"""Settings under which one role is looked at alone."""


def test_a_bad_reply_of_the_judge_is_no_score_and_has_its_reason(tmp_path):
    bad = bad_replies("judge")
    [derived], _ = searched(tmp_path, drafts, *faults_by_words("judge", bad, "Draft"),
                            **{**LEAN, "branching": len(bad)})
    judgements = [one.judgement for one in derived.tree.nodes if one.parent is not None]
    assert [judgement.unscored for judgement in judgements] == [one.reason for one in bad]
    assert {judgement.overall for judgement in judgements if not judgement.unscored} == {0.5}


def test_a_bad_reply_of_the_checker_is_neither_a_veto_nor_a_pass(tmp_path):
    bad = bad_replies("checker")
    [derived], _ = searched(tmp_path, drafts, *faults_by_words("checker", bad, "Second"),
                            **{**LEAN, "branching": len(bad), "depth": 2})
    layer = [one for one in derived.tree.nodes if one.depth == 2]
    assert [one.failures.get("check", "None").partition(":")[0].partition(" ")[0] for one in layer] \
        == [str(one.reason) for one in bad]
    assert all(one.vetoes == () and one.score is not None for one in layer)
    assert count_tree(derived.tree).failed_checks == Counter(one.reason for one in bad if one.reason)


def test_a_bad_reply_of_the_extractor_leaves_no_fact_and_has_its_reason(tmp_path):
    bad = bad_replies("extractor")
    faults = [lasting(one.fault, lambda body, number=number: asks(body, "extractor")
                      and f"story {number}." in last_turn(body)) for number, one in enumerate(bad)]
    results, server = searched(tmp_path, drafts, *faults, **{**LEAN, "branching": 2, "depth": 2}, prompts=[
        task(f"Write story {number}.", f"p{number}") for number in range(len(bad))])
    for one, derived in zip(bad, results, strict=True):
        step = next(node for node in derived.tree.nodes if node.visits and node.depth == 1)
        assert step.failures.get("facts", "None").partition(":")[0] == str(one.reason)
        assert [fact.text for fact in step.facts] == ([] if one.reason else ["Marta has a lamp."])
        assert sum(node.depth == 2 and node.score is not None for node in derived.tree.nodes) == 2
    assert len(bodies_to(server, "checker")) == 2 * sum(one.reason is None for one in bad), "no facts, no question"


def test_a_bad_reply_of_the_critic_leaves_the_step_as_it_is_and_has_its_reason(tmp_path):
    bad = bad_replies("critic")
    faults = [lasting(one.fault, lambda body, number=number: asks(body, "critic")
                      and f"story {number}." in last_turn(body)) for number, one in enumerate(bad)]
    results, server = searched(
        tmp_path, drafts, *faults, **{**LEAN, "branching": 2, "critique": {"eta": 2.5}},
        prompts=[task(f"Write story {number}.", f"p{number}") for number in range(len(bad))])
    for one, derived in zip(bad, results, strict=True):
        [refinement] = [node.refinement for node in derived.tree.nodes if node.refinement is not None]
        assert (refinement.outcome is RefinementOutcome.NO_CRITIQUE) == (one.reason is not None)
        assert [failure.split(": ")[:2] for failure in refinement.failed] \
            == ([["insight", one.reason]] if one.reason else [])
    rewritten = [body for body in bodies_to(server, "policy") if ADVICE in last_turn(body)]
    assert len(rewritten) == sum(one.reason is None for one in bad)


# Many calls at once

def test_a_storm_of_rate_limits_over_many_calls_at_once_changes_no_tree(tmp_path):
    prompts = [task(f"Write letter {number}.", f"p{number}") for number in range(4)]
    settings: dict[str, Any] = {"branching": 3, "depth": 2, "step_tokens": 40, "critique": {"eta": 3.2}}
    (tmp_path / "undisturbed").mkdir()
    undisturbed, calm = searched(tmp_path / "undisturbed", None, prompts=prompts, **settings)
    limits = [replace(rate_limited(1), when=lambda body: not asks(body, "policy"))] * 16
    results, server = searched(tmp_path, None, *limits, prompts=prompts, **settings)
    assert results == undisturbed
    assert sum(count_tree(derived.tree).refinements.total() for derived in results) > 0
    judging = [call.time for call in server.calls if not asks(call.body, "policy")]
    assert len(judging) == len(calm.calls) - len(bodies_to(calm, "policy")) + 16, "a limit costs one attempt"
    assert max(later - earlier for earlier, later in pairwise(judging)) >= 1.0, "all calls keep the pause"
