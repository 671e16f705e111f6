"""The one vocabulary everything speaks: prompts, search trees, judgements, preference pairs, usage.

All records are frozen, refuse unknown fields, and are stored as JSON lines.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """Base of everything that is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return self.model_dump(mode="json")


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Dialogue = str | tuple[Message, ...]
"""A prompt: messages, rendered by the chat template; or a string, which is plain text and never templated."""


def fingerprint(value: object, length: int = 16) -> str:
    """A short stable hash of JSON values.

    Args:
        value: JSON values, or records.
        length: How many hexadecimal digits to keep.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not a JSON value")


class Prompt(Record):
    """A writing task."""

    id: str
    prompt: Dialogue
    context: str | None = None
    """A long document the answer is about."""
    target_words: int | None = Field(default=None, gt=0)
    """The length asked for, in words (Chinese: characters)."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @property
    def request(self) -> str:
        """What the user asks for, as text: the string itself, or the user turns of the conversation."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(message.content for message in self.prompt if message.role == "user")

    @property
    def dialogue(self) -> Dialogue:
        """What the policy reads: the prompt, with the context before the request it belongs to. A document that stands
        first is shared by all requests about it.
        """
        if self.context is None:
            return self.prompt
        if isinstance(self.prompt, str):
            return f"{self.context}\n\n{self.prompt}"
        *before, last = self.prompt
        return (*before, last.model_copy(update={"content": f"{self.context}\n\n{last.content}"}))


class Judgement(Record):
    """What a scorer says of one text: scores by dimension, or `unscored` with the reason. Never both."""

    scorer: str
    """Name of the scorer, as it appears in reports."""
    overall: float | None = None
    """The score used for ranking, higher is better; None when unscored."""
    scores: dict[str, float] = Field(default_factory=dict[str, float])
    """The score of each dimension."""
    unscored: str | None = None
    """Why there is no score: `cut`, `empty`, `refused`, `unparsable`, `out_of_range`, ..."""
    parts: dict[str, Any] = Field(default_factory=dict)
    """What the score was made from (grade distributions, counts, the judge's words), as JSON values."""

    @model_validator(mode="after")
    def _scored_or_not(self) -> Judgement:
        if (self.overall is None) == (self.unscored is None):
            raise ValueError("a judgement has either an overall score or a reason why it is unscored")
        return self


class Usage(Record):
    """What model calls took."""

    calls: int = 0
    """Calls that reached a model."""
    cached: int = 0
    """Calls answered from the journal."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float | None = None
    """In the currency of the configured prices; None when no prices are given."""

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            seconds=self.seconds + other.seconds,
            cost=sum(costs) if costs else None,
        )


class Fact(Record):
    """A statement that an answer has made."""

    id: str
    """The node it was taken from and its number there: `0.2#1`."""
    node: str
    text: str
    """Atomic and understood by itself."""


class Veto(Record):
    """A contradiction between a candidate and a fact."""

    fact: str
    """Id of the fact."""
    statement: str
    """Its text."""
    quote: str
    """The words of the candidate that contradict it."""
    explanation: str = ""


class Critique(Record):
    """What a critic says of a step, shown beside a sibling that is better by one principle."""

    principle: str
    better: str
    """Id of that sibling."""
    analysis: str
    relevant: str
    """The words of the step it is about."""
    suggestion: str
    confidence: float
    """1 to 5, as the critic says."""
    used: bool = False
    """Was the suggestion shown to the policy?"""


class RefinementOutcome(StrEnum):
    """What became of the attempt to refine a step."""

    ACCEPTED = "accepted"
    NOT_BETTER = "not_better"
    UNSCORED = "unscored"
    """The judge gave the rewritten step no score."""
    VETOED = "vetoed"
    """The rewritten step contradicts a fact."""
    EQUAL = "equal"
    """It is empty, or equals a candidate that was there already."""
    REQUEST_REJECTED = "request_rejected"
    NO_BETTER_SIBLING = "no_better_sibling"
    """No sibling is better by any principle: nothing to show the critic."""
    NO_CRITIQUE = "no_critique"
    """The critic gave no usable reply."""


class Refinement(Record):
    """The attempt to refine a step."""

    outcome: RefinementOutcome
    critiques: tuple[Critique, ...] = ()
    node: str | None = None
    """Id of the rewritten step, a sibling; None when there is none."""
    failed: tuple[str, ...] = ()
    """Why critiques could not be used."""


class Origin(StrEnum):
    """How a candidate came to be."""

    SAMPLED = "sampled"
    REWRITTEN = "rewritten"
    """A weak step, written anew with critiques (`refines`)."""
    EXTENDED = "extended"
    """A sampled answer, lengthened (`extends`)."""
    GIVEN = "given"
    """It came with the prompt."""
    PLANNED = "planned"
    """A section of a plan."""
    ENDED = "ended"
    """The beginning of a sampled one, where the length asked for is nearest, and the answer ends there."""


class SearchNode(Record):
    """One candidate step of a search tree; the root is the empty text."""

    id: str
    """Path from the root: `0` is the root, `0.2` its third child, `0.2.1` that one's second child; a rewritten step
    is named after the one it was made from: `0.2r`."""
    parent: str | None
    depth: int
    """0 for the root, 1 for first steps."""
    text: str
    """The step's own text; the text so far is the concatenation along the path, nothing in between."""
    ends: bool = False
    """Does the answer end with this step (the policy ended its turn)?"""
    tokens: int | None = None
    """Tokens sampled, before the cut at a sentence end; None when the server gives no log-probabilities."""
    mean_logprob: float | None = None
    """Mean log-probability of the sampled tokens, in nats."""
    prior: float | None = None
    """exp(mean_logprob), normalised over the siblings; None when one of them has no log-probabilities."""
    judgement: Judgement | None = None
    visits: int = 0
    """Paths that went through the node."""
    value: float | None = None
    """Mean score that these paths were back-propagated with; None before a scored one went through."""
    facts: tuple[Fact, ...] = ()
    """What the step states; extracted once a path goes on from it."""
    vetoes: tuple[Veto, ...] = ()
    """Facts of earlier steps that it contradicts."""
    failures: dict[str, str] = Field(default_factory=dict[str, str])
    """Model calls about this node that gave nothing usable: `facts`, `check` or `extend`, and why."""
    origin: Origin = Origin.SAMPLED
    refines: str | None = None
    """Id of the sibling it is a rewritten version of."""
    extends: str | None = None
    """Id of the sibling it is a longer version of."""
    refinement: Refinement | None = None
    """The attempt to refine this node."""
    role: Literal["root", "chosen", "rejected", "both", "unused"] = "unused"
    """What became of the node in its layer's pairs."""
    note: str | None = None
    """Why the node was set aside (`duplicate of 0.1`, `empty`, ...)."""

    @property
    def score(self) -> float | None:
        """The node's own score on 0–1; None when it has none."""
        return self.judgement.overall if self.judgement is not None else None

    @property
    def replaced(self) -> bool:
        """Was it refined, so that the search goes on from the rewritten step instead?"""
        return self.refinement is not None and self.refinement.outcome is RefinementOutcome.ACCEPTED


class Rollout(Record):
    """The rest of an answer, written in one go to see where a path leads."""

    text: str
    ends: bool
    judgement: Judgement | None = None
    """Of the whole answer."""
    note: str | None = None
    """Why there is none (`refused`, ...)."""


class SearchPath(Record):
    """One walk of the search, from the root to the end."""

    nodes: tuple[str, ...]
    """Ids, the root first."""
    value: float | None
    """What was back-propagated: the score of its last step, or of the rollout; None when that has no score."""
    rollout: Rollout | None = None


class PlannedSection(Record):
    """A section of the plan an answer is written by."""

    title: str
    words: int | None = None
    """Its share of the length asked for."""


class Aspect(StrEnum):
    """What a corrector looks for in a segment (LongWriter-V, arXiv 2502.14834, section 4)."""

    FACTUALITY = "factuality"
    MISSING = "missing"
    """Content that the request asks for here is missing."""
    COHERENCE = "coherence"
    """It does not fit what stands before it."""
    REPETITION = "repetition"


class Fault(Record):
    """Something a critic found wrong with a segment."""

    aspect: Aspect
    quote: str
    """The words it is about; empty when something is missing."""
    advice: str


class CorrectionOutcome(StrEnum):
    """What became of the attempt to correct a segment."""

    ACCEPTED = "accepted"
    UNCHANGED = "unchanged"
    """The critic found nothing wrong, or the corrector left the segment as it was."""
    NOT_BETTER = "not_better"
    UNSCORED = "unscored"
    """The judge gave the segment, or its revised version, no score."""
    EMPTY = "empty"
    """The revised segment is empty."""
    NO_CRITIQUE = "no_critique"
    """The critic gave no usable reply."""
    NO_REVISION = "no_revision"
    """The corrector gave none."""
    REQUEST_REJECTED = "request_rejected"
    GIVEN = "given"
    """Corrected by people."""

    @property
    def compared(self) -> bool:
        """Was a revised text, taken or not, held against the segment as it stood?"""
        return self in (CorrectionOutcome.ACCEPTED, CorrectionOutcome.NOT_BETTER, CorrectionOutcome.UNSCORED)


class Correction(Record):
    """One attempt to correct a segment."""

    round: int
    """0-based."""
    outcome: CorrectionOutcome
    faults: tuple[Fault, ...] = ()
    text: str | None = None
    """The revised segment; None when none was written."""
    before: Judgement | None = None
    """Of the segment as it stood, after the corrected text before it."""
    after: Judgement | None = None
    """Of the revised one, in the same place."""
    failed: str | None = None
    """Why the critic's or the corrector's reply could not be used."""
    by: str | None = None
    """Who corrected it, where that was a person."""


class ScriptSegment(Record):
    """A segment of an answer, before and after."""

    original: str
    """Empty for a segment that was inserted."""
    revised: str
    """Equal to `original` where nothing was accepted; empty for one that was struck out."""
    corrections: tuple[Correction, ...] = ()


class Script(Record):
    """An answer and its corrected version, aligned segment by segment."""

    draft: str | None
    """Id of the node it is the text of; None when the answer was not sampled here."""
    ends: bool
    """Does the answer end with its last segment (the policy ended its turn)?"""
    revised_ends: bool | None = None
    """Does the corrected answer? None: as the answer itself."""
    segments: tuple[ScriptSegment, ...]
    """The originals joined are the draft, the revised ones the corrected answer; nothing stands in between."""

    @property
    def original(self) -> str:
        """The draft."""
        return "".join(segment.original for segment in self.segments)

    @property
    def revised(self) -> str:
        """The corrected answer."""
        return "".join(segment.revised for segment in self.segments)


class SearchTree(Record):
    """Everything a method saw for one prompt: pairs can be derived from it again without a call. Whole answers are a
    tree of one layer, a planned answer is a single branch.
    """

    id: str
    prompt: Prompt
    method: str
    seed: int
    nodes: tuple[SearchNode, ...]
    paths: tuple[SearchPath, ...] = ()
    plan: tuple[PlannedSection, ...] = ()
    """The sections its layers are; empty when steps end by other rules."""
    script: Script | None = None
    """The correction of one of its answers, or of a given one."""


class SftRow(Record):
    """A row for supervised fine-tuning, as TRL's `SFTTrainer` and others take it."""

    id: str
    messages: tuple[Message, ...]
    """The prompt's, and the answer."""
    target_words: int | None = None
    words: int
    length_score: float | None = None
    """S_l, 0–100; None when no length is asked for."""
    method: str
    provenance: dict[str, Any] = Field(default_factory=dict)


class PairScores(Record):
    """The judgements of both sides of a pair."""

    chosen: Judgement
    rejected: Judgement


class PreferencePair(Record):
    """Two continuations of one prefix, one preferred to the other."""

    id: str
    group: str
    """Pairs of one document share it: they are kept together."""
    prompt: Dialogue
    prefix: str = ""
    """Text of the assistant turn that both sides share; may be empty."""
    chosen: str
    rejected: str
    chosen_ends: bool = True
    """Does the chosen side finish the answer, i.e. is the end of the turn scored after it?"""
    rejected_ends: bool = True
    step: int = 0
    """0-based."""
    margin: float | None = None
    """Score of chosen minus score of rejected, on the scorer's scale."""
    scores: PairScores | None = None
    method: str = "given"
    provenance: dict[str, Any] = Field(default_factory=dict)


class Reason(StrEnum):
    """Why a row was rejected. Each rejected row carries one, and the counts are printed."""

    TIE = "tie"
    SMALL_MARGIN = "small_margin"
    EQUAL_TEXTS = "equal_texts"
    DUPLICATE = "duplicate"
    """The same prompt stands earlier in the file."""
    EMPTY = "empty"
    TOO_FEW_CANDIDATES = "too_few_candidates"
    VETOED = "vetoed"
    """Every candidate contradicts what the answer has stated."""
    NO_VETO = "no_veto"
    """The rule wants a vetoed sibling, and there is none."""
    NO_PLAN = "no_plan"
    """No usable plan came, so there are no steps."""
    TOO_FEW_SCORED = "too_few_scored"
    """Fewer answers have a score than `build.answers.min_scored`."""
    NO_CORRECTION = "no_correction"
    """No segment was changed."""
    LEFT_OUT = "left_out"
    """A pair of prefixes more than `build.correction.full_share` allows; in a node's note, a lengthened answer that
    fell to the draw which favours longer ones."""
    NO_LENGTH = "no_length"
    """The prompt asks for no length."""
    OFF_LENGTH = "off_length"
    """The answer is too far from the length asked for."""
    INCOMPLETE = "incomplete"
    """A section of the plan was not written."""
    OFF_PATH = "off_path"
    """The layer does not lie on the path that pairs are taken from."""
    NATURAL_END = "natural_end"
    """The best step ends the answer; the released method takes no pair from it."""
    UNSCORED = "unscored"
    REQUEST_REJECTED = "request_rejected"
    TOO_LONG = "too_long"
    NOTHING_TO_SCORE = "nothing_to_score"
    TEMPLATE = "template"
    """The chat template does not keep the rendered prompt as the beginning of the rendered row."""
    HELD_OUT = "held_out"
    """Its prompt is, or nearly is, one that models are measured on."""
    MALFORMED = "malformed"


class RejectedRow(Record):
    """A row that was dropped, and why."""

    stage: Literal["prompts", "build", "train", "eval"]
    id: str
    reason: Reason
    detail: str = ""
