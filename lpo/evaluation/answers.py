"""Answers of a model to held-out prompts, with the scores that need no other model and those of a judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lpo.errors import RequestRejectedError
from lpo.eval_config import EvalConfig
from lpo.llm.base import LLM, Context, Finish, Request, Sampling
from lpo.llm.side_by_side import side_by_side
from lpo.records import Judgement, Prompt, Record, fingerprint
from lpo.reward import Draft, Scorer, length_score, repeated_ngram_share
from lpo.words import count_words

ModelName = Literal["base", "trained", "model"]
"""`base` and `trained` of a run; `model` where one model alone is measured."""

AT_ONCE = 64
"""Texts that are worked on at the same time, where nobody says otherwise."""


class AnswerScores(Record):
    """Scores of one answer; None where there is none."""

    length: float | None = None
    """S_l, 0–100; None when the prompt asks for no length."""
    repetition: float | None = None
    """Share of 4-grams that stood before in the same text, 0–1."""
    judge: float | None = None
    """Overall score of the judge, 0–1."""


class Answer(Record):
    """What one model wrote for one held-out prompt: a line of `eval/answers.<model>.jsonl`."""

    model: ModelName
    prompt_id: str
    request: str
    """The writing task as text."""
    kind: str | None = None
    target_words: int | None = None
    text: str
    words: int
    finish: Finish
    """`stop`: ended by itself; `length`: cut at the token limit; `refused`: there is no answer."""
    note: str | None = None
    """Why there is no answer."""
    scores: AnswerScores = AnswerScores()
    judgement: Judgement | None = None


def select_prompts(held_out: Sequence[Prompt], config: EvalConfig) -> tuple[Prompt, ...]:
    """The held-out prompts that are evaluated: those within `eval.max_words`, the first `eval.limit` of them."""
    fitting = [prompt for prompt in held_out if config.max_words is None
               or (prompt.target_words is not None and prompt.target_words <= config.max_words)]
    return tuple(fitting[: config.limit])


def decoding(config: EvalConfig, *, seed: int) -> dict[str, Any]:
    """How answers are drawn, as it is stored beside the scores."""
    return {"max_tokens": config.max_tokens, **config.sampling.model_dump(mode="json"), "seed": seed}


async def generate_answers(
    llm: LLM, prompts: Sequence[Prompt], config: EvalConfig, *, seed: int, model_name: ModelName,
    on_done: Callable[[], None] = lambda: None, at_once: int = AT_ONCE, stop: asyncio.Event | None = None,
) -> list[Answer]:
    """Let a model answer prompts, many at once (the back end batches), and score what needs no judge.

    Each prompt has its own seed, made from the run's seed and the prompt's id: base and trained model draw with the
    same seeds, and no answer depends on which other prompts are asked.

    Args:
        llm: The model.
        prompts: The prompts, as `select_prompts` gives them.
        config: Sampling and room for an answer.
        seed: The run's seed.
        model_name: Which model this is, for the records.
        on_done: Called after each answer.
        at_once: Prompts asked at the same time.
        stop: As in `side_by_side`.

    Returns:
        One answer for each prompt, in order. A prompt that the server refuses has an answer without text or scores.

    Raises:
        BackendError: The model cannot be used. Calls in flight are finished first, so that none is lost.
    """
    sampling = Sampling(max_tokens=config.max_tokens, **config.sampling.model_dump())

    async def answer(prompt: Prompt) -> Answer:
        request = Request(Context(prompt.dialogue), sampling, seed=_request_seed(seed, prompt), purpose="policy")
        try:
            completion = await llm.generate(request)
        except RequestRejectedError as error:
            result = score_text(prompt, "", Finish.REFUSED, model_name=model_name, note=error.cause)
        else:
            note = "the server filtered the reply" if completion.finish is Finish.REFUSED else None
            result = score_text(prompt, completion.text, completion.finish, model_name=model_name, note=note)
        on_done()
        return result

    return await side_by_side(prompts, answer, at_once=at_once, stop=stop)


def score_text(
    prompt: Prompt, text: str, finish: Finish, *, model_name: ModelName, note: str | None = None
) -> Answer:
    """A text as an answer, with its words, S_l (LongBench-Write, arXiv 2408.07055) and repetition."""
    words = count_words(text)
    scores = AnswerScores()
    if finish is not Finish.REFUSED:
        target = prompt.target_words
        scores = AnswerScores(
            length=None if target is None else length_score(required=target, written=words),
            repetition=repeated_ngram_share(text),
        )
    kind = prompt.meta.get("kind")
    return Answer(
        model=model_name, prompt_id=prompt.id, request=prompt.request, kind=None if kind is None else str(kind),
        target_words=prompt.target_words, text=text, words=words, finish=finish, note=note, scores=scores,
    )


async def judge_answers(
    answers: Sequence[Answer], prompts: Sequence[Prompt], judge: Scorer, *, on_done: Callable[[], None] = lambda: None,
    at_once: int = AT_ONCE, stop: asyncio.Event | None = None,
) -> list[Answer]:
    """Let a judge score answers. An answer that was refused is unscored without asking.

    Args:
        answers: Answers to these prompts.
        prompts: The prompts, in any order.
        judge: Scores drafts on 0–1.
        on_done: Called after each judgement.
        at_once: Answers judged at the same time.
        stop: As in `side_by_side`.

    Returns:
        The answers with their judgements, in order.

    Raises:
        BackendError: The judge cannot be used. Calls in flight are finished first.
    """
    by_id = {prompt.id: prompt for prompt in prompts}

    async def judged(answer: Answer) -> Answer:
        if answer.finish is Finish.REFUSED:
            judgement = Judgement(scorer=judge.name, unscored="refused")
        else:
            draft = Draft(prompt=by_id[answer.prompt_id], prefix="", text=answer.text, complete=True,
                          required_words=answer.target_words)
            [judgement] = await judge.score([draft])
        on_done()
        scores = answer.scores.model_copy(update={"judge": judgement.overall})
        return answer.model_copy(update={"judgement": judgement, "scores": scores})

    return await side_by_side(answers, judged, at_once=at_once, stop=stop)


def _request_seed(seed: int, prompt: Prompt) -> int:
    return int(fingerprint(["eval", seed, prompt.id], 8), 16) >> 1
