"""Shows a training's progress through the run's own reporter."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lpo.run.progress import Reporter


class TrainingProgress(TrainerCallback):
    """A bar with the latest loss and margin.

    Args:
        reporter: Where to show it.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stack = ExitStack()
        self._note = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar."""
        self._update = self._stack.enter_context(self._reporter.bar("train", state.max_steps, "steps"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance by one optimiser step."""
        self._update(state.global_step, self._note)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, float] | None = None, **_: Any) -> None:
        """Remember the latest figures."""
        if logs and "loss" in logs:
            margin = logs.get("rewards/margins")
            self._note = f"loss {logs['loss']:.4f}" + (f", margin {margin:.3f}" if margin is not None else "")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self._stack.close()
