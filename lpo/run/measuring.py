"""One suite on the models of an evaluation: answers are drawn, measured, taken apart and compared, then stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpo.config import ModelConfig, RunConfig
from lpo.eval_config import EvalConfig, SuiteConfig, SuiteName
from lpo.evaluation import Answer, ModelName, decoding, generate_answers, judge_answers
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured
from lpo.evaluation.suite import Curve, Suite, SuiteScores, summarise_suite
from lpo.records import Record
from lpo.reward import Scorer
from lpo.run.directory import RunDirectory
from lpo.run.models import Models, texts_at_once
from lpo.storage import write_jsonl

if TYPE_CHECKING:
    from lpo.evaluation.pairwise import PairwiseScores


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Args:
        name: As in files and scores.
        config: The model.
        adapter: LoRA weights on top of it.
    """

    name: ModelName
    config: ModelConfig
    adapter: Path | None = None


@dataclass(frozen=True)
class Bench:
    """What every suite is measured with.

    Args:
        config: The run.
        directory: Where files go.
        models: Loads models, each once.
        subjects: The models that are measured.
        judge: Asked by suites; None: `eval.judge` is false.
        scorer: The run's own judge, for held-out prompts; None likewise.
        scorer_at_once: Texts the scorer is given at the same time.
        judge_note: Who judges, as stored beside the scores.
        on_done: Called after each unit of work.
    """

    config: RunConfig
    directory: RunDirectory
    models: Models
    subjects: tuple[Subject, ...]
    judge: JudgeModel | None
    scorer: Scorer | None
    scorer_at_once: int
    judge_note: Mapping[str, Any] | None
    on_done: Callable[[], None]


@dataclass(frozen=True)
class SuiteResult:
    """What came of a suite.

    Args:
        scores: With intervals.
        answers: Model -> its answers, for what else is made of them.
        pairwise: Trained against base; None where nobody compared them.
    """

    scores: SuiteScores
    answers: Mapping[str, Sequence[Answer]]
    pairwise: PairwiseScores | None


def units(suite: Suite, config: EvalConfig, subjects: int) -> int:
    """How often `on_done` is called for a suite, at most."""
    answers = len(suite.prompts) * subjects
    judged = suite.name is SuiteName.HELD_OUT and config.judge
    measured = 0 if suite.name is SuiteName.HELD_OUT else answers + len(suite.given)
    along = answers + len(suite.given) if config.along is not None else 0
    compared = len(suite.prompts) if _compares(suite, config, subjects) else 0
    return answers + answers * judged + measured + along + compared


async def measure_suite(bench: Bench, suite: Suite) -> SuiteResult:
    """Measure every subject on a suite, and store its answers.

    Raises:
        BackendError: A model cannot be used. Calls in flight are finished and stored first.
    """
    settings = suite_settings(bench.config.eval, suite.name)
    answers = {subject.name: await _answers(bench, suite, subject, settings) for subject in bench.subjects} \
        if suite.prompts else {"model": list(suite.given)}
    rows: dict[str, list[Measured]] = {}
    curves: dict[str, Sequence[Curve]] = {}
    folder = bench.directory / "eval"
    for model, of_model in answers.items():
        rows[model] = await suite.measure(of_model, bench.judge, seed=bench.config.seed, on_done=bench.on_done,
                                          stop=bench.models.stop)
        stored: Sequence[Record] = of_model if suite.name is SuiteName.HELD_OUT else rows[model]
        write_jsonl(answers_file(folder, suite.name.value, model), (row.to_json() for row in stored))
        curves[model] = await _along(bench, suite, model, of_model)
    scores = summarise_suite(
        suite, rows, judge=bench.judge_note, seed=bench.config.seed, resamples=bench.config.eval.bootstrap,
        decoding=decoding(settings, seed=bench.config.seed) if suite.prompts else {}, more_curves=curves)
    return SuiteResult(scores, answers, await _pairwise(bench, suite, answers))


def suite_settings(config: EvalConfig, name: SuiteName) -> EvalConfig:
    """The `eval` section with a suite's own room and sampling in place of the general ones."""
    own = getattr(config, name.value, None)
    if not isinstance(own, SuiteConfig):
        return config
    return config.model_copy(update={
        "max_tokens": own.max_tokens or config.max_tokens, "sampling": own.sampling or config.sampling})


def answers_file(folder: Path, suite: str, model: str) -> Path:
    """Where the answers of a model to a suite are stored: `Answer` rows for held-out prompts, else `Measured` rows.

    Args:
        folder: `eval` of a run directory.
        suite: The suite's name.
        model: `base`, `trained` or `model`.
    """
    inside = folder if suite == SuiteName.HELD_OUT.value else folder / suite
    return inside / f"answers.{model}.jsonl"


async def _answers(bench: Bench, suite: Suite, subject: Subject, settings: EvalConfig) -> list[Answer]:
    llm = bench.models.get(subject.config, subject.adapter)
    answers = await generate_answers(
        llm, suite.prompts, settings, seed=bench.config.seed, model_name=subject.name, on_done=bench.on_done,
        at_once=texts_at_once(subject.config), stop=bench.models.stop)
    if suite.name is not SuiteName.HELD_OUT or bench.scorer is None:
        return answers
    return await judge_answers(answers, suite.prompts, bench.scorer, on_done=bench.on_done, stop=bench.models.stop,
                               at_once=bench.scorer_at_once)


async def _along(bench: Bench, suite: Suite, model: str, answers: Sequence[Answer]) -> Sequence[Curve]:
    settings = bench.config.eval.along
    if settings is None:
        return ()
    from lpo.evaluation.along import along_curves, measure_along

    parts = await measure_along(answers, bench.judge if settings.judge else None, settings, on_done=bench.on_done,
                                stop=bench.models.stop)
    write_jsonl(bench.directory / "eval" / suite.name.value / f"along.{model}.jsonl", (row.to_json() for row in parts))
    return along_curves(parts, settings, seed=bench.config.seed, resamples=bench.config.eval.bootstrap)


def _compares(suite: Suite, config: EvalConfig, subjects: int) -> bool:
    return config.pairwise is not None and suite.name in config.pairwise.suites and subjects == 2 \
        and bool(suite.prompts)


async def _pairwise(bench: Bench, suite: Suite, answers: Mapping[str, Sequence[Answer]]) -> PairwiseScores | None:
    settings = bench.config.eval
    if not _compares(suite, settings, len(bench.subjects)):
        return None
    from lpo.evaluation.pairwise import compare_answers, summarise_pairwise

    assert settings.pairwise is not None and bench.judge is not None  # the settings were checked
    preferences = await compare_answers(answers["base"], answers["trained"], suite.prompts, bench.judge,
                                        on_done=bench.on_done, stop=bench.models.stop)
    write_jsonl(bench.directory / "eval" / suite.name.value / "pairwise.jsonl", (row.to_json() for row in preferences))
    return summarise_pairwise(preferences, baseline="base", model="trained", seed=bench.config.seed,
                              length_control=settings.pairwise.length_control, resamples=settings.bootstrap)
