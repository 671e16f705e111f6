"""TRL's DPOTrainer, computing what the rows of a batch share only once."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from trl import DPOTrainer

from lpo.errors import ConfigError
from lpo.trainers.policy import base_of, is_peft
from lpo.trainers.shared_forward import USE_TRL, TokenCount, attach_shared_forward


class PrefixSharedDPOTrainer(DPOTrainer):
    """`trl.DPOTrainer` with another forward: tokens that rows of a batch begin with alike are computed once.

    Takes what `trl.DPOTrainer` takes and gives the same numbers: every loss, metric, reference and PEFT path is
    TRL's own. The chosen and the rejected answer of a pair share their prompt; so do all pairs of a batch that have
    one prompt in common (and whatever else begins alike). What is shared is what lies in one forward batch, so rows
    of one prompt should be neighbours in the data set, and stay so: `per_device_train_batch_size` above 1 and
    `train_sampling_strategy="sequential"`. The logged `tree/sharing` is row tokens per computed token.

    TRL cuts rows at 1024 tokens by default: set `max_length=None` (or your window) for long prompts. With dropout on
    (`disable_dropout=False`) a shared token is dropped alike in all its rows. Nothing is sent anywhere: TRL's
    start-up ping is off.

    Example:
        Each long document with its best and its worst answer, four documents a step::

            from datasets import load_dataset
            from trl import DPOConfig

            from lpo.trainers import PrefixSharedDPOTrainer

            rows = load_dataset("json", data_files="pairs.jsonl", split="train")  # prompt, chosen, rejected
            trainer = PrefixSharedDPOTrainer(
                model="Qwen/Qwen3-0.6B",
                args=DPOConfig("out", max_length=None, per_device_train_batch_size=1, gradient_accumulation_steps=4),
                train_dataset=rows,
            )
            trainer.train()

    Raises:
        ConfigError: The model or a setting cannot be combined with sharing; `trl.DPOTrainer` trains it unshared.
    """

    _tag_names = ["trl", "dpo", "lpo"]  # noqa: RUF012  (declared so by the base class)
    _token_count: TokenCount | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share_beginnings()

    def _send_telemetry(self) -> None:
        """TRL pings its makers here; this library sends nothing."""

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Share here too: the first call comes from within TRL's constructor."""
        self._share_beginnings()
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _share_beginnings(self) -> None:
        if self._token_count is not None:
            return
        _refuse_unsupported(self)
        # What TRL's losses and metrics read; `log_sum_sq_probs` is for WPO's weights.
        outputs = ("entropy", "mean_logits", "is_top1") + ("log_sum_sq_probs",) * self.use_weighting
        self._token_count = attach_shared_forward(base_of(self.model), outputs)
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            attach_shared_forward(reference, (), self.accelerator.autocast)
        if self._precompute_model_hash is not None:
            # TRL keys its cache of reference log-probs on data and model alone, although these settings change them:
            # a second run in the same cache would silently train against the first one's reference.
            reads = (self.args.ld_alpha, self.args.max_length, self.args.truncation_mode)
            self._precompute_model_hash = Hasher.hash((type(self).__name__, self._precompute_model_hash, reads))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """TRL's loss; logs how much was shared."""
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self._token_count is not None
        here = torch.tensor([self._token_count.rows, self._token_count.packed], device=self.accelerator.device)
        rows, packed = self.accelerator.gather(here).view(-1, 2).sum(0).tolist()
        self._metrics["train" if self.model.training else "eval"]["tree/sharing"].append(rows / packed)
        return result


def _refuse_unsupported(trainer: DPOTrainer) -> None:
    """Refuse what would not be shared soundly.

    Raises:
        ConfigError: See the messages.
    """
    adapters = trainer.model.peft_config.values() if is_peft(trainer.model) else ()
    refusals = (
        (trainer._is_vlm or trainer._is_vision_dataset, "images among the tokens", "processing_class", USE_TRL),
        (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or trainer.accelerator.parallelism_config is not None,
         "sharded training (DeepSpeed, FSDP, tensor, context or sequence parallelism)", "accelerate",
         "use data parallelism (DDP), with LoRA if memory is short, or trl.DPOTrainer"),
        (trainer.is_model_parallel, "a model split over several devices", "device_map", "put it on one device"),
        (trainer.args.torch_compile, "torch_compile", "torch_compile", "set torch_compile=False"),
        (trainer.aux_loss_enabled, "the load-balancing loss, which counts tokens as often as rows hold them,",
         "router_aux_loss_coef", "set router_aux_loss_coef=0, or use trl.DPOTrainer"),
        (any(adapter.is_prompt_learning for adapter in adapters), "an adapter that puts tokens before the prompt",
         "peft_config", "use LoRA or another adapter inside the layers"),
    )
    for refused, what, where, mend in refusals:
        if refused:
            raise ConfigError(f"{what} cannot be combined with shared beginnings", where=where, mend=mend)
