"""Spinning the Golden Thread (LongGenBench): does what the task asks for come true in the block it is asked for?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lpo.eval_config import GoldenThreadConfig, SuiteName
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.measured import Measured, basic_values
from lpo.evaluation.metrics import ON_EVERY_ANSWER, Better, Metric, Unit
from lpo.evaluation.suite import Curve, Point
from lpo.evaluation.suites.golden_thread_blocks import Piece, blocks, split_pieces
from lpo.evaluation.suites.golden_thread_tasks import Check, CheckKind, Task, scenarios, task_of, tasks
from lpo.evaluation.yes_no import YesNo, yes_or_no
from lpo.intervals import bootstrap_ratios
from lpo.llm.base import Finish
from lpo.llm.side_by_side import side_by_side
from lpo.records import Prompt, Record
from lpo.templates import fence

_CR = ("blocks", "blocks_asked")
_STIC_2 = ("satisfied", "checks")

WEIGHTED = Metric("weighted_average", "wAvg", "completion rate times STIC-2", unit=Unit.SHARE, factors=(_CR, _STIC_2))
COMPLETION = Metric("completion", "CR", "share of the required blocks that were written", unit=Unit.SHARE,
                    factors=(_CR,))
STIC_1 = Metric("stic_1", "STIC-1", "share of the checks on written blocks that are satisfied", unit=Unit.SHARE,
                factors=(("satisfied", "checks_written"),))
STIC_2 = Metric("stic_2", "STIC-2", "share of all checks that are satisfied; one on a missing block is not",
                unit=Unit.SHARE, factors=(_STIC_2,))
OF_KIND = tuple(
    Metric(f"stic_1_{kind}", f"STIC-1, {words}", f"STIC-1 of the instructions for {blocks_of_it}", unit=Unit.SHARE,
           factors=((f"satisfied_{kind}", f"checks_written_{kind}"),))
    for kind, words, blocks_of_it in ((CheckKind.ONCE, "single", "single blocks"),
                                      (CheckKind.RANGE, "range", "a range of blocks"),
                                      (CheckKind.PERIODIC, "periodic", "every k-th block")))
JUDGED = Metric("checks_judged", "Checks judged", "share of the checks on written blocks that the judge answered",
                Better.NEITHER, Unit.SHARE, (("checks_written", "checks_asked"),))

FIFTHS = 5
_KEPT_REPLY = 300
"""Characters of the judge's reply to each check that are stored."""


class Verdict(StrEnum):
    """What became of a check."""

    SATISFIED = "satisfied"
    NOT_SATISFIED = "not_satisfied"
    MISSING = "missing"
    """Its block was not written: not satisfied, and nobody is asked."""
    UNSCORED = "unscored"
    """The judge gave no answer: it counts in no score."""


class Outcome(Record):
    """A check and what became of it: an entry of `details.checks`."""

    check: Check
    verdict: Verdict
    unscored: str | None = None
    """Why the judge's answer is none."""
    reply: str | None = None
    """The judge's words, or the probabilities of Yes and No."""


@dataclass(frozen=True)
class GoldenThreadSuite:
    """Long texts of numbered blocks, with instructions that come true far on.

    Args:
        prompts: Its tasks.
        notes: What sets the settings apart from the published ones.
    """

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...]
    name = SuiteName.GOLDEN_THREAD
    title = "Spinning the Golden Thread"
    source = ("CR, STIC-1, STIC-2, wAvg and the make-up of tasks as in LongGenBench (arXiv 2409.02076); the words of "
              "the tasks, the judge's question and the way blocks are found are ours")
    metrics = (WEIGHTED, COMPLETION, STIC_1, STIC_2, *OF_KIND, JUDGED, *ON_EVERY_ANSWER)
    group_name = "scenario"
    given: tuple[Answer, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The four scenarios."""
        return tuple(scenarios())

    def judgements(self, answers: int) -> int:
        """One for each check whose block is written: at most all of them."""
        checks = sorted((len(task_of(prompt).checks) for prompt in self.prompts), reverse=True)
        times, rest = divmod(answers, len(checks))
        return times * sum(checks) + sum(checks[:rest])

    async def measure(self, answers: Sequence[Answer], judge: JudgeModel | None, *, seed: int,
                      on_done: Callable[[], None], stop: asyncio.Event | None) -> list[Measured]:
        """The answers, cut into blocks, with their checks judged. One that was refused is unscored without asking."""
        of_prompt = {prompt.id: task_of(prompt) for prompt in self.prompts}
        written = [_Written.of(answer, of_prompt[answer.prompt_id]) for answer in answers]
        asked = [(index, check) for index, one in enumerate(written) for check in one.to_ask(judge)]
        left = Counter(index for index, _ in asked)
        for index in range(len(answers)):
            if not left[index]:
                on_done()

        async def ask(question: tuple[int, Check]) -> YesNo:
            index, check = question
            assert judge is not None  # nothing is asked without one
            verdict = await yes_or_no(judge, written[index].question(check, judge))
            left[index] -= 1
            if not left[index]:
                on_done()
            return verdict

        at_once = 1 if judge is None else judge.at_once
        found = await side_by_side(asked, ask, at_once=at_once, stop=stop)
        replies: list[dict[Check, YesNo]] = [{} for _ in answers]
        for (index, check), verdict in zip(asked, found, strict=True):
            replies[index][check] = verdict
        return [one.measured(said, judge) for one, said in zip(written, replies, strict=True)]

    def curves(self, rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
        """STIC-2 and CR over the place of the block among those asked for, in fifths."""
        return _curves(rows, seed=seed, resamples=resamples)


def golden_thread(config: GoldenThreadConfig) -> GoldenThreadSuite:
    """The suite, with its tasks made from the seed."""
    notes = () if config.units is None else (
        f"{config.units} blocks in place of the published numbers: not comparable with published results",)
    return GoldenThreadSuite(tasks(config), notes)


@dataclass(frozen=True)
class _Written:
    """An answer in its blocks."""

    answer: Answer
    task: Task
    pieces: list[Piece]
    blocks: dict[int, str]

    @staticmethod
    def of(answer: Answer, task: Task) -> _Written:
        pieces = split_pieces(answer.text, task.heading)
        return _Written(answer, task, pieces, blocks(pieces, task.units))

    def to_ask(self, judge: JudgeModel | None) -> list[Check]:
        """Checks on blocks that are there."""
        if judge is None or self.answer.finish is Finish.REFUSED:
            return []
        return [check for check in self.task.checks if check.unit in self.blocks]

    def question(self, check: Check, judge: JudgeModel) -> str:
        text = self.blocks[check.unit]
        return judge.templates.render(
            "golden_thread_check.jinja", block=scenarios()[self.task.kind].block, heading=self.task.heading,
            unit=check.unit, item=check.item, text=text, fence=fence(self.answer.request, text))

    def measured(self, said: dict[Check, YesNo], judge: JudgeModel | None) -> Measured:
        values = basic_values(self.answer) | {"blocks": float(len(self.blocks)), "blocks_asked": float(self.task.units)}
        outcomes = [_outcome(check, said.get(check)) for check in self.task.checks]
        if judge is not None:
            values |= _counts(outcomes)
        details = {
            "blocks": sorted(self.blocks),
            "other_headings": sum(piece.number is not None for piece in self.pieces) - len(self.blocks),
            "checks": [outcome.to_json() for outcome in outcomes] if judge is not None else [],
        }
        if self.answer.finish is Finish.REFUSED:
            return Measured(answer=self.answer, group=self.task.kind, values=dict.fromkeys(values),
                            unscored=dict.fromkeys(values, "refused"))
        reasons = Counter(outcome.unscored for outcome in outcomes if outcome.unscored is not None)
        return Measured(answer=self.answer, group=self.task.kind, values=values, details=details,
                        unscored_parts={"judgements": dict(sorted(reasons.items()))} if reasons else {})


def _outcome(check: Check, answer: YesNo | None) -> Outcome:
    if answer is None:
        return Outcome(check=check, verdict=Verdict.MISSING)
    verdict = {True: Verdict.SATISFIED, False: Verdict.NOT_SATISFIED, None: Verdict.UNSCORED}[answer.yes]
    return Outcome(check=check, verdict=verdict, unscored=answer.unscored, reply=answer.reply[:_KEPT_REPLY])


def _counts(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """What the ratios are made of. A check without a verdict is in none of them but `checks_asked`."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    satisfied, missing = verdicts[Verdict.SATISFIED], verdicts[Verdict.MISSING]
    written = satisfied + verdicts[Verdict.NOT_SATISFIED]
    counts: dict[str, float | None] = {
        "satisfied": float(satisfied), "checks_written": float(written), "checks": float(written + missing),
        "checks_asked": float(written + verdicts[Verdict.UNSCORED]),
    }
    for kind in CheckKind:
        of_kind = Counter(outcome.verdict for outcome in outcomes if outcome.check.kind is kind)
        counts[f"satisfied_{kind}"] = float(of_kind[Verdict.SATISFIED])
        counts[f"checks_written_{kind}"] = float(of_kind[Verdict.SATISFIED] + of_kind[Verdict.NOT_SATISFIED])
    return counts


def _curves(rows: Sequence[Measured], *, seed: int, resamples: int) -> tuple[Curve, ...]:
    written: list[list[tuple[tuple[float, float]]]] = [[] for _ in range(FIFTHS)]
    satisfied: list[list[tuple[tuple[float, float]]]] = [[] for _ in range(FIFTHS)]
    for row in rows:
        units = row.values.get("blocks_asked")
        if units is None:
            continue
        asked = Counter(_fifth(unit, int(units)) for unit in range(1, int(units) + 1))
        there = Counter(_fifth(unit, int(units)) for unit in row.details["blocks"])
        outcomes = [Outcome.model_validate(one) for one in row.details["checks"]]
        judged = [one for one in outcomes if one.verdict is not Verdict.UNSCORED]
        checks = Counter(_fifth(one.check.unit, int(units)) for one in judged)
        true = Counter(_fifth(one.check.unit, int(units)) for one in judged if one.verdict is Verdict.SATISFIED)
        for fifth in range(FIFTHS):
            written[fifth].append(((float(there[fifth]), float(asked[fifth])),))
            if checks[fifth]:
                satisfied[fifth].append(((float(true[fifth]), float(checks[fifth])),))

    def curve(key: str, title: str, y: str, values: list[list[tuple[tuple[float, float]]]]) -> Curve:
        points = tuple(Point((fifth + 0.5) / FIFTHS, bootstrap_ratios(of_fifth, seed=seed, resamples=resamples))
                       for fifth, of_fifth in enumerate(values) if of_fifth)
        return Curve(key, title, "place of the block in the text asked for (0–1)", y, points)

    return (curve("satisfied_along", "Instructions that came true, along the text", "share of checks satisfied",
                  satisfied),
            curve("written_along", "Blocks written, along the text", "share of blocks written", written))


def _fifth(unit: int, units: int) -> int:
    """Which fifth of the text a block is in: 0 to 4."""
    return (unit - 1) * FIFTHS // units
