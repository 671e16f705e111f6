"""What a candidate is scored by: the sections `build.reward`, `build.longreward` and `build.reward_model`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lpo.config_base import SamplingConfig, Section, SectionOfKinds


class RewardConfig(Section):
    """Weights of the scorers; each score is put on 0–1 first. A weight of 0 leaves a scorer out."""

    judge: float = Field(default=1.0, ge=0)
    """The judge's grade."""
    longreward: float = Field(default=0.0, ge=0)
    """LongReward's mean over helpfulness, logicality, faithfulness and completeness (`build.longreward`)."""
    reward_model: float = Field(default=0.0, ge=0)
    """A reward model's score (`build.reward_model`)."""
    length: float = Field(default=0.0, ge=0)
    """S_l of the text so far, against the share of the target its depth should have reached."""
    repetition: float = Field(default=0.0, ge=0)
    """One minus the share of repeated n-grams."""
    coverage: float = Field(default=0.0, ge=0)
    """Share of the points in the prompt's `cover` whose content words stand in the text so far."""
    combine: Literal["mean", "product"] = "mean"
    """How several scores become one: their weighted mean, or their product (the weighted geometric mean), where a
    single 0 makes the whole 0: length × quality, say."""

    @model_validator(mode="after")
    def _something_counts(self) -> RewardConfig:
        if not (self.judge or self.longreward or self.reward_model or self.length or self.repetition or self.coverage):
            raise ValueError("at least one scorer needs a weight above zero")
        return self


class LongRewardConfig(SectionOfKinds):
    """LongReward's four scorers (arXiv 2410.21252), asked of the judge's model."""

    language: Literal["auto", "en", "zh"] = "auto"
    """Language of the instructions and demonstrations; `auto` goes by the request, so that all its answers are judged
    alike."""
    retrieval: Literal["bm25", "embeddings"] = "bm25"
    """How the passages that a statement is checked against are found."""
    embedder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """A sentence-transformers model by name or folder (`embeddings`; extra [embed])."""
    passage_words: int = Field(default=96, gt=0)
    """Words of a passage (Chinese: characters); the paper: 128 tokens."""
    passages: int = Field(default=5, gt=0)
    """Passages for each statement, at most."""
    note_words: int = Field(default=3000, gt=0)
    """Words of a chunk that notes are taken from; the paper: 4096 tokens."""
    tries: int = Field(default=3, gt=0)
    """A reply that cannot be read is asked for again, this often in all; then the answer has no score."""
    no_statements: Literal["zero", "unscored"] = "zero"
    """Faithfulness of an answer that takes no statement from the document: 0 (nothing of it rests on the document), or
    no score at all."""
    max_tokens: int = Field(default=1024, gt=0)
    """Room for a reply; statements and notes get twice as much. A base model, which may not end, gets 256 and 1024 at
    most."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.01)
    """How replies are drawn; a second try has a temperature of at least 0.95."""

    @property
    def kind(self) -> str:
        """How passages are found."""
        return f"LongReward with retrieval {self.retrieval!r}"

    @property
    def meaningless(self) -> set[str]:
        """BM25 embeds nothing."""
        return {"embedder"} if self.retrieval == "bm25" else set()


class RewardModelConfig(Section):
    """A reward model: a sequence classifier with one output, run in this process by transformers."""

    model: str
    """A Hugging Face name or a local folder."""
    revision: str | None = None
    """Commit or tag of a Hugging Face model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    batch_size: int = Field(default=8, gt=0)
    """Texts in one forward pass."""
    max_length: int | None = Field(default=None, gt=0)
    """Tokens of prompt and answer together; a longer text is unscored, never cut. Default: what the model knows."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Recorded in the run's config.yaml."""
