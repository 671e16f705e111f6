import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest
from builder_cases import PLAIN, PROMPT, ByText, build, by_number, config, cut, models, step
from function_llm import FunctionLLM, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Finish
from lpo.pair_builders import BuildEvent, create_builder
from lpo.pair_builders.steps import required_words
from lpo.records import Reason, SearchNode, SearchTree, Usage
from lpo.reward import RepetitionScorer


def test_a_tree_gives_a_pair_for_each_layer_and_grows_on_the_chosen_text():
    result, llm = build(step, ByText(by_number))
    tree = result.tree
    assert len(tree.nodes) == 1 + 3 * 4
    assert len(result.pairs) + len(result.rejected) == 3
    by_id = {node.id: node for node in tree.nodes}
    prefix = ""
    for pair in result.pairs:
        chosen, rejected = by_id[pair.provenance["chosen"]], by_id[pair.provenance["rejected"]]
        assert (chosen.role, rejected.role) == ("chosen", "rejected")
        assert pair.prefix == prefix
        assert (pair.chosen, pair.rejected) == (chosen.text, rejected.text)
        assert pair.scores.chosen == chosen.judgement
        assert pair.margin == chosen.judgement.overall - rejected.judgement.overall
        assert pair.id == f"p1/{pair.provenance['parent']}"
        assert pair.group == "p1"
        assert pair.prompt == PROMPT.prompt
        assert not pair.chosen_ends and not pair.rejected_ends
        assert chosen.depth == pair.step + 1
        prefix += chosen.text
    assert {request.context.prefix for request in llm.requests} >= {pair.prefix for pair in result.pairs}


def test_node_ids_are_paths_and_the_policy_is_asked_with_the_path_text():
    result, llm = build(step, ByText(by_number))
    nodes = {node.id: node for node in result.tree.nodes}
    assert nodes["0"].role == "root"
    for node in nodes.values():
        if node.parent is not None:
            assert node.id.rsplit(".", 1)[0] == node.parent
            assert node.depth == nodes[node.parent].depth + 1
            assert node.text == "Step " + node.text.split()[1] + " is written here."
            assert (node.tokens, node.mean_logprob, node.ends) == (2, -1.0, False)
    assert len({request.seed for request in llm.requests}) == len(llm.requests)
    assert Counter(request.index for request in llm.requests) == {0: 3, 1: 3, 2: 3, 3: 3}
    assert all(request.context.prompt == PROMPT.prompt for request in llm.requests)
    assert all(request.sampling.max_tokens == 16 and request.purpose == "policy" for request in llm.requests)


def test_a_string_prompt_stays_a_string():
    result, llm = build(step, ByText(by_number), prompt=PLAIN)
    assert {request.context.prompt for request in llm.requests} == {"A letter:\n"}
    assert {pair.prompt for pair in result.pairs} == {"A letter:\n"}


def test_a_token_boundary_leaves_the_step_as_it_was_sampled():
    result, _ = build(step, ByText(by_number), boundary="tokens")
    assert all(node.text.endswith("it was c") for node in result.tree.nodes if node.parent)


def test_a_step_inside_a_code_block_that_an_earlier_step_opened_is_not_cut():
    def write(request):
        if request.index == 3 and not request.context.prefix:
            return cut("Step 3:\n\n```py\nx = 'one. Two, three and four")
        return cut(f"{request.index}. Three. Fo")

    result, _ = build(write, ByText(by_number), depth=2)
    assert {node.text for node in result.tree.nodes if node.depth == 2} == {
        f"{index}. Three. Fo" for index in range(4)}


def test_an_answer_that_ends_becomes_a_pair_and_stops_the_search():
    def write(request):
        return completion("End 13. Yours, M", logprobs=[-1.0]) if request.index == 3 else step(request)

    result, _ = build(write, ByText(lambda draft: 1.0 if draft.complete else by_number(draft)))
    [pair] = result.pairs
    assert pair.chosen == "End 13. Yours, M"
    assert pair.chosen_ends
    assert not pair.rejected_ends
    assert len(result.tree.nodes) == 5


def test_a_rejected_side_may_end_while_the_chosen_goes_on():
    def write(request):
        return completion("End 1.") if request.index == 0 else step(request)

    result, _ = build(write, ByText(by_number), pairs={"rejected": "worst"})
    assert [pair.rejected_ends for pair in result.pairs] == [True] * 3
    assert [pair.chosen_ends for pair in result.pairs] == [False] * 3
    assert [pair.step for pair in result.pairs] == [0, 1, 2]


def test_a_layer_without_a_preference_is_counted_and_the_search_goes_on():
    def score(draft):
        return 0.5 if not draft.prefix else by_number(draft)

    result, _ = build(step, ByText(score))
    assert [(row.id, row.reason) for row in result.rejected] == [("p1/0", Reason.TIE)]
    assert [pair.step for pair in result.pairs] == [1, 2]
    assert all(node.role == "unused" for node in result.tree.nodes if node.depth == 1)


def test_where_nothing_is_scored_the_search_stops():
    result, llm = build(step, ByText(lambda draft: "cut"))
    assert [(row.id, row.reason, row.stage) for row in result.rejected] == [("p1/0", Reason.UNSCORED, "build")]
    assert result.pairs == ()
    assert len(llm.requests) == 4
    assert all(node.judgement.unscored == "cut" for node in result.tree.nodes if node.parent)


@pytest.mark.parametrize(("write", "reason", "layers"), [
    (lambda request: completion(""), Reason.EMPTY, 1),
    (lambda request: RequestRejectedError("too long"), Reason.REQUEST_REJECTED, 1),
    (lambda request: cut("The same step. And"), Reason.EQUAL_TEXTS, 3),
    (lambda request: completion("No.", Finish.REFUSED) if request.index else step(request),
     Reason.TOO_FEW_CANDIDATES, 3),
])
def test_layers_of_unusable_candidates_are_rejected_with_their_reason(write, reason, layers):
    result, _ = build(write, ByText(by_number))
    assert [row.reason for row in result.rejected] == [reason] * layers
    assert result.pairs == ()


def test_one_rejected_request_costs_one_candidate():
    def write(request):
        return RequestRejectedError("filtered") if request.index == 1 else step(request)

    result, _ = build(write, ByText(by_number))
    lost = [node for node in result.tree.nodes if node.note]
    assert [node.note for node in lost] == ["request_rejected: filtered"] * 3
    assert len(result.pairs) == 3


def test_a_dead_backend_is_an_error_not_a_rejected_row():
    with pytest.raises(BackendError, match="gone"):
        build(lambda request: BackendError("gone"), ByText(by_number))


def test_siblings_are_scored_together_without_those_set_aside():
    scorer = ByText(by_number)
    build(lambda request: cut("Same 5. A") if request.index < 2 else step(request), scorer)
    assert [len(drafts) for drafts in scorer.seen] == [3, 3, 3]


@pytest.mark.parametrize(("target", "depth", "ends", "words"), [
    (None, 1, False, None), (None, 1, True, None), (400, 1, False, 100), (400, 2, False, 200), (400, 4, False, 400),
    (400, 1, True, 400), (400, 9, False, 400), (1, 1, False, 1), (10, 1, False, 2),
])
def test_the_words_an_answer_should_have_by_a_depth(target, depth, ends, words):
    node = SearchNode(id="0.0", parent="0", depth=depth, text="x", ends=ends)
    assert required_words(target, node, max_depth=4) == words


def test_drafts_carry_the_length_their_depth_should_have():
    scorer = ByText(by_number)
    build(step, scorer, depth=4)
    assert [drafts[0].required_words for drafts in scorer.seen] == [10, 20, 30, 40]


def test_progress_is_told_after_each_layer():
    events = []
    build(step, ByText(by_number), on_event=events.append)
    assert events == [BuildEvent.LAYER] * 3 + [BuildEvent.PATH]


def erratic(request):
    """Any kind of reply, as a function of the request."""
    draw = random.Random(repr((request.seed, request.index, request.context.prefix)))
    text = " ".join(draw.choices(["one", "two.", "three!", "四。", "\n\n"], k=draw.randint(0, 12)))
    return draw.choice([completion(text), cut(text), cut(text), cut("Same. x"), RequestRejectedError("no"),
                        completion(text, Finish.REFUSED), cut(f"{text} {draw.random()}. End")])


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 4), st.sampled_from(["random_consistent", "worst"]))
@settings(max_examples=80, deadline=None)
def test_every_expanded_layer_gives_one_pair_or_one_rejected_row(seed, depth, branching, rule):
    def score(draft):
        draw = random.Random(draft.so_far)
        return draw.choice([draw.random(), round(draw.random(), 1), "cut", 0.5])

    result, llm = build(erratic, ByText(score), seed=seed, depth=depth, branching=branching, pairs={"rejected": rule})
    tree = result.tree
    layers = {node.depth for node in tree.nodes} - {0}
    assert len(tree.nodes) == 1 + branching * len(layers)
    assert len(llm.requests) == branching * len(layers)
    steps = [row.id.count(".") for row in result.rejected] + [pair.step for pair in result.pairs]
    assert sorted(steps) == [layer - 1 for layer in sorted(layers)]
    for pair in result.pairs:
        assert pair.margin >= 0.01
        assert "".join(pair.chosen.split()) and "".join(pair.rejected.split())
        assert pair.chosen.split() != pair.rejected.split()
    roles = Counter(node.role for node in tree.nodes)
    assert (roles["chosen"], roles["rejected"]) == (len(result.pairs), len(result.pairs))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_result_does_not_depend_on_the_order_of_the_replies(seed, order):
    def delay(request):
        return random.Random(repr((order, request.seed))).randint(0, 20)

    prompt_order, _ = build(erratic, RepetitionScorer(), seed=seed)
    other_order, _ = build(erratic, RepetitionScorer(), seed=seed, delay=delay)
    assert prompt_order == other_order


def test_another_seed_is_another_tree_and_the_global_generator_is_left_alone():
    random.seed(5)
    before = random.getstate()
    first, _ = build(step, ByText(by_number), seed=1)
    second, _ = build(step, ByText(by_number), seed=2)
    assert random.getstate() == before
    assert first.tree != second.tree


def test_a_tree_is_the_same_when_its_replies_come_from_the_journal_and_reads_back_from_its_file():
    paid, _ = build(erratic, RepetitionScorer(), seed=3)

    def from_journal(request):
        reply = erratic(request)
        return reply if isinstance(reply, Exception) else replace(reply, usage=Usage(cached=1))

    cached, _ = build(from_journal, RepetitionScorer(), seed=3)
    assert cached == paid
    assert SearchTree.model_validate_json(paid.tree.model_dump_json()) == paid.tree


# Several walks

SEARCHES = st.sampled_from(["ucb", "uct", "puct"])


def chancy(draft):
    draw = random.Random(draft.so_far)
    return draw.choice([draw.random(), round(draw.random(), 1), "cut", 0.5])


@given(st.integers(0, 10**6), SEARCHES, st.integers(1, 6), st.sampled_from([None, 40]))
@settings(max_examples=80, deadline=None)
def test_visits_add_up_and_values_come_from_scored_ends_alone(seed, algorithm, walks, rollout):
    search = {"algorithm": algorithm, "num_paths": walks, "rollout_tokens": rollout}
    result, _ = build(erratic, ByText(chancy), seed=seed, search=search)
    tree = result.tree
    nodes = {node.id: node for node in tree.nodes}
    assert len(tree.paths) == nodes["0"].visits == walks
    for node in tree.nodes:
        through = [path for path in tree.paths if node.id in path.nodes]
        assert node.visits == len(through)
        values = [path.value for path in through if path.value is not None]
        assert node.value == (pytest.approx(sum(values) / len(values)) if values else None)
    for path in tree.paths:
        leaf = nodes[path.nodes[-1]]
        end = path.rollout.judgement if path.rollout else leaf.judgement
        assert path.value == (end.overall if end else None)
        assert all(nodes[child].parent == parent for parent, child in zip(path.nodes, path.nodes[1:], strict=False))
        assert all(nodes[one].score is not None for one in path.nodes[1:])
        goes_on = [node for node in tree.nodes if node.parent == leaf.id and node.score is not None]
        assert leaf.ends or leaf.depth == 3 or not goes_on
    layers = {node.parent for node in tree.nodes} - {None}
    assert {row.id.split("/")[1] for row in result.rejected} | {pair.provenance["parent"] for pair in result.pairs} \
        == layers


@given(st.integers(0, 10**6), st.integers(0, 10**6), SEARCHES)
@settings(max_examples=25, deadline=None)
def test_several_walks_do_not_depend_on_the_order_of_the_replies(seed, order, algorithm):
    def delay(request):
        return random.Random(repr((order, request.seed))).randint(0, 20)

    search = {"algorithm": algorithm, "num_paths": 4}
    assert build(erratic, RepetitionScorer(), seed=seed, search=search)[0] \
        == build(erratic, RepetitionScorer(), seed=seed, search=search, delay=delay)[0]


@given(st.integers(0, 10**6), SEARCHES)
@settings(max_examples=25, deadline=None)
def test_one_walk_is_the_greedy_one_whatever_the_algorithm(seed, algorithm):
    greedy, _ = build(erratic, RepetitionScorer(), seed=seed)
    single, _ = build(erratic, RepetitionScorer(), seed=seed, search={"algorithm": algorithm, "num_paths": 1})
    assert single == greedy


def test_what_comes_back_turns_later_walks_away_from_a_promising_step_that_leads_nowhere():
    def write(request):
        if request.context.prefix.startswith("Trap"):
            return cut(f"Bad {request.index}. x")
        if request.context.prefix:
            return cut(f"Good {request.index}. x")
        return cut(("Trap 9. x", "Way 8. x")[request.index])

    def score(draft):
        return {"Trap": 0.9, "Way ": 0.8, "Bad ": 0.1, "Good": 0.95}[draft.text.lstrip()[:4]]

    search = {"num_paths": 4, "exploration": 0.0}
    result, llm = build(write, ByText(score), branching=2, depth=2, search=search)
    assert [path.nodes[1] for path in result.tree.paths] == ["0.0", "0.1", "0.1", "0.1"]
    assert [path.value for path in result.tree.paths] == [0.1, 0.95, 0.95, 0.95]
    assert len(llm.requests) == 6  # a walk over known ground asks nothing
    greedy, _ = build(write, ByText(score), branching=2, depth=2)
    assert [path.nodes[1] for path in greedy.tree.paths] == ["0.0"]


def test_a_rollout_is_written_once_to_its_end_and_its_score_goes_back():
    def write(request):
        return completion(" The end.") if request.sampling.max_tokens == 40 else step(request)

    scorer = ByText(lambda draft: 0.25 if draft.complete else by_number(draft))
    result, llm = build(write, scorer, search={"num_paths": 3, "exploration": 0.0, "rollout_tokens": 40})
    rollouts = [request for request in llm.requests if request.sampling.max_tokens == 40]
    assert len(rollouts) == len({path.nodes[-1] for path in result.tree.paths})
    for path in result.tree.paths:
        assert path.rollout is not None and path.rollout.text == " The end." and path.rollout.ends
        assert path.value == path.rollout.judgement.overall == 0.25
    whole = [drafts[0] for drafts in scorer.seen if drafts[0].complete]
    assert all(draft.required_words == 40 for draft in whole)
    assert all(pair.chosen != " The end." for pair in result.pairs)


def test_a_refused_rollout_has_no_score_and_nothing_but_a_visit_goes_back():
    def write(request):
        return RequestRejectedError("too long") if request.sampling.max_tokens == 40 else step(request)

    result, _ = build(write, ByText(by_number), search={"num_paths": 2, "rollout_tokens": 40})
    assert [path.value for path in result.tree.paths] == [None, None]
    assert {path.rollout.note for path in result.tree.paths} == {"request_rejected: too long"}
    assert {node.value for node in result.tree.nodes} == {None}
    assert result.tree.nodes[0].visits == 2


def test_priors_are_the_siblings_shares_of_probability():
    def write(request):
        return completion(f"Text {request.index}.", Finish.STOP, [-1.0] if request.index else [-2.0])

    result, _ = build(write, ByText(lambda draft: 0.5), branching=3)
    layer = [node for node in result.tree.nodes if node.parent]
    assert sum(node.prior for node in layer) == pytest.approx(1)
    assert layer[1].prior == layer[2].prior == pytest.approx(layer[0].prior * 2.718281828)
    without, _ = build(lambda request: completion(f"Text {request.index}."), ByText(lambda draft: 0.5))
    assert {node.prior for node in without.tree.nodes} == {None}


# Other methods

def test_outcome_is_one_layer_of_whole_answers():
    changes = {"method": "best_of_n", "answers": {"samples": 5, "max_tokens": 64}}
    builder = create_builder(type(config())(**changes), models(llm := FunctionLLM(write=step), ByText(by_number)))
    tree = asyncio.run(builder.build(PROMPT, seed=0))
    assert tree.method == "best_of_n"
    assert [node.depth for node in tree.nodes] == [0] + [1] * 5
    assert {request.sampling.max_tokens for request in llm.requests} == {64}
    assert all(node.text.endswith("it was c") for node in tree.nodes[1:])


def test_the_released_behaviour_walks_once_and_cuts_at_the_budget():
    settings_ = type(config())(method="longdpo_released", branching=4, depth=3, step_tokens=16)
    tree = asyncio.run(create_builder(settings_, models(FunctionLLM(write=step), ByText(by_number))).build(
        PROMPT, seed=0))
    assert tree.method == "longdpo_released"
    assert len(tree.paths) == 1
    assert len(tree.nodes) == 1 + 3 * 4
    assert all(node.text.endswith("it was c") for node in tree.nodes[1:])
