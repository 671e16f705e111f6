"""AgentWrite (LongWriter, arXiv 2408.07055, section 3): an answer written by a plan, section by section.

The plan gives each section its point and its budget of words. Then the policy writes one section after the other, each
time with the request, the whole plan and everything written so far in sight; or all at once (`parallel`), without.

A model that is spoken to gets each section as a message of its own, the text so far between fences, as in the paper:
every chat server takes that. A base model (`Dialect.TEXT`), and one whose prompt is plain text, continues the answer
itself, so its back end must continue a partial answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lpo.build_config import BuildConfig
from lpo.errors import RequestRejectedError
from lpo.llm.asking import Dialect, NoReply, NoReplyError, without_thinking
from lpo.llm.base import Completion, Context, Finish, Request, Sampling
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.pair_builders.growing_tree import ROOT
from lpo.pair_builders.notes import with_notes
from lpo.pair_builders.plan import Planner, given_plan, section_notes, section_rows, unit_of
from lpo.pair_builders.requested_length import with_length
from lpo.pair_builders.section_text import is_refusal, lists_titles, repeats_a_line, without_label
from lpo.pair_builders.steps import SECTION_BREAK, derive_seed
from lpo.records import Origin, PlannedSection, Prompt, Reason, SearchNode, SearchTree
from lpo.segmentation.steps import cut_step
from lpo.templates import fence
from lpo.writing_config import AgentWriteConfig

ATTEMPTS = 2
"""How often a section is asked for, at most."""


class SectionFault(StrEnum):
    """Why a section is missing."""

    EMPTY = "empty"
    REFUSED = "refused"
    ECHOES = "echoes"
    """It repeats a line of its instructions: of the plan, say, or the mark around the text so far."""
    REQUEST_REJECTED = "request_rejected"


def check_given_plan(prompt: Prompt, settings: AgentWriteConfig) -> None:
    """Read the plan that a prompt brings along, if it does.

    Raises:
        DataError: It cannot be used.
    """
    given_plan(with_length(prompt), max_sections=settings.max_sections, tolerance=_tolerance(settings))


def _tolerance(settings: AgentWriteConfig) -> float:
    return math.inf if settings.tolerance is None else settings.tolerance


@dataclass(frozen=True)
class _Task:
    """A section to be written.

    Args:
        prompt: The task, with the length it asks for.
        plan: All sections.
        index: Which one, from 0.
        before: What is written so far; empty when all are written at once.
        node: Its node, without a text.
    """

    prompt: Prompt
    plan: tuple[PlannedSection, ...]
    index: int
    before: str
    node: SearchNode

    @property
    def is_last(self) -> bool:
        return self.index + 1 == len(self.plan)


class AgentWrite:
    """Writes answers by a plan: a tree of a single branch, whose steps are the sections.

    Args:
        config: The `build` section; its `plan` and `agent_write` are read.
        models: The policy writes the sections, and the plan unless the judge does (`plan.by`).
        on_event: Called once for every prompt (`LAYER`), for progress.
    """

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None]) -> None:
        self._settings, self._models, self._on_event = config.agent_write, models, on_event
        self._planner = Planner(models.policy if config.plan.by == "policy" else models.judge, config.plan,
                                models.dialect, models.templates)
        self._sampling = Sampling(max_tokens=self._settings.section_tokens, **models.sampling.model_dump())

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One answer: nodes `0`, `0.0`, `0.0.0`, ... whose texts joined are the answer.

        A plan that cannot be had is the root's failure `plan`; a section that cannot be had is its node's failure
        `section`, and none is written after it. A section that ran out of tokens is cut at a sentence end (failure
        `end`). No call is made for a prompt that asks for no length, where only those that do are kept.
        """
        task = with_length(prompt)
        root, plan, nodes = ROOT, (), []
        if task.target_words is None and self._settings.explicit_length:
            root = root.model_copy(update={"note": Reason.NO_LENGTH.value})
        else:
            try:
                plan = await self._planner.plan(task, max_sections=self._settings.max_sections,
                                                tolerance=_tolerance(self._settings))
                nodes = await self._sections(task, plan, seed)
            except NoReplyError as error:
                failure = f"{error.reason}: {error.detail}".rstrip(": ")
                root = root.model_copy(update={"failures": {"plan": failure}})
        self._on_event(BuildEvent.LAYER)
        return SearchTree(id=prompt.id, prompt=prompt, method="agent_write", seed=seed, nodes=(root, *nodes), plan=plan)

    async def _sections(self, prompt: Prompt, plan: tuple[PlannedSection, ...], seed: int) -> list[SearchNode]:
        empty = [SearchNode(id="0" + ".0" * depth, parent="0" + ".0" * (depth - 1), depth=depth, text="",
                            origin=Origin.PLANNED) for depth in range(1, len(plan) + 1)]
        if self._settings.mode == "parallel":
            return list(await asyncio.gather(*(
                self._section(_Task(prompt, plan, index, "", node), seed) for index, node in enumerate(empty))))
        nodes: list[SearchNode] = []
        for index, node in enumerate(empty):
            before = "".join(node.text for node in nodes)
            nodes.append(await self._section(_Task(prompt, plan, index, before, node), seed))
            if "section" in nodes[-1].failures:
                break
        return nodes

    async def _section(self, task: _Task, seed: int) -> SearchNode:
        """A section; a reply that is none is asked for once more, with another seed."""
        fault, detail = SectionFault.EMPTY, ""
        for attempt in range(ATTEMPTS):
            try:
                completion = await self._models.policy.generate(Request(
                    context=self._context(task), sampling=self._sampling, index=attempt,
                    seed=derive_seed(seed, task.prompt.id, task.node.id, attempt),
                ))
            except RequestRejectedError as error:
                fault, detail = SectionFault.REQUEST_REJECTED, f": {error.cause}"
                break
            read = self._read(task, completion)
            if isinstance(read, SearchNode):
                return read
            fault = read
        return task.node.model_copy(update={"note": fault.value, "failures": {"section": f"{fault}{detail}"}})

    def _continues(self, prompt: Prompt) -> bool:
        """Does the policy continue the answer itself, instead of being asked for each section in a message?"""
        return self._models.dialect is Dialect.TEXT or isinstance(prompt.prompt, str)

    def _context(self, task: _Task) -> Context:
        prefix = task.before if self._continues(task.prompt) else ""
        return Context(with_notes(task.prompt.dialogue, self._notes(task, task.before.strip())), prefix)

    def _notes(self, task: _Task, before: str) -> str:
        """What is said beside the prompt; `before` is the text so far, for a model that does not continue it."""
        templates = self._models.templates
        if self._continues(task.prompt):
            return section_notes(task.prompt, task.plan, task.index, templates, plain=True)
        return templates.render("agent_write.jinja", plan=section_rows(task.prompt, task.plan), index=task.index,
                                unit=unit_of(task.prompt), before=before,
                                fence=fence(task.prompt.request, before))

    def _read(self, task: _Task, completion: Completion) -> SearchNode | SectionFault:
        """The node of a section, or what is wrong with the reply."""
        text, failures = completion.text, {}
        if "<think>" in text:
            try:
                text = without_thinking(text)
            except NoReplyError:
                return SectionFault.EMPTY
        if completion.finish is Finish.REFUSED or is_refusal(text):
            return SectionFault.REFUSED
        if completion.finish is Finish.LENGTH:
            text = cut_step(text, boundary="sentence", prefix=task.before).text
            failures = {"end": f"{NoReply.CUT}: {self._sampling.max_tokens} tokens"}
        known = f"{task.prompt.request}\n{task.plan[task.index].title}"
        text = without_label(text.strip(), task.index + 1, known=known)
        if not text:
            return SectionFault.EMPTY
        titles = [section.title for section in task.plan]
        notes = self._notes(task, task.before.strip())
        if lists_titles(text, titles) or repeats_a_line(text, notes, known="\n".join((known, task.before, *titles))):
            return SectionFault.ECHOES
        logprobs = completion.logprobs
        return task.node.model_copy(update={
            "text": text + ("" if task.is_last else SECTION_BREAK), "ends": task.is_last, "failures": failures,
            "tokens": None if logprobs is None else len(logprobs),
            "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
        })
