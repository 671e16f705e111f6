"""The embedded back end: a transformers model in this process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError

from lpo.chat import render_context, turn_closing
from lpo.config import ModelConfig
from lpo.errors import BackendError, DataError, RequestRejectedError
from lpo.llm.base import Completion, Context, Request, ScoreRequest, TokenLogprobs
from lpo.llm.batching import Gatherer
from lpo.llm.decoding import Writing, Written, write
from lpo.llm.loading import load_model, model_identity
from lpo.llm.scoring import Scoring, common_prefix, distinct_tokens, score
from lpo.records import Dialogue, Usage

_Timed = tuple[Any, float]


class TransformersLLM:
    """A language model of transformers that answers concurrent calls in batches.

    Args:
        model: A causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        template: Jinja source of the chat template; None for the tokenizer's own.
        batch_size: Sequences in one forward pass at most.
        identity: What tells this model from others in a journal's key.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str | None = None,
        batch_size: int = 16,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.template = template
        self._batch_size = batch_size
        self._identity = identity or {}
        self._gatherer: Gatherer[Writing | Scoring, _Timed] = Gatherer(self._run, batch_size)
        self._plain_ends = _end_ids(model, tokenizer)
        self._chat_ends: frozenset[int] | None = None

    @classmethod
    def load(cls, config: ModelConfig, *, adapter: Path | None = None) -> TransformersLLM:
        """Load model, tokenizer and chat template.

        Args:
            config: Which model, and where and how it runs.
            adapter: Folder of a PEFT adapter to put on the model.

        Raises:
            BackendError: The model or the adapter cannot be loaded.
            ConfigError: There is no such demo model or chat template.
        """
        loaded = load_model(config, adapter)
        identity = model_identity(config, loaded, adapter)
        return cls(loaded.model, loaded.tokenizer, template=loaded.template, batch_size=config.batch_size,
                   identity=identity)

    @property
    def identity(self) -> dict[str, Any]:
        """Model, revision, template, dtype, adapter; nothing of where it lies or runs."""
        return dict(self._identity)

    async def generate(self, request: Request) -> Completion:
        """Write one text; see `lpo.llm.base.LLM`.

        `json_schema` has no effect: this back end cannot constrain a reply.
        """
        context = self._context_ids(request.context)
        sampling = request.sampling
        if not context:
            raise RequestRejectedError("the prompt is empty and the model has no beginning-of-text token to start from")
        if sampling.max_tokens < 1:
            raise RequestRejectedError("max_tokens is less than 1")
        self._check_room(len(context), sampling.max_tokens)
        writing = Writing(context, sampling, request.seed, request.index, self._ends(request.context.prompt))
        result, seconds = await self._gatherer.submit(writing)
        written = cast(Written, result)
        usage = Usage(calls=1, tokens_in=len(context), tokens_out=written.tokens, seconds=seconds)
        return Completion(written.text, written.finish, written.logprobs, usage)

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """Log-probabilities of given texts; see `lpo.llm.base.LLM`."""
        scoring = self._scoring(request)
        for row in scoring.rows:
            self._check_room(len(row) - 1, 1)
        result, seconds = await self._gatherer.submit(scoring)
        values = cast(tuple[tuple[float, ...], ...], result)
        width = len(request.continuations)
        table = tuple(values[place:place + width] for place in range(0, len(values), width)) if width else tuple(
            () for _ in request.contexts)
        return TokenLogprobs(table, Usage(calls=1, tokens_in=distinct_tokens(scoring), seconds=seconds))

    async def close(self) -> None:
        """Wait for the batch that runs, then free the model."""
        self._gatherer.close()
        device = self.model.device.type if self.model is not None else "cpu"
        self.model = None
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()

    def _run(self, jobs: Sequence[Writing | Scoring], abandoned: Callable[[], bool]) -> list[_Timed]:
        """Run a batch, in the worker thread; its seconds are shared out evenly."""
        started = time.perf_counter()
        try:
            if isinstance(jobs[0], Writing):
                results: Sequence[Any] = write(self.model, self.tokenizer, cast(Sequence[Writing], jobs), abandoned)
            else:
                results = score(self.model, cast(Sequence[Scoring], jobs), self._batch_size, abandoned)
        except (torch.OutOfMemoryError, MemoryError):
            raise BackendError("out of memory", mend="lower batch_size of this model") from None
        seconds = (time.perf_counter() - started) / len(jobs)
        return [(result, seconds) for result in results]

    def _context_ids(self, context: Context) -> tuple[int, ...]:
        return self._ids(context, "")

    def _ids(self, context: Context, continuation: str) -> tuple[int, ...]:
        try:
            text = render_context(self.tokenizer, context.prompt, context.prefix, self.template) + continuation
        except DataError as error:
            raise RequestRejectedError(error.cause, mend=error.mend) from error
        except TemplateError as error:
            raise RequestRejectedError(f"the chat template refuses these messages: {error}",
                                       mend="use turns the template knows, or another chat template") from error
        # Templates write their special tokens themselves.
        special = isinstance(context.prompt, str)
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _scoring(self, request: ScoreRequest) -> Scoring:
        rows: list[tuple[int, ...]] = []
        starts: list[int] = []
        for context in request.contexts:
            before = self._context_ids(context)
            for continuation in request.continuations:
                row = self._ids(context, continuation)
                start = common_prefix([before, row])
                if start == 0 and row:
                    raise RequestRejectedError("the first token of a text has no probability: nothing stands before it",
                                               mend="give a context that is not empty")
                rows.append(row)
                starts.append(start)
        return Scoring(tuple(rows), tuple(starts))

    def _check_room(self, read: int, new: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and read + new > limit:
            raise RequestRejectedError(f"{read} tokens read and {new} to write are more than the model's {limit}",
                                       mend="shorten the prompt or lower max_tokens")

    def _ends(self, prompt: Dialogue) -> frozenset[int]:
        if isinstance(prompt, str):
            return self._plain_ends
        if self._chat_ends is None:
            self._chat_ends = self._plain_ends | _turn_end_ids(self.tokenizer, self.template)
        return self._chat_ends


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, by the model's generation config and by the tokenizer."""
    ends: set[int] = set()
    for value in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if value is not None:
            ends.update([value] if isinstance(value, int) else value)
    return frozenset(ends)


def _turn_end_ids(tokenizer: Any, template: str | None) -> frozenset[int]:
    """The special token the chat template writes after an assistant turn, if it writes one."""
    try:
        closing = turn_closing(tokenizer, template)
    except DataError:
        return frozenset()
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
    return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)
