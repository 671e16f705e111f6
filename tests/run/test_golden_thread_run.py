"""The suite as a person uses it: `lpo eval MODEL --suite golden_thread`, against a server on this machine."""

import json
import re
from typing import Any

import pytest
from run_lpo import lpo
from scripted_server import ScriptedServer


def writes_the_first_four_blocks(body: dict[str, Any], _choice: int) -> str | None:
    """Blocks 1 to 4 of 6, each with what its own line of the task names; ranges and periods are forgotten. As a judge
    it looks for the words.
    """
    prompt = body["messages"][-1]["content"]
    if "The question is whether" in prompt:
        block, _, question = prompt.partition("The question is whether")
        item = question.partition("come up in the ")[2].partition(": ")[2].partition("?")[0]
        return json.dumps({"reason": "It was looked for.", "answer": "yes" if item in block else "no"})
    named = re.findall(r"^\d\. (Week|Floor|Block) (\d): (.+)$", prompt, re.MULTILINE)
    word, items = named[0][0], {int(number): item for _, number, item in named}
    return "\n".join(f"## {word} {number}\nThere is {items.get(number, 'rain')}.\n#*#" for number in range(1, 5))


def test_the_command_measures_a_model_and_asks_nothing_twice(tmp_path):
    with ScriptedServer(answer=writes_the_first_four_blocks) as server:
        command = ["eval", "scripted-writer", "name=thread", "policy.backend=openai", f"policy.base_url={server.url}",
                   "judge.method=json", "judge.model=scripted-judge", "judge.backend=openai",
                   f"judge.base_url={server.url}", "--suite", "golden_thread", "eval.golden_thread.units=6",
                   "eval.golden_thread.per_scenario=2", "eval.golden_thread.max_tokens=400", "eval.bootstrap=200"]
        done = lpo(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        calls = server.answered
        again = lpo(*command, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert server.answered == calls

    found = json.loads((tmp_path / "runs" / "thread" / "scores.json").read_text())["suites"]["golden_thread"]
    rows = [json.loads(line) for line in
            (tmp_path / "runs" / "thread" / "eval" / "golden_thread" / "answers.model.jsonl").read_text().splitlines()]
    outcomes = [one for row in rows for one in row["details"]["checks"]]
    assert len(rows) == 8 and calls == 8 + sum(one["verdict"] != "missing" for one in outcomes)
    assert all((one["verdict"] == "missing") == (one["check"]["unit"] > 4) for one in outcomes)
    assert all(one["verdict"] == "satisfied" for one in outcomes
               if one["check"]["kind"] == "once" and one["check"]["unit"] <= 4)
    means = {key: interval["mean"] for key, interval in found["models"]["model"].items()}
    satisfied = sum(one["verdict"] == "satisfied" for one in outcomes)
    assert means["completion"] == pytest.approx(4 / 6)
    assert means["stic_1"] == pytest.approx(satisfied / sum(one["verdict"] != "missing" for one in outcomes))
    assert means["stic_2"] == pytest.approx(satisfied / len(outcomes))
    assert means["weighted_average"] == pytest.approx(4 / 6 * satisfied / len(outcomes))
    assert means["stic_1_once"] == 1 and means["stic_1_periodic"] < 1
    assert found["decoding"]["max_tokens"] == 400 and "not comparable" in found["notes"][0]
    assert set(found["groups"]["model"]) == {"diary", "menu", "skyscraper", "city"}
