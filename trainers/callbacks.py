"""Callbacks: metrics as a file, texts during training, and a warning when the chosen sides get less likely."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpo.chat import render_context, turn_closing
from lpo.records import Prompt
from lpo.storage import append_jsonl, read_jsonl, write_jsonl
from lpo.words import count_words

log = logging.getLogger(__name__)

_TIMING = ("_runtime", "_per_second", "total_flos")


class LogAndSaveTogether(TrainerCallback):
    """Logs whenever a checkpoint may be saved, so that no logging window is cut in two by a resume."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called after the trainer's own callback has decided about saving."""
        if control.should_save or control.should_evaluate:
            control.should_log = True

    on_epoch_end = on_step_end


class MetricsFile(TrainerCallback):
    """Writes every logged value to a file of JSON lines.

    On a resume the file is first taken back to what the checkpoint had logged, so that it equals the file of a run
    that was never interrupted. For the same reason wall-clock values and the summary at the end stay out.

    Args:
        path: The file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the file from the state's history."""
        if state.is_world_process_zero:
            rows = (_metrics_row(dict(logs), int(logs["step"])) for logs in state.log_history)
            write_jsonl(self.path, [row for row in rows if row is not None])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:
        """Append one line."""
        row = _metrics_row(logs or {}, state.global_step)
        if state.is_world_process_zero and row is not None:
            append_jsonl(self.path, row)


def _metrics_row(logs: dict[str, Any], step: int) -> dict[str, Any] | None:
    """A line of the metrics file; None for the summary at the end. JSON has no NaN: it becomes null."""
    if "train_runtime" in logs:
        return None
    values = {name: None if isinstance(value, float) and not math.isfinite(value) else value
              for name, value in logs.items() if not name.endswith(_TIMING) and name != "step"}
    return {"step": step, **dict(sorted(values.items()))}  # a resume reads them back sorted


class ChosenFalls(TrainerCallback):
    """Warns once when the chosen sides steadily get less likely than under the reference.

    Criterion: the last `window` logged training values of `rewards/chosen` are all below zero and each is lower than
    the one before.

    Args:
        window: How many values in a row.
    """

    def __init__(self, window: int = 5) -> None:
        self.window = window
        self.warned = False

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the history."""
        values = [logs["rewards/chosen"] for logs in state.log_history if "rewards/chosen" in logs][-self.window:]
        falls = len(values) == self.window and values[0] < 0 and all(
            later < earlier for earlier, later in pairwise(values))
        if falls and not self.warned:
            self.warned = True
            log.warning("step %d: the chosen sides have become less likely at each of the last %d logs "
                        "(rewards/chosen %.3g -> %.3g): consider a lower learning rate, a higher beta, or adding the "
                        "sft loss", state.global_step, self.window, values[0], values[-1])


class SampleWriter(TrainerCallback):
    """Lets the model write at the start, at each evaluation and at the end, into a file of JSON lines.

    The same seed is used each time, and the training's own random state is left as it was. The trackers that the
    trainer reports to (tensorboard, wandb, ...) get the texts as well.

    Args:
        path: The file.
        prompts: What to write about.
        tokenizer: The policy's tokenizer.
        template: Jinja source of the chat template, or None for the tokenizer's own.
        max_tokens: Length of each text at most.
        seed: Seed of the sampling.
        temperature: Of the sampling; 0 takes the most probable token.
    """

    def __init__(
        self, path: Path | str, prompts: Sequence[Prompt], tokenizer: Any, template: str | None = None, *,
        max_tokens: int = 128, seed: int = 0, temperature: float = 0.7,
    ) -> None:
        self.path = Path(path)
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.seed = seed
        self.temperature = temperature
        self.trackers: Sequence[TrainerCallback] = ()  # the trainer fills it

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what a killed run wrote after the checkpoint; at a fresh start, write the first texts."""
        if not state.is_world_process_zero:
            return
        rows = read_jsonl(self.path, torn_tail=True) if self.path.exists() and state.global_step else []
        write_jsonl(self.path, [row for row in rows if row["step"] <= state.global_step])
        if not state.global_step:
            self._write(args, state, kwargs["model"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write at this step."""
        if state.is_world_process_zero and state.global_step:
            self._write(args, state, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the last texts, unless an evaluation at this step has done so."""
        written = {row["step"] for row in read_jsonl(self.path, torn_tail=True)} if self.path.exists() else set()
        if state.is_world_process_zero and state.global_step not in written:
            self._write(args, state, kwargs["model"])

    def _write(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        training = model.training
        model.eval()
        for prompt in self.prompts:
            text, finish = self._generate(model, prompt)
            append_jsonl(self.path, {
                "step": state.global_step, "prompt_id": prompt.id, "request": prompt.request,
                "target_words": prompt.target_words, "text": text, "words": count_words(text), "finish": finish,
            })
            for tracker in self.trackers:
                tracker.on_log(args, state, TrainerControl(), model=model, logs={f"samples/{prompt.id}": text})
        model.train(training)

    def _generate(self, model: Any, prompt: Prompt) -> tuple[str, str]:
        context = render_context(self.tokenizer, prompt.dialogue, "", self.template)
        encoded = self.tokenizer(context, add_special_tokens=isinstance(prompt.prompt, str), return_tensors="pt")
        ids = encoded["input_ids"].to(model.device)
        ends = self._end_tokens(model, prompt)
        sampling: dict[str, Any] = {"do_sample": False}
        if self.temperature:
            sampling = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(self.seed)
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_tokens,
                eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id or 0, **sampling)
        new = output[0, ids.shape[1]:].tolist()
        stopped = bool(new) and new[-1] in ends
        text: str = self.tokenizer.decode(new[:-1] if stopped else new, skip_special_tokens=True)
        return text, "stop" if stopped else "length"

    def _end_tokens(self, model: Any, prompt: Prompt) -> list[int]:
        """The tokens that end a text and, under a template, the special token that closes a turn."""
        given = getattr(model.generation_config, "eos_token_id", None)
        ends: set[int | None] = {self.tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])}
        if not isinstance(prompt.prompt, str):
            closing: list[int] = self.tokenizer(turn_closing(self.tokenizer, self.template),
                                                add_special_tokens=False)["input_ids"]
            ends |= set(closing[:1]) & set(self.tokenizer.added_tokens_decoder)
        return sorted(end for end in ends if end is not None)
