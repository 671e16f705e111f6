"""Trainers and their losses. Each name is loaded when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpo.segment_pairs import IterMode
    from lpo.trainers.callbacks import ChosenFalls, MetricsFile, SampleWriter
    from lpo.trainers.checkpoints import latest_complete
    from lpo.trainers.iter_dpo_config import IterDPOConfig
    from lpo.trainers.iter_dpo_trainer import IterDPOTrainer
    from lpo.trainers.loss_settings import LossSettings, LossType
    from lpo.trainers.losses import LossInputs, LossOutputs, preference_loss
    from lpo.trainers.prefix_shared_dpo_trainer import PrefixSharedDPOTrainer
    from lpo.trainers.sides import SideIndex
    from lpo.trainers.step_dpo_config import StepDPOConfig
    from lpo.trainers.step_dpo_trainer import StepDPOTrainer
    from lpo.trainers.tokenise import TokenisedPair, TokenisedRows, Tokeniser

__all__ = [
    "ChosenFalls",
    "IterDPOConfig",
    "IterDPOTrainer",
    "IterMode",
    "LossInputs",
    "LossOutputs",
    "LossSettings",
    "LossType",
    "MetricsFile",
    "PrefixSharedDPOTrainer",
    "SampleWriter",
    "SideIndex",
    "StepDPOConfig",
    "StepDPOTrainer",
    "TokenisedPair",
    "TokenisedRows",
    "Tokeniser",
    "latest_complete",
    "preference_loss",
]

_MODULES = {
    "callbacks": ("ChosenFalls", "MetricsFile", "SampleWriter"),
    "checkpoints": ("latest_complete",),
    "iter_dpo_config": ("IterDPOConfig",),
    "iter_dpo_trainer": ("IterDPOTrainer",),
    "iter_rows": ("IterMode",),
    "loss_settings": ("LossSettings", "LossType"),
    "losses": ("LossInputs", "LossOutputs", "preference_loss"),
    "prefix_shared_dpo_trainer": ("PrefixSharedDPOTrainer",),
    "sides": ("SideIndex",),
    "step_dpo_config": ("StepDPOConfig",),
    "step_dpo_trainer": ("StepDPOTrainer",),
    "tokenise": ("TokenisedPair", "TokenisedRows", "Tokeniser"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
