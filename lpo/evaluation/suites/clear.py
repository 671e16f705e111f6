"""Rubrics of the user's own: each item of a reference, looked up in the answer and compared (arXiv 2506.01241)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpo.errors import DataError
from lpo.eval_config import ClearConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import ON_EVERY_ANSWER, Better, Metric, Unit
from lpo.evaluation.rubric import ItemVerdict, compare, said, stands_in
from lpo.evaluation.suite import Curve
from lpo.evaluation.suites.own_tasks import OwnTask, categories, read_own_tasks, without_values
from lpo.llm.base import Finish
from lpo.llm.side_by_side import side_by_side
from lpo.records import Prompt

F1 = Metric("f1", "F1", "harmonic mean of an answer's precision and recall")
PRECISION = Metric("precision", "Precision", "items of which the reference says all that the answer says")
RECALL = Metric("recall", "Recall", "items of which the answer says all that the reference says")
ACCURACY = Metric("accuracy", "Accuracy", "items of which answer and reference say the same")
COPIED = Metric("copied", "Copied", "items the judge looked up whose words stand in the answer as it copied them",
                Better.NEITHER, Unit.SHARE, (("copied", "looked_up"),))
_SCORES = (F1.key, PRECISION.key, RECALL.key, ACCURACY.key)

ALIASES = {"input": "prompt", "human_reference_checklist": "rubric"}
"""Columns as ExpertLongBench's files name them."""
EXAMPLE = '{"prompt": "Sum up ...", "rubric": {"diagnosis": "...", "allergies": null}}'


@dataclass(frozen=True)
class Rubric:
    """What the reference for one task says.

    Args:
        items: Item -> what the reference says of it; None: nothing.
        category: What scores are broken down by.
    """

    items: Mapping[str, str | None]
    category: str | None = None


@dataclass(frozen=True)
class ClearSuite:
    """Tasks with rubrics.

    Args:
        prompts: The tasks.
        rubrics: Prompt id -> its rubric.
    """

    prompts: tuple[Prompt, ...]
    rubrics: Mapping[str, Rubric]
    name = SuiteName.CLEAR
    title = "CLEAR"
    source = ("rubrics of your own, compared as in CLEAR (ExpertLongBench, arXiv 2506.01241); the judge's prompts are "
              "ours, and one judge does both steps")
    metrics = (F1, PRECISION, RECALL, ACCURACY, COPIED, *ON_EVERY_ANSWER)
    group_name = "category"
    given: tuple[Answer, ...] = ()
    notes = ("an item of which neither answer nor reference says anything counts 1, one of which only one of them "
             "does counts 0, and the judge is asked about neither (as in the published code)",)

    @property
    def groups(self) -> tuple[str, ...]:
        """The categories the file names, in order of appearance."""
        return categories({name: rubric.category for name, rubric in self.rubrics.items()})

    def judgements(self, answers: int) -> int:
        """For each item at most one call to look it up and two to compare."""
        sizes = sorted((len(rubric.items) for rubric in self.rubrics.values()), reverse=True)
        rounds, rest = divmod(answers, len(sizes))
        return 3 * (rounds * sum(sizes) + sum(sizes[:rest]))

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """The answers with precision, recall, F1 and accuracy. One with an item that has no verdict has none."""
        by_id = {prompt.id: prompt for prompt in self.prompts}

        async def one(answer: Answer) -> Measured:
            rubric = self.rubrics[answer.prompt_id]
            measured = Measured(answer=answer, group=rubric.category, values=basic_values(answer))
            if answer.finish is Finish.REFUSED:
                keys = (*measured.values, *(() if judge is None else (*_SCORES, "copied", "looked_up")))
                measured = without_values(measured, keys, "refused")
            elif judge is not None:
                request = by_id[answer.prompt_id].request
                measured = _scored(measured, await compare(judge, rubric.items, request=request, text=answer.text))
            on_done()
            return measured

        return await side_by_side(answers, one, at_once=64 if judge is None else judge.at_once, stop=stop)

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """None of its own."""
        return ()


def clear(config: ClearConfig) -> ClearSuite:
    """The suite over a file of tasks with rubrics.

    Each row has a `prompt` (or `input`) and a `rubric`, an object of item -> what the reference says of it, or null
    (or "N/A") where it says nothing; if you like `category` and `context`, a document the task is about.

    Raises:
        DataError: The file is missing or broken, or a row is wrong; the error names the line.
        NothingLeftError: No row is a task.
    """
    tasks = read_own_tasks(config.path, ALIASES)
    rubrics = {task.prompt.id: _rubric(task) for task in tasks}
    asked = tuple(task.prompt for task in tasks)[: config.limit]
    return ClearSuite(asked, {prompt.id: rubrics[prompt.id] for prompt in asked})


def clear_scores(verdicts: Sequence[ItemVerdict]) -> dict[str, float] | None:
    """Precision, recall, F1 and accuracy of one answer on 0–100; None when an item has no verdict.

    Precision and recall are means over items; F1 is the harmonic mean of the two (0 where both are 0); accuracy is the
    share of items where both containments hold.

    Source:
        CLEAR (arXiv 2506.01241) and its published code, whose F1 adds 1e-10 below the line.
    """
    sides = [(one.precision, one.recall) for one in verdicts if one.precision is not None and one.recall is not None]
    if len(sides) < len(verdicts):
        return None
    precision = sum(precision for precision, _ in sides) / len(sides)
    recall = sum(recall for _, recall in sides) / len(sides)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = sum(precision and recall for precision, recall in sides) / len(sides)
    return {F1.key: 100 * f1, PRECISION.key: 100 * precision, RECALL.key: 100 * recall, ACCURACY.key: 100 * accuracy}


def _scored(measured: Measured, verdicts: Sequence[ItemVerdict]) -> Measured:
    scores = clear_scores(verdicts)
    looked_up = [one.found for one in verdicts if one.found is not None]
    values = {**measured.values, **(scores or dict.fromkeys(_SCORES)), "looked_up": float(len(looked_up)),
              "copied": float(sum(stands_in(found, measured.answer.text) for found in looked_up))}
    missing = next((one.unscored for one in verdicts if one.unscored is not None), None)
    return measured.model_copy(update={
        "values": values, "unscored": {**measured.unscored, **(dict.fromkeys(_SCORES, missing) if missing else {})},
        "details": {"items": [one.to_json() for one in verdicts]},
    })


def _rubric(task: OwnTask) -> Rubric:
    found = next((task.row[name] for name in ("rubric", "human_reference_checklist") if name in task.row), None)
    mend = f"a row looks like {EXAMPLE}"
    if not isinstance(found, dict) or not found:
        raise DataError("'rubric' must be an object with at least one item", where=task.where, mend=mend)
    items: dict[str, str | None] = {}
    for item, reference in found.items():
        if not item.strip():
            raise DataError("an item of the rubric has no name", where=task.where, mend=mend)
        if reference is not None and (not isinstance(reference, str) or not reference.strip()):
            raise DataError(f"item {item!r} must be text, or null where the reference says nothing of it",
                            where=task.where, mend=mend)
        items[item] = None if reference is None else said(reference)
    return Rubric(items, task.category)
