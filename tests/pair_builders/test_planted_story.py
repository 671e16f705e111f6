"""A story with one planted contradiction and one planted weak step, against a real HTTP server."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from http_builds import asks, build, run_config
from scripted_roles import last_turn, quoted
from scripted_server import Logged, ScriptedServer
from scripted_story import (
    ADVICE,
    ALSO_GREEN,
    BETTER,
    BLUE,
    BREAD,
    CELLAR,
    CLOCK,
    GREEN,
    HARBOUR,
    HOME,
    LAMP,
    LAYERS,
    QUAY,
    RAIN,
    RED,
    REQUEST,
    SETTINGS,
    WEAK,
    WIND,
    WORSE,
    Story,
    mean_grade,
)

from lpo.pair_builders.pairs import Derived
from lpo.records import Message, Prompt, Reason, RefinementOutcome, SearchNode

STORY = Story()
PROMPT = Prompt(id="p1", prompt=(Message(role="user", content=REQUEST),))


@dataclass(frozen=True)
class Told:
    """A story that was built, and what was asked on the way."""

    derived: Derived
    calls: list[Logged]

    @property
    def by_text(self) -> dict[str, SearchNode]:
        """The nodes by their steps, without the white space between them."""
        return {node.text.strip(): node for node in self.derived.tree.nodes}

    def node(self, step: str) -> SearchNode:
        return self.by_text[step.strip()]

    def asked(self, role: str) -> list[dict[str, Any]]:
        return [call.body for call in self.calls if asks(call.body, role)]

    def prefixes(self) -> list[str]:
        """The texts that the policy was asked to continue, in the order it was asked."""
        return [body["messages"][-1]["content"] for body in self.asked("policy")
                if body.get("continue_final_message")]


def tell(folder, story: Story = STORY, critic: bool = False, prompt: Prompt = PROMPT, **changes: Any) -> Told:
    with ScriptedServer(answer=story.answer) as server:
        [derived] = build(folder, run_config(server.url, critic=critic, **SETTINGS, **changes), [prompt])
        return Told(derived, list(server.calls))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return tell(tmp_path_factory.mktemp("story"))


def test_the_contradiction_is_vetoed_once_with_fact_provenance_and_quote(told):
    [vetoed] = [node for node in told.derived.tree.nodes if node.vetoes]
    assert vetoed.text == GREEN
    assert vetoed.score == max(node.score for node in told.derived.tree.nodes if node.depth == 2), "planted as the best"
    [veto] = vetoed.vetoes
    [fact] = [fact for fact in told.node(BLUE).facts if fact.id == veto.fact]
    assert (fact.id, fact.node) == ("0.0#1", told.node(BLUE).id)
    assert veto.statement == fact.text == "The house above the bay is blue."
    assert veto.quote == "the green house" and veto.quote in vetoed.text
    assert vetoed.visits == 0 and not any(GREEN in prefix for prefix in told.prefixes())


def test_the_weak_step_is_refined_once_and_everything_later_goes_on_from_the_refined_text(told):
    refined = [node for node in told.derived.tree.nodes if node.refinement is not None]
    assert [(node.text, node.refinement.outcome) for node in refined] == [(WEAK, RefinementOutcome.ACCEPTED)]
    [critique] = refined[0].refinement.critiques
    assert (critique.principle, critique.better, critique.suggestion) == ("insight", told.node(CLOCK).id, ADVICE)
    assert (critique.confidence, critique.used, critique.relevant) == (4.5, True, "Marta was sad about it")
    rewritten = told.node(BETTER)
    assert (rewritten.id, rewritten.refines) == (f"{told.node(WEAK).id}r", told.node(WEAK).id)
    assert rewritten.score > told.node(WEAK).score and not rewritten.vetoes
    answer = BLUE + LAMP + BETTER
    assert told.prefixes()[-1] == answer and told.prefixes().count(answer) == 1
    assert not any(WEAK in prefix for prefix in told.prefixes())
    assert {path.nodes for path in told.derived.tree.paths} \
        == {("0", *(told.node(step).id for step in (BLUE, LAMP, BETTER, HOME)))}
    judged = [quoted(last_turn(body))[-1] for body in told.asked("judge")]
    assert {answer + step for step in LAYERS[3]} <= set(judged)


def test_pairs_hold_the_refined_text_and_no_vetoed_one(told):
    derived = told.derived
    assert derived.rejected == ()
    assert [(pair.prefix, pair.chosen) for pair in derived.pairs] == [
        ("", BLUE), (BLUE, LAMP), (BLUE + LAMP, BETTER), (BLUE + LAMP + BETTER, HOME)]
    allowed = [{HARBOUR, WIND}, {BREAD}, {CLOCK, RAIN}, set(LAYERS[3]) - {HOME}]
    assert all(pair.rejected in ones for pair, ones in zip(derived.pairs, allowed, strict=True))
    third = derived.pairs[2]
    assert third.provenance["refined"] == told.node(WEAK).id
    assert third.margin == pytest.approx((mean_grade(BETTER) - mean_grade(third.rejected)) / 4)
    assert derived.pairs[3].chosen_ends and not third.chosen_ends


def test_the_advice_stands_in_one_request_and_nowhere_else(told):
    holding = [call.body for call in told.calls if ADVICE in json.dumps(call.body)]
    [rewriting] = holding
    assert asks(rewriting, "policy") and rewriting["messages"][-1]["content"] == BLUE + LAMP
    assert told.calls[-1].body is not rewriting, "there are later requests"
    assert told.derived.tree.prompt == PROMPT
    for pair in told.derived.pairs:
        assert pair.prompt == PROMPT.prompt
        assert ADVICE not in json.dumps(pair.to_json())


def test_nobody_is_asked_twice_and_four_walks_over_known_ground_ask_nothing(told):
    bodies = [json.dumps(call.body) for call in told.calls]
    assert len(set(bodies)) == len(bodies)
    counts = {role: len(told.asked(role)) for role in ("policy", "judge", "extractor", "checker", "critic")}
    assert counts == {"policy": 4 + 1, "judge": 12 + 1, "extractor": 3, "checker": 9 + 1, "critic": 1}


@pytest.mark.parametrize(("rewritten", "outcome"), [
    (WORSE, RefinementOutcome.NOT_BETTER),
    (ALSO_GREEN, RefinementOutcome.VETOED),
    (RAIN, RefinementOutcome.EQUAL),
])
def test_a_rewritten_step_that_is_no_better_or_contradicts_is_refused_and_kept_on_record(tmp_path, rewritten, outcome):
    told = tell(tmp_path, Story(rewritten=rewritten))
    weak = told.node(WEAK)
    assert weak.refinement.outcome is outcome and not weak.replaced
    [kept] = [node for node in told.derived.tree.nodes if node.refines == weak.id]
    assert (kept.id, kept.text, kept.visits) == (weak.refinement.node, rewritten, 0)
    assert kept.note is not None
    assert [veto.statement for veto in kept.vetoes] == (
        ["The house above the bay is blue."] if outcome is RefinementOutcome.VETOED else [])
    assert told.prefixes()[-1] == BLUE + LAMP + WEAK
    third = told.derived.pairs[2]
    assert third.chosen == WEAK and third.provenance["rejected"] != kept.id
    assert "refined" not in third.provenance


def test_the_release_takes_a_worse_step_all_the_same_but_not_a_contradicting_one(tmp_path):
    critique = {"accept": "always"}
    told = tell(tmp_path, Story(rewritten=WORSE), critique=critique)
    assert told.node(WEAK).replaced and told.prefixes()[-1] == BLUE + LAMP + WORSE
    (tmp_path / "contradicting").mkdir()
    told = tell(tmp_path / "contradicting", Story(rewritten=ALSO_GREEN), critique=critique)
    assert told.node(WEAK).refinement.outcome is RefinementOutcome.VETOED
    assert told.prefixes()[-1] == BLUE + LAMP + WEAK


@pytest.mark.parametrize(("all_vetoed", "goes_on", "pair"), [
    ("best_score", True, True), ("no_pair", True, False), ("stop", False, False)])
def test_when_every_candidate_contradicts(tmp_path, all_vetoed, goes_on, pair):
    layers = (LAYERS[0], (RED, GREEN, CELLAR), *LAYERS[2:])
    told = tell(tmp_path, Story(layers=layers), memory={"all_vetoed": all_vetoed})
    layer = [node for node in told.derived.tree.nodes if node.depth == 2]
    assert all([veto.fact for veto in node.vetoes] == ["0.0#1"] for node in layer)
    assert {node.text for node in layer if node.visits} == ({GREEN} if goes_on else set())
    assert any(node.depth == 4 for node in told.derived.tree.nodes) == goes_on
    here = f"p1/{told.node(BLUE).id}"
    pairs = [one for one in told.derived.pairs if one.id == here]
    assert [row.reason for row in told.derived.rejected if row.id == here] == ([] if pair else [Reason.VETOED])
    assert [(one.chosen, one.provenance.get("chosen_vetoed")) for one in pairs] == ([(GREEN, True)] if pair else [])


@pytest.mark.parametrize(("by", "asked"), [("judge", "scripted-judge"), ("policy", "scripted"),
                                           ("critic", "scripted-critic")])
def test_the_critic_is_the_model_that_was_named(tmp_path, by, asked):
    told = tell(tmp_path, critic=by == "critic", critique={"by": by})
    assert {body["model"] for body in told.asked("critic")} == {asked}
    assert {body["model"] for body in told.asked("policy")} == {"scripted"}
    assert {body["model"] for role in ("judge", "extractor", "checker") for body in told.asked(role)} \
        == {"scripted-judge"}
    assert told.node(WEAK).replaced


TITLES = ("The house", "The evenings", "The night without a lamp", "The morning after")


@pytest.mark.parametrize("given", [False, True], ids=["the policy plans", "the prompt brings its plan"])
def test_steps_that_are_sections_of_a_plan(tmp_path, given):
    prompt = PROMPT.model_copy(update={"meta": {"plan": list(TITLES)}}) if given else PROMPT
    told = tell(tmp_path, Story(sections=TITLES), boundary="sections", prompt=prompt)
    assert tuple(section.title for section in told.derived.tree.plan) == TITLES
    assert [body["model"] for body in told.asked("planner")] == ([] if given else ["scripted"])
    for body in told.asked("policy"):
        assert all(title in last_turn(body) for title in TITLES)
    assert told.node(GREEN).vetoes and told.node(WEAK).replaced
    [*_, last] = told.prefixes()
    assert last == "".join(f"{step}\n\n" for step in (BLUE, LAMP, BETTER))
    for pair in told.derived.pairs:
        assert pair.prompt == PROMPT.prompt, "the plan is not in the training prompt"
    assert told.derived.pairs[-1].chosen == HOME and told.derived.pairs[-1].chosen_ends
    assert QUAY in {node.text for node in told.derived.tree.nodes if node.ends}, "the last section ends the answer"
