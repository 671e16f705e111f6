"""The builder and both judges against a real HTTP server that speaks the OpenAI protocol."""

import asyncio
from collections import Counter

import pytest
from builder_cases import config, models
from scripted_server import EMPTY, FILTERED, Fault, ScriptedServer, content

from lpo.config import JudgeConfig, ModelConfig
from lpo.llm.openai import OpenAILLM
from lpo.pair_builders import create_builder
from lpo.pair_builders.pairs import derive_pairs
from lpo.records import Message, Prompt
from lpo.reward import Principle, create_judge, create_scorer

PROMPTS = [Prompt(id=f"p{index}", prompt=(Message(role="user", content=f"Write letter {index}."),), target_words=150)
           for index in range(3)]
CONFIG = config(branching=3, depth=3, step_tokens=40, reward={"judge": 1, "length": 0.5, "repetition": 0.5})


def is_judge(body) -> bool:
    return "response_format" in body


def build(server, method: str, prompts=PROMPTS, seed=0, **engine):
    async def run():
        policy = OpenAILLM(ModelConfig(backend="openai", model="scripted", base_url=server.url, deadline=20,
                                       **engine))
        room = {"max_tokens": 300} if method == "json" else {}
        settings = JudgeConfig(backend="openai", model="scripted-judge", base_url=server.url, method=method,
                               deadline=20, **room)
        judge_llm = OpenAILLM(settings)
        scorer = create_scorer(CONFIG.reward, create_judge(settings, judge_llm))
        builder = create_builder(CONFIG, models(policy, scorer, judge_llm))
        try:
            trees = await asyncio.gather(*(builder.build(prompt, seed=seed) for prompt in prompts))
            return [derive_pairs(tree, CONFIG.pairs) for tree in trees]
        finally:
            await policy.close()
            await judge_llm.close()

    return asyncio.run(run())


@pytest.mark.parametrize("method", ["json", "expected_grade", "expected_grade_chat"])
def test_pairs_are_built_through_a_server_by_every_kind_of_judge(method):
    with ScriptedServer() as server:
        results = build(server, method)
    for result in results:
        tree = result.tree
        layers = {node.depth for node in tree.nodes} - {0}
        assert len(result.pairs) + len(result.rejected) == len(layers)
        for node in tree.nodes:
            if node.judgement is not None:
                assert node.judgement.unscored is None
                assert {f"{method.removesuffix('_chat') if method != 'json' else 'json_judge'}.{principle}"
                        for principle in Principle} <= set(node.judgement.scores)
        for pair in result.pairs:
            assert pair.margin >= CONFIG.pairs.min_margin
            assert pair.chosen_ends or pair.chosen[-1] in ".!?\n"
    assert sum(len(result.pairs) for result in results) >= 3


def test_the_same_seed_gives_the_same_pairs_however_slowly_the_server_answers():
    with ScriptedServer() as server:
        quick = build(server, "json")
    with ScriptedServer() as server:
        for number, delay in enumerate([0.002, 0.0, 0.001, 0.003, 0.0]):
            server.misbehave(Fault(trickle=delay / 10,
                                   when=lambda body, n=number: is_judge(body) and body["seed"] % 5 == n))
        slow = build(server, "json")
        assert server.most_at_once > 1
    assert quick == slow


def test_the_policy_continues_its_own_turn():
    with ScriptedServer() as server:
        results = build(server, "json", prompts=PROMPTS[:1])
        bodies = [entry.body for entry in server.calls if not is_judge(entry.body)]
    prefixes = {body["messages"][-1]["content"] for body in bodies if body["messages"][-1]["role"] == "assistant"}
    wanted = {pair.prefix for pair in results[0].pairs if pair.prefix}
    assert wanted <= prefixes
    assert {body["n"] for body in bodies} == {CONFIG.branching}
    assert Counter(len(body["messages"]) for body in bodies)[1] == 1


@pytest.mark.parametrize(("fault", "reason"), [
    (EMPTY, "empty"),
    (FILTERED, "refused"),
    (content("I give it 8/10."), "unparsable"),
    (content('{"analysis": "x", "accuracy": 4'), "unparsable"),
    (content("{}", finish="length"), "cut"),
])
def test_a_judge_that_fails_leaves_texts_unscored_and_never_scores_them(fault, reason):
    def failing(body):
        return is_judge(body)

    with ScriptedServer() as server:
        server.misbehave(Fault(**{**fault.__dict__, "when": failing}), times=200)
        [result] = build(server, "json", prompts=PROMPTS[:1])
    judged = [node.judgement for node in result.tree.nodes if node.judgement]
    assert {judgement.unscored for judgement in judged} == {reason}
    assert [row.reason for row in result.rejected] == ["unscored"]
    assert result.pairs == ()


def test_a_request_the_server_refuses_costs_that_candidate_only():
    with ScriptedServer() as server:
        server.misbehave(Fault(status=400, message="content policy", when=lambda body: not is_judge(body)))
        [result] = build(server, "json", prompts=PROMPTS[:1], one_call_for_siblings=False)
    lost = [node for node in result.tree.nodes if (node.note or "").startswith("request_rejected")]
    assert len(lost) == 1
    assert "content policy" in str(lost[0].note)
    assert len({node.depth for node in result.tree.nodes}) == 4
