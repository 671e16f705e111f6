"""The builder and both judges against a real HTTP server that speaks the OpenAI protocol."""

import asyncio
from collections import Counter

import pytest
from scripted_server import EMPTY, FILTERED, Fault, ScriptedServer, content

from lpo.build_config import BuildConfig, RewardConfig
from lpo.config import JudgeConfig, ModelConfig, SamplingConfig
from lpo.llm.openai import OpenAILLM
from lpo.pair_builders import LongDPOBuilder
from lpo.records import Message, Prompt
from lpo.reward import Principle, create_judge, create_scorer

PROMPTS = [Prompt(id=f"p{index}", prompt=(Message(role="user", content=f"Write letter {index}."),), target_words=150)
           for index in range(3)]
CONFIG = BuildConfig(branching=3, depth=3, step_tokens=40, reward=RewardConfig(judge=1, length=0.5, repetition=0.5))


def is_judge(body) -> bool:
    return "response_format" in body


def build(server, method: str, prompts=PROMPTS, seed=0, config=CONFIG):
    async def run():
        policy = OpenAILLM(ModelConfig(backend="openai", model="scripted", base_url=server.url, deadline=20))
        room = {"max_tokens": 300} if method == "json" else {}
        settings = JudgeConfig(backend="openai", model="scripted-judge", base_url=server.url, method=method,
                               deadline=20, **room)
        judge_llm = OpenAILLM(settings)
        scorer = create_scorer(config.reward, create_judge(settings, judge_llm))
        builder = LongDPOBuilder(policy, scorer, config, SamplingConfig())
        try:
            return await asyncio.gather(*(builder.build(prompt, seed=seed) for prompt in prompts))
        finally:
            await policy.close()
            await judge_llm.close()

    return asyncio.run(run())


@pytest.mark.parametrize("method", ["json", "expected_grade", "expected_grade_chat"])
def test_pairs_are_built_through_a_server_by_every_kind_of_judge(method):
    with ScriptedServer() as server:
        results = build(server, method)
    for result in results:
        [tree] = result.trees
        layers = {node.depth for node in tree.nodes} - {0}
        assert len(result.pairs) + len(result.rejected) == len(layers)
        for node in tree.nodes:
            if node.judgement is not None:
                assert node.judgement.unscored is None
                assert {f"{method.removesuffix('_chat') if method != 'json' else 'json_judge'}.{principle}"
                        for principle in Principle} <= set(node.judgement.scores)
        for pair in result.pairs:
            assert pair.margin >= CONFIG.min_margin
            assert pair.chosen_ends or pair.chosen[-1] in ".!?\n"
    assert sum(len(result.pairs) for result in results) >= 3


def test_the_same_seed_gives_the_same_pairs_however_slowly_the_server_answers():
    with ScriptedServer() as server:
        quick = build(server, "json")
    with ScriptedServer() as server:
        for number, delay in enumerate([0.002, 0.0, 0.001, 0.003, 0.0]):
            server.misbehave(Fault(trickle=delay / 10, when=lambda body, n=number: body.get("seed", 0) % 5 == n))
        slow = build(server, "json")
        assert server.most_at_once > 1
    assert without_seconds(quick) == without_seconds(slow)


def without_seconds(results):
    return [(result.trees, result.pairs, result.rejected) for result in results]


def test_the_policy_continues_its_own_turn():
    with ScriptedServer() as server:
        results = build(server, "json", prompts=PROMPTS[:1])
        bodies = [entry.body for entry in server.calls if not is_judge(entry.body)]
    prefixes = {body["messages"][-1]["content"] for body in bodies if body["messages"][-1]["role"] == "assistant"}
    wanted = {pair.prefix for pair in results[0].pairs if pair.prefix}
    assert wanted <= prefixes
    assert Counter(len(body["messages"]) for body in bodies)[1] == CONFIG.branching


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
    judged = [node.judgement for node in result.trees[0].nodes if node.judgement]
    assert {judgement.unscored for judgement in judged} == {reason}
    assert [row.reason for row in result.rejected] == ["unscored"]
    assert result.pairs == ()


def test_a_request_the_server_refuses_costs_that_candidate_only():
    with ScriptedServer() as server:
        server.misbehave(Fault(status=400, message="content policy", when=lambda body: not is_judge(body)))
        [result] = build(server, "json", prompts=PROMPTS[:1])
    lost = [node for node in result.trees[0].nodes if (node.note or "").startswith("request_rejected")]
    assert len(lost) == 1
    assert "content policy" in str(lost[0].note)
    assert len({node.depth for node in result.trees[0].nodes}) == 4
