"""One measurement: a trainer is made, takes one optimiser step over a document, and is thrown away."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cells import Cell, Pair
from datasets import Dataset
from flops import Mode
from memory import Peak
from peft import LoraConfig
from subjects import Subject
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from lpo.packing import PackedTree
from lpo.trainers import StepDPOConfig, StepDPOTrainer


@dataclass(frozen=True)
class Measurement:
    """What was seen.

    Args:
        seconds: From before the trainer is made to after its step: tokenising, reference model, reference, forward,
            backward, optimiser.
        micro_batches: Of each micro-batch, the length of its rows (of its tree) and its seconds, part of the above.
        peak_mb: Highest memory above the loaded model.
        loss: Of the step, in nats; log 2 before anything is learnt.
        grad_norm: Norm of its gradient. Equal for all ways of training that do the same work.
    """

    seconds: float
    micro_batches: list[tuple[int, float]]
    peak_mb: float
    loss: float
    grad_norm: float


class _Timed:
    """Put before a trainer class: notes how long each micro-batch takes."""

    micro_batches: list[tuple[int, float]]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.micro_batches.append((_length(inputs), time.perf_counter() - start))
        return loss


def _length(inputs: Any) -> int:
    """Tokens of each row of a micro-batch, or of its tree."""
    if "input_ids" in inputs:
        return inputs["input_ids"].shape[1]
    (piece,) = inputs["pieces"]
    return piece.tokens.n_tokens if isinstance(piece.tokens, PackedTree) else piece.tokens.input_ids_BT.shape[1]


class _TimedStepDPO(_Timed, StepDPOTrainer):
    pass


class _TimedTRL(_Timed, DPOTrainer):
    pass


def measure(mode: Mode, subject: Subject, cell: Cell, pairs: Sequence[Pair]) -> Measurement:
    """Train on some pairs of a document in one optimiser step.

    Model and texts are there before the clock starts; caches are fresh.

    Args:
        mode: The way of training.
        subject: The model.
        cell: Says whether activations are recomputed.
        pairs: All pairs of the document, or a sample.
    """
    model = subject.model()
    dataset = Dataset.from_list(subject.trl_rows(pairs) if mode is Mode.TRL else subject.rows(pairs))
    with tempfile.TemporaryDirectory() as folder:
        peak = Peak()
        start = time.perf_counter()
        trainer = _make_trainer(mode, subject, cell, model, dataset, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.micro_batches = []
        trainer.train()
        seconds = time.perf_counter() - start
        megabytes = peak.megabytes()
    _check_tokens(mode, subject, trainer, pairs)
    log = next(log for log in trainer.state.log_history if "grad_norm" in log)
    return Measurement(seconds, trainer.micro_batches, megabytes, log["loss"], log["grad_norm"])


def _make_trainer(mode: Mode, subject: Subject, cell: Cell, model: Any, dataset: Dataset, folder: str) -> Any:
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if subject.lora else None
    settings: dict[str, Any] = {
        "output_dir": folder, "max_steps": 1, "per_device_train_batch_size": 1,
        # One pair at a time: no padding, least memory. A tree is a whole document.
        "gradient_accumulation_steps": 1 if mode is Mode.TREE else len(dataset),
        "learning_rate": 1e-4 if subject.lora else 1e-6, "lr_scheduler_type": "constant", "max_length": None,
        "precompute_ref_log_probs": False,  # in one epoch nothing would be saved
        "gradient_checkpointing": subject.checkpointing(cell), "bf16": False, "use_cpu": True, "seed": 0,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }
    given = {"model": model, "train_dataset": dataset, "processing_class": subject.lexicon.tokenizer,
             "peft_config": adapter}
    if mode is Mode.TRL:
        # Left to itself TRL reads its reference from disk; ours copies the model, and so does this.
        reference = None if subject.lora else copy.deepcopy(model)
        return _TimedTRL(ref_model=reference, args=DPOConfig(**settings), **given)
    return _TimedStepDPO(args=StepDPOConfig(packing=str(mode), **settings), **given)


def _check_tokens(mode: Mode, subject: Subject, trainer: Any, pairs: Sequence[Pair]) -> None:
    """Both trainers must have read exactly the tokens the document was made of, and score the same ones."""
    if mode is Mode.TRL:
        seen = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in trainer.train_dataset]
    else:
        seen = [(list(pair.chosen.ids[: pair.chosen.start]), list(pair.chosen.ids[pair.chosen.start:]),
                 list(pair.rejected.ids[pair.rejected.start:])) for pair in trainer.train_dataset.pairs]
    if seen != [subject.lexicon.sides(pair) for pair in pairs]:
        raise RuntimeError(f"{mode}: the texts were not tokenised as they were made")
