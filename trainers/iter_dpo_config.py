"""Settings of `IterDPOTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lpo.errors import ConfigError
from lpo.segment_pairs import IterMode
from lpo.trainers.step_dpo_config import StepDPOConfig


@dataclass
class IterDPOConfig(StepDPOConfig):
    """Every field of `StepDPOConfig`, and those below.

    Args:
        mode: `prefix` (growing prefixes, as the paper), `local` (each corrected segment after the corrected ones
            before it) or `full` (one pair a script), see `IterMode`.
        prefixes_end: Score the end of the turn after prefixes that do not hold the whole script, too. The paper does
            not say. Off, because a short prefix as the chosen side would teach the model to stop early; after the last
            segment the end is always scored. Only for `mode="prefix"`.
    """

    mode: IterMode = field(default=IterMode.PREFIX, metadata={"help": "Which pairs are made of a script."})
    prefixes_end: bool = field(default=False, metadata={"help": "Score the end of the turn after every prefix."})

    def __post_init__(self) -> None:
        try:
            self.mode = IterMode(self.mode)
        except ValueError:
            raise ConfigError(f"no mode {self.mode!r}", where="mode",
                              mend=f"one of {', '.join(mode.value for mode in IterMode)}") from None
        if self.prefixes_end and not self.mode.has_open_prefixes:
            raise ConfigError(f"mode {self.mode.value} scores no prefixes", where="prefixes_end", mend="leave it out")
        super().__post_init__()
