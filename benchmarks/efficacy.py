"""Does it work? The demo model before and after outcome DPO, LongDPO, IterDPO and fine-tuning, on held-out tasks.

    python benchmarks/efficacy.py --dry-run               what it will take: runs nothing
    python benchmarks/efficacy.py --seeds 0 1 2           all arms; about 20 minutes a seed on two cores
    python benchmarks/efficacy.py --seeds 0 --arms base outcome
    python benchmarks/efficacy.py --report                table and JSON of what is there

Killed anywhere, the same command goes on: replies of the model are in the journal of their seed, and a finished
(seed, arm) has its file `result.json`. Arms of a seed share the journal, so an answer that two of them ask for is
written once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficacy_arms import Arm, arm_config, cut_at_target, sampled_tokens, score_answer, sft_pairs
from efficacy_prompts import BUILD_TOPICS, HELD_OUT_TOPICS, make_prompts
from efficacy_report import write_report

from lpo.config import ModelConfig, RunConfig
from lpo.llm.base import Context, Request, Sampling
from lpo.llm.side_by_side import side_by_side
from lpo.prompts import PromptSet, overlap
from lpo.records import Prompt, SearchTree, Usage, fingerprint
from lpo.run import environment
from lpo.run.directory import RunDirectory
from lpo.run.models import Models
from lpo.run.pipeline import load_config, with_models
from lpo.run.progress import Reporter
from lpo.storage import read_json, read_jsonl, write_json, write_jsonl

TASKS_SEED = 0
"""Tasks are the same for all seeds: what differs is what is sampled and how training starts."""
PROMPT_TOKENS = 50
"""Of a task, about."""


@dataclass(frozen=True)
class Experiment:
    """One call of the benchmark.

    Args:
        recipe: Settings of LongDPO and of all arms.
        prompts: Tasks to build from, and those that are held out.
        folder: Where results go.
    """

    recipe: RunConfig
    prompts: PromptSet
    folder: Path

    def of_seed(self, seed: int) -> Path:
        """Where the results of a seed are."""
        return self.folder / f"seed-{seed}"


def run_arm(experiment: Experiment, arm: Arm, seed: int, reporter: Reporter) -> dict[str, Any]:
    """Build, train and answer the held-out prompts, from wherever an earlier start left off."""
    folder = experiment.of_seed(seed) / arm
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    if arm is Arm.BASE_CUT:
        result = _cut(run_arm(experiment, Arm.BASE, seed, reporter), experiment.prompts.held_out)
        write_json(folder / "result.json", result)
        return result
    reporter.say(f"seed {seed}: {arm.label}")
    result: dict[str, Any] = {"arm": arm.value, "seed": seed}
    config, adapter = experiment.recipe.model_copy(update={"seed": seed}), None
    if arm.trains:
        config = arm_config(experiment.recipe, arm, seed=seed)
        _check_same(folder / "config.json", config.model_dump(mode="json"))
        result |= {"build": _built(experiment, arm, seed, reporter)}
        result |= {"train": _trained(config, experiment, folder, reporter)}
        adapter = folder / "train" / "final"
    start = time.monotonic()
    if adapter is not None:
        config = config.model_copy(update={"policy": _merged(config.policy, adapter, folder / "merged")})
    answers, usage = _answers(config, experiment.prompts.held_out, folder, reporter)
    shutil.rmtree(folder / "merged", ignore_errors=True)
    result |= {"answers": answers, "eval": {"seconds": round(time.monotonic() - start, 1),
                                            "tokens": usage.tokens_out}}
    result["machine"] = {"hardware": environment.hardware(), "versions": environment.versions()}
    write_json(folder / "result.json", result)
    return result


def _built(experiment: Experiment, arm: Arm, seed: int, reporter: Reporter) -> dict[str, Any]:
    """Build the pairs of an arm, or take those of the arm it shares them with; what that took."""
    from lpo.run.building import build

    maker = arm.pairs_of
    assert maker is not None
    source = experiment.of_seed(seed) / maker
    source.mkdir(parents=True, exist_ok=True)
    if not (source / "budget.json").exists():
        config = arm_config(experiment.recipe, maker, seed=seed)
        directory = RunDirectory(source)

        async def work(models: Models) -> None:
            # What was spent before this arm began: a start that goes on after a kill finds it there.
            if not (source / "before.json").exists():
                write_json(source / "before.json", models.spent().to_json())
            start = time.monotonic()
            await build(config, experiment.prompts, directory, models, reporter)
            before = Usage.model_validate(read_json(source / "before.json"))
            spent, candidates = models.spent(), sampled_tokens(_trees(source))
            # Trees hold the tokens of candidates, whoever asked first; segments drawn again are this arm's alone.
            redrawn = spent.tokens_out - before.tokens_out if maker is Arm.ITERDPO else 0
            write_json(source / "budget.json", {
                "tokens": candidates + redrawn, "tokens_shared": candidates if maker is Arm.ITERDPO else 0,
                "model_seconds": round(spent.seconds - before.seconds, 1),
                "seconds": round(time.monotonic() - start, 1)})

        _with_journal(experiment.of_seed(seed), reporter, work)
    if maker is not arm:
        rows = [row.to_json() for row in sft_pairs(_pairs(source))]
        write_jsonl(experiment.of_seed(seed) / arm / "pairs.jsonl", rows)
        (experiment.of_seed(seed) / arm / "rejected_rows.jsonl").write_text("")
    return {**read_json(source / "budget.json"), "pairs": len(_pairs(experiment.of_seed(seed) / arm))}


def _trained(config: RunConfig, experiment: Experiment, folder: Path, reporter: Reporter) -> dict[str, Any]:
    from lpo.run.training import train

    if not (folder / "train" / "final").exists():
        shutil.rmtree(folder / "train", ignore_errors=True)
        start = time.monotonic()
        summary = train(config, experiment.prompts.held_out, RunDirectory(folder), reporter)
        write_json(folder / "trained.json", {**summary.__dict__, "seconds": round(time.monotonic() - start, 1)})
    return read_json(folder / "trained.json")


def _merged(model: ModelConfig, adapter: Path, folder: Path) -> ModelConfig:
    """The trained model with its adapter put into the weights, in the base's own type: the arithmetic is the base's,
    and so is the speed.
    """
    import torch

    from lpo.llm.loading import load_model

    loaded = load_model(model.model_copy(update={"dtype": "float32"}), adapter)
    loaded.model.to(getattr(torch, model.dtype) if model.dtype != "auto" else torch.float32).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return model.model_copy(update={"model": str(folder)})


def _answers(config: RunConfig, held_out: Sequence[Prompt], folder: Path,
             reporter: Reporter) -> tuple[list[dict[str, Any]], Usage]:
    """Answers to the held-out prompts, each drawn with a seed of its own that all arms share."""
    sampling = Sampling(max_tokens=config.eval.max_tokens, **config.eval.sampling.model_dump())
    used = Usage()

    async def work(models: Models) -> list[dict[str, Any]]:
        nonlocal used
        llm = models.get(config.policy)

        async def answer(prompt: Prompt) -> dict[str, Any]:
            drawn = int(fingerprint(["efficacy", config.seed, prompt.id], 8), 16) >> 1
            reply = await llm.generate(Request(Context(prompt.dialogue), sampling, seed=drawn))
            return score_answer(prompt, reply.text, reply.finish)

        answers = await side_by_side(held_out, answer, at_once=len(held_out), stop=models.stop)
        used = models.usage()
        return answers

    # A journal of its own: a folder of weights is known by its two ends, and merged ones may differ in between.
    return _with_journal(folder, reporter, work), used


def _with_journal(folder: Path, reporter: Reporter, work: Any) -> Any:
    def opened(models: Models) -> Coroutine[Any, Any, Any]:
        return work(models)

    return with_models(RunDirectory(folder), reporter, opened)


def _cut(base: dict[str, Any], held_out: Sequence[Prompt]) -> dict[str, Any]:
    prompts = {prompt.id: prompt for prompt in held_out}
    answers = [cut_at_target(prompts[answer["prompt_id"]], answer) for answer in base["answers"]]
    return {**base, "arm": Arm.BASE_CUT.value, "answers": answers, "eval": {"seconds": 0.0, "tokens": 0}}


def _check_same(path: Path, values: dict[str, Any]) -> None:
    """Refuse to go on with other settings: what was built and trained before would not be what is told."""
    if path.exists() and read_json(path) != json.loads(json.dumps(values)):
        raise SystemExit(f"{path.parent} was begun with other settings: choose another --out")
    write_json(path, values)


def _trees(folder: Path) -> list[SearchTree]:
    return [SearchTree.model_validate(row) for row in read_jsonl(folder / "trees.jsonl")]


def _pairs(folder: Path) -> list[Any]:
    from lpo.records import PreferencePair

    return [PreferencePair.model_validate(row) for row in read_jsonl(folder / "pairs.jsonl")]


def keep_freed_memory() -> None:
    """Let the C library keep freed memory: a cache that grows with every token is else returned to the system and
    zeroed again, a third of the time on two cores. Linux with glibc; elsewhere nothing.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        return


def forecast(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int]) -> str:
    """What it will take, at most."""
    from lpo.run.workload import workload

    lines = [f"{len(experiment.prompts.build)} tasks to build from, {len(experiment.prompts.held_out)} held out, "
             f"seeds {', '.join(map(str, seeds))}; for each seed at most:"]
    room = experiment.recipe.eval.max_tokens * len(experiment.prompts.held_out)
    for arm in arms:
        written = 0
        if arm in (Arm.OUTCOME, Arm.LONGDPO, Arm.ITERDPO):
            config = arm_config(experiment.recipe, arm, seed=0)
            loads = workload(config, len(experiment.prompts.build), (), PROMPT_TOKENS).build.values()
            written = sum(load.calls * load.each for load in loads)
        steps = experiment.recipe.train.args.get("max_steps") if arm.trains else 0
        answers = 0 if arm is Arm.BASE_CUT else room
        lines.append(f"  {arm.label:<36} {written:>8,} tokens built, {steps or 0:>3} steps, "
                     f"{answers:>7,} tokens of answers")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the arms that are not finished, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[arm.value for arm in Arm], default=[arm.value for arm in Arm])
    parser.add_argument("--out", type=Path, default=Path("runs/efficacy"), help="folder of results")
    parser.add_argument("--recipe", default="efficacy")
    parser.add_argument("--build-prompts", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only write the table and the JSON of what is there")
    parser.add_argument("--dry-run", action="store_true", help="say what it will take, and run nothing")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the recipe, as of `lpo run`")
    options = parser.parse_args(arguments)
    build = make_prompts(BUILD_TOPICS, options.build_prompts, seed=TASKS_SEED)
    held_out = make_prompts(HELD_OUT_TOPICS, options.held_out, seed=TASKS_SEED + 1)
    if overlap(build, held_out):
        raise SystemExit("a held-out task is nearly one of those to build from")
    experiment = Experiment(load_config(options.recipe, options.settings),
                            PromptSet(tuple(build), tuple(held_out), (), 0), options.out)
    arms = [Arm(name) for name in options.arms]
    if options.dry_run:
        print(forecast(experiment, arms, options.seeds))
        return
    if not options.report:
        import torch

        keep_freed_memory()
        torch.set_num_threads(options.threads)
        reporter = Reporter()
        for seed in options.seeds:
            for arm in arms:
                run_arm(experiment, arm, seed, reporter)
    print(write_report(options.out))


if __name__ == "__main__":
    main()
