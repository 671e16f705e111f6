"""The `build` section: how preference pairs are made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lpo.config_base import Fraction, SamplingConfig, Section, SectionOfKinds
from lpo.reward_config import LongRewardConfig, RewardConfig, RewardModelConfig
from lpo.writing_config import AgentWriteConfig, AnswersConfig, CorrectionConfig, SegmentsConfig


class SearchConfig(SectionOfKinds):
    """How the tree is searched."""

    algorithm: Literal["ucb", "uct", "puct", "greedy"] = "ucb"
    """How a path chooses among siblings: `ucb` (the paper's formula), `uct` (Kocsis & Szepesvári), `puct` (AlphaZero,
    with priors from the candidates' log-probabilities), or `greedy`: one path along the best scores."""
    num_paths: int = Field(default=4, ge=1)
    """Walks from the root to the end, each followed by back-propagation."""
    exploration: float | None = Field(default=None, ge=0)
    """Weight of the exploration bonus, on scores of 0–1: default 0.25 for `ucb` and `uct` (1 on grades of 1–5), 1.25
    for `puct`."""
    rollout_tokens: int | None = Field(default=None, gt=0)
    """After the last layer let the policy write on to its end, within this many tokens, and back-propagate the score
    of the whole answer; null: that of the answer so far."""

    @property
    def kind(self) -> str:
        """The algorithm."""
        return f"algorithm {self.algorithm!r}"

    @property
    def meaningless(self) -> set[str]:
        """A single path has nothing to explore."""
        return {"num_paths", "exploration", "rollout_tokens"} if self.algorithm == "greedy" else set()

    @property
    def paths(self) -> int:
        """Walks of this algorithm."""
        return 1 if self.algorithm == "greedy" else self.num_paths


class PlanConfig(Section):
    """The plan whose sections are the steps (`boundary: sections`)."""

    by: Literal["policy", "judge"] = "policy"
    """Which model writes it."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for it."""


class MemoryConfig(SectionOfKinds):
    """The memory of facts: what the answer has stated, so that a candidate that contradicts it is vetoed."""

    enabled: bool = True
    """Extract facts from chosen steps and check candidates against them."""
    retrieval: Literal["bm25", "embeddings"] = "bm25"
    """Which facts are checked: the `top_k` that BM25 ranks first, or those whose embedding is near enough."""
    top_k: int = Field(default=5, gt=0)
    """Facts checked for each chunk of a candidate, at most."""
    similarity: float = Field(default=0.8, ge=-1, le=1)
    """Smallest cosine of a fact and a chunk that are checked (`embeddings`)."""
    embedder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A sentence-transformers model by name or folder (`embeddings`; extra [embed])."""
    chunk_words: int = Field(default=128, gt=0)
    """A candidate is checked in chunks of this many words (Chinese: characters)."""
    max_facts_per_step: int | None = Field(default=None, gt=0)
    """Keep at most this many facts of a step; null keeps all."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for a reply of the extractor or the checker."""
    all_vetoed: Literal["best_score", "no_pair", "stop"] = "best_score"
    """When every candidate contradicts: take the best-scored all the same, go on from it without a pair, or end the
    path there."""

    @property
    def kind(self) -> str:
        """On or off, and how facts are found."""
        return f"memory with retrieval {self.retrieval!r}" if self.enabled else "memory that is not enabled"

    @property
    def meaningless(self) -> set[str]:
        """Nothing is read when it is off; BM25 has no threshold."""
        if not self.enabled:
            return set(MemoryConfig.model_fields) - {"enabled"}
        return {"similarity", "embedder"} if self.retrieval == "bm25" else set()


class CritiqueConfig(SectionOfKinds):
    """Refinement of weak steps with the help of a critic."""

    enabled: bool = True
    """Refine steps a path goes through when their grade is below `eta`."""
    eta: float = Field(default=2.5, ge=1, le=5)
    """Refine below this mean grade (1–5; the reward of 0–1 is put on this scale)."""
    by: Literal["judge", "critic", "policy"] = "judge"
    """Who writes the critiques: the judge, the model of the section `critic`, or the policy itself (self-critique)."""
    max_suggestions: int = Field(default=3, gt=0)
    """The policy is shown this many suggestions, those with the highest confidence."""
    accept: Literal["if_better", "always"] = "if_better"
    """Take a rewritten step only if it scores higher than the first one, or always (the release)."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for one critique."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.8, top_k=50)
    """How the step is written anew."""

    @property
    def kind(self) -> str:
        """On or off."""
        return "critique" if self.enabled else "critique that is not enabled"

    @property
    def meaningless(self) -> set[str]:
        """Nothing else is read when it is off."""
        return set() if self.enabled else set(CritiqueConfig.model_fields) - {"enabled"}


class PairsConfig(SectionOfKinds):
    """Which pairs a layer of siblings gives. Pairs can be derived from stored trees again: `lpo pairs RUN --rule …`."""

    chosen: Literal["most_visited", "best_value", "best_score"] = "most_visited"
    """Which sibling is chosen: the one most paths went through (then by value, then by score), the one with the
    highest back-propagated value, or the one with the highest score of its own. Vetoed siblings never are. No path goes
    through whole answers: of these it is always the highest score."""
    rejected: Literal["random_consistent", "worst", "vetoed", "margin"] = "random_consistent"
    """Which is rejected: any sibling that scores lower and was not vetoed (the paper), the lowest-scored of these, one
    that was vetoed; `margin` takes the pairs of unvetoed siblings that lie furthest apart, whoever was chosen."""
    per_layer: int | None = Field(default=1, gt=0)
    """Pairs of a layer, at most; null: every pair that the rule allows."""
    min_margin: float = Field(default=0.01, gt=0)
    """Smallest difference of scores (0–1) that makes a pair; with `vetoed` the contradiction makes it."""
    length_penalty: float = Field(default=0.0, ge=0)
    """Length-debiased pairs: what a doubling of its words costs a candidate, in points of the score (0–1), against the
    median length of its siblings."""
    layers: Literal["all", "best_path"] = "all"
    """Layers that give pairs: every one that was expanded, or those along the most visited path."""

    @property
    def kind(self) -> str:
        """The rule."""
        return f"rule {self.rejected!r}"

    @property
    def meaningless(self) -> set[str]:
        """`margin` takes the widest pairs, whoever was chosen; with `vetoed` the contradiction counts."""
        return {"margin": {"chosen"}, "vetoed": {"min_margin"}}.get(self.rejected, set())


class MixConfig(Section):
    """General preference data, mixed in."""

    path: str
    """A .jsonl file or `hub:<dataset>[:split]` with the columns prompt, chosen, rejected."""
    ratio: float = Field(gt=0, lt=1)
    """Its share of all pairs."""


class BudgetConfig(Section):
    """What a run may spend on model calls, all its starts together. Raise it and run the same command again."""

    calls: int | None = Field(default=None, gt=0)
    """Calls that reach a model."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens, read and written."""
    cost: float | None = Field(default=None, gt=0)
    """Money, by the models' `prices`."""


_OF_SEARCH = {"branching", "depth", "step_tokens", "boundary", "search", "memory", "critique"}
_OF_WRITING = {"answers", "segments", "correction", "agent_write"}
_UNREAD_BY = {
    "longdpo": _OF_WRITING,
    "longdpo_released": _OF_WRITING | {"search", "memory", "critique", "pairs", "boundary", "early_ends"},
    "best_of_n": _OF_SEARCH | _OF_WRITING - {"answers"},
    "iterdpo": _OF_SEARCH | {"agent_write"},
    "agent_write": _OF_SEARCH | _OF_WRITING - {"agent_write"} | {
        "early_ends", "pairs", "mix", "reward", "stability_check", "max_unscored"},
}
"""Settings that belong to another method."""


class BuildConfig(SectionOfKinds):
    """How preference pairs are built."""

    method: Literal["longdpo", "longdpo_released", "best_of_n", "iterdpo", "agent_write"] = "longdpo"
    """`longdpo`: tree search with memory and critiques, as the paper means it. `longdpo_released`: what its released
    code does, for comparison. `best_of_n`: whole answers, scored and ranked (LongReward, LongWriter-DPO, outcome DPO).
    `iterdpo`: answers corrected segment by segment (LongWriter-V). `agent_write`: answers written by a plan, as rows
    for supervised fine-tuning instead of pairs (LongWriter)."""
    branching: int = Field(default=4, ge=2)
    """Candidates per layer (K)."""
    depth: int = Field(default=4, ge=1)
    """Layers at most."""
    step_tokens: int = Field(default=2048, ge=8)
    """Token budget of a step."""
    boundary: Literal["sentence", "tokens", "sections"] = "sentence"
    """Where a step ends: at the last paragraph or sentence end within the budget, exactly at the budget (the paper), or
    with a section of a plan that is written first."""
    early_ends: bool = False
    """Beside each candidate (answer, step, segment that is drawn again) that runs past the length asked for, also
    consider its beginning up to the sentence that comes nearest to it, as an end of the answer. For base models, which
    hardly ever end."""
    max_unscored: Fraction = 0.2
    """Stop when a larger share of judgements has no score, or of checks for contradictions no verdict."""
    stability_check: bool = True
    """Judge the first layer's candidates once more under a reworded rubric and report how stable the ranking is."""
    concurrency: int = Field(default=64, gt=0)
    """Prompts worked on at once; calls in flight are limited by `max_concurrency` of each model."""
    reward: RewardConfig = RewardConfig()
    """What a candidate is scored by."""
    search: SearchConfig = SearchConfig()
    plan: PlanConfig = PlanConfig()
    memory: MemoryConfig = MemoryConfig()
    critique: CritiqueConfig = CritiqueConfig()
    pairs: PairsConfig = PairsConfig()
    answers: AnswersConfig = AnswersConfig()
    segments: SegmentsConfig = SegmentsConfig()
    correction: CorrectionConfig = CorrectionConfig()
    agent_write: AgentWriteConfig = AgentWriteConfig()
    longreward: LongRewardConfig = LongRewardConfig()
    reward_model: RewardModelConfig | None = None
    mix: MixConfig | None = None
    budget: BudgetConfig | None = None

    @property
    def kind(self) -> str:
        """The method."""
        named = self.method == "longdpo" and self.boundary != "sections"
        return f"method {self.method!r}" + (f" with boundary {self.boundary!r}" if named else "")

    @property
    def meaningless(self) -> set[str]:
        """Settings of other methods, a plan that nobody writes, scorers that do not count."""
        unread = set(_UNREAD_BY[self.method])
        if not self.writes_plans:
            unread.add("plan")
        if not self.reward.longreward or "reward" in unread:
            unread.add("longreward")
        if not self.reward.reward_model or "reward" in unread:
            unread.add("reward_model")
        return unread

    @property
    def writes_plans(self) -> bool:
        """Does the method begin with a plan?"""
        return self.method == "agent_write" or (self.method == "longdpo" and self.boundary == "sections")

    @property
    def scores(self) -> bool:
        """Is anything scored?"""
        return self.method != "agent_write"

    @property
    def gives_pairs(self) -> bool:
        """Does the method make preference pairs, and not rows for supervised fine-tuning?"""
        return self.method != "agent_write"

    @model_validator(mode="after")
    def _reward_model_is_named(self) -> BuildConfig:
        if self.reward.reward_model and self.reward_model is None and "reward" not in self.meaningless:
            raise ValueError("reward.reward_model has a weight, but no section reward_model names a model")
        return self

    @model_validator(mode="after")
    def _answers_can_be_compared(self) -> BuildConfig:
        if self.method == "best_of_n" and self.answers.samples < 2:
            raise ValueError("answers.samples: method 'best_of_n' compares answers, so it needs two or more")
        if self.method in ("best_of_n", "iterdpo"):
            if self.pairs.rejected == "vetoed":
                raise ValueError(f"pairs.rejected: method {self.method!r} checks no answer against facts, so none is "
                                 "vetoed")
            if self.pairs.layers == "best_path":
                raise ValueError(f"pairs.layers: the answers of method {self.method!r} are one layer, which no path "
                                 "goes through")
        return self
