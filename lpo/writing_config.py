"""Whole answers: how they are sampled, lengthened, cut into segments, corrected, or written by a plan."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lpo.config_base import Fraction, SamplingConfig, Section, SectionOfKinds


class ExtensionConfig(Section):
    """Longer answers made from sampled ones: the extension step of Self-Lengthen, by the policy itself."""

    rounds: int = Field(default=3, gt=0)
    """Each extends the first half of the answer, then writes on from two thirds of that."""
    tries: int = Field(default=2, gt=0)
    """Attempts for each answer."""
    min_growth: float = Field(default=1.2, gt=1)
    """An extended answer counts when it has this many times the words."""
    max_tokens: int = Field(default=8192, gt=0)
    """Room for one reply."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)
    """How the longer text is drawn."""


class AnswersConfig(Section):
    """Whole answers to one prompt."""

    samples: int = Field(default=4, ge=1)
    """Answers that are sampled: LongWriter 4, LongReward 10, LongDPO's outcome baseline 16."""
    max_tokens: int = Field(default=8192, ge=8)
    """Room for one answer."""
    min_scored: int = Field(default=2, ge=2)
    """No pair from fewer answers with a score (LongReward: 5)."""
    extension: ExtensionConfig | None = None
    """Also lengthen every sampled answer: further candidates. Null: no."""


class SegmentsConfig(SectionOfKinds):
    """How an answer is cut into segments. Put together again they are the answer, letter by letter."""

    by: Literal["sections", "paragraphs", "slides", "separator"] = "sections"
    """`sections`: at Markdown headings. `paragraphs`: whole paragraphs up to `max_words`. `slides`: at the marks of a
    slide script (`Slide 3:`, `---`, `第3页`). `separator`: wherever this text stands."""
    max_words: int | None = Field(default=None, gt=0)
    """Words of a segment, at most; a longer section is cut at a paragraph or sentence end, else between words. Code
    fences and tables stay whole. Default: 200 for `paragraphs`, none for `sections`."""
    separator: str | None = Field(default=None, min_length=1)
    """It ends the segment it stands behind (`by: separator`)."""

    @property
    def kind(self) -> str:
        """The rule."""
        return f"segments by {self.by!r}"

    @property
    def meaningless(self) -> set[str]:
        """Only one rule reads a separator; slides and separators are never cut further."""
        return {
            "sections": {"separator"}, "paragraphs": {"separator"}, "slides": {"separator", "max_words"},
            "separator": {"max_words"},
        }[self.by]

    @property
    def words(self) -> int | None:
        """Words of a segment, at most; None: as long as it is."""
        if self.max_words is None and self.by == "paragraphs":
            return 200
        return self.max_words


class CorrectionConfig(SectionOfKinds):
    """Correcting an answer segment by segment (LongWriter-V, arXiv 2502.14834)."""

    by: Literal["judge", "critic", "policy", "resample", "file"] = "judge"
    """Who criticises and revises: the judge's model, that of the section `critic`, the policy, or people, whose
    corrections stand in `file` (`lpo annotate` writes one). `resample`: nobody criticises; the policy writes the
    segment `samples` times more, and the version that gains most by the reward takes its place, if one gains."""
    file: str | None = None
    """Corrections made elsewhere, as JSON lines: `prompt` or `id`, with `segments_original` and `segments_revised`, or
    with whole texts `original` and `revised`, which are aligned."""
    samples: int = Field(default=4, gt=0)
    """Versions of a segment that are drawn (`by: resample`)."""
    rounds: int = Field(default=1, gt=0)
    """A corrected segment is criticised again, this often in all."""
    accept: Literal["if_better", "always"] = "if_better"
    """Take a revised segment only if it scores higher than what it replaces, or always."""
    mode: Literal["prefix", "local", "full"] = "prefix"
    """Pairs of a corrected answer: growing prefixes (the paper), one segment each, or one pair of whole answers."""
    full_share: Fraction | None = None
    """Share of full-length pairs among all pairs of the run, reached by leaving out pairs of prefixes; null keeps all.
    Prefix pairs alone make a model stop early (the paper's ablation)."""
    segment_tokens: int = Field(default=2048, gt=0)
    """Room for a revised segment."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for one critique."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7)
    """How a revised segment is drawn."""

    @property
    def kind(self) -> str:
        """Who corrects, and which pairs are made of it."""
        return f"correction by {self.by!r} in mode {self.mode!r}"

    @property
    def meaningless(self) -> set[str]:
        """People are asked nothing, no critique is written where a segment is only drawn again, and only prefixes can
        be too many.
        """
        unread = {
            "file": {"rounds", "accept", "segment_tokens", "max_tokens", "sampling", "samples"},
            "resample": {"file", "accept", "max_tokens"},
        }.get(self.by, {"file", "samples"})
        return unread if self.mode == "prefix" else unread | {"full_share"}


class AgentWriteConfig(Section):
    """Answers written by a plan, section by section (LongWriter, arXiv 2408.07055), and which of them are kept."""

    mode: Literal["sequential", "parallel"] = "sequential"
    """Write each section with everything before it in sight, or all at once."""
    max_sections: int = Field(default=50, gt=0)
    """A longer plan is refused."""
    tolerance: float | None = Field(default=0.2, ge=0)
    """How far the words of a plan's sections, added up, may be from the length asked for, as a share of it; null takes
    any sum, as the paper's code does. Whatever it is, each section is given its share of the length asked for."""
    section_tokens: int = Field(default=2048, gt=0)
    """Room for one section."""
    explicit_length: bool = True
    """Keep answers only to prompts that ask for a length (Minimum Tuning, arXiv 2410.10210)."""
    min_length_score: float = Field(default=80.0, ge=0, le=100)
    """Smallest S_l of an answer that is kept, where a length is asked for."""
