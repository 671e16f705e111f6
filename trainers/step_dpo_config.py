"""Settings of `StepDPOTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available
from trl.trainer.base_config import _BaseConfig

from lpo.trainers.loss_settings import LossSettings


@dataclass
class StepDPOConfig(_BaseConfig):
    """Every field of `transformers.TrainingArguments`, and those below.

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
        self.loss_settings()
        super().__post_init__()

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
