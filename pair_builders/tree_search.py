"""LongDPO's search (arXiv 2502.02095) as the paper means it: walks through a tree of candidate steps, with
back-propagation, a memory of facts that vetoes contradictions, and refinement of weak steps by critiques.

A walk goes from the root to the end: at each node its layer of siblings is written and judged (once), a sibling is
selected, refined if it is weak, and its facts are remembered; at the end the last score goes back along the path.
Walks follow one another, so the tree is a function of the seed and the replies, whenever these come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from lpo.build_config import BuildConfig
from lpo.errors import RequestRejectedError
from lpo.llm.asking import NoReplyError
from lpo.llm.base import Finish
from lpo.pair_builders.base import BuilderModels, BuildEvent
from lpo.pair_builders.critique import Critic
from lpo.pair_builders.early_ends import with_early_ends
from lpo.pair_builders.growing_tree import ROOT, GrowingTree
from lpo.pair_builders.memory import FactMemory, create_memory
from lpo.pair_builders.pairs import live
from lpo.pair_builders.plan import Planner, section_words
from lpo.pair_builders.refining import Refiner
from lpo.pair_builders.selection import Selection, Standing
from lpo.pair_builders.steps import Place, StepShape, StepWriter, required_words
from lpo.records import (
    PlannedSection,
    Prompt,
    Reason,
    RefinementOutcome,
    Rollout,
    SearchNode,
    SearchPath,
    SearchTree,
)
from lpo.reward import Draft


class TreeSearch:
    """Searches for one prompt after the other.

    Args:
        config: The `build` section; its `search`, `memory`, `critique` and `boundary` are what the method reads.
        models: Who writes, judges and criticises.
        on_event: Called as the search goes on, for progress.
        method: The name trees are labelled with.
    """

    def __init__(self, config: BuildConfig, models: BuilderModels, on_event: Callable[[BuildEvent], None],
                 *, method: str = "longdpo") -> None:
        self.config = config
        self.models = models
        self.on_event = on_event
        self.method = method
        shape = StepShape(config.branching, config.step_tokens, config.boundary)
        self.writer = StepWriter(models.policy, shape, models.sampling, models.templates)
        self.selection = Selection(config.search.algorithm)
        given = config.search.exploration
        self.exploration = self.selection.default_exploration if given is None else given
        self.memory = create_memory(models.judge, config.memory, models.dialect, models.templates) \
            if config.memory.enabled else None
        critic = Critic(models.critic, config.critique, models.dialect, models.templates)
        self.refiner = Refiner(critic, self.writer, config.critique) if config.critique.enabled else None

    async def build(self, prompt: Prompt, *, seed: int) -> SearchTree:
        """One tree."""
        walk = _Search(self, prompt, seed)
        await walk.make_plan()
        for _ in range(self.config.search.paths):
            await walk.walk()
        return walk.result()

    def planner(self) -> Planner:
        """Who writes plans."""
        plan = self.config.plan
        writer = self.models.policy if plan.by == "policy" else self.models.judge
        return Planner(writer, plan, self.models.dialect, self.models.templates)


class _Search:
    """The search for one prompt."""

    def __init__(self, method: TreeSearch, prompt: Prompt, seed: int) -> None:
        self._method, self._config, self._prompt, self._seed = method, method.config, prompt, seed
        self._tree = GrowingTree()
        self._plan: tuple[PlannedSection, ...] = ()
        self._depth = self._config.depth
        self._remembered: set[str] = {ROOT.id}
        self._rollouts: dict[str, Rollout] = {}

    def result(self) -> SearchTree:
        """Everything that was seen."""
        return SearchTree(id=self._prompt.id, prompt=self._prompt, method=self._method.method, seed=self._seed,
                          nodes=self._tree.nodes, paths=tuple(self._tree.paths), plan=self._plan)

    async def make_plan(self) -> None:
        """Ask for the plan when steps are its sections; without one there is no layer at all."""
        if self._config.boundary != "sections":
            return
        try:
            self._plan = await self._method.planner().plan(self._prompt, max_sections=self._config.depth)
        except NoReplyError as error:
            self._tree.update(ROOT.id, failures={"plan": f"{error.reason}: {error.detail}".rstrip(": ")})
        self._depth = len(self._plan)

    async def walk(self) -> None:
        """From the root to an end, and back."""
        node: SearchNode | None = self._tree[ROOT.id]
        path = [ROOT.id]
        while node is not None and not self._is_end(node):
            if not self._tree.is_expanded(node.id):
                await self._expand(node)
            node = self._select(node)
            if node is not None:
                node = await self._refined(node)
                path.append(node.id)
        leaf = self._tree[path[-1]]
        rollout = await self._roll_out(leaf)
        judgement = rollout.judgement if rollout is not None else leaf.judgement
        value = judgement.overall if judgement is not None else None
        self._tree.back_propagate(SearchPath(nodes=tuple(path), value=value, rollout=rollout))
        self._method.on_event(BuildEvent.PATH)

    def _is_end(self, node: SearchNode) -> bool:
        return node.ends or node.depth >= self._depth

    # Expansion and evaluation

    async def _expand(self, parent: SearchNode) -> None:
        """Write a layer of siblings, judge them and check them against what the answer has stated."""
        place = self._place(parent)
        siblings, _ = await asyncio.gather(self._method.writer.siblings(place, self._seed), self._remember(parent))
        if self._config.early_ends:
            siblings = with_early_ends(siblings, place.prefix, self._prompt.target_words)
        self._tree.add_layer(parent.id, await self._evaluated(place, siblings))
        self._method.on_event(BuildEvent.LAYER)

    def _place(self, parent: SearchNode) -> Place:
        return Place(self._prompt, self._plan, parent, self._tree.text_to(parent.id))

    async def _evaluated(self, place: Place, nodes: Sequence[SearchNode]) -> list[SearchNode]:
        """The same nodes, those that were not set aside with judgement and vetoes. A lone candidate is judged as well:
        the search may go on from it.
        """
        judged, checked = await asyncio.gather(self._judged(place, nodes), self._checked(place, live(nodes)))
        return [node.model_copy(update={**judged.get(node.id, {}), **checked.get(node.id, {})}) for node in nodes]

    async def _judged(self, place: Place, nodes: Sequence[SearchNode]) -> dict[str, dict[str, object]]:
        candidates = live(nodes)
        drafts = [Draft(self._prompt, place.prefix, node.text, complete=node.ends,
                        required_words=self._required_words(node)) for node in candidates]
        judgements = await self._method.models.scorer.score(drafts) if drafts else []
        return {node.id: {"judgement": judgement} for node, judgement in zip(candidates, judgements, strict=True)}

    def _required_words(self, node: SearchNode) -> int | None:
        if self._plan and not node.ends:
            return section_words(self._prompt, self._plan, node.depth - 1)
        return required_words(self._prompt.target_words, node, max_depth=self._depth)

    # Memory

    async def _checked(self, place: Place, nodes: Sequence[SearchNode]) -> dict[str, dict[str, object]]:
        memory, facts = self._method.memory, self._tree.facts_to(place.parent.id)
        if memory is None or not facts:
            return {}
        checks = await asyncio.gather(*(memory.check(self._prompt, facts, place.prefix, node.text) for node in nodes))
        found: dict[str, dict[str, object]] = {}
        for node, check in zip(nodes, checks, strict=True):
            failures = {"check": check.failure} if check.failure is not None else {}
            found[node.id] = {"vetoes": check.vetoes, "failures": {**node.failures, **failures}}
            if check.vetoes:
                self._method.on_event(BuildEvent.VETO)
        return found

    async def _remember(self, node: SearchNode) -> None:
        """Extract the facts of a step that the answer goes on from, once."""
        memory: FactMemory | None = self._method.memory
        if memory is None or node.id in self._remembered:
            return
        self._remembered.add(node.id)
        before = self._tree.text_to(node.parent) if node.parent is not None else ""
        extraction = await memory.extract(self._prompt, node.id, before, node.text)
        failures = {"facts": extraction.failure} if extraction.failure is not None else {}
        self._tree.update(node.id, facts=extraction.facts, failures={**node.failures, **failures})

    # Selection

    def _select(self, parent: SearchNode) -> SearchNode | None:
        """The sibling the path goes on with; None when none has a score, or when all are vetoed and that ends it."""
        scored = [node for node in live(self._tree.children(parent.id)) if node.score is not None and not node.replaced]
        consistent = [node for node in scored if not node.vetoes]
        if consistent:
            standings = [_standing(node) for node in consistent]
            chosen = self._method.selection.choose(standings, parent_visits=self._tree[parent.id].visits,
                                                   exploration=self._method.exploration)
            return consistent[chosen]
        if not scored or self._config.memory.all_vetoed == "stop":
            return None
        return max(scored, key=lambda node: node.score or 0.0)

    # Refinement

    async def _refined(self, node: SearchNode) -> SearchNode:
        """The rewritten version of a weak step where one is accepted; else the step itself."""
        refiner = self._method.refiner
        if refiner is None or not refiner.wants(node):
            return node
        assert node.parent is not None
        place = self._place(self._tree[node.parent])
        siblings = [other for other in self._tree.children(node.parent) if other.id != node.id]
        attempt = await refiner.refine(place, node, siblings, self._seed, self._evaluated)
        if attempt.rewritten is not None:
            self._tree.add(attempt.rewritten)
        node = self._tree.update(node.id, refinement=attempt.refinement)
        accepted = attempt.refinement.outcome is RefinementOutcome.ACCEPTED
        self._method.on_event(BuildEvent.REFINED if accepted else BuildEvent.NOT_REFINED)
        return attempt.rewritten if accepted and attempt.rewritten is not None else node

    # Rollout

    async def _roll_out(self, leaf: SearchNode) -> Rollout | None:
        """The rest of the answer after a path's last step, written and judged once."""
        room = self._config.search.rollout_tokens
        if room is None or leaf.ends or leaf.parent is None:
            return None
        if leaf.id not in self._rollouts:
            self._rollouts[leaf.id] = await self._written_rest(leaf, room)
        return self._rollouts[leaf.id]

    async def _written_rest(self, leaf: SearchNode, room: int) -> Rollout:
        prefix = self._tree.text_to(leaf.id)
        try:
            rest = await self._method.writer.rest(self._prompt, prefix, leaf, room, self._seed)
        except RequestRejectedError as error:
            return Rollout(text="", ends=False, note=f"{Reason.REQUEST_REJECTED}: {error.cause}")
        if rest.finish is Finish.REFUSED:
            return Rollout(text="", ends=False, note=Finish.REFUSED.value)
        ends = rest.finish is Finish.STOP
        draft = Draft(self._prompt, prefix, rest.text, complete=ends, required_words=self._prompt.target_words)
        [judgement] = await self._method.models.scorer.score([draft])
        return Rollout(text=rest.text, ends=ends, judgement=judgement)


def _standing(node: SearchNode) -> Standing:
    assert node.score is not None
    return Standing(score=node.score, value=node.score if node.value is None else node.value, visits=node.visits,
                    prior=node.prior)
