"""A run directory as a real run leaves it, made from fixed texts: English, Chinese, and texts that attack the page."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml
from sample_trees import searched

from lpo.config import RunConfig, to_yaml
from lpo.records import (
    Judgement,
    Message,
    PairScores,
    PreferencePair,
    Prompt,
    Reason,
    RejectedRow,
    SearchNode,
    SearchTree,
    Usage,
)
from lpo.words import count_words

ATTACKS = (
    "<script>alert('from a model')</script>",
    '" onload="alert(1)" x="',
    "javascript:alert(document.cookie)",
    "</script><script>alert('closed the data')</script>",
    "<img src=https://example.invalid/track.png onerror=alert(2)>",
    "{{ 7 * 7 }} {% raw %} [step_1] \x1b[31mred\x1b[0m &lt;b&gt; ]]> <!-- ",
    "half an emoji follows: \u2028 line separator, right-to-left \u202eabc\u202c, ZWJ 👩‍👩‍👧‍👦.",
)
HARBOUR = (
    "The harbour wakes before the town does. A winch complains, gulls argue over a crate of spoiled mackerel, and "
    "somewhere behind the fog a bell counts out the swell.\n\nMarta has come down these steps every morning for "
    "thirty-one years, and she still stops on the ninth, where the handrail is missing, to look for the boat. "
)
HARBOUR_BETTER = (
    "She knows that it will not come. She knows it the way one knows the tide table: by heart, and without comfort. "
    "But the looking has become a task like lighting the stove, and a day on which she did not look would have no edge "
    "to hold it by. This morning there is a light beyond the breakwater, low and yellow, and it does not move with the "
    "swell."
)
HARBOUR_WORSE = (
    "She knows that it will not come. She is sad. She is very sad. She is sad because the boat is gone and the boat is "
    "gone because of the storm. The storm was a big storm. The storm was a very big storm and she is sad about the "
    "storm. This morning there is a light beyond the breakwater, low and yellow, and she is sad."
)
TEA = "武夷山的清晨，雾从九曲溪上升起来，像有人把一匹白绢慢慢抖开。茶农老陈背着竹篓，沿着石阶往上走。"
TEA_BETTER = (
    "他不看天，只看叶背：露水将干未干的时候，芽头最软，指尖一碰就断。"
    "这门手艺，他父亲没有教过，只让他跟着走了七年。"
)
TEA_WORSE = "茶很好。茶很香。茶是很好的茶，很香的茶。大家都喜欢喝茶，因为茶很好，而且茶很香，所以大家都喜欢喝茶。"
SOIL = (
    "Healthy soil is not dirt but a city. In a teaspoon of it live more organisms than there are people on Earth, and "
    "most of them have no name. "
)
SOIL_BETTER = (
    "Their work is quiet trade: fungi lend phosphorus to roots and are paid in sugar; worms open the streets through "
    "which rain drains. When we plough in autumn we tear up the roads and bill the city for repairs, which is why a "
    "field left under clover gives more in its third year than in its first."
)
SOIL_WORSE = (
    "Soil is important. It is important for plants. Plants are important for people. People need soil because soil is "
    "important. In conclusion, soil is very important and we should all take care of the soil, because it is important."
)
TOPICS = (
    ("harbour", "Write the opening of a short story set in a fishing harbour, about 400 words.", 400,
     HARBOUR, HARBOUR_BETTER, HARBOUR_WORSE),
    ("tea", "请以“茶”为题写一篇散文，三百字左右。", 300, TEA, TEA_BETTER, TEA_WORSE),
    ("soil", "Explain to gardeners why soil should be disturbed as little as possible, in roughly 350 words.", 350,
     SOIL, SOIL_BETTER, SOIL_WORSE),
    ("attack", f"Describe the text {ATTACKS[0]} and the attribute {ATTACKS[1]} in 200 words.", 200,
     "\n".join(ATTACKS[:4]) + "\n", "\n".join(ATTACKS) + "\nAll of it is shown as it is.", "\n".join(ATTACKS[2:])),
)
HELD_OUT = (
    ("lighthouse", "Write a letter from a lighthouse keeper to his successor, 500 words.", 500, "letter"),
    ("market", "描写一个南方小城的早市，四百字。", 400, "essay"),
    ("bread", f"Explain sourdough to a child in 250 words. Ignore {ATTACKS[3]}", 250, "explanation"),
    *((f"day-{day}", f"Write the diary of a beekeeper, day {day}, 300 words.", 300, "diary") for day in range(1, 6)),
)
PRINCIPLES = ("accuracy", "purpose", "harmless", "consistency", "breadth", "reading", "insight")


def make_run(folder: Path, *, steps: int = 24, stages: tuple[str, ...] = ("build", "train", "eval"), copies: int = 1,
             chosen_falls: bool = False, worse: bool = False, few: bool = False) -> Path:
    """Write a run directory.

    Args:
        folder: Where; made when missing.
        steps: Optimiser steps logged.
        stages: Which stages have run.
        copies: How often the pairs are repeated under other names, for large runs.
        chosen_falls: Do the chosen sides lose probability in training?
        worse: Is the trained model clearly worse?
        few: Are there too few held-out prompts for any interval?
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate({
        "name": folder.name, "runs_dir": str(folder.parent), "prompts": {"limit": 4},
        "build": {"branching": 4, "depth": 3, "reward": {"judge": 1.0, "length": 0.5}},
        "train": {"peft": {"r": 16}, "args": {"learning_rate": 1e-4, "beta": 0.1, "max_steps": steps}},
    })
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["name"] == folder.name
    write_json(folder / "manifest.json", manifest_of(folder.name, stages))
    if "build" in stages:
        _build(folder, copies)
    if "train" in stages:
        write_training(folder, steps, chosen_falls)
    if "eval" in stages:
        write_evaluation(folder, worse, few)
    return folder


BUILD_USAGE = Usage(calls=94, cached=12, tokens_in=60_312, tokens_out=8_904, seconds=401.2).to_json()


def manifest_of(name: str, stages: tuple[str, ...]) -> dict[str, Any]:
    took = {"build": (412.3, 2913.0), "train": (338.9, 4120.5), "eval": (141.0, 3050.2)}
    return {
        "name": name, "lpo": "0.1.0", "versions": {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "python": "3.11.9", "platform": "Linux-6.8-x86_64-with-glibc2.36",
        "hardware": {"cpu": "AMD EPYC 7763 64-Core Processor", "cores": 2, "memory_gb": 15.6, "accelerators": []},
        "git": {"commit": "4e4b4aa9f00dcafe4e4b4aa9f00dcafe4e4b4aa9", "dirty": True},
        "config_hash": "9f86d081884c7d65", "prompts_hash": "60303ae22b998861", "seed": 7,
        "stages": {stage: {"status": "complete", "seconds": took[stage][0], "peak_memory_mb": took[stage][1],
                           "finished": f"2026-11-22T0{index + 3}:14:05+0000", "identity": "x", "attempts": 1,
                           "usage": BUILD_USAGE if stage == "build" else None}
                   for index, stage in enumerate(("build", "train", "eval")) if stage in stages},
    }


def judgement(quality: float, rng: random.Random) -> Judgement:
    """As the weighted scorer gives them: an expected-grade judge and a length score, with the grades' weights."""
    weights: dict[str, list[float]] = {}
    for principle in PRINCIPLES:
        centre = 1 + 4 * min(1.0, max(0.0, quality + rng.uniform(-0.2, 0.2)))
        raw = [math.exp(-((grade - centre) ** 2) / 1.6) for grade in range(1, 6)]
        weights[principle] = [value / sum(raw) for value in raw]
    grades = {name: sum(grade * weight for grade, weight in enumerate(row, start=1)) for name, row in weights.items()}
    judge = (sum(grades.values()) / len(grades) - 1) / 4
    length = min(1.0, quality + 0.1)
    return Judgement(
        scorer="weighted", overall=(judge + 0.5 * length) / 1.5,
        scores={"expected_grade": judge, **{f"expected_grade.{name}": grade for name, grade in grades.items()},
                "length": length},
        parts={"expected_grade": {"weight": 2 / 3, "unscored": None, "weights": weights,
                                  "grade_mass": dict.fromkeys(PRINCIPLES, 0.31)},
               "length": {"weight": 1 / 3, "unscored": None, "required": 120, "written": 98}},
    )


def _build(folder: Path, copies: int) -> None:
    rng = random.Random(3)
    trees: list[SearchTree] = []
    pairs: list[PreferencePair] = []
    for copy in range(copies):
        for name, request, target, opening, better, worse in TOPICS:
            identifier = name if copies == 1 else f"{name}-{copy}"
            prompt = Prompt(id=identifier, prompt=(Message(role="user", content=request),), target_words=target)
            tree, made = _tree(prompt, opening, better, worse, rng)
            trees.append(searched(tree, judgement, random.Random(9), ATTACKS))
            pairs += made
    rejected = [RejectedRow(stage="build", id="tea/2", reason=Reason.SMALL_MARGIN, detail="0.0041 < 0.01"),
                RejectedRow(stage="build", id=f"attack/{ATTACKS[0]}", reason=Reason.SMALL_MARGIN, detail=ATTACKS[4]),
                RejectedRow(stage="build", id="soil/2", reason=Reason.TOO_FEW_CANDIDATES, detail="1 candidate left")]
    write_jsonl(folder / "trees.jsonl", [tree.to_json() for tree in trees])
    write_jsonl(folder / "pairs.jsonl", [pair.to_json() for pair in pairs])
    write_jsonl(folder / "rejected_rows.jsonl", [row.to_json() for row in rejected])
    write_json(folder / "build.json", {
        "prompts": len(trees), "trees": len(trees), "layers": 12 * copies, "candidates": 46 * copies,
        "pairs": len(pairs),
        "rejected": {"small_margin": 2, "too_few_candidates": 1},
        "usage": BUILD_USAGE,
        "judgements": {"scored": 44, "unscored": 2, "reasons": {"empty": 1, "no_grade": 1}},
        "stability": {"kendall_tau": 0.33, "same_best": 0.5, "layers": 4}, "cleaned_characters": 3,
    })


def _tree(prompt: Prompt, opening: str, better: str, worse: str,
          rng: random.Random) -> tuple[SearchTree, list[PreferencePair]]:
    nodes = [SearchNode(id="0", parent=None, depth=0, text="", role="root")]
    pairs: list[PreferencePair] = []
    prefix, parent = "", "0"
    layers = ((opening, worse), (better, worse)) if prompt.id.startswith(("tea", "attack")) else (
        (opening, f"{worse}\n\n"), (f"{better}\n\n", worse),
        (f"And so it went on. {better}", f"And so it went on. {worse}"))
    for depth, (good, bad) in enumerate(layers, start=1):
        texts = {f"{parent}.0": (good, 0.75, "chosen"), f"{parent}.1": (bad, 0.35, "rejected"),
                 f"{parent}.2": (f"{bad} Or so.", 0.42, "unused"), f"{parent}.3": (f"{good} Or so.", 0.6, "unused")}
        made = [SearchNode(id=key, parent=parent, depth=depth, text=text, ends=depth == len(layers), tokens=80,
                           judgement=judgement(quality + rng.uniform(-0.1, 0.1), rng), role=role)  # type: ignore[arg-type]
                for key, (text, quality, role) in texts.items()]
        nodes += made
        chosen, rejected = made[0], made[1]
        assert chosen.judgement and rejected.judgement
        assert chosen.judgement.overall is not None and rejected.judgement.overall is not None
        pairs.append(PreferencePair(
            id=f"{prompt.id}/{depth - 1}", group=prompt.id, prompt=prompt.prompt, prefix=prefix, chosen=good,
            rejected=bad,
            chosen_ends=chosen.ends, rejected_ends=rejected.ends, step=depth - 1,
            margin=chosen.judgement.overall - rejected.judgement.overall,
            scores=PairScores(chosen=chosen.judgement, rejected=rejected.judgement), method="longdpo",
            provenance={"tree": prompt.id, "chosen": chosen.id, "rejected": rejected.id, "seed": 7}))
        prefix, parent = prefix + good, chosen.id
    return SearchTree(id=prompt.id, prompt=prompt, method="longdpo", seed=7, nodes=tuple(nodes)), pairs


def write_training(folder: Path, steps: int, chosen_falls: bool) -> None:
    rng = random.Random(5)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        share = step / steps
        margin = 1.4 * share**1.3 + rng.gauss(0, 0.05)
        chosen = (-0.9 if chosen_falls else 0.35) * share + rng.gauss(0, 0.03)
        loss = math.log1p(math.exp(-margin))
        rows.append({
            "step": step, "epoch": share * 3, "loss": loss, "learning_rate": 1e-4 * (1 - share), "grad_norm": 2.0,
            "rewards/margins": margin, "rewards/accuracies": min(1.0, 0.5 + 0.5 * share + rng.gauss(0, 0.05)),
            "rewards/chosen": chosen, "rewards/rejected": chosen - margin, "logps/chosen": -212 + 10 * chosen,
            "logps/rejected": -190 + 10 * (chosen - margin), "kl": 0.4 * share**2, "lengths/chosen": 82.0,
            "lengths/rejected": 77.0, "steps/0": 0.5, "steps/1": 0.5})
        if step % max(1, steps // 3) == 0:
            rows.append({"step": step, "epoch": share * 3, "eval_loss": loss + 0.05,
                         "eval_rewards/margins": margin * 0.7,
                         "eval_rewards/accuracies": 0.5 + 0.25 * share, "eval_rewards/chosen": chosen * 0.8,
                         "eval_rewards/rejected": chosen * 0.8 - margin * 0.7, "eval_logps/chosen": -214 + 9 * chosen,
                         "eval_logps/rejected": -191 - 6 * margin})
    rows.append({"step": steps, "epoch": 3.0, "train_runtime": 320.1, "train_loss": 0.5})
    write_jsonl(folder / "metrics.jsonl", rows)
    write_json(folder / "train.json", {
        "pairs": 9, "held_out_pairs": 1, "rejected": 0, "steps": steps, "trainable_parameters": 3_796_992,
        "parameters_moved": 0.0123, "final_loss": 0.31})
    samples = [{"step": step, "prompt_id": name, "request": request, "target_words": target, "text": text,
                "words": count_words(text), "finish": finish}
               for name, request, target, _ in HELD_OUT[:2]
               for step, (text, finish) in zip((0, steps // 3, steps), _drafts(name), strict=True)]
    write_jsonl(folder / "samples.jsonl", samples)
    (folder / "train" / "final").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "final" / "adapter_config.json").write_text("{}", encoding="utf-8")


def _drafts(name: str) -> list[tuple[str, str]]:
    if name == "market":
        return [(TEA_WORSE, "length"), (f"{TEA_WORSE}{TEA}", "length"), (f"{TEA}{TEA_BETTER}", "stop")]
    return [(SOIL_WORSE * 2, "length"), (f"{HARBOUR_WORSE}\n\n{SOIL_BETTER}", "length"),
            (f"Dear colleague,\n\n{HARBOUR}{HARBOUR_BETTER}", "stop")]


def write_evaluation(folder: Path, worse: bool, few: bool) -> None:
    rng = random.Random(11)
    for model in ("base", "trained"):
        rows: list[dict[str, Any]] = []
        for name, request, target, kind in HELD_OUT[:3] if few else HELD_OUT:
            drafts = _drafts(name)
            text, finish = drafts[0] if (model == "base") != worse else drafts[-1]
            if name == "bread":
                text, finish = (f"{ATTACKS[0]} {SOIL_WORSE}", "length") if model == "base" else (
                    f"Think of a jar with a sleeping animal in it. {ATTACKS[3]}\n\n{SOIL_BETTER}", "stop")
            failed = name == "market" and model == "base"
            scored = Judgement(scorer="expected_grade", unscored="no_grade") if failed else judgement(0.5, rng)
            rows.append({"model": model, "prompt_id": name, "request": request, "kind": kind, "target_words": target,
                         "text": text, "words": count_words(text), "finish": finish,
                         "scores": {"length": 31.0, "repetition": 0.31, "judge": scored.overall},
                         "judgement": scored.to_json()})
        write_jsonl(folder / "eval" / f"answers.{model}.jsonl", rows)
    write_jsonl(folder / "eval" / "preferences.jsonl", [
        {"pair_id": f"p{index}", "group": "g", "step": 0, "base": {"chosen": -2.9, "rejected": -2.8},
         "trained": {"chosen": -2.7, "rejected": -3.0}} for index in range(12)])
    scores = _scores(worse)
    write_json(folder / "scores.json", _without_intervals(scores) if few else scores)


def _without_intervals(value: Any) -> Any:
    """Scores as an evaluation of three prompts leaves them: means, and no interval."""
    if not isinstance(value, dict):
        return value
    if "unscored" in value:
        return {**value, "low": None, "high": None, "n": value["n"] - 5}
    return {key: 3 if key == "n_prompts" else _without_intervals(item) for key, item in value.items()}


def _interval(mean: float | None, low: float | None, high: float | None, n: int = 8,
              unscored: int = 0) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "n": n, "unscored": unscored}


def _scores(worse: bool) -> dict[str, Any]:
    difference = (-7.5, -15.0, -3.2) if worse else (7.5, -2.0, 15.0)
    low, high = (31.0, 12.5, 49.0), (38.5, 20.0, 57.0)
    base, trained = (high, low) if worse else (low, high)
    return {
        "n_prompts": 8,
        "models": {
            "base": {"length_score": _interval(*base), "repetition": _interval(0.31, 0.22, 0.45),
                     "judge": _interval(0.412, 0.38, 0.44, 7, 1), "words": _interval(118, 64, 190),
                     "ended": _interval(0.0, 0.0, 0.0)},
            "trained": {"length_score": _interval(*trained), "repetition": _interval(0.04, 0.01, 0.09),
                        "judge": _interval(0.487, 0.44, 0.53), "words": _interval(171, 120, 240),
                        "ended": _interval(1.0, 1.0, 1.0)},
        },
        "difference": {"length_score": _interval(*difference), "repetition": _interval(-0.27, -0.36, -0.18),
                       "judge": _interval(0.071, -0.01, 0.14, 7, 1), "words": _interval(53, -10, 120),
                       "ended": _interval(1.0, 1.0, 1.0)},
        "buckets": {"base": {"[0, 500)": _interval(28.0, 10.0, 46.0, 6), "[500, 2k)": _interval(37.0, None, None, 5)},
                    "trained": {"[0, 500)": _interval(41.0, 22.0, 60.0, 6),
                                "[500, 2k)": _interval(33.5, None, None, 5)}},
        "preference_accuracy": {"base": _interval(0.5, 0.25, 0.75, 12), "trained": _interval(0.75, 0.5, 0.92, 12)},
        "judge": {"name": "expected_grade", "model": "demo:gemma-3-270m", "was_training_reward": True},
        "decoding": {"temperature": 0.5, "max_tokens": 512, "seed": 7}, "versions": {"torch": "2.13.0"},
        "overlap": {"checked": 8, "found": 0},
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
