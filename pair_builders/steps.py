"""Writing candidate steps: what the policy is asked, where a step ends, and what is kept of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lpo.config_base import SamplingConfig
from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Completion, Context, Finish, Request, Sampling
from lpo.pair_builders.pairs import live, set_aside
from lpo.pair_builders.plan import section_prompt
from lpo.records import Dialogue, Origin, PlannedSection, Prompt, Reason, SearchNode, fingerprint
from lpo.segmentation.steps import cut_step
from lpo.templates import Templates

SECTION_BREAK = "\n\n"
"""What stands between the sections of an answer that is written by a plan."""


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed for one draw: a hash of the run's seed and of what the draw is for, whatever is drawn before or beside it.

    Returns:
        0 to 2**31 - 1, which every back end takes.
    """
    return int(fingerprint([seed, *path], 8), 16) & 0x7FFFFFFF


@dataclass(frozen=True)
class StepShape:
    """How many candidates a layer has, and how long they may be.

    Args:
        candidates: Of a layer; at least 1.
        tokens: At most this many are sampled for one.
        boundary: Where one that ran to its budget is cut (`build.boundary`); `tokens` leaves it as it is.
    """

    candidates: int
    tokens: int
    boundary: Literal["sentence", "tokens", "sections"]


@dataclass(frozen=True)
class Place:
    """Where a step is to be written.

    Args:
        prompt: The task.
        plan: The sections steps are; empty when there is no plan.
        parent: The step before it.
        prefix: The answer so far.
    """

    prompt: Prompt
    plan: tuple[PlannedSection, ...]
    parent: SearchNode
    prefix: str

    @property
    def is_last_section(self) -> bool:
        """Does the plan end with this step? Without a plan, no step is a section."""
        return bool(self.plan) and self.parent.depth + 1 >= len(self.plan)


class StepWriter:
    """Asks the policy for steps.

    Args:
        policy: The language model.
        shape: How many at once, and how long.
        sampling: How candidates are drawn.
        templates: The wording of a request for a planned section.
    """

    def __init__(self, policy: LLM, shape: StepShape, sampling: SamplingConfig, templates: Templates) -> None:
        self._policy = policy
        self._shape = shape
        self._sampling = Sampling(max_tokens=shape.tokens, **sampling.model_dump())
        self._templates = templates

    async def siblings(self, place: Place, seed: int) -> list[SearchNode]:
        """The candidates of a layer: K requests at once, each with a seed of its own; empty ones and repetitions set
        aside.
        """
        asked = self.prompt(place)
        count = self._shape.candidates
        nodes = await asyncio.gather(*(
            self._write(place, f"{place.parent.id}.{index}", Request(
                context=Context(asked, place.prefix), sampling=self._sampling, index=index, siblings=count,
                seed=derive_seed(seed, place.prompt.id, place.parent.id, index),
            )) for index in range(count)
        ))
        return with_priors(set_aside(nodes))

    async def rewritten(self, place: Place, step: SearchNode, asked: Dialogue, sampling: SamplingConfig,
                        seed: int) -> SearchNode:
        """A step written anew after another prompt, with suggestions, say; as a sibling of the first one."""
        request = Request(
            context=Context(asked, place.prefix),
            sampling=Sampling(max_tokens=self._shape.tokens, **sampling.model_dump()),
            seed=derive_seed(seed, place.prompt.id, step.id, "rewrite"),
        )
        node = await self._write(place, f"{step.id}r", request)
        return node.model_copy(update={"refines": step.id, "origin": Origin.REWRITTEN})

    async def rest(self, prompt: Prompt, prefix: str, leaf: SearchNode, max_tokens: int, seed: int) -> Completion:
        """The rest of an answer in one go.

        Raises:
            RequestRejectedError: The back end refuses it.
        """
        return await self._policy.generate(Request(
            context=Context(prompt.dialogue, prefix), sampling=replace(self._sampling, max_tokens=max_tokens),
            seed=derive_seed(seed, prompt.id, leaf.id, "rollout"),
        ))

    def prompt(self, place: Place) -> Dialogue:
        """What the policy is asked: the task itself, or for one section of its plan."""
        if not place.plan:
            return place.prompt.dialogue
        return section_prompt(place.prompt, place.plan, place.parent.depth, self._templates)

    async def _write(self, place: Place, node_id: str, request: Request) -> SearchNode:
        node = SearchNode(id=node_id, parent=place.parent.id, depth=place.parent.depth + 1, text="")
        try:
            completion = await self._policy.generate(request)
        except RequestRejectedError as error:
            return node.model_copy(update={"note": f"{Reason.REQUEST_REJECTED}: {error.cause}"})
        return node.model_copy(update=self._written(place, completion))

    def _written(self, place: Place, completion: Completion) -> dict[str, object]:
        """What a completion says of its node; its tokens are all that were sampled, before the cut."""
        logprobs = completion.logprobs
        stopped = completion.finish is Finish.STOP
        return {
            "text": self._kept(place, completion),
            "ends": stopped and (place.is_last_section or not place.plan),
            # Not the usage: a reply from the journal took no tokens, and a resumed tree must be the same tree.
            "tokens": None if logprobs is None else len(logprobs),
            "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
            "note": Finish.REFUSED.value if completion.finish is Finish.REFUSED else None,
        }

    def _kept(self, place: Place, completion: Completion) -> str:
        text = completion.text
        if completion.finish is Finish.LENGTH:
            boundary = "tokens" if self._shape.boundary == "tokens" else "sentence"
            text = cut_step(text, boundary=boundary, prefix=place.prefix).text
        elif place.plan and not place.is_last_section and text.strip():
            text = text.rstrip() + SECTION_BREAK
        return text


def with_priors(nodes: Sequence[SearchNode]) -> list[SearchNode]:
    """The siblings with their priors: exp(mean log-prob), normalised over those that were not set aside; none when one
    of them has no log-probabilities.
    """
    candidates = live(nodes)
    logprobs = [node.mean_logprob for node in candidates]
    if not candidates or any(value is None for value in logprobs):
        return list(nodes)
    weights = {node.id: math.exp(value) for node, value in zip(candidates, logprobs, strict=True) if value is not None}
    total = sum(weights.values())
    if not total > 0:
        return list(nodes)
    return [node.model_copy(update={"prior": weights[node.id] / total}) if node.id in weights else node
            for node in nodes]


def required_words(target: int | None, node: SearchNode, *, max_depth: int) -> int | None:
    """Words that an answer should have after a step.

    The whole target when the answer ends there; else the share of the layers that are written (a step has the same
    token budget in every layer). LongDPO's code compares the unfinished text with the whole target, which punishes
    every early step alike.

    Args:
        target: Words the prompt asks for; None if it asks for no length.
        node: The step.
        max_depth: Layers a tree may have.
    """
    if target is None or node.ends:
        return target
    return max(1, round(target * min(1.0, node.depth / max_depth)))
