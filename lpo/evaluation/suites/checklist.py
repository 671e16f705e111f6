"""Checklists of the user's own: every task comes with yes/no checks and their weights (HelloEval, arXiv 2409.16191)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpo.errors import DataError
from lpo.eval_config import ChecklistConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.check_grades import grade_checks
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import LENGTH_SCORE, ON_EVERY_ANSWER, Better, Metric, Unit
from lpo.evaluation.suite import Curve
from lpo.evaluation.suites.own_tasks import OwnTask, categories, read_own_tasks, without_values
from lpo.llm.base import Finish
from lpo.llm.side_by_side import side_by_side
from lpo.records import Prompt

CHECKLIST = Metric("checklist", "Checklist", "how far the answer fulfils its checks, weighted; all in full is 100")
CHECKS_GRADED = Metric("checks_graded", "Checks graded", "share of checks to which the judge gave a grade",
                       Better.NEITHER, Unit.SHARE, (("checks_graded", "checks"),))
_OF_JUDGE = (CHECKLIST.key, "checks", CHECKS_GRADED.key)

EXAMPLE = '{"prompt": "Write ...", "checks": ["Does the text ...?"], "weights": [1]}'


@dataclass(frozen=True)
class Checklist:
    """What one answer is checked for.

    Args:
        checks: Questions whose answer is yes in a good text.
        weights: One for each, 0 or more, not all 0.
        category: What scores are broken down by.
    """

    checks: tuple[str, ...]
    weights: tuple[float, ...]
    category: str | None = None

    def score(self, grades: Sequence[float]) -> float:
        """The weighted mean of grades on 0–1, on 0–100 (published: the weights of a category add up to 100)."""
        return 100 * sum(weight * grade for weight, grade in zip(self.weights, grades, strict=True)) / sum(self.weights)


@dataclass(frozen=True)
class ChecklistSuite:
    """Tasks with checks.

    Args:
        prompts: The tasks.
        checklists: Prompt id -> its checks.
    """

    prompts: tuple[Prompt, ...]
    checklists: Mapping[str, Checklist]
    name = SuiteName.CHECKLIST
    title = "Checklists"
    source = ("checks of your own, graded and weighted as in HelloEval (arXiv 2409.16191); the judge's prompt and the "
              "expected grade of judges that write no JSON are ours")
    metrics = (CHECKLIST, CHECKS_GRADED, LENGTH_SCORE, *ON_EVERY_ANSWER)
    group_name = "category"
    given: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The categories the file names, in order of appearance."""
        return categories({name: checklist.category for name, checklist in self.checklists.items()})

    def judgements(self, answers: int) -> int:
        """One for each answer: all its checks are graded in one call."""
        return answers

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """The answers with the grades of their checks. An answer with a check that has no grade has no score."""
        by_id = {prompt.id: prompt for prompt in self.prompts}
        targets = any(prompt.target_words is not None for prompt in self.prompts)

        async def one(answer: Answer) -> Measured:
            checklist, prompt = self.checklists[answer.prompt_id], by_id[answer.prompt_id]
            measured = _without_judge(answer, checklist.category, targets)
            if judge is not None:
                measured = await _judged(measured, checklist, prompt, judge)
            on_done()
            return measured

        return await side_by_side(answers, one, at_once=64 if judge is None else judge.at_once, stop=stop)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()


def checklist(config: ChecklistConfig) -> ChecklistSuite:
    """The suite over a file of tasks with checks.

    Each row has a `prompt` and `checks`, a list of questions; if you like `weights`, a list of as many numbers,
    `category`, `target_words` and `context`, a document the task is about.

    Raises:
        DataError: The file is missing or broken, or a row is wrong; the error names the line.
        NothingLeftError: No row is a task.
    """
    tasks = read_own_tasks(config.path)
    checklists = {task.prompt.id: _checklist(task) for task in tasks}
    asked = tuple(task.prompt for task in tasks)[: config.limit]
    return ChecklistSuite(asked, {prompt.id: checklists[prompt.id] for prompt in asked})


def fit_weights(human_scores: Sequence[float], check_scores: Sequence[Sequence[float]],
                lowest: float = 0.5) -> tuple[float, ...]:
    """Weights of checks that come closest to what people say of whole texts, to be written into a file of checks.

    The least mean squared error of `score = sum of weight * grade`, without a constant, each weight at least `lowest`;
    then all are scaled so that they add up to 100.

    Args:
        human_scores: N overall scores by people, one for each text. Their scale matters only beside `lowest`.
        check_scores: N rows of K grades on 0–1, of the same texts by the same K checks.
        lowest: Smallest weight before scaling, so that no check is left out (published: 0.5).

    Returns:
        K weights that add up to 100.

    Raises:
        DataError: There are fewer texts than checks, rows differ in length, or a value is not finite, or a grade not
            from 0 to 1.

    Source:
        HelloEval (arXiv 2409.16191). The published code minimises the same error with L-BFGS-B; here the problem is
        solved as what it is, a bounded linear least squares problem.
    """
    import numpy as np
    from scipy.optimize import lsq_linear

    checks = len(check_scores[0]) if check_scores else 0
    if not checks or any(len(row) != checks for row in check_scores) or len(human_scores) != len(check_scores):
        raise DataError("each text needs one overall score and as many grades as the others", where="check_scores",
                        mend="give N overall scores and N rows of K grades")
    if len(human_scores) < checks:
        raise DataError(f"{len(human_scores)} texts do not determine {checks} weights", where="check_scores",
                        mend="give at least as many texts as there are checks, better ten times as many")
    grades_NK, scores_N = np.array(check_scores, dtype=float), np.array(human_scores, dtype=float)
    if not (np.isfinite(scores_N).all() and ((grades_NK >= 0) & (grades_NK <= 1)).all()):
        raise DataError("a score is not finite, or a grade is not from 0 to 1", where="check_scores",
                        mend="give grades on 0-1: divide those on 0-4 by 4")
    weights_K = lsq_linear(grades_NK, scores_N, bounds=(lowest, np.inf)).x
    return tuple(float(weight) for weight in weights_K * (100 / weights_K.sum()))


def _checklist(task: OwnTask) -> Checklist:
    checks, weights = task.row.get("checks"), task.row.get("weights")
    if not isinstance(checks, list) or not checks or not all(isinstance(check, str) and check.strip()
                                                             for check in checks):
        raise DataError("'checks' must be a list of questions with at least one of them", where=task.where,
                        mend=f"a row looks like {EXAMPLE}")
    if len(set(checks)) < len(checks):
        raise DataError("the same check stands there twice", where=task.where,
                        mend="keep one of them; 'weights' says what counts more")
    if weights is None:
        return Checklist(tuple(checks), (1.0,) * len(checks), task.category)
    if not isinstance(weights, list) or len(weights) != len(checks):
        found = f"{len(weights)} of them" if isinstance(weights, list) else repr(weights)
        raise DataError(f"'weights' must be a list of {len(checks)} numbers, one for each check; there are {found}",
                        where=task.where, mend="give each check its weight, or leave 'weights' out")
    if not all(_is_weight(weight) for weight in weights) or not sum(weights) > 0:
        raise DataError(f"weights must be numbers of 0 or more, and not all 0: {weights}", where=task.where,
                        mend="give what counts more a larger number; a check that must not happen is asked the other "
                             "way round")
    return Checklist(tuple(checks), tuple(float(weight) for weight in weights), task.category)


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _without_judge(answer: Answer, category: str | None, targets: bool) -> Measured:
    measured = Measured(answer=answer, group=category, values=basic_values(answer))
    if answer.finish is Finish.REFUSED:
        keys = (*measured.values, *((LENGTH_SCORE.key,) if targets else ()))
        return without_values(measured, keys, "refused")
    if not targets:
        return measured
    if answer.target_words is None:
        return without_values(measured, (LENGTH_SCORE.key,), "no_target")
    return measured.model_copy(update={"values": {**measured.values, LENGTH_SCORE.key: answer.scores.length}})


async def _judged(measured: Measured, checklist: Checklist, prompt: Prompt, judge: JudgeModel) -> Measured:
    answer = measured.answer
    if answer.finish is Finish.REFUSED:
        return without_values(measured, _OF_JUDGE, "refused")
    if not answer.text.strip():
        return without_values(measured, _OF_JUDGE, "empty")
    graded = await grade_checks(judge, checklist.checks, request=prompt.request, text=answer.text,
                                document=prompt.context)
    grades = [one.grade for one in graded if one.grade is not None]
    whole = len(grades) == len(graded)
    values = {CHECKLIST.key: checklist.score(grades) if whole else None, "checks": float(len(graded)),
              CHECKS_GRADED.key: float(len(grades))}
    missing = next((one.unscored for one in graded if one.unscored is not None), None)
    return measured.model_copy(update={
        "values": {**measured.values, **values},
        "unscored": {**measured.unscored, **({} if missing is None else {CHECKLIST.key: missing})},
        "details": {"checks": [{**one.to_json(), "weight": weight}
                               for one, weight in zip(graded, checklist.weights, strict=True)]},
    })
