"""Run directories of the methods beside LongDPO: trees by hand, everything made of them by the code that makes it."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sample_answers import about_a_document, essays
from sample_plans import planned, without_plan
from sample_run import (
    ATTACKS,
    HARBOUR,
    HARBOUR_BETTER,
    HARBOUR_WORSE,
    SOIL_BETTER,
    SOIL_WORSE,
    TEA,
    TEA_BETTER,
    TEA_WORSE,
    judgement,
    manifest_of,
    write_evaluation,
    write_json,
    write_jsonl,
    write_training,
)
from sample_scripts import by_people, hostile, lecture, nothing_accepted, with_script

from lpo.config import RunConfig, to_yaml
from lpo.pair_builders.deriving import rows_of
from lpo.records import Message, Prompt, SearchTree, Usage
from lpo.run.build_counts import BuildCounts, count_rows, count_tree
from lpo.run.build_summary import BuildSummary

ASKED = {
    "tides": "Write the script of a lecture on tides for eleven slides, about 250 words.",
    "tea": "请写一段介绍武夷山茶的讲稿。",
    "attack": f"Describe the text {ATTACKS[0]} and the attribute {ATTACKS[1]}.",
}


def write_run(folder: Path, build: Mapping[str, Any], trees: Sequence[SearchTree],
              stages: tuple[str, ...] = ("build",)) -> Path:
    """A run directory of these trees.

    Args:
        folder: Where; made when missing.
        build: The `build` section.
        trees: As a builder leaves them.
        stages: Which stages have run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate({"name": folder.name, "runs_dir": str(folder.parent), "build": build})
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    write_json(folder / "manifest.json", manifest_of(folder.name, stages))
    derived = [rows_of(tree, config.build) for tree in trees]
    counts = sum((count_tree(one.tree) + count_rows(one) for one in derived), BuildCounts())
    write_jsonl(folder / "trees.jsonl", [one.tree.to_json() for one in derived])
    write_jsonl(folder / "rejected_rows.jsonl", [row.to_json() for one in derived for row in one.rejected])
    if config.build.gives_pairs:
        write_jsonl(folder / "pairs.jsonl", [pair.to_json() for one in derived for pair in one.pairs])
    else:
        write_jsonl(folder / "sft.jsonl", [row.to_json() for one in derived for row in one.sft])
    write_json(folder / "build.json", BuildSummary(
        len(trees), counts, Usage(calls=40), {}, Usage(calls=40), None, None, 0, config.build.method).to_json())
    if "train" in stages:
        write_training(folder, 24, chosen_falls=False)
    if "eval" in stages:
        write_evaluation(folder, worse=False, few=False)
    return folder


def prompt_of(name: str, target: int | None = None) -> Prompt:
    """A prompt by its name in `ASKED`."""
    return Prompt(id=name, prompt=(Message(role="user", content=ASKED[name]),), target_words=target)


def iterdpo_run(folder: Path, *, mode: str = "prefix", lucky: bool = True, answers: bool = True,
                stages: tuple[str, ...] = ("build",), copies: int = 1) -> Path:
    """Answers corrected by a model, and by people.

    Args:
        folder: Where.
        mode: Of the pairs.
        lucky: Was any correction accepted?
        answers: Were several answers sampled?
        stages: Which stages have run.
        copies: How often the lecture stands there.
    """
    rng = random.Random(4)
    script = lecture(judgement, rng) if lucky else nothing_accepted(lecture(judgement, rng))
    scripts = [(prompt_of("tides", 250), script)]
    if lucky:
        scripts += [(prompt_of("tea"), by_people()), (prompt_of("attack"), hostile(ATTACKS))]
    trees = [with_script(prompt, script, judgement, rng) for prompt, script in scripts]
    trees += [trees[0].model_copy(update={"id": f"tides-{copy}"}) for copy in range(1, copies)]
    if not answers:
        trees = [tree.model_copy(update={"nodes": tree.nodes[:1]}) for tree in trees]
    return write_run(folder, {"method": "iterdpo", "answers": {"samples": 3 if answers else 1},
                              "correction": {"mode": mode, "rounds": 2}}, trees, stages)


def best_of_n_run(folder: Path, *, documents: int = 7, stages: tuple[str, ...] = ("build",)) -> Path:
    """Answers about documents scored by LongReward, essays scored by a judge and their length, hostile ones."""
    rng = random.Random(4)
    trees = [about_a_document(f"skagen-{number}" if number else "skagen") for number in range(documents)]
    trees += [
        essays("harbour", "Write the opening of a story set in a harbour, 90 words.",
               (HARBOUR + HARBOUR_BETTER, HARBOUR_WORSE, SOIL_WORSE), judgement, rng, 90),
        essays("tea", "请以“茶”为题写一段散文。", (TEA + TEA_BETTER, TEA_WORSE), judgement, rng),
        essays("attack", ASKED["attack"], ("\n".join(ATTACKS), f"{ATTACKS[0]} {ATTACKS[4]}"), judgement, rng)]
    return write_run(folder, {"method": "best_of_n", "reward": {"judge": 0, "longreward": 1.0},
                              "pairs": {"rejected": "worst"}, "answers": {"samples": 4}}, trees, stages)


def agent_write_run(folder: Path, trees: Sequence[SearchTree] | None = None) -> Path:
    """Planned answers: one kept, one far too short, one cut off, one without a plan, a hostile one."""
    beginning = (("What soil is", 60, SOIL_BETTER), ("Why ploughing harms it", 50, SOIL_WORSE))
    return write_run(folder, {"method": "agent_write"}, trees or [
        planned("soil", "Explain soil to gardeners in 130 words.", (*beginning, ("What to do instead", 40, HARBOUR)),
                130),
        planned("harbour", "Write a story set in a harbour, 900 words.",
                (("The steps", 450, HARBOUR), ("The light", 450, HARBOUR_BETTER)), 900),
        planned("tea", "请写一篇两百字的茶文。", (("清晨", 100, TEA), ("手艺", 100, None)), 200),
        without_plan("moss", "Write 900 words on moss."),
        planned("attack", ASKED["attack"], ((ATTACKS[0], 20, "\n".join(ATTACKS)), (ATTACKS[1], None, ATTACKS[4]))),
    ])
