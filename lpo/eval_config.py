"""The `eval` section: which suites a model is measured on, how its answers are drawn, and what is made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from lpo.config_base import SamplingConfig, Section, SectionOfKinds


class SuiteName(StrEnum):
    """What a model can be measured on. A suite with settings has a section of its name under `eval`."""

    HELD_OUT = "held_out"
    """The run's own held-out prompts: S_l, repetition, the judge's grade."""
    LONGBENCH_WRITE = "longbench_write"
    """LongBench-Write (arXiv 2408.07055): S_l, S_q on six dimensions, their mean, by the length asked for."""
    LONGWRITE_RULER = "longwrite_ruler"
    """LongWrite-Ruler (arXiv 2408.07055): the longest answer at each length asked for."""
    LONGEN = "longen"
    """LonGen (Self-Lengthen, arXiv 2410.23933): lengths asked for as about, range, above and below."""
    GOLDEN_THREAD = "golden_thread"
    """Spinning the Golden Thread, also named LongGenBench (arXiv 2409.02076): instructions that come true far on."""
    CHECKLIST = "checklist"
    """Yes/no checks of your own for each task, weighted (HelloEval, arXiv 2409.16191)."""
    CLEAR = "clear"
    """Items of a rubric found in answer and reference, as F1 (CLEAR, arXiv 2506.01241)."""
    MMLONGBENCH_WRITE = "mmlongbench_write"
    """MMLongBench-Write (arXiv 2502.14834): outputs that are there already, scored."""


class SuiteConfig(Section):
    """Settings that every suite has."""

    limit: int | None = Field(default=None, gt=0)
    """At most this many of its prompts, the first ones."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Room for one answer; null: `eval.max_tokens`."""
    sampling: SamplingConfig | None = None
    """How its answers are drawn; null: `eval.sampling`."""


class LongBenchWriteConfig(SuiteConfig):
    """LongBench-Write. The published decoding: temperature 0.5, 32,768 tokens."""

    path: str
    """The published file (JSON lines of prompt, type, length) or `hub:<dataset>[:split]`."""
    language: Literal["any", "en", "zh"] = "any"
    """Keep prompts of one language only."""
    max_words: int | None = Field(default=None, gt=0)
    """Only prompts that ask for at most this many words."""


class LongWriteRulerConfig(SuiteConfig):
    """LongWrite-Ruler."""

    path: str = "builtin"
    """The published file (JSON lines of prompt, type, length), `hub:<dataset>[:split]`, or `builtin`: eight tasks of
    our own, each at every length of `lengths`."""
    lengths: tuple[int, ...] = (1000, 2000, 5000, 10_000, 20_000, 30_000)
    """Words asked for."""


class LonGenConfig(SuiteConfig):
    """LonGen."""

    path: str = "builtin"
    """The published file (JSON lines of language, range, type, constraint, query), `hub:<dataset>[:split]`, or
    `builtin`: tasks of our own in the same make-up."""
    language: Literal["any", "en", "zh"] = "any"
    """Keep tasks of one language only."""


class GoldenThreadConfig(SuiteConfig):
    """Spinning the Golden Thread. Tasks and checks are made here, by the published definition."""

    length: Literal["16k", "32k"] = "16k"
    """`16k`: 52 weeks or 100 units; `32k`: 365 days (diary, menu), 300 floors or 361 blocks."""
    per_scenario: int = Field(default=100, gt=0)
    """Tasks of each of the four scenarios."""
    units: int | None = Field(default=None, gt=4)
    """Blocks of each task, in place of the published numbers: small models, quick looks. Results are then no longer
    comparable with published ones, which the scores say."""
    seed: int = Field(default=0, ge=0)
    """Of the tasks; the same seed gives the same tasks, whatever the run's seed is."""


class ChecklistConfig(SuiteConfig):
    """Checklists of your own."""

    path: str
    """JSON lines: prompt, `checks` (yes/no questions) and, if you like, `weights` and `category`."""


class ClearConfig(SuiteConfig):
    """Rubrics of your own."""

    path: str
    """JSON lines: prompt (or `input`), and `rubric`: an object of item -> what the reference says of it, or null."""


class MMLongBenchWriteConfig(Section):
    """MMLongBench-Write: nothing is generated. The judge does not see the images, which the scores say."""

    path: str
    """JSON lines: question, L (words asked for), prediction; `id` and `task`, if you like."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many rows, the first ones."""


class AlongConfig(Section):
    """Quality along the text: every answer is cut into parts of equal length, and each is measured."""

    parts: int = Field(default=5, ge=2, le=20)
    """Parts of an answer. An answer of fewer than 20 words a part is left out, and counted."""
    judge: bool = False
    """Also let the judge grade each part in its place: one judgement for each part of each answer."""


class PairwiseConfig(Section):
    """Trained against base model, answer by answer: the judge sees both, in both orders."""

    suites: tuple[SuiteName, ...] = (SuiteName.HELD_OUT,)
    """Whose answers are compared; each of them must be measured."""
    length_control: bool = True
    """Also give the win-rate that would be left if both were as long (length-controlled AlpacaEval,
    arXiv 2404.04475)."""


class GuardConfig(Section):
    """Did anything else get lost? lm-eval's tasks on base and trained model (extra [lm-eval])."""

    tasks: tuple[str, ...] = Field(default=("mmlu", "gsm8k", "truthfulqa_mc2"), min_length=1)
    """Tasks by lm-eval's names, or folders of YAML tasks."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many documents of each task: for a look only, as lm-eval says itself."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in the prompt; null: as each task says."""
    batch_size: int = Field(default=8, gt=0)
    """Requests in one forward pass."""


_SECTIONS = {SuiteName.LONGBENCH_WRITE, SuiteName.LONGWRITE_RULER, SuiteName.LONGEN, SuiteName.GOLDEN_THREAD,
             SuiteName.CHECKLIST, SuiteName.CLEAR, SuiteName.MMLONGBENCH_WRITE}


class EvalConfig(SectionOfKinds):
    """How models are measured."""

    suites: tuple[SuiteName, ...] = Field(default=(SuiteName.HELD_OUT,), min_length=1)
    """`held_out`: write for the held-out prompts and score the answers. Others have a section of their name below."""
    limit: int | None = Field(default=None, gt=0)
    """At most this many held-out prompts."""
    max_words: int | None = Field(default=None, gt=0)
    """Only held-out prompts that ask for at most this many words."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for one answer."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.5)
    """How answers are drawn."""
    judge: bool = True
    """Also let the judge score the answers. Suites that need a judge to mean anything are refused without one."""
    bootstrap: int = Field(default=2000, ge=100)
    """Resamples behind each interval."""
    longbench_write: LongBenchWriteConfig | None = None
    """Needed by the suite of this name, as are those that follow."""
    longwrite_ruler: LongWriteRulerConfig = LongWriteRulerConfig()
    longen: LonGenConfig = LonGenConfig()
    golden_thread: GoldenThreadConfig = GoldenThreadConfig()
    checklist: ChecklistConfig | None = None
    """A file of your own tasks."""
    clear: ClearConfig | None = None
    """A file of your own rubrics."""
    mmlongbench_write: MMLongBenchWriteConfig | None = None
    """A file of outputs."""
    along: AlongConfig | None = None
    """Measure every suite's answers part by part too; null: no."""
    pairwise: PairwiseConfig | None = None
    """Let the judge compare both models' answers; null: no."""
    guard: GuardConfig | None = None
    """Measure general abilities with lm-eval; null: no."""

    @property
    def kind(self) -> str:
        """The suites."""
        return f"an evaluation of {', '.join(self.suites)}"

    @property
    def meaningless(self) -> set[str]:
        """Sections of suites that are not measured, filters of held-out prompts that nobody writes for."""
        unread = {name.value for name in _SECTIONS if name not in self.suites}
        return unread if SuiteName.HELD_OUT in self.suites else unread | {"limit", "max_words"}

    @model_validator(mode="after")
    def _suites_are_whole(self) -> EvalConfig:
        for name in self.suites:
            if name in _SECTIONS and getattr(self, name.value) is None:
                raise ValueError(f"suite {name.value!r} needs the section eval.{name.value} with a path")
        if not self.judge:
            needing = {SuiteName.CHECKLIST, SuiteName.CLEAR, SuiteName.GOLDEN_THREAD} & set(self.suites)
            if needing:
                raise ValueError(f"suite {sorted(needing)[0].value!r} is nothing without a judge: set eval.judge to "
                                 "true, or leave the suite out")
            if self.pairwise is not None or (self.along is not None and self.along.judge):
                raise ValueError("eval.judge is false, but pairwise or along.judge asks for one")
        if self.pairwise is not None:
            strange = [name.value for name in self.pairwise.suites if name not in self.suites]
            if strange:
                raise ValueError(f"pairwise.suites names {strange[0]!r}, which eval.suites does not measure")
        return self
