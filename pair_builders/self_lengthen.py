"""Longer versions of an answer, by the policy itself: the extension step of Self-Lengthen (QwenLM, `collect_data`).

One attempt is a few rounds. Each asks for a longer version of the first half of the best text so far, keeps two thirds
of that as the beginning of the answer, shows the whole text and lets the policy write on from that beginning. What
comes out is adopted when it passes the checks and is longer. The attempt counts when the best text has grown enough.

The policy is the extender (Self-Lengthen trains a second adapter for it). Its turn is continued, so the back end must
continue a partial answer: any model in this process, vLLM or SGLang.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Completion, Context, Finish, Request, Sampling
from lpo.pair_builders.notes import with_notes
from lpo.pair_builders.self_lengthen_checks import RoundOutcome, fault_of, first_part, length_biased_keep
from lpo.pair_builders.steps import derive_seed
from lpo.records import Dialogue, Prompt, fingerprint
from lpo.segmentation.steps import cut_step
from lpo.templates import Templates, fence
from lpo.words import count_words
from lpo.writing_config import ExtensionConfig

__all__ = ["Extender", "Extension", "ExtensionRound", "length_biased_keep"]


@dataclass(frozen=True)
class ExtensionRound:
    """One round of lengthening.

    Args:
        attempt: From 0.
        round: Within the attempt, from 0.
        outcome: What became of it.
        words: Of the text that came out of it; None when there is none.
    """

    attempt: int
    round: int
    outcome: RoundOutcome
    words: int | None = None


@dataclass(frozen=True)
class Extension:
    """The attempt to lengthen an answer.

    Args:
        text: The longer answer; None when no attempt succeeded.
        ends: The policy ended its turn with it. True whenever there is a text: one that was cut is never adopted.
        rounds: Of all attempts, in order.
        failure: Why there is no text.
    """

    text: str | None
    ends: bool
    rounds: tuple[ExtensionRound, ...]
    failure: str | None


class Extender:
    """Lengthens answers.

    Args:
        policy: Writes.
        config: The `build.answers.extension` section.
        templates: The wording of its requests.
    """

    def __init__(self, policy: LLM, config: ExtensionConfig, templates: Templates) -> None:
        self._policy = policy
        self._config = config
        self._templates = templates
        self._sampling = Sampling(max_tokens=config.max_tokens, **config.sampling.model_dump())

    async def extend(self, prompt: Prompt, answer: str, *, seed: int) -> Extension:
        """A longer version of an answer: that of the first attempt that succeeds.

        Args:
            prompt: The task.
            answer: Whole; it is never changed.
            seed: With prompt and answer it determines every draw.

        Raises:
            BackendError: The policy cannot be used.
        """
        rounds: list[ExtensionRound] = []
        words = count_words(answer)
        most = words
        for attempt in range(self._config.tries):
            best, done = await self._attempt(prompt, answer, attempt, seed)
            rounds += done
            if count_words(best) > self._config.min_growth * words:
                return Extension(best, ends=True, rounds=tuple(rounds), failure=None)
            most = max(most, count_words(best))
        faults = dict.fromkeys(one.outcome.value for one in rounds if one.outcome is not RoundOutcome.ADOPTED)
        failure = f"{most} words of {words}" + (f" ({', '.join(faults)})" if faults else "")
        return Extension(None, ends=False, rounds=tuple(rounds), failure=failure)

    async def _attempt(self, prompt: Prompt, answer: str, attempt: int, seed: int) -> tuple[str, list[ExtensionRound]]:
        best = answer
        done: list[ExtensionRound] = []
        for number in range(self._config.rounds):
            path = (prompt.id, fingerprint(answer), attempt, number)
            text, outcome = await self._round(prompt, best, seed, path)
            words = None if text is None else count_words(text)
            if outcome is RoundOutcome.ADOPTED and text is not None:
                best = text
            done.append(ExtensionRound(attempt, number, outcome, words))
        return best, done

    async def _round(self, prompt: Prompt, best: str, seed: int, path: tuple[str | int, ...],
                     ) -> tuple[str | None, RoundOutcome]:
        """What comes out of one round, and what becomes of it."""
        try:
            half = await self._write(prompt, "extend_half.jinja", first_half(best), "",
                                     derive_seed(seed, *path, "half"))
            if half.finish is Finish.REFUSED:
                return None, RoundOutcome.REFUSED
            prefix = two_thirds(half.text)
            rest = await self._write(prompt, "extend_rest.jinja", best, prefix, derive_seed(seed, *path, "rest"))
        except RequestRejectedError:
            return None, RoundOutcome.REQUEST_REJECTED
        if rest.finish is Finish.REFUSED:
            return None, RoundOutcome.REFUSED
        text = (prefix + rest.text).strip()
        return text, self._outcome(prompt, best, text, rest.finish)

    def _outcome(self, prompt: Prompt, best: str, text: str, finish: Finish) -> RoundOutcome:
        if finish is Finish.LENGTH:
            return RoundOutcome.CUT
        if any(fence(prompt.request, draft) in text for draft in (first_half(best), best)):
            return RoundOutcome.ECHOES
        fault = fault_of(text)
        if fault is not None:
            return fault
        return RoundOutcome.ADOPTED if count_words(text) > count_words(best) else RoundOutcome.NOT_LONGER

    async def _write(self, prompt: Prompt, template: str, draft: str, prefix: str, seed: int) -> Completion:
        context = Context(self._asked(prompt, template, draft), prefix)
        return await self._policy.generate(Request(context=context, sampling=self._sampling, seed=seed))

    def _asked(self, prompt: Prompt, template: str, draft: str) -> Dialogue:
        notes = self._templates.render(template, plain=isinstance(prompt.prompt, str), draft=draft,
                                       fence=fence(prompt.request, draft))
        return with_notes(prompt.dialogue, notes)


def first_half(text: str) -> str:
    """The first half of a text's lines, rounded down, at least one; of a single line that of its sentences."""
    return first_part(text, 1, 2).rstrip() or _sentences(text, 1 / 2)


def two_thirds(text: str) -> str:
    """The first two thirds of a text's lines, with the white space behind them; of a single line of its sentences."""
    return first_part(text, 2, 3) or _sentences(text, 2 / 3)


def _sentences(text: str, share: float) -> str:
    return cut_step(text[:round(len(text) * share)], boundary="sentence").text
