"""The back end on vLLM's engine in this process: continuous batches and a cache of prefixes."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from lpo.chat import load_chat_template
from lpo.config import ModelConfig
from lpo.errors import BackendError
from lpo.llm.base import Completion, Finish, Request, ScoreRequest, TokenLogprobs
from lpo.llm.loading import model_identity
from lpo.llm.prompt_ids import PromptIds, Scoring, by_context, distinct_tokens, end_ids
from lpo.llm.vllm_engine import EngineThread, Finished
from lpo.llm.vllm_settings import broken_companions_mend, engine_arguments, installed_build
from lpo.records import Usage

_SHORT = 4
"""Up to so many tokens are scored one by one after a cached prefix; longer texts whole, without the cache."""
_MOST_CANDIDATES = 128
"""As many next tokens as vLLM looks up in one request."""
_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}


class VllmLLM:
    """A language model on vLLM's engine. Concurrent calls share batches; equal beginnings are read once.

    Text depends on the seed and, in 16 bits, on what else is in the batch (rounding): only float32 repeats.

    Args:
        config: Of `backend: vllm`: which model, and how it runs.

    Raises:
        BackendError: vLLM is not installed or cannot be imported, or the model cannot be loaded.
        ConfigError: There is no such demo model or chat template.
    """

    def __init__(self, config: ModelConfig) -> None:
        template = load_chat_template(config.chat_template)
        arguments = engine_arguments(config, installed_build())
        self._thread = _open(config, arguments)
        settings = self._thread.engine.model_config
        tokenizer = AutoTokenizer.from_pretrained(
            arguments["model"], revision=config.revision, trust_remote_code=config.trust_remote_code)
        commit = getattr(settings.hf_config, "_commit_hash", None)
        self._identity = model_identity(config, tokenizer, template, commit=commit, dtype=settings.dtype)
        ends = end_ids(settings.try_get_generation_config().get("eos_token_id"))
        self._prompts = PromptIds(tokenizer, template, limit=settings.max_model_len, end_ids=ends)
        self._where = config.model

    @property
    def identity(self) -> dict[str, Any]:
        """Model, revision, template, dtype; nothing of where it lies or of the engine's room."""
        return dict(self._identity)

    async def generate(self, request: Request) -> Completion:
        """Write one text; see `lpo.llm.base.LLM`. A text constrained to a schema has no log-probabilities."""
        context = self._prompts.context(request)
        params = _sampling_params(request, self._prompts.ends(request.context.prompt))
        done = await self._submit(context, params)
        written = done.output.outputs[0]
        finish = _FINISH.get(written.finish_reason)
        if finish is None:
            raise BackendError(f"vLLM ended a text with {written.finish_reason!r}", where=self._where)
        # A character cut in the middle of its bytes decodes to U+FFFD; the whole characters before it stand.
        text = written.text.rstrip("\ufffd") if finish is Finish.LENGTH else written.text
        usage = Usage(calls=1, tokens_in=len(context), tokens_out=len(written.token_ids), seconds=done.seconds)
        return Completion(text, finish, _sampled_logprobs(written), usage)

    async def logprobs(self, request: ScoreRequest) -> TokenLogprobs:
        """Log-probabilities of given texts; see `lpo.llm.base.LLM`."""
        scoring = self._prompts.scoring(request)
        plan = plan_scoring(scoring)
        for row in plan.whole:
            self._prompts.check_room(len(row), 1)  # vLLM writes one token more after what it scores
        answers = await asyncio.gather(
            *(self._submit(query.context, _next_token_params(query.candidates)) for query in plan.queries),
            *(self._submit(row, _whole_row_params()) for row in plan.whole))
        found: dict[tuple[tuple[int, ...], int], float] = {}
        for query, done in zip(plan.queries, answers, strict=False):
            table = done.output.outputs[0].logprobs[0]
            found.update(((query.context, token), table[token].logprob) for token in query.candidates)
        rows = {row: done.output.prompt_logprobs for row, done in zip(plan.whole, answers[len(plan.queries):],
                                                                      strict=True)}
        values = tuple(
            tuple(rows[row][place][row[place]].logprob if row in rows else found[row[:place], row[place]]
                  for place in range(start, len(row)))
            for row, start in zip(scoring.rows, scoring.starts, strict=True))
        seconds = sum(done.seconds for done in answers)
        usage = Usage(calls=1, tokens_in=distinct_tokens(scoring), seconds=seconds)
        return TokenLogprobs(by_context(values, request), usage)

    async def close(self) -> None:
        """End the engine; vLLM gives back part of its memory only when the process ends."""
        self._thread.close()
        gc.collect()

    async def _submit(self, prompt_ids: Sequence[int], params: Any) -> Finished:
        try:
            return await self._thread.submit(prompt_ids, params)
        except BackendError as error:
            raise type(error)(error.cause, where=error.where or self._where, mend=error.mend) from error.__cause__


@dataclass(frozen=True)
class NextToken:
    """What the model is asked: how probable are these tokens after this context?"""

    context: tuple[int, ...]
    candidates: tuple[int, ...]


@dataclass(frozen=True)
class ScoringPlan:
    """How rows are scored.

    Args:
        queries: Single next tokens, after contexts the cache serves; each context once for up to 128 candidates.
        whole: Rows all of whose tokens are scored in one pass, which reads nothing from the cache.
    """

    queries: tuple[NextToken, ...]
    whole: tuple[tuple[int, ...], ...]


def plan_scoring(scoring: Scoring) -> ScoringPlan:
    """Split rows into questions about the next token and rows that are scored whole."""
    wanted: dict[tuple[int, ...], dict[int, None]] = {}
    whole: dict[tuple[int, ...], None] = {}
    for row, start in zip(scoring.rows, scoring.starts, strict=True):
        if len(row) - start > _SHORT:
            whole[row] = None
    for row, start in zip(scoring.rows, scoring.starts, strict=True):
        if row not in whole:
            for place in range(start, len(row)):
                wanted.setdefault(row[:place], {})[row[place]] = None
    queries = [NextToken(context, tuple(tokens)[first:first + _MOST_CANDIDATES])
               for context, tokens in wanted.items() for first in range(0, len(tokens), _MOST_CANDIDATES)]
    return ScoringPlan(tuple(queries), tuple(whole))


def engine_seed(seed: int, index: int) -> int:
    """The seed vLLM gets for one sample: samples of one seed differ by their index."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _open(config: ModelConfig, arguments: dict[str, Any]) -> EngineThread:
    """Import vLLM, quietly and in one process, and open the engine."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import EngineArgs, LLMEngine, exceptions
    except Exception as error:
        raise BackendError(f"vLLM cannot be imported: {type(error).__name__}: {error}", where="backend vllm",
                           mend=broken_companions_mend() or "reinstall it: docs/serving.md") from error
    refusals = (ValueError, getattr(exceptions, "VLLMClientError", ValueError))
    try:
        with _readable_modules_alone():
            chosen = EngineArgs(**arguments, disable_log_stats=True, use_tqdm_on_load=False)
            return EngineThread(lambda: LLMEngine.from_engine_args(chosen), lambda error: isinstance(error, refusals))
    except Exception as error:
        said = " ".join(str(error).split())[:400]
        raise BackendError(f"vLLM cannot load the model: {said or type(error).__name__}", where=config.model,
                           mend="check the name and that its weights are .safetensors; if there is no room, raise "
                                "kv_cache_gb or lower max_model_len") from error


@contextmanager
def _readable_modules_alone() -> Iterator[None]:
    """Hide modules that vLLM cannot look through.

    On CPU it reads the attributes of everything in every loaded module, to put its own kernels in place of Triton's,
    and fails at objects that make up their attributes as they are asked for them (llvmlite's, which numba loads).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of attributes that nobody wants to use
        hidden = {name: module for name, module in list(sys.modules.items())
                  if any(map(_makes_up_attributes, list(getattr(module, "__dict__", {}).values())))}
        for name in hidden:
            del sys.modules[name]
        try:
            yield
        finally:
            sys.modules.update(hidden)


def _makes_up_attributes(value: Any) -> bool:
    try:
        return hasattr(value, "__dict__") and not isinstance(vars(value), Mapping)
    except Exception:
        return False  # vLLM does not get as far with it either


def _sampling_params(request: Request, ends: frozenset[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling, schema = request.sampling, request.json_schema
    return SamplingParams(
        max_tokens=sampling.max_tokens, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty, stop=list(sampling.stop), stop_token_ids=sorted(ends),
        seed=engine_seed(request.seed, request.index), output_kind=RequestOutputKind.FINAL_ONLY,
        # Under a schema they would be those of the constrained model.
        logprobs=0 if schema is None else None,
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )


def _next_token_params(candidates: tuple[int, ...]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=list(candidates), detokenize=False)


def _whole_row_params() -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)


def _sampled_logprobs(written: Any) -> tuple[float, ...] | None:
    if written.logprobs is None:
        return None
    return tuple(table[token].logprob for table, token in zip(written.logprobs, written.token_ids, strict=True))
