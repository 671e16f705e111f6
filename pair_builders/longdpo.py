"""LongDPO's search (arXiv 2502.02095): several candidates for each step, the best of which is written on from.

One greedy path, which is what the authors' code does; one pair per layer. Where the code and the paper disagree or
lose data, this goes its own way: a failed judgement is no score (the code: 2.5), a natural last step becomes a pair
(the code: never), a layer without a real preference gives no pair (the code: a word-shuffled text), and a step is cut
at a sentence end (both: at the token budget).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpo.config import BuildConfig, SamplingConfig
from lpo.errors import RequestRejectedError
from lpo.llm.base import LLM, Completion, Context, Finish, Request, Sampling
from lpo.pair_builders.base import BuildResult
from lpo.pair_builders.pairs import LayerPair, NoPair, best_scored, choose_pair, live, set_aside
from lpo.records import (
    PairScores,
    PreferencePair,
    Prompt,
    Reason,
    RejectedRow,
    SearchNode,
    SearchTree,
    fingerprint,
)
from lpo.reward import Draft, Scorer
from lpo.segments import cut_step

METHOD = "longdpo"
ROOT = SearchNode(id="0", parent=None, depth=0, text="", role="root")


def _nothing() -> None:
    """Nobody wants to hear of finished layers."""


@dataclass(frozen=True)
class _Layer:
    """A layer after its expansion: its nodes in final form, what it gave, and where the search goes on."""

    nodes: list[SearchNode]
    outcome: PreferencePair | RejectedRow
    best: SearchNode | None


class LongDPOBuilder:
    """Grows an answer step by step and takes one pair from each step's candidates.

    Args:
        policy: Writes the candidates.
        scorer: Ranks them, each with everything before it.
        config: The `build` section.
        sampling: How candidates are drawn.
        on_layer: Called after each layer, for progress.
    """

    def __init__(
        self,
        policy: LLM,
        scorer: Scorer,
        config: BuildConfig,
        sampling: SamplingConfig,
        *,
        on_layer: Callable[[], None] = _nothing,
    ) -> None:
        self._policy = policy
        self._scorer = scorer
        self._config = config
        self._sampling = Sampling(max_tokens=config.step_tokens, **sampling.model_dump())
        self._on_layer = on_layer

    async def build(self, prompt: Prompt, *, seed: int) -> BuildResult:
        """One tree; a pair or a rejected row for each of its layers."""
        nodes = [ROOT]
        outcomes: list[PreferencePair | RejectedRow] = []
        parent: SearchNode | None = ROOT
        prefix = ""
        while parent is not None and not parent.ends and parent.depth < self._config.depth:
            layer = await self._layer(prompt, parent, prefix, seed)
            nodes += layer.nodes
            outcomes.append(layer.outcome)
            parent = layer.best
            prefix += parent.text if parent else ""
            self._on_layer()
        return BuildResult(
            trees=(SearchTree(id=prompt.id, prompt=prompt, method=METHOD, seed=seed, nodes=tuple(nodes)),),
            pairs=tuple(outcome for outcome in outcomes if isinstance(outcome, PreferencePair)),
            rejected=tuple(outcome for outcome in outcomes if isinstance(outcome, RejectedRow)),
        )

    async def _layer(self, prompt: Prompt, parent: SearchNode, prefix: str, seed: int) -> _Layer:
        nodes = set_aside(await self._expand(prompt, parent, prefix, seed))
        nodes = await self._judge(prompt, prefix, nodes)
        draw = derive_seed(seed, prompt.id, parent.id, "rejected")
        choice = choose_pair(nodes, rule=self._config.rejected, min_margin=self._config.min_margin, seed=draw)
        best = best_scored(nodes)
        if isinstance(choice, NoPair):
            return _Layer(nodes, _rejected_row(prompt, parent, choice, best), best)
        roles = {choice.chosen.id: "chosen", choice.rejected.id: "rejected"}
        nodes = [node.model_copy(update={"role": roles.get(node.id, "unused")}) for node in nodes]
        return _Layer(nodes, _pair(prompt, prefix, choice, seed), best)

    async def _expand(self, prompt: Prompt, parent: SearchNode, prefix: str, seed: int) -> list[SearchNode]:
        """The children of a node: K requests at once, each with a seed of its own."""
        return list(await asyncio.gather(
            *(self._sample(prompt, parent, prefix, seed, index) for index in range(self._config.branching))
        ))

    async def _sample(self, prompt: Prompt, parent: SearchNode, prefix: str, seed: int, index: int) -> SearchNode:
        request = Request(
            context=Context(prompt.prompt, prefix),
            sampling=self._sampling,
            seed=derive_seed(seed, prompt.id, parent.id, index),
            index=index,
        )
        node = SearchNode(id=f"{parent.id}.{index}", parent=parent.id, depth=parent.depth + 1, text="")
        try:
            completion = await self._policy.generate(request)
        except RequestRejectedError as error:
            return node.model_copy(update={"note": f"{Reason.REQUEST_REJECTED}: {error.cause}"})
        return node.model_copy(update=self._written(completion, prefix))

    def _written(self, completion: Completion, prefix: str) -> dict[str, object]:
        """What a completion says of its node; its tokens are all that were sampled, before the cut."""
        text = completion.text
        if completion.finish is Finish.LENGTH:
            text = cut_step(text, boundary=self._config.boundary, prefix=prefix).text
        logprobs = completion.logprobs
        return {
            "text": text,
            "ends": completion.finish is Finish.STOP,
            # Not the usage: a reply from the journal took no tokens, and a resumed tree must be the same tree.
            "tokens": None if logprobs is None else len(logprobs),
            "mean_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
            "note": Finish.REFUSED.value if completion.finish is Finish.REFUSED else None,
        }

    async def _judge(self, prompt: Prompt, prefix: str, nodes: Sequence[SearchNode]) -> list[SearchNode]:
        """The same nodes, those that were not set aside with their judgement. A lone candidate is judged as well: the
        search may go on from it.
        """
        candidates = live(nodes)
        drafts = layer_drafts(prompt, prefix, candidates, max_depth=self._config.depth)
        judgements = await self._scorer.score(drafts) if drafts else []
        by_id = {node.id: judgement for node, judgement in zip(candidates, judgements, strict=True)}
        return [
            node.model_copy(update={"judgement": by_id[node.id]}) if node.id in by_id else node for node in nodes
        ]


def layer_drafts(prompt: Prompt, prefix: str, nodes: Sequence[SearchNode], *, max_depth: int) -> list[Draft]:
    """What a scorer is given of a layer.

    Args:
        prompt: The tree's prompt.
        prefix: The answer before this layer.
        nodes: The candidates to be scored.
        max_depth: Layers a tree may have (`build.depth`).
    """
    return [
        Draft(prompt, prefix, node.text, complete=node.ends,
              required_words=required_words(prompt.target_words, node, max_depth=max_depth))
        for node in nodes
    ]


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


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed for one draw: a hash of the run's seed and of what the draw is for, whatever is drawn before or beside it.

    Returns:
        0 to 2**31 - 1, which every back end takes.
    """
    return int(fingerprint([seed, *path], 8), 16) & 0x7FFFFFFF


def _pair(prompt: Prompt, prefix: str, choice: LayerPair, seed: int) -> PreferencePair:
    chosen, rejected = choice.chosen, choice.rejected
    assert chosen.judgement is not None and rejected.judgement is not None
    step = chosen.depth - 1
    return PreferencePair(
        id=f"{prompt.id}/{step}",
        group=prompt.id,
        prompt=prompt.prompt,
        prefix=prefix,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_ends=chosen.ends,
        rejected_ends=rejected.ends,
        step=step,
        margin=choice.margin,
        scores=PairScores(chosen=chosen.judgement, rejected=rejected.judgement),
        method=METHOD,
        provenance={"tree": prompt.id, "chosen": chosen.id, "rejected": rejected.id, "seed": seed},
    )


def _rejected_row(prompt: Prompt, parent: SearchNode, choice: NoPair, best: SearchNode | None) -> RejectedRow:
    after = f"; continued from {best.id}" if best else "; stopped here"
    return RejectedRow(stage="build", id=f"{prompt.id}/{parent.depth}", reason=choice.reason,
                       detail=choice.detail + after)
