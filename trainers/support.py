"""Ways of launching a training that are not supported, refused by name."""

from __future__ import annotations

from typing import Any

from lpo.errors import ConfigError
from lpo.trainers.step_dpo_config import Oversized, StepDPOConfig


def require_one_device(args: StepDPOConfig) -> None:
    """Refuse several GPUs in one process.

    Raises:
        ConfigError: There are several.
    """
    if args.n_gpu > 1:
        raise ConfigError("several GPUs are visible to one process", where="CUDA_VISIBLE_DEVICES",
                          mend="start with `accelerate launch` or `torchrun`, or make one GPU visible")


def require_supported_launch(trainer: Any) -> None:
    """Refuse sharded training, and depth-first computation in several processes.

    Args:
        trainer: A trainer whose accelerator is set up.

    Raises:
        ConfigError: It was launched in such a way.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ConfigError("sharded training (DeepSpeed, FSDP) is not supported by this trainer", where="accelerate",
                          mend="use data parallelism (DDP), with LoRA if memory is short")
    if trainer.args.oversized == Oversized.DEPTH_FIRST and trainer.accelerator.num_processes > 1:
        raise ConfigError("one group is computed in several backward passes, which DDP cannot join", where="oversized",
                          mend="set oversized='reject', or train with one process")
