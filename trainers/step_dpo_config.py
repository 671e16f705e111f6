"""Settings of `StepDPOTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available
from trl.trainer.base_config import _BaseConfig

from lpo.errors import ConfigError
from lpo.trainers.loss_settings import LossSettings


class Oversized(StrEnum):
    """What becomes of a group that `max_pack_tokens` cannot hold."""

    REJECT = "reject"
    """It is split between its pairs; a pair that alone is too big is rejected."""
    DEPTH_FIRST = "depth_first"
    """It is computed branch by branch."""


@dataclass
class StepDPOConfig(_BaseConfig):
    """Every field of `transformers.TrainingArguments`, and those below.

    With `packing="tree"` (the default) a batch counts groups: `per_device_train_batch_size=1` reads one document with
    all its pairs. With `packing="rows"` it counts pairs.

    Args:
        learning_rate: 1e-6 suits full fine-tuning; LoRA wants about 1e-4.
        loss_type: One or several losses (`LossType`), their weighted sum is minimised.
        loss_weights: One weight per loss; None gives each the weight 1.
        beta: Strength of the reference, see `LossSettings` (as are the fields up to `sampo_seed`).
        label_smoothing: Probability that a pair is labelled the wrong way round.
        simpo_gamma: SimPO's target margin.
        r_dpo_alpha: R-DPO's weight of the difference of lengths.
        ld_alpha: LD-DPO's weight of tokens beyond the shorter side.
        orpo_lambda: ORPO's weight of the odds-ratio term.
        cpo_alpha: CPO's weight of the NLL term.
        sampo_seed: Seed of SamPO's token sampling.
        packing: `tree` computes every token that pairs of a group share once; `rows` computes each side by itself, as
            TRL does. Both give the same gradients.
        tree_attention: `auto` (FlexAttention on CUDA, the segment loop elsewhere), `segments` or `flex`.
        max_pack_tokens: Tokens that go through the model at once under `tree`: small groups are packed together up to
            it, larger ones are split. It changes memory and time, not the result. None: the largest group.
        oversized: What becomes of what `max_pack_tokens` cannot hold. `reject`: a larger group is split between its
            pairs, a pair that alone is larger is rejected with its length. `depth_first`: a larger group is computed
            branch by branch while its trunk is kept, with the same gradients.
        precompute_ref_log_probs: Compute the reference's log-probs once, at the beginning of `train()`, and keep them
            on disk per token; False computes them at every step.
        reference_cache_dir: Where; None: `reference` in `output_dir`. Trainings that share it share what they computed.
        max_nonfinite_steps: Optimiser steps with a loss or gradient that is not finite that may be skipped (and are
            counted) before the training stops.
        max_length: Rows of more tokens are rejected with a count, never cut. None: the model's own window.
        chat_template: `tokenizer` (its own), `plain` (shipped here, for base models) or a file.
        disable_dropout: Switch off the model's own dropout, so that policy and reference start equal. LoRA's dropout
            stays what the `peft_config` says.
        check_reference: Before the first step, stop if policy and reference do not start equal.
        model_init_kwargs: Passed to `from_pretrained` when the model is given by name.
        trust_remote_code: Run code that comes with a model given by name.
        bf16: None: where an accelerator can do it.
        gradient_checkpointing: None: on an accelerator, where memory is short.
        logging_nan_inf_filter: False, so that no loss is hidden; a loss that is not finite stops the training.
        restore_callback_states_from_checkpoint: True, so that early stopping counts on after a resume.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*_BaseConfig._VALID_DICT_FIELDS, "model_init_kwargs"]

    learning_rate: float = field(default=1e-6, metadata={"help": "Initial learning rate."})
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"], metadata={"help": "One or several losses, summed."}
    )
    loss_weights: list[float] | None = field(default=None, metadata={"help": "One weight per loss."})
    beta: float = field(default=0.1, metadata={"help": "Strength of the reference."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Probability of a wrong label, in [0, 0.5)."})
    simpo_gamma: float | None = field(default=None, metadata={"help": "SimPO's target margin."})
    r_dpo_alpha: float | None = field(default=None, metadata={"help": "R-DPO's weight of the difference of lengths."})
    ld_alpha: float | None = field(default=None, metadata={"help": "LD-DPO's weight of the longer side's tail."})
    orpo_lambda: float | None = field(default=None, metadata={"help": "ORPO's weight of the odds-ratio term."})
    cpo_alpha: float | None = field(default=None, metadata={"help": "CPO's weight of the NLL term."})
    sampo_seed: int | None = field(default=None, metadata={"help": "Seed of SamPO's token sampling."})
    packing: str = field(default="tree", metadata={"help": "'tree' (shared tokens once) or 'rows'."})
    tree_attention: str = field(default="auto", metadata={"help": "'auto', 'segments' or 'flex'."})
    max_pack_tokens: int | None = field(
        default=None, metadata={"help": "Tokens that go through the model at once. Default: the largest group."}
    )
    oversized: str = field(
        default="reject", metadata={"help": "What max_pack_tokens cannot hold: 'reject' or 'depth_first'."}
    )
    precompute_ref_log_probs: bool = field(
        default=True, metadata={"help": "Compute reference log-probs once and keep them on disk, per token."}
    )
    reference_cache_dir: str | None = field(
        default=None, metadata={"help": "Where they are kept. Default: <output_dir>/reference."}
    )
    max_nonfinite_steps: int = field(
        default=0, metadata={"help": "Steps with a loss or gradient that is not finite that may be skipped."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Rows of more tokens are rejected, never cut. Default: the model's window."}
    )
    chat_template: str = field(default="tokenizer", metadata={"help": "'tokenizer', 'plain' or a .jinja file."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch off the model's own dropout."})
    check_reference: bool = field(
        default=True, metadata={"help": "Stop before the first step if policy and reference do not start equal."}
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Passed to from_pretrained when the model is given by name."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})

    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast. Default: where a GPU can do it."})
    gradient_checkpointing: bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "Recompute activations in the backward. Default: on an accelerator."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The trainer reads columns by itself."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Resume callbacks (early stopping) where they were."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise TrainingArguments refuses bf16 where only a CPU is
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        # transformers 5.23 renamed the option and warns about the old name.
        new_name = "activation_checkpointing" if hasattr(self, "activation_checkpointing") else "gradient_checkpointing"
        if self.gradient_checkpointing is None and getattr(self, new_name) is None:
            setattr(self, new_name, not self.use_cpu)
        self.oversized = Oversized(self._one_of("oversized", list(Oversized)))
        self._check_packing()
        settings = self.loss_settings()
        if self.reference_cache_dir is not None and not (self.precompute_ref_log_probs and settings.needs_reference):
            raise ConfigError("nothing would be kept there", where="reference_cache_dir",
                              mend="remove it, or use a loss with a reference and precompute_ref_log_probs=True")
        super().__post_init__()

    def _one_of(self, name: str, allowed: Sequence[str]) -> str:
        value = getattr(self, name)
        if value not in allowed:
            raise ConfigError(f"{value!r} is none of {', '.join(allowed)}", where=name, mend="choose one of them")
        return value

    def _check_packing(self) -> None:
        self._one_of("tree_attention", ["auto", "segments", "flex"])
        if self._one_of("packing", ["tree", "rows"]) == "rows":
            for name, default in (("tree_attention", "auto"), ("max_pack_tokens", None), ("oversized", "reject")):
                if getattr(self, name) != default:
                    raise ConfigError("packing='rows' does not read it", where=name,
                                      mend="remove it, or use packing='tree'")
        if self.max_pack_tokens is not None and self.max_pack_tokens < 2:
            raise ConfigError("a tree has at least 2 tokens", where="max_pack_tokens", mend="give a larger number")
        if self.max_pack_tokens is None and self.oversized != Oversized.REJECT:
            raise ConfigError("without max_pack_tokens no group is too big", where="oversized",
                              mend="set max_pack_tokens to the number of tokens that fit")
        if self.max_nonfinite_steps < 0:
            raise ConfigError("a count is not negative", where="max_nonfinite_steps", mend="give 0 or more")

    def loss_settings(self) -> LossSettings:
        """The losses and their hyper-parameters.

        Raises:
            ConfigError: A value is out of range, or no chosen loss would read it.
        """
        return LossSettings(
            loss_types=tuple(self.loss_type),  # pyright: ignore[reportArgumentType]  (names are accepted)
            weights=tuple(self.loss_weights) if self.loss_weights is not None else None,
            beta=self.beta, label_smoothing=self.label_smoothing, simpo_gamma=self.simpo_gamma,
            r_dpo_alpha=self.r_dpo_alpha, ld_alpha=self.ld_alpha, orpo_lambda=self.orpo_lambda,
            cpo_alpha=self.cpo_alpha, sampo_seed=self.sampo_seed,
        )
