"""A reward model of transformers as a scorer: a sequence classifier with one output."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lpo.errors import BackendError, ConfigError
from lpo.llm.batching import AbandonedError, Gatherer
from lpo.records import Judgement, Message
from lpo.reward.base import Draft, Unscored
from lpo.reward_config import RewardModelConfig


@dataclass(frozen=True)
class _Row:
    """A text as the model reads it.

    Args:
        ids: Token ids.
        segments: Of each token 0 or 1: is it of the prompt or of the answer, for models that ask; None for others.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None


class RewardModelScorer:
    """Scores an answer by the sigmoid of a reward model's output: under the Bradley-Terry model that such models are
    trained by, the probability that the answer beats one whose output is 0. The output itself stands in `parts`.

    The model reads the prompt with its context and the answer, rendered by the chat template of its tokenizer; a prompt
    given as text is the user's turn, and the turn of an answer that goes on is closed where it stands. Without a
    template it reads plain text: prompt and answer as the two segments that an encoder knows (its tokenizer has a
    separator), or one after the other. A text that is longer than the model reads is unscored, never cut.

    The drafts of one call are batched among themselves, whoever else calls, so that a score, to its last bit, is a
    function of the call. Calls run one after the other in a thread of their own.

    Args:
        model: A sequence classifier with one output, in evaluation mode. One that names no padding token reads one text
            at a time.
        tokenizer: Its tokenizer.
        batch_size: Texts in one forward pass.
        max_length: Tokens of prompt and answer together; None: as many as model and tokenizer know.
        source: The model's name, for errors.

    Raises:
        ConfigError: The model has several outputs, or knows fewer tokens than `max_length`.
    """

    name = "reward_model"

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 8, max_length: int | None = None,
                 source: str = "the reward model") -> None:
        if model.config.num_labels != 1:
            raise ConfigError(f"the model has {model.config.num_labels} outputs, a reward model has one", where=source,
                              mend="name a sequence classifier with one output")
        self._model, self._tokenizer, self._source = model, tokenizer, source
        self._limit = self._longest() if max_length is None else max_length
        positions = self._positions()
        if max_length is not None and positions is not None and max_length > positions:
            raise ConfigError(f"the model {source} reads {positions} tokens, not {max_length}",
                              where="build.reward_model.max_length", mend="lower it, or leave it out")
        self._padding: int | None = model.config.get_text_config().pad_token_id
        self._batch_size = 1 if self._padding is None else batch_size
        self._reads_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self._gatherer: Gatherer[tuple[Draft, ...], list[Judgement]] = Gatherer(self._run, 1)

    @classmethod
    def load(cls, config: RewardModelConfig) -> RewardModelScorer:
        """Load model and tokenizer.

        Raises:
            BackendError: The model is missing, unknown or in an unsafe format, or its device is not there.
            ConfigError: It is no reward model, or knows fewer tokens than `max_length`.
        """
        from lpo.llm.loading import load_reward_model

        model, tokenizer = load_reward_model(config)
        return cls(model, tokenizer, batch_size=config.batch_size, max_length=config.max_length, source=config.model)

    async def score(self, drafts: Sequence[Draft]) -> list[Judgement]:
        """Score drafts; see `lpo.reward.base.Scorer`."""
        return await self._gatherer.submit(tuple(drafts))

    def close(self) -> None:
        """Wait for the call that runs, then free the model; later calls fail."""
        self._gatherer.close()
        self._model = None

    def _run(self, calls: Sequence[tuple[Draft, ...]], abandoned: Callable[[], bool]) -> list[list[Judgement]]:
        """Score the drafts of each call, in the worker thread."""
        return [self._judged(drafts, abandoned) for drafts in calls]

    def _judged(self, drafts: Sequence[Draft], abandoned: Callable[[], bool]) -> list[Judgement]:
        read = [self._read(draft) for draft in drafts]
        rows = [row for row in read if isinstance(row, _Row)]
        raw = iter(self._outputs(rows, abandoned))
        return [self._judgement(one, next(raw)) if isinstance(one, _Row) else one for one in read]

    def _judgement(self, row: _Row, raw: float) -> Judgement:
        if not math.isfinite(raw):
            return self._unscored(Unscored.OUT_OF_RANGE, tokens=len(row.ids), raw=str(raw))
        score = sigmoid(raw)
        return Judgement(scorer=self.name, overall=score, scores={self.name: score},
                         parts={"raw": raw, "tokens": len(row.ids)})

    def _unscored(self, reason: Unscored, **parts: object) -> Judgement:
        return Judgement(scorer=self.name, unscored=reason, parts=parts)

    def _positions(self) -> int | None:
        """Tokens that the model has positions for; None when it does not say."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None)

    def _longest(self) -> int | None:
        """Tokens of a text at most, as model and tokenizer say."""
        # A tokenizer that knows no limit gives a number beyond any text.
        said = (self._positions(), self._tokenizer.model_max_length)
        return min((limit for limit in said if limit is not None and limit < 10**9), default=None)

    # Reading

    def _read(self, draft: Draft) -> _Row | Judgement:
        """A draft as the model reads it; a judgement where it cannot be read."""
        if not draft.so_far.strip():
            return self._unscored(Unscored.EMPTY)
        try:
            row = self._encoded(draft)
        except TemplateError as error:
            return self._unscored(Unscored.REQUEST_REJECTED, cause=f"the chat template refuses these turns: {error}")
        if self._limit is not None and len(row.ids) > self._limit:
            return self._unscored(Unscored.REQUEST_REJECTED, tokens=len(row.ids),
                                  cause=f"{len(row.ids)} tokens, the model reads {self._limit}")
        return row

    def _encoded(self, draft: Draft) -> _Row:
        tokenizer, asked = self._tokenizer, draft.prompt.dialogue
        if getattr(tokenizer, "chat_template", None):
            turns = (Message(role="user", content=asked),) if isinstance(asked, str) else asked
            turns = (*turns, Message(role="assistant", content=draft.so_far))
            text = tokenizer.apply_chat_template([turn.model_dump() for turn in turns], tokenize=False)
            # Templates write their special tokens themselves.
            encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        else:
            before = asked if isinstance(asked, str) else "\n\n".join(turn.content for turn in asked)
            if tokenizer.sep_token is not None:
                encoded = tokenizer(before, draft.so_far, verbose=False)
            else:
                gap = "" if isinstance(asked, str) else "\n\n"
                encoded = tokenizer(before + gap + draft.so_far, verbose=False)
        segments = encoded.get("token_type_ids") if self._reads_segments else None
        return _Row(tuple(encoded["input_ids"]), None if segments is None else tuple(segments))

    # The model

    def _outputs(self, rows: Sequence[_Row], abandoned: Callable[[], bool]) -> list[float]:
        """The model's output for each row. Rows of like length are read together."""
        import torch

        outputs = [math.nan] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].ids), index))
        for start in range(0, len(order), self._batch_size):
            if abandoned():
                raise AbandonedError
            batch = order[start:start + self._batch_size]
            try:
                values = self._forward([rows[index] for index in batch])
            except (torch.OutOfMemoryError, MemoryError):
                raise BackendError("out of memory", where=self._source,
                                   mend="lower build.reward_model.batch_size or max_length") from None
            for index, value in zip(batch, values, strict=True):
                outputs[index] = value
        return outputs

    def _forward(self, rows: Sequence[_Row]) -> list[float]:
        import torch

        length = max(len(row.ids) for row in rows)
        device = self._model.device

        def padded(values: Iterable[Sequence[int]], filler: int) -> torch.Tensor:
            # On the right: the model finds the last token of a row by its padding.
            return torch.tensor([[*row, *[filler] * (length - len(row))] for row in values], device=device)

        inputs = {"input_ids": padded((row.ids for row in rows), self._padding or 0),
                  "attention_mask": padded(([1] * len(row.ids) for row in rows), 0)}
        if rows[0].segments is not None:
            inputs["token_type_ids"] = padded((row.segments or () for row in rows), 0)
        with torch.inference_mode():
            logits_B1 = self._model(**inputs).logits
        return logits_B1[:, 0].double().tolist()


def sigmoid(value: float) -> float:
    """`1 / (1 + exp(-value))`, without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
