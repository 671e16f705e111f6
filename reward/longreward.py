"""LongReward (arXiv 2410.21252): four scorers of an answer about a long document, by a model's judgement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lpo.config import SamplingConfig
from lpo.llm.asking import Dialect, NoReplyError
from lpo.llm.base import LLM
from lpo.records import Judgement, Prompt
from lpo.reward.base import Draft, Unscored
from lpo.reward.longreward_asking import Asker, Dimension, Language, Purpose, failed, language_of
from lpo.reward.longreward_completeness import Completeness
from lpo.reward.longreward_faithfulness import Faithfulness
from lpo.reward.longreward_replies import GRADE
from lpo.reward_config import LongRewardConfig
from lpo.templates import Templates, load_templates

NAME = "longreward"


class LongReward:
    """Helpfulness, logicality, faithfulness and completeness of answers, each on 0–10, by a judge's words.

    | dimension | the judge reads | calls |
    |---|---|---|
    | helpfulness, logicality | request, answer | 1 each |
    | faithfulness | request and answer; then each statement and the passages nearest to it | 1 + statements |
    | completeness | the request and each chunk of the document, once for all answers; then notes and answer | 1 |

    So an answer takes `statements + 4` calls, and a request about a document of L words `ceil(L / note_words)` more,
    when every reply can be read at once; all that do not wait for each other are made at the same time. Statements
    that differ only in white space are one. What cannot be read is asked for again, `config.tries` times in all; then
    the answer has no score: three dimensions are no measure beside others' four. Without a document there are two
    dimensions, for all answers to a request alike. Notes and passages are kept in the instance for later answers.

    Args:
        judge: The judge's model.
        dialect: How it is addressed.
        config: The `build.longreward` section.
        templates: The prompts; None for the shipped ones.
        sampling: How a reply is drawn at first; None for the section's (the paper's code: temperature 0.01).

    Raises:
        BackendError: sentence-transformers is not installed (`retrieval: embeddings`).
    """

    def __init__(
        self, judge: LLM, *, dialect: Dialect = Dialect.JSON, config: LongRewardConfig = LongRewardConfig(),  # noqa: B008
        templates: Templates | None = None, sampling: SamplingConfig | None = None,
    ) -> None:
        self._language = config.language
        self._asker = Asker(judge, dialect, templates or load_templates(), sampling or config.sampling, config)
        self._faithfulness = Faithfulness(self._asker, config)
        self._completeness = Completeness(self._asker, config)

    async def score(self, prompt: Prompt | str, answer: str, context: str | None = None) -> Judgement:
        """Score one answer.

        Args:
            prompt: The task, or what the user asked for.
            answer: The answer.
            context: The document it is about; default: the prompt's own. Without one there are only helpfulness and
                logicality.

        Returns:
            `scores` holds the dimensions on 0–10, `overall` a tenth of their mean, `parts` what each was made from:
            `language`, and for each dimension its `analysis` (faithfulness: `statements`, each with `support`,
            `analysis` and the passages it was checked against as spans `[start, end)` of the context; completeness:
            `notes` of each span) and `tries`. Unscored, `parts` says under each dimension that `failed` why.

        Raises:
            BackendError: The judge cannot be used.
        """
        if not answer.strip():
            return Judgement(scorer=NAME, unscored=Unscored.EMPTY)
        query = prompt if isinstance(prompt, str) else prompt.request
        if context is None and isinstance(prompt, Prompt):
            context = prompt.context
        language = language_of(query, context) if self._language == "auto" else self._language
        work = {purpose.value: self._graded(purpose, query, answer, language)
                for purpose in (Purpose.HELPFULNESS, Purpose.LOGICALITY)}
        if context and context.strip():
            work["faithfulness"] = self._faithfulness.score(query, answer, context, language)
            work["completeness"] = self._completeness.score(query, answer, context, language)
        found = await asyncio.gather(*work.values())
        return _judgement(dict(zip(work, found, strict=True)), language)

    async def _graded(self, purpose: Purpose, query: str, answer: str, language: Language) -> Dimension:
        """Helpfulness or logicality: the document is not shown."""
        try:
            reply = await self._asker.ask(purpose, GRADE, language, query=query, answer=answer)
        except NoReplyError as error:
            return failed(error, purpose)
        return Dimension(reply.value.value, {"analysis": reply.value.analysis, "tries": reply.tries})


def _judgement(dimensions: dict[str, Dimension], language: Language) -> Judgement:
    parts: dict[str, Any] = {"language": language, **{name: one.parts for name, one in dimensions.items()}}
    missing = [one.unscored for one in dimensions.values() if one.unscored is not None]
    if missing:
        return Judgement(scorer=NAME, unscored=missing[0], parts=parts)
    scores = {name: one.score for name, one in dimensions.items() if one.score is not None}
    return Judgement(scorer=NAME, overall=sum(scores.values()) / len(scores) / 10, scores=scores, parts=parts)


class LongRewardScorer:
    """LongReward of drafts, about the context of their prompt; an unfinished answer is judged as it stands.

    Args:
        longreward: Scores the answers.
    """

    name = NAME

    def __init__(self, longreward: LongReward) -> None:
        self._longreward = longreward

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts, all at once."""
        return list(await asyncio.gather(*(self._longreward.score(draft.prompt, draft.so_far) for draft in drafts)))
