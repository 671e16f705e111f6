"""Refinement of weak steps: a critic compares one with better siblings, the policy writes it anew, the judge decides.

The suggestions are part of that one request. The prompt of a pair, and every later request, is the task itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from lpo.build_config import CritiqueConfig
from lpo.pair_builders.critique import Critic, comparisons
from lpo.pair_builders.pairs import live, normalised
from lpo.pair_builders.steps import Place, StepWriter
from lpo.records import Reason, Refinement, RefinementOutcome, SearchNode

Evaluate = Callable[[Place, Sequence[SearchNode]], Awaitable[list[SearchNode]]]


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt.

    Args:
        refinement: For the step's record.
        rewritten: The new sibling, evaluated; one that was not accepted is set aside by its note.
    """

    refinement: Refinement
    rewritten: SearchNode | None = None


class Refiner:
    """Refines steps whose grade is below `eta`.

    Args:
        critic: Writes critiques.
        writer: Asks the policy.
        config: The `critique` section.
    """

    def __init__(self, critic: Critic, writer: StepWriter, config: CritiqueConfig) -> None:
        self._critic, self._writer, self._config = critic, writer, config

    def wants(self, step: SearchNode) -> bool:
        """Is the step weak, and was nothing tried on it yet? A rewritten step is not rewritten again."""
        if step.score is None or step.refinement is not None or step.refines is not None:
            return False
        return 1 + 4 * step.score < self._config.eta

    async def refine(self, place: Place, step: SearchNode, siblings: Sequence[SearchNode], seed: int,
                     evaluate: Evaluate) -> Attempt:
        """Try it.

        Args:
            place: Where the step stands.
            step: The weak step.
            siblings: Its siblings, all of them.
            seed: Of the run.
            evaluate: Judges nodes at a place and checks them for contradictions.
        """
        consistent = [node for node in live(siblings) if not node.vetoes and node.refines is None]
        compared = comparisons(step, consistent)
        if not compared:
            return Attempt(Refinement(outcome=RefinementOutcome.NO_BETTER_SIBLING))
        review = await self._critic.review(place.prompt, place.prefix, step, compared)
        outcome, node = RefinementOutcome.NO_CRITIQUE, None
        if any(critique.used for critique in review.critiques):
            task = place.prompt.model_copy(update={"prompt": self._writer.prompt(place)})
            asked = self._critic.rewriting_prompt(task, review.critiques)
            node = await self._writer.rewritten(place, step, asked, self._config.sampling, seed)
            outcome, node = await self._decided(place, step, siblings, node, evaluate)
        return Attempt(Refinement(outcome=outcome, critiques=review.critiques, failed=review.failed,
                                  node=node.id if node is not None else None), node)

    async def _decided(self, place: Place, step: SearchNode, siblings: Sequence[SearchNode], node: SearchNode,
                       evaluate: Evaluate) -> tuple[RefinementOutcome, SearchNode]:
        """Accept the rewritten step, or set it aside."""
        if node.note is not None:
            return RefinementOutcome.REQUEST_REJECTED, node
        known = {normalised(other.text) for other in (step, *siblings)}
        if not node.text.strip() or normalised(node.text) in known:
            return RefinementOutcome.EQUAL, node.model_copy(update={"note": Reason.EQUAL_TEXTS.value})
        [node] = await evaluate(place, [node])
        outcome = self._verdict(step, node)
        if outcome is not RefinementOutcome.ACCEPTED:
            node = node.model_copy(update={"note": f"rewritten, {outcome}"})
        return outcome, node

    def _verdict(self, step: SearchNode, node: SearchNode) -> RefinementOutcome:
        if node.score is None or step.score is None:
            return RefinementOutcome.UNSCORED
        if node.vetoes:
            return RefinementOutcome.VETOED
        if self._config.accept == "if_better" and node.score <= step.score:
            return RefinementOutcome.NOT_BETTER
        return RefinementOutcome.ACCEPTED
