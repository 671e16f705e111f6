"""A trainer that logs averages over pairs, not over batches."""

from __future__ import annotations

from typing import Any

from lpo.trainers.checkpoint_saving import CheckpointingTrainer
from lpo.trainers.checkpoints import last_logged
from lpo.trainers.metric_sums import PairMetrics
from lpo.trainers.nonfinite import NonFiniteGuard
from lpo.trainers.predictions import by_pair


class MeasuringTrainer(CheckpointingTrainer):
    """Adds what `PairMetrics` has collected to training logs and evaluations."""

    _pair_metrics: dict[str, PairMetrics]
    """By `train` and `eval`."""
    _nonfinite: NonFiniteGuard

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages since the last log to a training log."""
        if "loss" in logs:
            averages = self._pair_metrics["train"].drain(self.accelerator)
            averages.pop("mean_loss", None)  # the trainer's own `loss` says it
            tokens = self._pair_metrics["train"].drain_tokens(self.accelerator)
            logs |= averages | {"num_tokens": last_logged(self.state.log_history, "num_tokens") + tokens}
            if self._nonfinite.skipped:
                logs["nonfinite_steps"] = self._nonfinite.skipped
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As the base class, with our metrics: they can choose the best checkpoint and stop early."""
        self._pair_metrics["eval"].drain(self.accelerator)  # of an evaluation that was cut short
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        averages = self._pair_metrics["eval"].drain(self.accelerator)
        averages["loss"] = averages.pop("mean_loss")  # over pairs; the base class averages over batches
        output.metrics.update(  # pyright: ignore[reportOptionalMemberAccess]
            {f"{metric_key_prefix}_{name}": value for name, value in averages.items()})
        return output._replace(**by_pair(output.predictions, output.label_ids))
