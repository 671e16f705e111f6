"""Runs to be compared, as real evaluations leave them: measured answers, and what `lpo.evaluation` makes of them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sample_run import ATTACKS, HARBOUR, SOIL_BETTER, SOIL_WORSE, make_run, write_json, write_jsonl

from lpo.config import RunConfig, to_yaml
from lpo.evaluation.answers import Answer, AnswerScores
from lpo.evaluation.buckets import BUCKETS, bucket
from lpo.evaluation.comparing import compare
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import LENGTH_SCORE, ON_EVERY_ANSWER, Metric
from lpo.evaluation.suite import Curve, Point
from lpo.intervals import bootstrap_mean
from lpo.llm.base import Finish
from lpo.reward import length_score, repeated_ngram_share
from lpo.words import count_words

LONGBENCH = "longbench_write"
QUALITY = Metric("quality", "S_q", "what the judge gives on six dimensions")
METRICS = (LENGTH_SCORE, QUALITY, *ON_EVERY_ANSWER)
TARGETS = (120, 300, 450, 800, 1500, 2500, 3200, 6000)
SENTENCES = [f"{part.strip()}." for text in (HARBOUR, SOIL_BETTER, SOIL_WORSE) for part in text.split(".")
             if part.strip()]


def write_answers(folder: Path, model: str, skill: float, *, prompts: int = 24, suite: str = LONGBENCH,
                  seed: int = 0) -> list[Measured]:
    """Write a model's measured answers to a suite; the more skill (0–1), the nearer they come to the length asked."""
    rows = [_measured(model, place, skill, random.Random(f"{seed}/{suite}/{place}/{skill}"))
            for place in range(prompts)]
    write_jsonl(folder / "eval" / suite / f"answers.{model}.jsonl", [row.to_json() for row in rows])
    return rows


def _measured(model: str, place: int, skill: float, rng: random.Random) -> Measured:
    target = TARGETS[place % len(TARGETS)]
    words = max(30, round(target * (skill + rng.uniform(-0.12, 0.12))))
    parts: list[str] = []
    written = 0
    while written < words:
        parts += [rng.choice(SENTENCES), rng.choice((" ", " ", "\n\n"))]
        written += count_words(parts[-2])
    text = f"{ATTACKS[place % 7]} {''.join(parts)}"
    refused = place == 5
    answer = Answer(
        model=model, prompt_id=f"p{place}",  # type: ignore[arg-type]
        request=f"Task {place}: write about tides, {target} words. {ATTACKS[place % 7]}",
        kind=("story", "report")[place % 2], target_words=target,
        text="" if refused else text,
        words=0 if refused else count_words(text), finish=Finish.REFUSED if refused else Finish.STOP,
        note="too long" if refused else None,
        scores=AnswerScores() if refused else AnswerScores(
            length=length_score(required=target, written=count_words(text)), repetition=repeated_ngram_share(text)))
    values: dict[str, float | None] = {**basic_values(answer), LENGTH_SCORE.key: answer.scores.length}
    judged = None if refused or place == 9 else 40 + 40 * skill + rng.uniform(-18, 18)
    unscored = dict.fromkeys(values, "refused") if refused else {}
    if judged is None:
        unscored[QUALITY.key] = "refused" if refused else "unparsable"
    return Measured(answer=answer, group=bucket(target), values={**values, QUALITY.key: judged}, unscored=unscored)


def compared(runs: Sequence[str], rows: Mapping[str, Mapping[str, Sequence[Measured]]], *, models: Mapping[str, str],
             win_rates: Mapping[str, Any] | None = None, resamples: int = 200) -> dict[str, Any]:
    """What the comparison of runs is as JSON values.

    Args:
        runs: Their names, in order.
        rows: Suite -> run -> its measured answers.
        models: Run -> its model.
        win_rates: As they are handed on.
        resamples: Behind each interval.
    """
    suites: dict[str, Any] = {}
    for suite, of_runs in rows.items():
        found = compare(of_runs, METRICS, tuple(BUCKETS), seed=0, resamples=resamples)
        suites[suite] = {
            "title": suite.replace("_", " ").title(), "source": "arXiv 2408.07055", "group_name": "words asked",
            "metrics": [asdict(metric) for metric in METRICS], "n": found.n,
            "scores": _plain(found.scores), "groups": _plain(found.groups), "difference": _plain(found.difference),
            "group_difference": _plain(found.group_difference),
            "curves": {run: [asdict(curve) for curve in _curves(measured)] for run, measured in of_runs.items()},
            "notes": ["answers were cut at 512 tokens, not the published 32,768"],
            "judge": {run: {"name": "six dimensions", "model": "demo:gemma-3-270m", "was_training_reward": run == "b"}
                      for run in of_runs},
            "decoding": {run: {"temperature": 0.5, "max_tokens": 512 if run != "c" else 1024} for run in of_runs},
            "warnings": ["the runs were measured with different decoding settings"] if "c" in of_runs else [],
        }
    return {"runs": list(runs), "models": dict(models), "suites": suites, "win_rates": dict(win_rates or {})}


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value.to_json()


def _curves(rows: Sequence[Measured]) -> tuple[Curve, ...]:
    """Longest answer over length asked, as a ruler gives it, and repetition along the text."""
    by_target: dict[int, list[float]] = {}
    for row in rows:
        by_target.setdefault(row.answer.target_words or 0, []).append(float(row.answer.words))
    longest = tuple(Point(target, bootstrap_mean([max(words)], seed=0, resamples=100))
                    for target, words in sorted(by_target.items()))
    along = tuple(Point(20 * part + 10, bootstrap_mean(
        [None if (value := row.values["repetition"]) is None else value * (0.4 + part / 4) for row in rows], seed=0,
        resamples=100)) for part in range(5))
    return (Curve("longest", "Longest answer", "words asked", "words written", longest, diagonal=True),
            Curve("along_repetition", "Repetition along the text", "per cent of the text", "repeated sequences",
                  along))


def win_rate(mean: float, half: float, n: int = 24) -> dict[str, Any]:
    """A win-rate with its interval, and the same with the length taken out."""
    return {"interval": {"mean": mean, "low": mean - half, "high": mean + half, "n": n, "unscored": 1},
            "lc": {"mean": mean - 4, "low": mean - 4 - half, "high": mean - 4 + half, "n": n, "unscored": 1}}


def measured_only(folder: Path, name: str) -> Path:
    """A run that holds an evaluation and nothing else: no training, no pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate({"name": name, "runs_dir": str(folder.parent)})
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    write_json(folder / "manifest.json", {"name": name, "kind": "measured", "lpo": "0.1.0", "seed": 3, "stages": {
        "eval": {"status": "complete", "seconds": 88.0, "usage": None}}})
    return folder


def three_runs(root: Path) -> tuple[list[Path], dict[str, Any]]:
    """Two trained runs and a model that was measured alone, on two suites; the last was measured on one of them."""
    folders = [make_run(root / "a", steps=24), make_run(root / "b", steps=60, chosen_falls=True),
               measured_only(root / "c", "c")]
    config = RunConfig.model_validate({
        "name": "b", "runs_dir": str(root), "seed": 4,
        "build": {"branching": 6, "reward": {"judge": 1.0, "length": 2.0}},
        "train": {"args": {"learning_rate": 2e-4, "beta": 0.1, "loss_type": "ipo", "max_steps": 60}}})
    (folders[1] / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    models = {"a": "trained", "b": "trained", "c": "model"}
    skills = {"a": 0.45, "b": 0.85, "c": 0.5}
    rows = {LONGBENCH: {name: write_answers(folder, models[name], skills[name], seed=index)
                        for index, (name, folder) in enumerate(zip(models, folders, strict=True))},
            "longwrite_ruler": {name: write_answers(folder, models[name], skills[name], suite="longwrite_ruler")
                                for name, folder in zip("ab", folders[:2], strict=True)}}
    rates = {LONGBENCH: {
        "a": {"b": win_rate(31.2, 11), "c": win_rate(47.5, 14)}, "b": {"a": win_rate(68.8, 11), "c": win_rate(71.0, 9)},
        "c": {"a": win_rate(52.5, 14), "b": win_rate(29.0, 9)}}}
    return folders, compared("abc", rows, models=models, win_rates=rates)
