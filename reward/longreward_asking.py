"""Asking LongReward's judge: in which language, with which prompt, and again when the reply cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from lpo.config import SamplingConfig
from lpo.llm.asking import Dialect, NoReply, NoReplyError, ask
from lpo.llm.base import LLM, Request, Sampling
from lpo.records import fingerprint
from lpo.reward.base import Unscored
from lpo.reward.longreward_replies import Form
from lpo.reward_config import LongRewardConfig
from lpo.templates import Templates, fence

RETRY_TEMPERATURE = 0.95
"""From the second try on replies are drawn at least this freely (the paper's code: 0.95): at 0.01 the same one would
come again."""

FENCE_SEED = "longreward"
"""One for all, so that all prompts of a purpose begin alike, whatever they ask about, and a server reads their
demonstrations once. A mark that stands in a text is never used, whether or not it can be guessed."""

Language = Literal["en", "zh"]
T = TypeVar("T")

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")


class Purpose(StrEnum):
    """What the judge is asked for; names the calls in counts and logs, and the template."""

    HELPFULNESS = "helpfulness"
    LOGICALITY = "logicality"
    STATEMENTS = "statements"
    SUPPORT = "support"
    NOTES = "notes"
    COMPLETENESS = "completeness"

    def template(self, language: Language) -> str:
        """Its file."""
        return f"longreward_{self}_{language}.jinja"


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A reply that could be read.

    Args:
        value: What it says.
        tries: How often was it asked for?
    """

    value: T
    tries: int


@dataclass(frozen=True)
class Dimension:
    """What came of one of the four scorers.

    Args:
        score: On 0–10; None when there is none.
        parts: What it was made from, as JSON values.
        unscored: Why there is no score.
    """

    score: float | None
    parts: dict[str, Any]
    unscored: Unscored | None = None


def failed(error: NoReplyError, purpose: Purpose, **parts: Any) -> Dimension:
    """A dimension without a score, for a reply was missing."""
    problem = {"purpose": purpose.value, "reason": error.reason.value, "detail": error.detail, "reply": error.reply}
    return Dimension(None, {**parts, "failed": problem}, Unscored(error.reason.value))


def language_of(*texts: str | None) -> Language:
    """The language of the first text that has letters of either; English when none has.

    English when there are more than four Latin letters for each Chinese character (the paper's code).
    """
    for text in texts:
        latin, han = (len(letters.findall(text or "")) for letters in (_LATIN, _HAN))
        if latin or han:
            return "en" if latin > 4 * han else "zh"
    return "en"


class Asker:
    """Puts questions to the judge.

    A reply that is refused, empty, cut (after `ask` has given it twice the room) or not of the form that was asked for
    is asked for again, with another seed and index and at a temperature of at least `RETRY_TEMPERATURE`.

    Args:
        llm: The judge's model.
        dialect: How it is addressed.
        templates: The prompts.
        sampling: How the first try is drawn.
        config: Tries and room.
    """

    def __init__(self, llm: LLM, dialect: Dialect, templates: Templates, sampling: SamplingConfig,
                 config: LongRewardConfig) -> None:
        self._llm = llm
        self._dialect = dialect
        self._templates = templates
        self._sampling = sampling
        self._config = config

    async def ask(self, purpose: Purpose, form: Form[T], language: Language, **texts: str | list[str]) -> Reply[T]:
        """Ask until a reply can be read, `config.tries` times at most.

        Args:
            purpose: Names the template.
            form: What the reply has to be.
            language: Of instructions and demonstrations.
            texts: What stands between the marks.

        Raises:
            NoReplyError: The last reply could not be read either; or the back end refuses the request, which it would
                do again.
            BackendError: The judge cannot be used.
        """
        first = self._request(purpose, form, language, texts)
        for number in range(self._config.tries):
            try:
                reply = self._whole(first, await ask(self._llm, self._again(first, number)))
                return Reply(form.read(reply, self._dialect), number + 1)
            except NoReplyError as error:
                if error.reason is NoReply.REQUEST_REJECTED or number + 1 == self._config.tries:
                    raise
        raise AssertionError("unreachable: there is at least one try")

    def _request(self, purpose: Purpose, form: Form[T], language: Language,
                 texts: dict[str, str | list[str]]) -> Request:
        inside = [one for text in texts.values() for one in ([text] if isinstance(text, str) else text)]
        asked = self._templates.render(purpose.template(language), **texts, fence=fence(FENCE_SEED, *inside),
                                       language=language, dialect=self._dialect.value)
        room = form.room * self._config.max_tokens
        sampling = Sampling(max_tokens=room, **self._sampling.model_dump())
        if self._dialect is Dialect.TEXT:
            sampling = replace(sampling, max_tokens=min(room, form.longest), stop=form.stop[language])
        schema = form.schema if self._dialect is Dialect.JSON else None
        return self._dialect.question(asked, sampling, purpose.value, schema)

    def _whole(self, request: Request, reply: str) -> str:
        """A reply from its first word: text that is continued begins in the prompt's last line."""
        prompt = request.context.prompt
        if not isinstance(prompt, str):
            return reply
        begun = prompt.rpartition("\n")[2]
        return f"{begun} {reply.strip()}"

    def _again(self, first: Request, number: int) -> Request:
        """The same question once more: another draw, so that a journal does not answer with what could not be read."""
        if number == 0:
            return first
        temperature = max(first.sampling.temperature, RETRY_TEMPERATURE)
        return replace(first, seed=int(fingerprint([first.seed, number], 7), 16), index=number,
                       sampling=replace(first.sampling, temperature=temperature))
