"""The evaluation of a run on several suites, as `lpo.evaluation` itself writes it, over texts made here."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from sample_run import ATTACKS, HARBOUR, HARBOUR_BETTER, SOIL_WORSE, make_run, manifest_of, write_json, write_jsonl

from lpo.config import RunConfig, to_yaml
from lpo.eval_config import LongWriteRulerConfig
from lpo.evaluation.answers import Answer, ModelName, score_text
from lpo.evaluation.guard import GuardMeasure, GuardScores
from lpo.evaluation.measured import Measured
from lpo.evaluation.pairwise import Outcome, Preference, summarise_pairwise
from lpo.evaluation.quality import Quality
from lpo.evaluation.suite import Curve, Point, Suite, summarise_suite
from lpo.evaluation.suites.held_out import HeldOutSuite
from lpo.evaluation.suites.longbench_write import LongBenchWriteSuite
from lpo.evaluation.suites.longwrite_ruler import longwrite_ruler
from lpo.intervals import Interval, bootstrap_mean
from lpo.llm.base import Finish
from lpo.records import Prompt

SEED = 7
RESAMPLES = 200
DRAWN = {"temperature": 0.5, "max_tokens": 4096, "seed": SEED}
JUDGE = {"name": "json_judge", "model": "judge-model", "was_training_reward": False, "method": "json",
         "backend": "openai"}
NAMES = ("lighthouse", "market", "ferry", "orchard", "archive", "kiln")


def prompts_of(count: int, targets: Sequence[int], tag: str) -> tuple[Prompt, ...]:
    """Prompts that ask for lengths in turn; the second one attacks the page."""
    return tuple(Prompt(
        id=f"{tag}-{index}", target_words=targets[index % len(targets)],
        prompt=f"Write about the {NAMES[index % len(NAMES)]}, part {index}, in {targets[index % len(targets)]} words."
               + (f" {ATTACKS[3]}" if index == 1 else ""), meta={"kind": "essay"}) for index in range(count))


def text_of(words: int, rng: random.Random) -> str:
    """A text of about so many words."""
    source = f"{HARBOUR}{HARBOUR_BETTER} ".split(" ")
    start = rng.randrange(len(source))
    return " ".join(source[(start + index) % len(source)] for index in range(words))


def answers_of(model: ModelName, prompts: Sequence[Prompt], rng: random.Random) -> list[Answer]:
    """Answers: the base model's are far too short, one of them is refused, and some are cut."""
    answers: list[Answer] = []
    for index, prompt in enumerate(prompts):
        if index == 3 and model == "base":
            answers.append(score_text(prompt, "", Finish.REFUSED, model_name=model, note="the server said no"))
            continue
        share = rng.uniform(0.1, 0.9) if model == "base" else rng.uniform(0.6, 1.4)
        text = text_of(max(1, min(2500, round(share * (prompt.target_words or 300)))), rng)
        if index == 1:
            text = f"{ATTACKS[0]} {SOIL_WORSE} {ATTACKS[4]}"
        answers.append(score_text(prompt, text, Finish.LENGTH if index % 5 == 4 else Finish.STOP, model_name=model))
    return answers


def judged(rows: Sequence[Measured], rng: random.Random, lift: float) -> list[Measured]:
    """With grades as a judge gives them; the reply about the third answer cannot be read."""
    graded: list[Measured] = []
    for index, row in enumerate(rows):
        keys = [*(one.value for one in Quality), "quality", "mean_score"]
        if index == 2 or row.answer.finish is Finish.REFUSED:
            reason = "refused" if row.answer.finish is Finish.REFUSED else "unparsable"
            graded.append(row.model_copy(update={"values": {**row.values, **dict.fromkeys(keys)},
                                                 "unscored": {**row.unscored, **dict.fromkeys(keys, reason)}}))
            continue
        grades = {one.value: 25.0 * min(4, max(0, round(rng.gauss(2 + lift, 0.8)))) for one in Quality}
        quality = sum(grades.values()) / len(grades)
        length = row.values.get("length_score")
        mean = {} if length is None else {"mean_score": (length + quality) / 2}
        graded.append(row.model_copy(update={"values": {**row.values, **grades, "quality": quality, **mean}}))
    return graded


def along(rng: random.Random, fall: float) -> tuple[Curve, ...]:
    """Quality along the text, as its curves are."""
    points = tuple(Point(10.0 + 20 * part, bootstrap_mean([rng.gauss(70 - fall * part, 9) for _ in range(12)],
                                                          seed=SEED, resamples=RESAMPLES)) for part in range(5))
    return (Curve("along_quality", "Quality along the text", "per cent of the text", "S_q of the part", points),)


async def _measured(suite: Suite, answers: Sequence[Answer], rng: random.Random, lift: float | None) -> list[Measured]:
    rows = await suite.measure(answers, None, seed=SEED, on_done=lambda: None, stop=None)
    return rows if lift is None else judged(rows, rng, lift)


def _finished(work: Coroutine[Any, Any, list[Measured]]) -> list[Measured]:
    """What a coroutine gives, also where a browser's driver holds this thread's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def suite_scores(folder: Path, suite: Suite, models: Sequence[ModelName], *, grades: bool = False,
                 curves: bool = False) -> dict[str, Any]:
    """Write the answers of a suite where an evaluation does, and give its entry of scores.json."""
    rng = random.Random(SEED)
    rows = {model: _finished(_measured(suite, answers_of(model, suite.prompts, rng), rng,
                                       (0.0 if model == "base" else 0.9) if grades else None)) for model in models}
    for model, measured in rows.items():
        held_out = suite.name.value == "held_out"
        place = folder / "eval" if held_out else folder / "eval" / suite.name.value
        write_jsonl(place / f"answers.{model}.jsonl",
                    [(row.answer if held_out else row).to_json() for row in measured])
    more = {model: along(rng, 6 if model == "base" else 2) for model in models} if curves else None
    return summarise_suite(suite, rows, judge=JUDGE if grades else None, decoding=DRAWN, seed=SEED,
                           resamples=RESAMPLES, more_curves=more).to_json()


def pairwise_scores(wins: int, ties: int, losses: int, unscored: int = 0) -> dict[str, Any]:
    """Preferences with this outcome."""
    outcomes = [(Outcome.WIN, 1.0)] * wins + [(Outcome.TIE, 0.5)] * ties + [(Outcome.LOSS, 0.0)] * losses
    rows = [Preference(prompt_id=f"p{index}", preference=preference, first_order=preference, second_order=preference,
                       outcome=outcome, baseline_words=100, model_words=120 + index, baseline_characters=600,
                       model_characters=700 + 7 * index * (-1) ** index)
            for index, (outcome, preference) in enumerate(outcomes)]
    rows += [Preference(prompt_id=f"u{index}", baseline_words=9, model_words=9, baseline_characters=50,
                        model_characters=50, unscored="unparsable") for index in range(unscored)]
    return summarise_pairwise(rows, baseline="base", model="trained", length_control=True, seed=SEED,
                              resamples=RESAMPLES).to_json()


def _ability(base: float, trained: float, ends: tuple[float, float] | None, n: int, *, higher: bool = True
             ) -> GuardMeasure:
    low, high = ends or (None, None)
    return GuardMeasure(base, trained, Interval(trained - base, low, high, n, 0), 0.01, 0.01, n, higher)


GUARD = GuardScores(
    tasks={"arc_easy": {"acc,none": _ability(0.571, 0.566, (-0.021, 0.011), 500)},
           "gsm8k": {"exact_match,strict-match": _ability(0.042, 0.02, (-0.038, -0.006), 500)},
           "wikitext": {"word_perplexity,none": _ability(21.4, 22.9, None, 62, higher=False)}},
    subtasks={"mmlu_law": {"acc,none": _ability(0.25, 0.31, (0.01, 0.11), 100)}},
    versions={"lm_eval": "0.4.9"}, task_versions={"gsm8k": "3"}, limit=500, shots={"gsm8k": 5},
    notes=("the first 500 documents of each task",)).to_json()


def suites_for(models: Sequence[ModelName], folder: Path) -> dict[str, Any]:
    """Three suites, measured."""
    bench = LongBenchWriteSuite(prompts_of(24, (300, 400, 450, 480, 900, 1500, 2500), "lbw"),
                                notes=("2 prompts ask for no length: they have no S_l and stand in no group",))
    ruler = longwrite_ruler(LongWriteRulerConfig(lengths=(100, 500, 2000, 8000)))
    held_out = HeldOutSuite(prompts_of(8, (200, 300), "held"))
    return {
        "held_out": suite_scores(folder, cast(Suite, held_out), models),
        "longbench_write": suite_scores(folder, cast(Suite, bench), models, grades=True, curves=True),
        "longwrite_ruler": suite_scores(folder, cast(Suite, ruler), models),
    }


def make_measured_run(folder: Path, **more: Any) -> Path:
    """A whole run, evaluated on three suites, with preferences and general abilities."""
    make_run(folder, **more)
    suites = suites_for(("base", "trained"), folder)
    held_out = suites["held_out"]
    write_json(folder / "scores.json", {
        "n_prompts": 8, "models": held_out["models"], "difference": held_out["difference"], "buckets": {},
        "preference_accuracy": {}, "judge": JUDGE, "decoding": DRAWN, "versions": {"lpo": "0.1.0", "torch": "2.13.0"},
        "overlap": {"checked": 64, "found": 0}, "suites": suites,
        "pairwise": {"longbench_write": pairwise_scores(11, 3, 7, 2)}, "guard": GUARD})
    return folder


def make_model_run(folder: Path) -> Path:
    """One model, measured: what `lpo eval MODEL` leaves."""
    folder.mkdir(parents=True)
    config = RunConfig.model_validate({"name": folder.name, "runs_dir": str(folder.parent)})
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    write_json(folder / "manifest.json", manifest_of(folder.name, ("eval",)) | {"kind": "measured"})
    write_json(folder / "scores.json", {
        "judge": JUDGE, "decoding": DRAWN, "versions": {"lpo": "0.1.0"}, "guard": None, "pairwise": {},
        "suites": suites_for(("model",), folder)})
    return folder
