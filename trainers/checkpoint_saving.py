"""A trainer whose checkpoints exist whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints
from trl.trainer.base_trainer import _BaseTrainer

from lpo.trainers import checkpoints


class CheckpointingTrainer(_BaseTrainer):
    """TRL's base trainer with checkpoints that are written aside and get their name when they are complete.

    Nothing is sent anywhere: TRL's start-up ping is off.
    """

    def _send_telemetry(self) -> None:
        """TRL pings its makers here; this library sends nothing."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the base class, but in a hidden folder that gets its name when it is complete."""
        self.store_flos()
        target = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        staged = checkpoints.staging_folder(target)
        self.save_model(str(staged), _internal_call=True)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._save_state(staged)
            checkpoints.seal(target)
            rotate_checkpoints(str(target.parent), self.args.save_total_limit, self.state.best_model_checkpoint,
                               use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def _save_state(self, staged: Path) -> None:
        """Write the trainer's state with that of the callbacks that have one, as the base class reads it."""
        stateful = [item for item in [*self.callback_handler.callbacks, self.control]
                    if isinstance(item, ExportableState)]
        states: dict[str, list[Any]] = {}
        for item in stateful:
            states.setdefault(type(item).__name__, []).append(item.state())
        self.state.stateful_callbacks = {  # pyright: ignore[reportAttributeAccessIssue]
            name: several if len(several) > 1 else several[0] for name, several in states.items()}
        self.state.save_to_json(str(staged / "trainer_state.json"))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # The base class pickles its arguments. Nobody reads them back: leave a file that people can read.
            folder = Path(output_dir or self.args.output_dir or ".")
            (folder / "training_args.bin").unlink(missing_ok=True)
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")
