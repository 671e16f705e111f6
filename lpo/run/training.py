"""The train stage: pairs become an adapter (or a fully trained model)."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpo.config import Issue, RunConfig, TrainConfig, suggestion
from lpo.records import PreferencePair, Prompt, RejectedRow, fingerprint
from lpo.run.directory import RunDirectory, Stage
from lpo.run.progress import Reporter
from lpo.storage import read_jsonl, sync_folder, write_json, write_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lpo.trainers import StepDPOConfig

RESERVED = ("output_dir", "seed", "chat_template", "resume_from_checkpoint")
"""Arguments the run sets itself."""


def check_arguments(train: TrainConfig) -> list[Issue]:
    """Compare `train.args` with the fields of the trainer's configuration. Loads torch."""
    from lpo.trainers import StepDPOConfig

    known = {field.name for field in fields(StepDPOConfig) if field.init}
    issues: list[Issue] = []
    for key in train.args:
        if key in RESERVED:
            issues.append(Issue(f"train.args.{key}", "is set by the run itself; remove it"))
        elif key not in known:
            issues.append(Issue(f"train.args.{key}", "unknown key" + _near(key, known)))
    if not issues:
        try:
            training_arguments(train, Path("unused"), seed=0, chat_template="tokenizer")
        except Exception as error:
            issues.append(Issue("train.args", " ".join(str(error).split())))
    return issues


def _near(key: str, known: set[str]) -> str:
    hint = suggestion(key, known)
    return hint if "did you mean" in hint else " (any field of StepDPOConfig or TrainingArguments)"


def training_arguments(train: TrainConfig, output_dir: Path, *, seed: int, chat_template: str,
                       evaluates: bool = False) -> StepDPOConfig:
    """The trainer's configuration for this run."""
    from lpo.trainers import StepDPOConfig

    values: dict[str, Any] = {"logging_steps": 1, "disable_tqdm": True, **train.args}
    if evaluates:
        values = {"eval_strategy": "epoch", **values}
        values.setdefault("save_strategy", values["eval_strategy"])
        values.setdefault("load_best_model_at_end", True)
        values.setdefault("metric_for_best_model", "eval_loss")
    return StepDPOConfig(output_dir=str(output_dir), seed=seed, chat_template=chat_template, **values)


def split_groups(pairs: Sequence[PreferencePair], fraction: float) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Hold out whole groups, chosen by the hash of their names, so that no document stands on both sides.

    Args:
        pairs: All pairs.
        fraction: Share of groups to hold out; at least one group trains and, above zero, at least one is held out.

    Returns:
        Pairs to train on and pairs held out.
    """
    groups = sorted({pair.group for pair in pairs}, key=lambda group: fingerprint(["held out", group]))
    count = min(math.ceil(fraction * len(groups)), len(groups) - 1) if fraction else 0
    held_out = set(groups[:count])
    return ([pair for pair in pairs if pair.group not in held_out],
            [pair for pair in pairs if pair.group in held_out])


def load_pairs(directory: RunDirectory) -> list[PreferencePair]:
    """The pairs of the build stage."""
    return [PreferencePair.model_validate(row) for row in read_jsonl(directory / "pairs.jsonl")]


@dataclass(frozen=True)
class TrainSummary:
    """What a finished training did, as stored in train.json."""

    pairs: int
    """Pairs meant for training."""
    rejected: int
    """Those of them that the trainer rejected."""
    held_out_pairs: int
    held_out_rejected: int
    steps: int
    trainable_parameters: int
    parameters_moved: float
    """L2 norm of (trained - initial) over the trainable parameters, divided by the L2 norm of the initial ones."""
    final_loss: float


def train(config: RunConfig, prompts: Sequence[Prompt], directory: RunDirectory, reporter: Reporter) -> TrainSummary:
    """Train on the pairs of the run, continuing from the last complete checkpoint when there is one.

    Raises:
        NothingLeftError: The trainer rejected every pair.
    """
    from transformers import PrinterCallback

    from lpo.trainers import StepDPOTrainer, latest_complete

    kept, held_out = split_groups(load_pairs(directory), config.train.eval_fraction)
    arguments = training_arguments(config.train, directory / "train", seed=config.seed,
                                   chat_template=config.trained_model.chat_template, evaluates=bool(held_out))
    model, tokenizer = load_policy(config)
    trainer = StepDPOTrainer(
        model=model, args=arguments, train_dataset=_rows(kept),
        eval_dataset=_rows(held_out) if held_out else None, processing_class=tokenizer,
        peft_config=_peft_config(config.train), callbacks=_callbacks(config, prompts, directory, reporter, tokenizer),
    )
    trainer.remove_callback(PrinterCallback)  # the progress line says it; metrics.jsonl has every figure
    _replace_rejected(directory, trainer.rejected_rows)
    if trainer.sharing is not None:
        reporter.say(f"{trainer.sharing.row_tokens:,} tokens in all rows, {trainer.sharing.packed_tokens:,} of them "
                     f"distinct: each is computed once ({trainer.sharing.ratio:.2f}x fewer)")
    initial = _snapshot(trainer.model)
    checkpoint = latest_complete(directory / "train")
    if checkpoint is not None:
        reporter.say(f"training continues from {checkpoint.name}")
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    _save_final(trainer, directory / "train")
    rejected = len(kept) - len(trainer.train_dataset.pairs)
    summary = TrainSummary(
        pairs=len(kept), rejected=rejected, held_out_pairs=len(held_out),
        held_out_rejected=len(trainer.rejected_rows) - rejected,
        steps=trainer.state.global_step, trainable_parameters=trainable,
        parameters_moved=_distance(initial, trainer.model), final_loss=float(result.training_loss),
    )
    write_json(directory / "train.json", summary.__dict__)
    reporter.say(f"trained {summary.steps} steps on {summary.pairs - summary.rejected} pairs; weights moved by "
                 f"{summary.parameters_moved:.2e} (relative L2)")
    return summary


def load_policy(config: RunConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy's model and tokenizer, ready to be trained: in float32 unless the configuration names a type."""
    import torch

    from lpo.llm.loading import pick_dtype, read_weights

    weights = config.trained_model
    return read_weights(weights, pick_dtype(weights.dtype, torch.device("cpu")))


def _rows(pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    """The trainer's columns; everything else of a pair stays in pairs.jsonl."""
    columns = {"id", "group", "prompt", "prefix", "chosen", "rejected", "chosen_ends", "rejected_ends", "step"}
    return [pair.model_dump(mode="json", include=columns) for pair in pairs]


def _peft_config(train: TrainConfig) -> Any:
    if train.peft is None:
        return None
    from peft import LoraConfig

    targets = train.peft.target_modules
    return LoraConfig(r=train.peft.r, lora_alpha=train.peft.alpha, lora_dropout=train.peft.dropout,
                      target_modules=targets if isinstance(targets, str) else list(targets), task_type="CAUSAL_LM")


def _callbacks(config: RunConfig, prompts: Sequence[Prompt], directory: RunDirectory, reporter: Reporter,
               tokenizer: Any) -> list[Any]:
    from transformers import EarlyStoppingCallback

    from lpo.chat import load_chat_template
    from lpo.run.training_progress import TrainingProgress
    from lpo.trainers import MetricsFile, SampleWriter

    callbacks: list[Any] = [MetricsFile(directory / "metrics.jsonl"), TrainingProgress(reporter)]
    if config.train.sample_prompts:
        callbacks.append(SampleWriter(
            directory / "samples.jsonl", list(prompts[: config.train.sample_prompts]), tokenizer,
            load_chat_template(config.trained_model.chat_template), max_tokens=config.train.sample_tokens,
            seed=config.seed))
    if config.train.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.train.early_stopping_patience))
    return callbacks


def _replace_rejected(directory: RunDirectory, rows: Sequence[RejectedRow]) -> None:
    """Rewrite the train stage's share of rejected_rows.jsonl, so that running it again does not double it."""
    path = directory / "rejected_rows.jsonl"
    others = [row for row in read_jsonl(path) if row["stage"] != "train"] if path.exists() else []
    write_jsonl(path, [*others, *(row.to_json() for row in rows)])


def _snapshot(model: Any) -> dict[str, Any]:
    return {name: parameter.detach().cpu().clone()
            for name, parameter in model.named_parameters() if parameter.requires_grad}


def _distance(before: dict[str, Any], model: Any) -> float:
    """How far the model is from a snapshot. One weight at a time: a large model is not copied once more."""
    parameters = dict(model.named_parameters())
    moved = size = 0.0
    for name, start in before.items():
        start = start.float()
        moved += float((parameters[name].detach().cpu().float() - start).square().sum())
        size += float(start.square().sum())
    return math.sqrt(moved / size) if size else 0.0


def _save_final(trainer: Any, folder: Path) -> None:
    """Write the trained weights beside the checkpoints and put them in place in one step."""
    unfinished, final = folder / "final.unfinished", folder / "final"
    shutil.rmtree(unfinished, ignore_errors=True)
    trainer.save_model(str(unfinished))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(unfinished, final)
    sync_folder(folder)


def final_weights(directory: RunDirectory) -> Path:
    """The trained adapter or model."""
    directory.require(Stage.TRAIN)
    return directory / "train" / "final"
