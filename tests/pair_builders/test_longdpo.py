import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest
from function_llm import FunctionLLM, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.build_config import BuildConfig, RewardConfig
from lpo.config import SamplingConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Finish
from lpo.pair_builders import LongDPOBuilder, create_builder, required_words
from lpo.records import Judgement, Message, Prompt, Reason, SearchNode, SearchTree, Usage
from lpo.reward import LengthScorer, RepetitionScorer, create_scorer

PROMPT = Prompt(id="p1", prompt=(Message(role="user", content="Write a letter."),), target_words=40)
PLAIN = Prompt(id="p2", prompt="A letter:\n", target_words=None)


class ByText:
    """Scores a draft by a plain function of it; remembers what it saw."""

    name = "by_text"

    def __init__(self, function):
        self.function = function
        self.seen = []

    async def score(self, drafts):
        self.seen.append(list(drafts))
        said = [self.function(draft) for draft in drafts]
        return [Judgement(scorer=self.name, unscored=one) if isinstance(one, str)
                else Judgement(scorer=self.name, overall=one) for one in said]


def config(**changes) -> BuildConfig:
    return BuildConfig(**{"branching": 4, "depth": 3, "step_tokens": 16, **changes})


def build(write, scorer, prompt=PROMPT, seed=0, delay=lambda request: 0, on_layer=lambda: None, **changes):
    llm = FunctionLLM(write=write, delay=delay)
    builder = LongDPOBuilder(llm, scorer, config(**changes), SamplingConfig(), on_layer=on_layer)
    return asyncio.run(builder.build(prompt, seed=seed)), llm


def cut(text: str):
    return completion(text, Finish.LENGTH, [-0.5, -1.5])


def by_number(draft):
    """A score that is the number in the text."""
    return int("".join(char for char in draft.text if char.isdigit()) or 0) / 100


def step(request):
    return cut(f"Step {request.seed % 90 + 5} is written here. And then it was c")


def test_a_tree_gives_a_pair_for_each_layer_and_grows_on_the_chosen_text():
    result, llm = build(step, ByText(by_number))
    [tree] = result.trees
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
        assert pair.id == f"p1/{pair.step}"
        assert pair.group == "p1"
        assert pair.prompt == PROMPT.prompt
        assert not pair.chosen_ends and not pair.rejected_ends
        assert chosen.depth == pair.step + 1
        prefix += chosen.text
    assert {request.context.prefix for request in llm.requests} >= {pair.prefix for pair in result.pairs}


def test_node_ids_are_paths_and_the_policy_is_asked_with_the_path_text():
    result, llm = build(step, ByText(by_number))
    nodes = {node.id: node for node in result.trees[0].nodes}
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
    assert all(node.text.endswith("it was c") for node in result.trees[0].nodes if node.parent)


def test_a_step_inside_a_code_block_that_an_earlier_step_opened_is_not_cut():
    def write(request):
        if request.index == 3 and not request.context.prefix:
            return cut("Step 3:\n\n```py\nx = 'one. Two, three and four")
        return cut(f"{request.index}. Three. Fo")

    result, _ = build(write, ByText(by_number), depth=2)
    assert {node.text for node in result.trees[0].nodes if node.depth == 2} == {
        f"{index}. Three. Fo" for index in range(4)}


def test_an_answer_that_ends_becomes_a_pair_and_stops_the_search():
    def write(request):
        return completion("End 13. Yours, M", logprobs=[-1.0]) if request.index == 3 else step(request)

    result, _ = build(write, ByText(lambda draft: 1.0 if draft.complete else by_number(draft)))
    [pair] = result.pairs
    assert pair.chosen == "End 13. Yours, M"
    assert pair.chosen_ends
    assert not pair.rejected_ends
    assert len(result.trees[0].nodes) == 5


def test_a_rejected_side_may_end_while_the_chosen_goes_on():
    def write(request):
        return completion("End 1.") if request.index == 0 else step(request)

    result, _ = build(write, ByText(by_number), rejected="worst")
    assert [pair.rejected_ends for pair in result.pairs] == [True] * 3
    assert [pair.chosen_ends for pair in result.pairs] == [False] * 3
    assert [pair.step for pair in result.pairs] == [0, 1, 2]


def test_a_layer_without_a_preference_is_counted_and_the_search_goes_on():
    def score(draft):
        return 0.5 if not draft.prefix else by_number(draft)

    result, _ = build(step, ByText(score))
    assert [(row.id, row.reason) for row in result.rejected] == [("p1/0", Reason.TIE)]
    assert "continued from 0.0" in result.rejected[0].detail
    assert [pair.step for pair in result.pairs] == [1, 2]
    assert all(node.role == "unused" for node in result.trees[0].nodes if node.depth == 1)


def test_where_nothing_is_scored_the_search_stops():
    result, llm = build(step, ByText(lambda draft: "cut"))
    assert [(row.id, row.reason, row.stage) for row in result.rejected] == [("p1/0", Reason.UNSCORED, "build")]
    assert result.pairs == ()
    assert len(llm.requests) == 4
    assert all(node.judgement.unscored == "cut" for node in result.trees[0].nodes if node.parent)


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
    lost = [node for node in result.trees[0].nodes if node.note]
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
    ticks = []
    build(step, ByText(by_number), on_layer=lambda: ticks.append(1))
    assert len(ticks) == 3


def erratic(request):
    """Any kind of reply, as a function of the request."""
    draw = random.Random(repr((request.seed, request.index, request.context.prefix)))
    text = " ".join(draw.choices(["one", "two.", "three!", "四。", "\n\n"], k=draw.randint(0, 12)))
    return draw.choice([completion(text), cut(text), cut(text), cut("Same. x"), RequestRejectedError("no"),
                        completion(text, Finish.REFUSED), cut(f"{text} {draw.random()}. End")])


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 4), st.sampled_from(["random", "worst"]))
@settings(max_examples=80, deadline=None)
def test_every_expanded_layer_gives_one_pair_or_one_rejected_row(seed, depth, branching, rule):
    def score(draft):
        draw = random.Random(draft.so_far)
        return draw.choice([draw.random(), round(draw.random(), 1), "cut", 0.5])

    result, llm = build(erratic, ByText(score), seed=seed, depth=depth, branching=branching, rejected=rule)
    [tree] = result.trees
    layers = {node.depth for node in tree.nodes} - {0}
    assert len(tree.nodes) == 1 + branching * len(layers)
    assert len(llm.requests) == branching * len(layers)
    steps = [int(row.id.split("/")[1]) for row in result.rejected] + [pair.step for pair in result.pairs]
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
    assert first.trees != second.trees


def test_a_builder_is_made_from_its_section():
    builder = create_builder(config(), FunctionLLM(write=step), LengthScorer(), SamplingConfig(), lambda: None)
    result = asyncio.run(builder.build(PROMPT, seed=0))
    assert len(result.pairs) + len(result.rejected) == 3
    assert isinstance(create_scorer(RewardConfig(judge=0, length=1), None), LengthScorer)


def test_a_tree_is_the_same_when_its_replies_come_from_the_journal_and_reads_back_from_its_file():
    paid, _ = build(erratic, RepetitionScorer(), seed=3)

    def from_journal(request):
        reply = erratic(request)
        return reply if isinstance(reply, Exception) else replace(reply, usage=Usage(cached=1))

    cached, _ = build(from_journal, RepetitionScorer(), seed=3)
    assert cached == paid
    assert SearchTree.model_validate_json(paid.trees[0].model_dump_json()) == paid.trees[0]
