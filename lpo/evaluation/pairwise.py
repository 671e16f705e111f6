"""Two models' answers to the same prompts, compared by a judge that sees both, in both orders."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from lpo.errors import RequestRejectedError, UnsoundError
from lpo.evaluation.answers import Answer
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.win_rates import LengthControlled, length_controlled
from lpo.intervals import Interval, bootstrap_mean
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask
from lpo.llm.base import Finish, ScoreRequest
from lpo.llm.json_object import NotJsonError, read_as
from lpo.llm.side_by_side import side_by_side
from lpo.records import Prompt, Record
from lpo.templates import fence

PURPOSE = "judge"
"""Name of these calls in counts and logs."""
KEPT = 300
"""Characters of a reply that are kept."""


class Verdict(StrEnum):
    """Which of two texts a judge prefers, by its place."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"

    @property
    def for_second(self) -> float:
        """The preference for the text in the second place, 0–1."""
        return {Verdict.FIRST: 0.0, Verdict.TIE: 0.5, Verdict.SECOND: 1.0}[self]


class Outcome(StrEnum):
    """How the model does against the baseline on one prompt."""

    WIN = "win"
    LOSS = "loss"
    TIE = "tie"
    """The judge finds them equal in both orders, or both texts are the same."""
    ORDER = "order"
    """The two orders do not agree: what the judge prefers goes by the place."""


class Preference(Record):
    """What a judge makes of two answers to one prompt: a line of `eval/<suite>/pairwise.jsonl`."""

    prompt_id: str
    preference: float | None = None
    """For the model, 0–1: 1 a win, 0 a loss, 0.5 a tie of either kind. Of a judge whose probabilities are read, the
    mean over both orders, whatever the outcome."""
    first_order: float | None = None
    """The preference where the baseline's text stands first."""
    second_order: float | None = None
    """The preference where the model's text stands first."""
    outcome: Outcome | None = None
    """None when unscored."""
    identical: bool = False
    """Both texts are the same: a tie, and nobody was asked."""
    unscored: str | None = None
    """Why there is no preference: `refused` (an answer), or why the judge's reply in one of the orders is none."""
    baseline_words: int
    model_words: int
    baseline_characters: int
    model_characters: int
    replies: tuple[str, ...] = ()
    """What the judge said in each order: the beginning of its reply, or what was read of its probabilities."""


@dataclass(frozen=True)
class _Order:
    """What a judge says of one order: the preference for the text in the second place, or why there is none."""

    for_second: float | None
    unscored: str | None
    reply: str


class _Reply(BaseModel):
    """Strict: no key more, none less, and no other verdict."""

    model_config = ConfigDict(strict=True, extra="forbid")

    analysis: str
    verdict: str


JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"analysis": {"type": "string"}, "verdict": {"type": "string", "enum": [*Verdict]}},
    "required": ["analysis", "verdict"],
    "additionalProperties": False,
}
"""For servers that can constrain a reply; the reply is validated here all the same."""


async def compare_answers(
    base: Sequence[Answer], trained: Sequence[Answer], prompts: Sequence[Prompt], judge: JudgeModel, *,
    on_done: Callable[[], None] = lambda: None, stop: asyncio.Event | None = None,
) -> list[Preference]:
    """Let a judge compare two models' answers, each pair in both orders: two calls a prompt.

    A judge that answers in JSON says `first`, `second` or `tie`; what differs between the orders is a tie of kind
    `order`. Of other judges the probabilities of `first` and `second` as the next word are read, and a preference is
    the share of one of them, averaged over the orders; it stays what it is when the orders point to different texts,
    and only the outcome is then `order`. Equal texts are a tie without a call, a refused answer is unscored without
    one, and so is a prompt of which one order has no verdict.

    Args:
        base: Answers of the baseline.
        trained: Answers of the model, to the same prompts, in any order.
        prompts: What was asked; those without answers are left out.
        judge: Who compares.
        on_done: Called after each prompt.
        stop: As in `side_by_side`.

    Returns:
        One row for each prompt that was answered, in the order of `prompts`.

    Raises:
        UnsoundError: The two models answered different prompts, or one that is not among `prompts`.
        BackendError: The judge cannot be used. Calls in flight are finished first.
    """
    before, after = ({answer.prompt_id: answer for answer in side} for side in (base, trained))
    odd = (before.keys() ^ after.keys()) or (before.keys() - {prompt.id for prompt in prompts})
    if odd:
        raise UnsoundError(f"the answers to compare are not to the same prompts ({len(odd)} stand on one side only)",
                           where=f"prompt {sorted(odd)[0]!r}", mend="evaluate both models on the same prompts again")

    async def compare(prompt: Prompt) -> Preference:
        row = await _compare(prompt.request, before[prompt.id], after[prompt.id], judge, stop)
        on_done()
        return row

    return await side_by_side([prompt for prompt in prompts if prompt.id in before], compare,
                              at_once=max(1, judge.at_once // 2), stop=stop)


async def _compare(request: str, base: Answer, trained: Answer, judge: JudgeModel,
                   stop: asyncio.Event | None) -> Preference:
    empty = Preference(prompt_id=base.prompt_id, baseline_words=base.words, model_words=trained.words,
                       baseline_characters=len(base.text), model_characters=len(trained.text))
    if Finish.REFUSED in (base.finish, trained.finish):
        return empty.model_copy(update={"unscored": NoReply.REFUSED.value})
    if base.text == trained.text:
        return empty.model_copy(update={"preference": 0.5, "first_order": 0.5, "second_order": 0.5,
                                        "outcome": Outcome.TIE, "identical": True})

    async def in_order(texts: tuple[str, str]) -> _Order:
        return await _judge(request, *texts, judge)

    first, second = await side_by_side([(base.text, trained.text), (trained.text, base.text)], in_order, at_once=2,
                                       stop=stop)
    first_order = first.for_second
    second_order = None if second.for_second is None else 1 - second.for_second
    row = empty.model_copy(update={"first_order": first_order, "second_order": second_order,
                                   "replies": (first.reply, second.reply)})
    if first_order is None or second_order is None:
        return row.model_copy(update={"unscored": first.unscored or second.unscored})
    outcome = _outcome(first_order, second_order)
    hard = judge.dialect is Dialect.JSON and outcome is Outcome.ORDER
    return row.model_copy(update={"outcome": outcome,
                                  "preference": 0.5 if hard else (first_order + second_order) / 2})


def _outcome(first_order: float, second_order: float) -> Outcome:
    if first_order == second_order == 0.5:
        return Outcome.TIE
    if min(first_order, second_order) > 0.5:
        return Outcome.WIN
    return Outcome.LOSS if max(first_order, second_order) < 0.5 else Outcome.ORDER


async def _judge(request: str, first: str, second: str, judge: JudgeModel) -> _Order:
    asked = judge.templates.render(
        "pairwise_json.jinja" if judge.dialect is Dialect.JSON else "pairwise_text.jinja", request=request,
        first=first, second=second, fence=fence(request, request, first, second),
        **({} if judge.dialect is Dialect.JSON else {"dialect": judge.dialect.value}))
    try:
        return await (_written(judge, asked) if judge.dialect is Dialect.JSON else _likelier(judge, asked))
    except NoReplyError as error:
        return _Order(None, error.reason.value, (error.reply or error.detail)[:KEPT])


async def _written(judge: JudgeModel, asked: str) -> _Order:
    reply = await ask(judge.llm, judge.dialect.question(asked, judge.drawing, PURPOSE, JSON_SCHEMA))
    try:
        verdict = Verdict(read_as(reply, _Reply)[0].verdict)
    except (NotJsonError, ValueError) as error:
        raise NoReplyError(NoReply.UNPARSABLE, str(error), reply) from None
    return _Order(verdict.for_second, None, reply[:KEPT])


async def _likelier(judge: JudgeModel, asked: str) -> _Order:
    labels = tuple(f"{judge.dialect.lead}{label}" for label in (Verdict.FIRST, Verdict.SECOND))
    try:
        found = await judge.llm.logprobs(ScoreRequest((judge.dialect.context(asked),), labels, PURPOSE))
    except RequestRejectedError as error:
        raise NoReplyError(NoReply.REQUEST_REJECTED, error.cause) from None
    first, second = found.total(0, 0), found.total(0, 1)
    reply = f"log-probabilities: first {first:.3f}, second {second:.3f}"
    top = max(first, second)
    if math.isnan(first) or math.isnan(second) or not math.isfinite(top):
        return _Order(None, NoReply.UNPARSABLE.value, reply)
    shares = math.exp(first - top), math.exp(second - top)
    return _Order(shares[1] / sum(shares), None, reply)


@dataclass(frozen=True)
class PairwiseScores:
    """How a model does against a baseline in a judge's eyes.

    Args:
        baseline: Name of the baseline.
        model: Name of the model whose rate it is.
        n_prompts: How many prompts were answered by both.
        win_rate: Mean preference for the model, 0–100; a tie is half a win.
        wins: Prompts where both orders prefer the model.
        losses: Prompts where both prefer the baseline.
        ties: Prompts where the judge finds both equal; equal texts too.
        identical: How many of the ties are equal texts.
        order_ties: Prompts where the orders do not agree.
        unscored: Reason -> how many prompts.
        position_bias: Share of the verdicts that go to the first place, 0–1: 0.5 is none. Equal texts, of which nobody
            was asked, are left out.
        length_difference: Characters of the model's text minus the baseline's.
        lc_win_rate: The rate with length taken out, 0–100 (see `length_controlled`); None when it was not asked for, or
            on fewer than 2 prompts.
        length_effect: What length does in the judge's eyes, phi of `LengthControlled`: above 0 it likes length.
        notes: What a reader must know.
    """

    baseline: str
    model: str
    n_prompts: int
    win_rate: Interval
    wins: int
    losses: int
    ties: int
    identical: int
    order_ties: int
    unscored: Mapping[str, int]
    position_bias: Interval
    length_difference: Interval
    lc_win_rate: Interval | None
    length_effect: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


def summarise_pairwise(rows: Sequence[Preference], *, baseline: str, model: str, length_control: bool, seed: int,
                       resamples: int) -> PairwiseScores:
    """Win-rates of a model against a baseline, with 95 % intervals over prompts.

    Args:
        rows: As `compare_answers` gives them.
        baseline: Name of the baseline.
        model: Name of the model.
        length_control: Also take length out (see `length_controlled`).
        seed: Of the resampling.
        resamples: Behind each interval.
    """
    scored = [(row, row.preference) for row in rows if row.preference is not None]
    outcomes = Counter(row.outcome for row in rows)
    differences = [float(row.model_characters - row.baseline_characters) for row, _ in scored]
    controlled = length_controlled([preference for _, preference in scored], differences, seed=seed,
                                   resamples=resamples) if length_control else None
    bias = bootstrap_mean([None if row.unscored else _share_of_first(row) for row in rows if not row.identical],
                          seed=seed, resamples=resamples)
    return PairwiseScores(
        baseline=baseline, model=model, n_prompts=len(rows),
        win_rate=bootstrap_mean([None if row.preference is None else 100 * row.preference for row in rows],
                                seed=seed, resamples=resamples),
        wins=outcomes[Outcome.WIN], losses=outcomes[Outcome.LOSS], ties=outcomes[Outcome.TIE],
        identical=sum(row.identical for row in rows), order_ties=outcomes[Outcome.ORDER],
        unscored=dict(sorted(Counter(row.unscored for row in rows if row.unscored is not None).items())),
        position_bias=bias,
        length_difference=bootstrap_mean(differences, seed=seed, resamples=resamples),
        lc_win_rate=None if controlled is None else controlled.win_rate,
        length_effect=None if controlled is None else controlled.phi,
        notes=tuple(_notes(len(scored), outcomes[Outcome.ORDER], bias, controlled)),
    )


def _share_of_first(row: Preference) -> float | None:
    """How much of both verdicts goes to the text in the first place."""
    if row.first_order is None or row.second_order is None:
        return None
    return ((1 - row.first_order) + row.second_order) / 2


def _notes(scored: int, order_ties: int, bias: Interval, controlled: LengthControlled | None) -> list[str]:
    notes: list[str] = []
    if bias.low is not None and bias.high is not None and not bias.low <= 0.5 <= bias.high:
        place = "first" if bias.low > 0.5 else "second"
        notes.append(f"the judge prefers whatever stands {place}; both orders are averaged, which takes that out of "
                     "the mean and leaves less to tell the models apart")
    if scored and 2 * order_ties > scored:
        notes.append(f"in {order_ties} of {scored} comparisons the judge's preference turns with the order of the "
                     "texts: this judge can hardly tell the models apart")
    return notes + (list(controlled.notes) if controlled is not None else [])
