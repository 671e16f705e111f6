"""The reference: the policy as it started. It never moves, not even by a resume."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lpo.errors import ConfigError, UnsoundError
from lpo.storage import read_json, write_json
from lpo.trainers.policy import disable_dropout, is_peft

REFERENCE_FILE = "reference.json"

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference of log-probs, in nats per token, that counts as rounding."""
HALF_TOLERANCE = 0.25
"""The same for half precision."""


def make_reference(model: Any, ref_model: Any) -> Any:
    """The model that reference log-probs come from.

    Args:
        model: The policy before its first step, not yet wrapped or patched.
        ref_model: A model given by the user, or None.

    Returns:
        The given model; None for a policy with an adapter, whose reference is itself with the adapter off; otherwise a
        copy of the policy as it is in memory (what is on disk may differ from it). Frozen, without dropout.

    Raises:
        ConfigError: The reference is the policy itself.
    """
    if ref_model is model:
        raise ConfigError("ref_model is the same object as model", where="ref_model",
                          mend="leave it out: the starting policy is the reference")
    if ref_model is None and is_peft(model):
        return None
    reference = copy.deepcopy(model) if ref_model is None else ref_model
    disable_dropout(reference)
    return reference.requires_grad_(False).eval()


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The policy as its own reference: adapter off, dropout off."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(training)


def pin_reference(folder: Path, fingerprint: str, *, resumed_from: Path | None, write: bool) -> None:
    """Write down which reference a training has, or, when it is resumed, compare.

    Args:
        folder: The trainer's output folder.
        fingerprint: Of the reference at hand.
        resumed_from: The checkpoint, or None at a fresh start.
        write: Is it this process that writes?

    Raises:
        UnsoundError: The reference is not the one the training started with.
    """
    if resumed_from is None:
        if write:
            write_json(folder / REFERENCE_FILE, {"sha256": fingerprint, "of": "the weights of the reference"})
        return
    path = resumed_from.parent / REFERENCE_FILE
    if not path.is_file():
        raise UnsoundError("it is not known which reference this training started with", where=str(path),
                           mend="put the file back, or start the training anew in another folder")
    if read_json(path)["sha256"] != fingerprint:
        raise UnsoundError("the reference differs from the one this training started with", where=str(path),
                           mend="give the trainer the same starting model (not the checkpoint); the checkpoint is "
                                "loaded by train(resume_from_checkpoint=...)")


def start_difference(policy_N: torch.Tensor, reference_N: torch.Tensor) -> float:
    """Largest difference of policy and reference over the scored tokens, in nats."""
    return float((policy_N.detach() - reference_N).abs().max())


def tolerance_for(dtype: torch.dtype) -> float:
    """How far two computations of the same log-prob may differ when weights and activations are of this type."""
    return TOLERANCE.get(dtype, HALF_TOLERANCE)


def explain_difference(model: Any) -> tuple[str, str]:
    """Why policy and reference may start different: cause and mend."""
    if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 and module.training
           and "lora_dropout" not in name for name, module in model.named_modules()) or _has_dropout_rates(model):
        return "dropout is on", "set disable_dropout=True"
    if is_peft(model):
        return ("the adapter does not start at zero: it is already trained, or its initialisation changes the model",
                "merge the adapter into the model first, or use init_lora_weights=True; to keep the difference give "
                "ref_model or set check_reference=False")
    return "the reference is another model", "leave ref_model out, or set check_reference=False"


def _has_dropout_rates(model: nn.Module) -> bool:
    return any("dropout" in name and isinstance(value, float) and value > 0
               for module in model.modules() for name, value in vars(module).items())
