"""The embedded back end: a transformers model in this process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from lpo.config import ModelConfig
from lpo.errors import BackendError
from lpo.llm.base import Completion, Request, ScoreRequest, TokenLogprobs
from lpo.llm.batching import Gatherer
from lpo.llm.decoding import Writing, Written, write
from lpo.llm.loading import load_model, model_identity
from lpo.llm.prompt_ids import PromptIds, Scoring, by_context, distinct_tokens, end_ids
from lpo.llm.scoring import score
from lpo.records import Usage

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
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        ends = end_ids(getattr(model.generation_config, "eos_token_id", None))
        self._prompts = PromptIds(tokenizer, template, limit=limit, end_ids=ends)

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
        commit = getattr(loaded.model.config, "_commit_hash", None)
        identity = model_identity(config, loaded.tokenizer, loaded.template, commit=commit, dtype=loaded.dtype,
                                  adapter=adapter)
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
        context = self._prompts.context(request)
        ends = self._prompts.ends(request.context.prompt)
        writing = Writing(context, request.sampling, request.seed, request.index, ends)
        result, seconds = await self._gatherer.submit(writing)
        written = cast(Written, result)
        usage = Usage(calls=1, tokens_in=len(context), tokens_out=written.tokens, seconds=seconds)
        return Completion(written.text, written.finish, written.logprobs, usage)

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """Log-probabilities of given texts; see `lpo.llm.base.LLM`."""
        scoring = self._prompts.scoring(request)
        result, seconds = await self._gatherer.submit(scoring)
        values = by_context(cast(tuple[tuple[float, ...], ...], result), request)
        return TokenLogprobs(values, Usage(calls=1, tokens_in=distinct_tokens(scoring), seconds=seconds))

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
