"""Best-of-N: whole answers to one prompt, scored together (LongReward, arXiv 2410.21252; LongWriter's DPO, arXiv
2408.07055; the outcome baseline of LongDPO). Which of them make a pair is decided afterwards (`answer_pairs`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from lpo.build_config import BuildConfig
from lpo.errors import DataError
from lpo.given_answers import ANSWERS
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.pair_builders.early_ends import with_early_ends
from lpo.pair_builders.growing_tree import ROOT
from lpo.pair_builders.pairs import live, set_aside
from lpo.pair_builders.self_lengthen import Extender, length_biased_keep
from lpo.pair_builders.steps import Place, StepShape, StepWriter, derive_seed
from lpo.records import Origin, Prompt, Reason, SearchNode, SearchTree
from lpo.reward import Draft, Scorer
from lpo.words import count_words
from lpo.writing_config import AnswersConfig


class BestOfN:
    """Samples answers and scores them: a tree of one layer.

    Args:
        config: The `build` section; its `answers` are what the method reads.
        models: Who writes and scores.
        on_event: Called as the work goes on, for progress.
    """

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None]) -> None:
        self._method = config.method
        self._writer = AnswerWriter(config.answers, models, early_ends=config.early_ends)
        self._scorer = models.scorer
        self._on_event = on_event

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One tree.

        Raises:
            DataError: The answers that the prompt brings along are no texts.
        """
        answers = await self._writer.answers(prompt, seed)
        layer = await scored_answers(self._scorer, prompt, answers)
        self._on_event(BuildEvent.LAYER)
        return SearchTree(id=prompt.id, prompt=prompt, method=self._method, seed=seed, nodes=(ROOT, *layer))


class AnswerWriter:
    """Whole answers to a prompt, as the first layer of its tree: those it brings along or else sampled ones, and longer
    versions of them where these are wanted.

    Args:
        config: The `answers` section.
        models: The policy, and how it is addressed.
        early_ends: Also give every answer ended early (`build.early_ends`).
    """

    def __init__(self, config: AnswersConfig, models: BuilderModels, *, early_ends: bool = False) -> None:
        self._early_ends = early_ends
        shape = StepShape(config.samples, config.max_tokens, "tokens")
        self._writer = StepWriter(models.policy, shape, models.sampling, models.templates)
        self._extender = None if config.extension is None else \
            Extender(models.policy, config.extension, models.templates)

    async def answers(self, prompt: Prompt, seed: int) -> list[SearchNode]:
        """The answers, not scored yet.

        Returns:
            Children of the root: the sampled or given ones in order, then their longer versions (`0.2e` is made from
            `0.2`). Those that are empty, equal an earlier one, were refused or fell to the length-biased draw are set
            aside by their note. One that was cut at its budget does not end; one that came with the prompt does.

        Raises:
            BackendError: The policy cannot be used.
            DataError: The answers that the prompt brings along are no texts.
        """
        nodes = _given(prompt)
        if nodes is None:
            nodes = await self._writer.siblings(Place(prompt, (), ROOT, ""), seed)
        if self._early_ends:
            nodes = with_early_ends(nodes, "", prompt.target_words)
        return nodes if self._extender is None else await _lengthened(self._extender, prompt, nodes, seed)


async def scored_answers(scorer: Scorer, prompt: Prompt, answers: Sequence[SearchNode]) -> list[SearchNode]:
    """The same answers, those that were not set aside with their judgements: all are scored in one call.

    Args:
        scorer: Ranks them.
        prompt: Its target is the length that they are held to.
        answers: Children of the root.
    """
    candidates = live(answers)
    drafts = [Draft(prompt, "", node.text, complete=node.ends, required_words=prompt.target_words)
              for node in candidates]
    judgements = await scorer.score(drafts) if drafts else []
    judged = {node.id: judgement for node, judgement in zip(candidates, judgements, strict=True)}
    return [node.model_copy(update={"judgement": judged[node.id]}) if node.id in judged else node for node in answers]


def answers_of(prompt: Prompt) -> tuple[str, ...] | None:
    """The answers that a prompt brings along (`lpo.given_answers`); None when it brings none.

    Raises:
        DataError: They are no list of texts.
    """
    given: Any = prompt.meta.get(ANSWERS)
    if given is None:
        return None
    if not isinstance(given, (list, tuple)) or not given or not all(
            isinstance(text, str) for text in cast("Sequence[object]", given)):
        raise DataError(f"{ANSWERS!r} must be a list of texts, at least one", where=f"prompt {prompt.id}",
                        mend=f"give the answers as texts, or leave {ANSWERS!r} out so that they are sampled")
    return tuple(cast("Sequence[str]", given))


def _given(prompt: Prompt) -> list[SearchNode] | None:
    texts = answers_of(prompt)
    if texts is None:
        return None
    return set_aside([SearchNode(id=f"{ROOT.id}.{index}", parent=ROOT.id, depth=1, text=text, ends=True,
                                 origin=Origin.GIVEN) for index, text in enumerate(texts)])


async def _lengthened(extender: Extender, prompt: Prompt, nodes: Sequence[SearchNode], seed: int) -> list[SearchNode]:
    """The answers and their longer versions. Where none came of an answer, its own node says why."""
    originals = live(nodes)
    extensions = await asyncio.gather(*(
        extender.extend(prompt, node.text, seed=derive_seed(seed, prompt.id, node.id, "extend")) for node in originals))
    failures: dict[str, str] = {}
    longer: list[SearchNode] = []
    for node, extension in zip(originals, extensions, strict=True):
        if extension.text is None:
            failures[node.id] = extension.failure or "nothing longer came"
        else:
            longer.append(SearchNode(id=f"{node.id}e", parent=ROOT.id, depth=1, text=extension.text,
                                     ends=extension.ends, origin=Origin.EXTENDED, extends=node.id))

    def draw(index: int) -> float:
        return derive_seed(seed, prompt.id, longer[index].id, "keep") / 2**31

    kept = length_biased_keep([count_words(node.text) for node in longer], seed_of=draw)
    noted = [node if keep else node.model_copy(update={"note": f"{Reason.LEFT_OUT}: the draw favours longer ones"})
             for node, keep in zip(longer, kept, strict=True)]
    told = [node.model_copy(update={"failures": {**node.failures, "extend": failures[node.id]}})
            if node.id in failures else node for node in nodes]
    return set_aside([*told, *noted])
