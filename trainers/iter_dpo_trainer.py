"""IterDPO: preference pairs from scripts that were corrected segment by segment."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Dataset

from lpo.errors import ConfigError, NothingLeftError
from lpo.trainers.iter_dpo_config import IterDPOConfig
from lpo.trainers.iter_rows import expand_rows
from lpo.trainers.step_dpo_trainer import StepDPOTrainer
from lpo.trainers.tokenise import reasons

log = logging.getLogger(__name__)


class IterDPOTrainer(StepDPOTrainer):
    """Trains on `prompt`, `segments_original`, `segments_revised`; plain pairs in the same data set train as they are.

    A script becomes pairs as `IterDPOConfig.mode` says, all of one `group` and with `step` counted from 0; the pair
    that ends with segment i is called `<id>/<i>`. In `prefix` mode each side is scored whole, corrections before
    segment i included (LongWriter-V, Eq. 5), so the sides of one script are nested: their log-probs are sums over
    beginnings of the same per-token log-probs. An edit in segment j counts in N - j + 1 pairs.

    The paper sums the losses of a script's pairs. Here, as in `StepDPOTrainer`, an optimiser step takes the mean over
    all its pairs. With one script a step that is the paper's loss divided by N, which a learning rate makes up for
    only where scripts have equally many segments: otherwise the paper weighs a script by N, and so does the mean over
    the pairs of several scripts in one step.

    Pairs with equal sides are skipped and listed in `rejected_rows`, like rows that cannot be used. A pair of which
    one side has no text (`local`: a segment the writer missed) is among them.

    Args:
        model: A causal language model, its name, or a PeftModel whose adapter starts at zero.
        ref_model: The reference; None takes the starting policy.
        args: Settings; None takes the defaults.
        others: As for `StepDPOTrainer`, in its order.
        settings: As for `StepDPOTrainer`: `train_dataset`, `eval_dataset`, `processing_class`, `peft_config`, ...

    Raises:
        ConfigError: Settings that cannot work together.
        NothingLeftError: Every row was rejected.
    """

    _tag_names = ["lpo", "iter-dpo"]  # noqa: RUF012  (declared so by the base class)
    _name = "Iter-DPO"
    _paper = {  # noqa: RUF012  (declared so by the base class)
        "title": "LongWriter-V: Enabling Ultra-Long and High-Fidelity Generation in Vision-Language Models",
        "id": "2502.14834",
        "citation": (
            "@article{tu2025longwriterv,\n"
            "    title   = {{LongWriter-V: Enabling Ultra-Long and High-Fidelity Generation in Vision-Language "
            "Models}},\n"
            "    author  = {Shangqing Tu and Yucheng Wang and Daniel Zhang-Li and Yushi Bai and Jifan Yu and Yuhao Wu "
            "and Lei Hou and Huiqin Liu and Zhiyuan Liu and Bin Xu and Juanzi Li},\n"
            "    year    = 2025,\n"
            "    journal = {arXiv preprint arXiv:2502.14834}\n"
            "}"),
    }

    def __init__(
        self, model: Any, ref_model: Any = None, args: IterDPOConfig | None = None, *others: Any, **settings: Any
    ) -> None:
        args = args or IterDPOConfig(output_dir="iter-dpo")
        if not isinstance(args, IterDPOConfig):
            raise ConfigError(f"{type(args).__name__} has no mode", where="args", mend="give an IterDPOConfig")
        self._mode, self._prefixes_end = args.mode, args.prefixes_end  # rows are read before `self.args` is set
        super().__init__(model, ref_model, args, *others, **settings)

    def _tokenise(self, rows: Any, name: str) -> Any:
        if isinstance(rows, Dataset) or not hasattr(rows, "__len__"):
            return super()._tokenise(rows, name)  # tokenised already; or refused there
        expansion = expand_rows(rows, self._mode, prefixes_end=self._prefixes_end, name=name)
        left_out = expansion.refused + expansion.skipped
        if expansion.refused:
            log.warning("%d of %d rows refused: %s", len(expansion.refused), len(rows), reasons(expansion.refused))
        if expansion.n_glued:
            log.warning("at %d places where segments meet, words meet without a blank: segments are joined as they are",
                        expansion.n_glued)
        if expansion.cleaned_characters:
            log.warning("%d unusable characters replaced", expansion.cleaned_characters)
        log.info("%d rows make %d pairs; %d more with equal sides are skipped",
                 len(rows) - len(expansion.refused), len(expansion.rows), len(expansion.skipped))
        if left_out and not expansion.rows:
            raise NothingLeftError(f"none of {len(rows)} rows is left: {reasons(left_out)}", where=name,
                                   mend=f"the first one, {left_out[0].id}: {left_out[0].detail}")
        self.rejected_rows += left_out
        return super()._tokenise(expansion.rows, name)
