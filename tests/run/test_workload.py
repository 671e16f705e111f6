"""What `lpo check` foretells: bounds that no build exceeds, prices by model, budgets beside them."""

import asyncio
import json
from collections import Counter

import pytest
from function_llm import FunctionLLM, completion
from run_lpo import lpo, write_config, write_prompts

from lpo.config import validate
from lpo.llm.base import Finish
from lpo.llm.journal import Journal, JournaledLLM
from lpo.prompts import PromptSet
from lpo.records import Prompt
from lpo.reward import Principle
from lpo.run.building import build
from lpo.run.directory import RunDirectory
from lpo.run.loads import Load, Role
from lpo.run.models import Models
from lpo.run.progress import Reporter
from lpo.run.workload import cost, total, workload

SERVER = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
PROMPTS = 3
PURPOSES = {
    "policy": ("candidates", "answers", "rewritten steps", "rollouts", "longer answers", "sections"),
    "judge": ("grades", "grades under another wording"),
    "facts": ("extractions of facts",),
    "check": ("checks against facts",),
    "critique": ("critiques", "confidences", "critiques of segments"),
    "revision": ("revised segments",),
    "helpfulness logicality statements support completeness": ("LongReward's questions",),
    "notes": ("LongReward's notes",),
    "plan": ("plans",),
}
"""What a model is asked for, as the journal (one purpose, or several) and as the forecast call it."""


def reply(request):
    """Steps that never end an answer, low grades that differ, a fact, no contradiction, a plan of three sections."""
    number = request.seed % 1000
    if request.purpose == "policy":
        return completion(f"A step with number {number} stands here, and it goes on. It was then th", Finish.LENGTH,
                          [-1.0] * 30)
    if request.purpose == "judge":
        return json.dumps({"analysis": "", **{
            principle: [1, (number * (place + 3)) % 17 / 17, 0, 0, 0] for place, principle in enumerate(Principle)}})
    if request.purpose == "critique" and "faults" in request.json_schema["properties"]:
        return json.dumps({"analysis": "", "faults": [
            {"aspect": "missing", "quote": "", "advice": f"Say what {number} is."}]})
    return json.dumps({
        "revision": {"revised": f"Number {number} is a number."}, "notes": {"notes": ["Numbers."]},
        **{purpose: {"analysis": "So it is.", "grade": number % 11}
           for purpose in ("helpfulness", "logicality", "completeness")},
        "statements": {"statements": [f"Number {number} stands here."]},
        "support": {"analysis": "It says so.", "support": "full"},
        "facts": {"facts": [f"Number {number} is here."]}, "check": {"analysis": "", "contradictions": []},
        "critique": {"analysis": "", "relevant": "", "suggestion": f"Say more of {number}.", "confidence": 4},
        "plan": {"sections": [{"title": f"Part {part}", "words": 10} for part in "abc"]},
    }[request.purpose])


class GivenModels(Models):
    """The run's models, each replaced by one function."""

    def get(self, config, adapter=None):
        return self._loaded["given"]


def run_config(**build):
    if build.get("method") in (None, "longdpo_released"):
        build = {"branching": 3, "depth": 3, "step_tokens": 30, **build}
    config, issues = validate({"name": "x", "policy": SERVER, "judge": {**SERVER, "method": "json"},
                               "build": build})
    assert config is not None, issues
    return config


def asked(config, folder):
    """Requests of a real build, by purpose."""
    llm = FunctionLLM(write=reply)
    context = "A long document. " * 8 if config.build.reward.longreward else None
    tasks = [Prompt(id=f"p{i}", prompt=f"Write text {i}.", target_words=30, context=context) for i in range(PROMPTS)]
    prompts = PromptSet(tuple(tasks), (), (), 0)

    async def body():
        with Journal(folder / "journal.sqlite") as journal:
            models = GivenModels(journal, asyncio.Event())
            models._loaded["given"] = JournaledLLM(llm, journal)
            await build(config, prompts, RunDirectory(folder), models, Reporter())

    asyncio.run(body())
    return Counter(request.purpose for request in llm.requests)


EVERYWHERE = {"algorithm": "uct", "num_paths": 3, "exploration": 100.0}
"""Each walk takes another first step, so that no layer is shared but the first."""
WHOLE = {"samples": 3, "max_tokens": 40}
PLAIN = {"memory": {"enabled": False}, "critique": {"enabled": False}}


@pytest.mark.parametrize(("settings", "exact"), [
    ({"search": {"algorithm": "greedy"}, **PLAIN}, {"policy", "judge"}),
    ({"search": EVERYWHERE, **PLAIN}, {"policy", "judge"}),
    ({"search": {**EVERYWHERE, "rollout_tokens": 50}, **PLAIN}, {"policy", "judge"}),
    ({"search": {"num_paths": 2}, "memory": {"chunk_words": 8}, "critique": {"eta": 5}}, set()),
    ({"search": {"algorithm": "greedy"}, "memory": {"chunk_words": 30}, "critique": {"enabled": False}},
     {"policy", "judge", "facts", "check"}),
    ({"search": {"algorithm": "greedy"}, "boundary": "sections", **PLAIN}, {"policy", "plan"}),
    ({"method": "best_of_n", "answers": {"samples": 5}}, {"policy", "judge"}),
    ({"method": "longdpo_released"}, {"policy", "judge"}),
    ({"method": "best_of_n", "answers": WHOLE, "reward": {"judge": 0, "longreward": 1}}, {"policy", "notes"}),
    ({"method": "best_of_n", "answers": {**WHOLE, "extension": {"rounds": 2, "tries": 1, "max_tokens": 40}}}, set()),
    ({"method": "iterdpo", "answers": WHOLE, "segments": {"by": "paragraphs", "max_words": 8}}, set()),
    ({"method": "iterdpo", "answers": {**WHOLE, "samples": 1}, "segments": {"by": "paragraphs", "max_words": 8},
      "correction": {"rounds": 2, "by": "policy"}, "stability_check": False}, set()),
    ({"method": "agent_write", "agent_write": {"max_sections": 3}}, set()),
])
def test_no_build_asks_for_more_than_was_foretold(settings, exact, tmp_path):
    config = run_config(**settings)
    made = asked(config, tmp_path)
    loads = workload(config, PROMPTS, (), 10).build
    bounds = {purpose: sum(loads[name].calls for name in names if name in loads) for purpose, names in PURPOSES.items()}
    assert sum(loads[name].calls for names in PURPOSES.values() for name in names if name in loads) == \
        total(loads.values())[0], "every kind of call is known here"
    for purposes, bound in bounds.items():
        count = sum(made[purpose] for purpose in purposes.split())
        assert count <= bound, purposes
        assert bool(count) == bool(bound), f"{purposes}: nothing is foretold in vain"
        if purposes in exact:
            assert count == bound, purposes


def test_tokens_and_prices_are_those_of_the_model_that_is_asked():
    config, _ = validate({
        "name": "x", "policy": {**SERVER, "prices": {"input": 1, "output": 10}},
        "judge": {**SERVER, "method": "json", "max_tokens": 100, "prices": {"input": 2, "output": 20}},
        "build": {"branching": 2, "depth": 2, "step_tokens": 1000, "search": {"algorithm": "greedy"}, **PLAIN,
                  "stability_check": False}})
    work = workload(config, 5, (), 50)
    assert work.build["candidates"] == Load(Role.POLICY, calls=20, read=5 * (2 * 50 + 2 * 1050), each=1000)
    grades = work.build["grades"]
    assert (grades.calls, grades.each) == (20, 100) and grades.read == 5 * (2 * 1050 + 2 * 2050) + 20 * 400
    assert not work.evaluation, "a server's weights that are not named are not measured"
    assert cost(config, work.loads) == pytest.approx(
        (11_000 * 1 + 20_000 * 10 + grades.read * 2 + 2000 * 20) / 1e6)
    assert work.decode_steps(lambda role: None) == 0
    assert work.decode_steps(lambda role: 8 if role is Role.POLICY else None) == 3 * 1000
    unpriced, _ = validate({"name": "x", "policy": SERVER})
    assert cost(unpriced, workload(unpriced, 5, (), 50).loads) is None


def test_expected_grades_of_a_server_take_a_call_for_each_principle():
    served, _ = validate({"name": "x", "policy": SERVER, "build": {"method": "best_of_n"}})
    local, _ = validate({"name": "x", "build": {"method": "best_of_n"}})
    there, here = (workload(config, 1, (), 50).build["grades"] for config in (served, local))
    assert (there.calls, here.calls, there.written) == (4 * 7, 4, 0) and there.read == 7 * here.read


def test_check_prints_calls_prices_and_budget(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", 8)
    model = {**SERVER, "prices": {"input": 1.0, "output": 4.0}}
    config = write_config(tmp_path / "run.yaml", {
        "name": "x", "prompts": {"path": "prompts.jsonl"}, "policy": model,
        "judge": {**model, "model": "big", "method": "json"},
        "build": {"branching": 3, "depth": 2, "step_tokens": 100,
                  "budget": {"calls": 50, "tokens": 10**9, "cost": 1.5}}})
    result = lpo("check", config, "build.search.num_paths=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in ("calls of the build, at most: 54 candidates, 24 rewritten steps, 168 critiques, "
                 "12 extractions of facts",
                 "policy (m), at most: 78 calls", "judge (big), at most: ", "critic (big), at most: 168 calls",
                 "cost, at most: ", "budget: 50 calls, ", "of the most it can take",
                 "budget: 1,000,000,000 tokens, covers all of it", "budget: 1.5 cost, "):
        assert part in result.stdout, result.stdout
