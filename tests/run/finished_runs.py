"""Runs whose build is complete, as the build stage leaves them: trees drawn here, no model ever asked."""

import random
from pathlib import Path

from run_lpo import write_config, write_prompts

from lpo.config import to_yaml
from lpo.llm.journal_file import Entry, JournalFile, Outcome
from lpo.pair_builders.deriving import rows_of
from lpo.prompts import load_prompts
from lpo.records import Judgement, Prompt, Script, ScriptSegment, SearchNode, SearchTree, Usage, Veto, fingerprint
from lpo.run.directory import RunDirectory, Stage, identity_hash
from lpo.run.pipeline import load_config
from lpo.storage import append_jsonl, write_json, write_jsonl

SENTENCES = ("The harbour was quiet.", "Rain fell on the roof.", "She opened the door.", "Nobody came.",
             "A bell rang twice.", "The lamp went out.", "He wrote it down.", "They walked home.")


def grown(prompt: Prompt, seed: int) -> SearchTree:
    """A search of two paths over two layers, some of its steps vetoed, some without a score."""
    rng = random.Random(f"{prompt.id}/{seed}")
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", visits=2, value=0.5)]
    for parent in ("0", "0.0", "0.1"):
        for index, text in enumerate(rng.sample(SENTENCES, 4)):
            judgement = Judgement(scorer="s", overall=round(rng.random(), 2))
            if rng.random() < 0.1:
                judgement = Judgement(scorer="s", unscored="cut")
            vetoes = (Veto(fact="0.0#1", statement="It is red.", quote="blue"),) if rng.random() < 0.2 else ()
            visited = index < 2 and parent == "0"
            nodes.append(SearchNode(id=f"{parent}.{index}", parent=parent, depth=parent.count(".") + 1, text=f" {text}",
                                    judgement=judgement, vetoes=vetoes, visits=int(visited),
                                    value=rng.random() if visited else None))
    return SearchTree(id=prompt.id, prompt=prompt, method="longdpo", seed=seed, nodes=tuple(nodes))


def answered(prompt: Prompt, seed: int) -> SearchTree:
    """Six answers of different lengths, some without a score."""
    rng = random.Random(f"{prompt.id}/{seed}")
    nodes = [SearchNode(id="0", parent=None, depth=0, text="")]
    for index in range(6):
        judgement = Judgement(scorer="s", overall=round(rng.random(), 2))
        if rng.random() < 0.2:
            judgement = Judgement(scorer="s", unscored="cut")
        text = " ".join(rng.choices(SENTENCES, k=rng.randint(1, 9))) + f" The {'abcdef'[index]} end."
        nodes.append(SearchNode(id=f"0.{index}", parent="0", depth=1, text=text, ends=True, judgement=judgement))
    return SearchTree(id=prompt.id, prompt=prompt, method="best_of_n", seed=seed, nodes=tuple(nodes))


def corrected(prompt: Prompt, seed: int) -> SearchTree:
    """Answers, and for most prompts one of them corrected in some of its four segments."""
    tree = answered(prompt, seed).model_copy(update={"method": "iterdpo"})
    rng = random.Random(f"{prompt.id}/{seed}/script")
    segments = tuple(ScriptSegment(original=f"{text} ", revised=f"{text} " if rng.random() < 0.6 else f"Now: {text} ")
                     for text in rng.sample(SENTENCES, 4))
    return tree.model_copy(update={"script": Script(draft="0.0", ends=True, segments=segments)})


TREES = {"best_of_n": answered, "iterdpo": corrected}


def finished_run(folder: Path, **build: object) -> RunDirectory:
    """A run whose build is complete, as the build stage leaves it: trees drawn here, no model ever asked."""
    write_prompts(folder / "prompts.jsonl", 16)
    append_jsonl(folder / "prompts.jsonl", {"prompt": ""})
    config = load_config(str(write_config(folder / "run.yaml", {
        "name": "first", "runs_dir": str(folder / "runs"), "prompts": {"path": str(folder / "prompts.jsonl")},
        "policy": {"model": "none-such"}, "build": build})))
    prompts = load_prompts(config.prompts)
    make = TREES.get(config.build.method, grown)
    derived = [rows_of(make(prompt, config.seed), config.build) for prompt in prompts.build]
    directory = RunDirectory(config.run_dir)
    (directory / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    prompts_hash = fingerprint([prompt.to_json() for prompt in (*prompts.build, *prompts.held_out)])
    directory.update_manifest(name=config.name, prompts_hash=prompts_hash)
    directory.mark(Stage.BUILD, status="complete", identity=identity_hash(config, prompts_hash, Stage.BUILD))
    write_jsonl(directory / "trees.jsonl", (one.tree.to_json() for one in derived))
    write_jsonl(directory / "pairs.jsonl", (pair.to_json() for one in derived for pair in one.pairs))
    rows = [*prompts.rejected, *(row for one in derived for row in one.rejected)]
    write_jsonl(directory / "rejected_rows.jsonl", (row.to_json() for row in rows))
    write_json(directory / "build.json", {
        "prompts": len(prompts.build), "trees": len(derived), "layers": (3 if make is grown else 1) * len(derived),
        "pairs": sum(len(one.pairs) for one in derived), "rejected": {}, "usage": Usage(calls=99).to_json()})
    journal = JournalFile(directory / "journal.sqlite")
    journal.write([Entry("k" * 64, "step", Outcome.ANSWER, Usage(calls=1, tokens_out=7), '{"usage": {"calls": 1}}')])
    journal.close()
    return directory
