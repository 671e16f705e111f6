"""Losses and gradients that are not finite: the step is refused, or skipped and counted, and the pairs are named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from lpo.errors import UnsoundError

log = logging.getLogger(__name__)

_SHOWN = 8


class NonFiniteGuard:
    """Watches the losses and the gradient of every optimiser step.

    Args:
        allowed: Steps that may be skipped before the training stops.
        skipped: Steps skipped before a resume.
    """

    def __init__(self, allowed: int, skipped: int = 0) -> None:
        self.allowed = allowed
        self.skipped = skipped
        self.step_pairs: list[str] = []
        self._bad_pairs: list[str] = []

    def begin_step(self, pair_ids: Sequence[str]) -> None:
        """A new optimiser step over these pairs of this process."""
        self.step_pairs = list(pair_ids)
        self._bad_pairs = []

    def see_loss(self, loss: torch.Tensor, pair_ids: Sequence[str]) -> torch.Tensor:
        """Look at the loss of some pairs.

        Returns:
            The loss, or zero if it is not finite: it must not spoil the average over a logging window.
        """
        if torch.isfinite(loss):
            return loss
        self._bad_pairs += pair_ids
        return torch.zeros_like(loss)

    def must_skip(self, norm: Any, accelerator: Any, step: int) -> bool:
        """Decide about the step after its backward passes; all processes decide alike.

        Args:
            norm: The gradient's norm.
            accelerator: Joins the processes.
            step: Number of the optimiser step, from 1.

        Raises:
            UnsoundError: The loss or the gradient is not finite and no skip is left.
        """
        bad_gradient = not bool(torch.isfinite(torch.as_tensor(norm)))
        bad = bad_gradient or bool(self._bad_pairs)
        if accelerator.num_processes > 1:
            bad = bool(accelerator.reduce(torch.tensor(int(bad), device=accelerator.device)) > 0)
        if not bad:
            return False
        what = "loss" if self._bad_pairs else "gradient"
        ids = self._bad_pairs or self.step_pairs
        named = ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
        if self.skipped >= self.allowed:
            raise UnsoundError(f"the {what} is not finite at step {step}; pairs: {named}", where="StepDPOTrainer",
                               mend="look at these rows; lower the learning rate; the last checkpoint is intact "
                                    "(max_nonfinite_steps skips such steps)")
        self.skipped += 1
        log.warning("step %d is skipped (%d of at most %d): the %s is not finite; pairs: %s",
                    step, self.skipped, self.allowed, what, named)
        return True
