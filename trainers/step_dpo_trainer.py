"""Preference optimisation on steps: pairs of continuations of one prefix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TrainerCallback, set_seed
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalPrediction, TrainOutput, rotate_checkpoints
from trl.trainer.base_trainer import _BaseTrainer

from lpo.chat import load_chat_template
from lpo.errors import ConfigError, NothingLeftError, UnsoundError
from lpo.records import RejectedRow
from lpo.trainers import checkpoints, policy, reference
from lpo.trainers.batches import PairCollator, PairDataset, side_index
from lpo.trainers.callbacks import ChosenFalls, LogAndSaveTogether, SampleWriter
from lpo.trainers.losses import LossInputs, LossOutputs, preference_loss
from lpo.trainers.metric_sums import MetricSums
from lpo.trainers.scoring import attach_scoring, check_head
from lpo.trainers.step_dpo_config import StepDPOConfig
from lpo.trainers.tokenise import Tokeniser

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


class StepDPOTrainer(_BaseTrainer):
    """Trains on `prompt`, `prefix`, `chosen`, `rejected`; TRL's plain and conversational columns train as they are.

    The loss of an optimiser step is the mean over all its pairs, however they fall into micro-batches and processes.
    Rows that cannot be used are in `rejected_rows`, each with a reason; none is cut. Nothing is sent anywhere:
    TRL's start-up ping is off.

    Args:
        model: A causal language model, its name, or a PeftModel whose adapter starts at zero.
        ref_model: The reference; None takes the starting policy (adapter off, or a copy kept in memory).
        args: Settings; None takes the defaults.
        data_collator: Makes batches of `(number, TokenisedPair)`; None pads (`PairCollator`).
        train_dataset: Rows, as a `datasets.Dataset` or a list of dicts.
        eval_dataset: The same, or a dict of sets by name.
        processing_class: The tokenizer; None loads the model's.
        compute_metrics: Gets `predictions` [P, 2] (rewards of chosen and rejected) and `label_ids` [P] (pair numbers).
        callbacks: As for `transformers.Trainer`.
        optimizers: As for `transformers.Trainer`.
        peft_config: Adapter to train; None trains in full.

    Raises:
        ConfigError: Settings that cannot work together.
        NothingLeftError: Every row was rejected.
    """

    # `compute_loss` divides by the pairs of the whole optimiser step, so the trainer must not divide once more.
    loss_is_scaled_for_ga = True

    _tag_names = ["lpo", "step-dpo"]  # noqa: RUF012  (declared so by the base class)
    _name = "Step-DPO"

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: StepDPOConfig | None = None,
        data_collator: Callable[[Any], Batch] | None = None,
        train_dataset: Iterable[Mapping[str, Any]] | None = None,
        eval_dataset: Iterable[Mapping[str, Any]] | dict[str, Iterable[Mapping[str, Any]]] | None = None,
        processing_class: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
    ) -> None:
        args = args or StepDPOConfig(output_dir="step-dpo")
        _refuse_unsupported(args)
        set_seed(args.seed)
        name = model if isinstance(model, str) else None
        model = policy.load_model(model, args)
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(name or policy.base_of(model).config._name_or_path,
                                                             trust_remote_code=args.trust_remote_code)
        self.loss_settings = args.loss_settings()
        self.tokeniser = Tokeniser(processing_class, load_chat_template(args.chat_template),
                                   _longest_row(args, policy.base_of(model)))
        self.rejected_rows: list[RejectedRow] = []
        self._steps: set[int] = set()  # of all rows: every process must report the same metrics
        train_pairs = self._tokenise(train_dataset, "train row") if train_dataset is not None else None
        eval_pairs = self._tokenise_eval(eval_dataset) if eval_dataset is not None else None

        needs_reference = self.loss_settings.needs_reference
        if ref_model is not None and not needs_reference:
            raise ConfigError(f"{', '.join(self.loss_settings.loss_types)} has no reference", where="ref_model",
                              mend="leave it out")
        self._given_reference = ref_model is not None
        model = policy.wrap_policy(model, args, peft_config)
        self.ref_model = reference.make_reference(model, ref_model) if needs_reference else None
        attach_scoring(policy.base_of(model))
        if self.ref_model is not None:
            attach_scoring(policy.base_of(self.ref_model))

        self._sums = {"train": MetricSums(), "eval": MetricSums()}
        self._new_tokens = torch.zeros((), dtype=torch.int64)
        self._unchecked = True
        self._resumed = False
        self._step_pairs: list[torch.Tensor] = []
        super().__init__(
            model=model, args=args,
            data_collator=data_collator or PairCollator(_pad_token(processing_class)),
            train_dataset=train_pairs, eval_dataset=eval_pairs, processing_class=processing_class,
            compute_metrics=compute_metrics, callbacks=[LogAndSaveTogether(), ChosenFalls(), *(callbacks or [])],
            optimizers=optimizers,
        )
        _refuse_sharding(self)
        trackers = tuple(get_reporting_integration_callbacks(args.report_to))
        for callback in callbacks or []:
            if isinstance(callback, SampleWriter):
                callback.trackers = [one for one in self.callback_handler.callbacks if isinstance(one, trackers)]
        if self.ref_model is not None:
            self.ref_model = self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)

    def _send_telemetry(self) -> None:
        """TRL pings its makers here; this library sends nothing."""

    # ---- rows ----

    def _tokenise(self, rows: Any, name: str) -> PairDataset:
        if isinstance(rows, PairDataset):
            return rows
        if not hasattr(rows, "__len__"):
            raise ConfigError("rows must be countable: they are checked before training", where=name,
                              mend="give a datasets.Dataset or a list of dicts")
        result = self.tokeniser.rows(rows, name)
        self.rejected_rows += result.rejected
        if result.rejected:
            log.warning("%d of %d rows rejected: %s", len(result.rejected), len(rows), result.reasons())
        if result.cleaned_characters:
            log.warning("%d unusable characters replaced", result.cleaned_characters)
        if result.straddling:
            log.info("%.2f %% of sides begin inside a token", 100 * result.straddling)
        if not result.pairs:
            first = f"the first one, {result.rejected[0].id}: {result.rejected[0].detail}" if result.rejected else None
            raise NothingLeftError(f"none of {len(rows)} rows is left: {result.reasons() or 'there are none'}",
                                   where=name, mend=first or "give some rows")
        self._steps |= {pair.step for pair in result.pairs}
        return PairDataset(result.pairs)

    def _tokenise_eval(self, rows: Any) -> PairDataset | dict[str, PairDataset]:
        if isinstance(rows, dict):
            return {name: self._tokenise(part, f"{name} row") for name, part in rows.items()}
        return self._tokenise(rows, "eval row")

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate on the trainer's evaluation set, or on other rows."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._tokenise_eval(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # pyright: ignore[reportArgumentType]

    # ---- log-probs and loss ----

    def _logprobs(self, model: Any, batch: Batch) -> torch.Tensor:
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                     scored_index=batch["scored_index"], scored_targets=batch["scored_targets"])

    def _reference_logprobs(self, batch: Batch) -> torch.Tensor | None:
        if not self.loss_settings.needs_reference:
            return None
        if self.ref_model is not None:
            model, context = self.ref_model, nullcontext()
        else:
            model, context = self.model, reference.adapter_off(self.accelerator.unwrap_model(self.model))
        with torch.no_grad(), context, self.accelerator.autocast():
            return self._logprobs(model, batch)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of a micro-batch.

        Args:
            model: The policy, wrapped.
            inputs: A batch of `PairCollator`.
            return_outputs: Return `(loss, LossOutputs)`.
            num_items_in_batch: Pairs of the whole optimiser step over all processes; None takes this batch's.
        """
        reference_N = self._reference_logprobs(inputs)  # before the policy's, whose activations are kept
        policy_N = self._logprobs(model, inputs)
        if self._unchecked and model.training:
            self._check_start(inputs, policy_N, reference_N)
        outputs = preference_loss(
            LossInputs(policy_N, side_index(inputs, "chosen"), side_index(inputs, "rejected"), reference_N,
                       pair_key_P=inputs["pair_index"], step=self.state.global_step if model.training else 0),
            self.loss_settings,
        )
        self._add_metrics("train" if model.training else "eval", inputs, outputs)
        loss = outputs.loss
        if num_items_in_batch is not None:
            # Gradients are averaged over processes, so each process's share counts as often as there are processes.
            loss = outputs.losses_P.sum() * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        self._step_pairs = [batch["pair_index"] for batch in batch_samples]
        count = torch.tensor(sum(index.numel() for index in self._step_pairs), device=device)
        return self.accelerator.gather(count).sum()  # pyright: ignore[reportAttributeAccessIssue]

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Loss of an evaluation batch; rewards [P, 2] and pair numbers [P] for `compute_metrics`."""
        inputs = self._prepare_inputs(inputs)  # pyright: ignore[reportAssignmentType]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, torch.stack((outputs.rewards_chosen_P, outputs.rewards_rejected_P), 1), inputs["pair_index"]

    # ---- self-checks ----

    def _check_start(self, batch: Batch, policy_N: torch.Tensor, reference_N: torch.Tensor | None) -> None:
        """Before the first step: is the head understood, and is the reference the starting policy?"""
        self._unchecked = False
        model: Any = self.accelerator.unwrap_model(self.model)
        half = self.args.bf16 or self.args.fp16
        tolerance = reference.tolerance_for(torch.bfloat16 if half else policy.base_of(model).dtype)
        model.eval()
        with self.accelerator.autocast():
            check_head(self.model, batch["input_ids"][0][batch["attention_mask"][0].bool()][:32], tolerance)
        model.train()
        if reference_N is None or self._resumed or not self.args.check_reference:  # pyright: ignore[reportAttributeAccessIssue]
            return
        difference = reference.start_difference(policy_N, reference_N)
        if self._given_reference:
            log.info("policy and given reference differ by up to %.3g nats per token at the start", difference)
        elif not difference <= tolerance:
            cause, mend = reference.explain_difference(model)
            raise UnsoundError(f"policy and reference differ by {difference:.3g} nats on a token before the first step "
                               f"(allowed: {tolerance:g}): {cause}", where="StepDPOTrainer", mend=mend)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch; stops on a loss that is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._not_finite("loss", [inputs["pair_index"]])
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaled = getattr(self.accelerator, "scaler", None) is not None  # fp16: its scaler skips such steps itself
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            raise self._not_finite("gradient", self._step_pairs)
        return norm

    def _not_finite(self, what: str, numbers: list[torch.Tensor]) -> UnsoundError:
        pairs = self.train_dataset.pairs  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        ids = [pairs[number].id for index in numbers for number in index.tolist()]
        return UnsoundError(f"the {what} is not finite at step {self.state.global_step + 1}; pairs: {', '.join(ids)}",
                            where="StepDPOTrainer",
                            mend="look at these rows; lower the learning rate; the last checkpoint is intact")

    # ---- metrics ----

    def _add_metrics(self, mode: str, batch: Batch, outputs: LossOutputs) -> None:
        n_pairs, n_tokens = batch["pair_index"].numel(), batch["scored_index"].numel()
        metrics = dict(outputs.metrics)
        if "kl" in metrics:
            self._sums[mode].add({"kl": metrics.pop("kl")}, n_tokens)
        share = {f"steps/{step}": (batch["step"] == step).float().mean() for step in sorted(self._steps)}
        self._sums[mode].add(metrics | share, n_pairs)
        if mode == "train":
            self._new_tokens = self._new_tokens.to(self.args.device) + batch["attention_mask"].sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages since the last log to a training log."""
        if "loss" in logs:
            logs |= self._averages("train")
            seen = next((past["num_tokens"] for past in reversed(self.state.log_history) if "num_tokens" in past), 0)
            new = self.accelerator.reduce(self._new_tokens.to(self.args.device), reduction="sum")
            logs["num_tokens"] = seen + int(new)  # pyright: ignore[reportArgumentType]
            self._new_tokens.zero_()
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As the base class, with our metrics: they can choose the best checkpoint and stop early."""
        self._sums["eval"] = MetricSums()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(  # pyright: ignore[reportOptionalMemberAccess]
            {f"{metric_key_prefix}_{name}": value for name, value in self._averages("eval").items()})
        return output

    def _averages(self, mode: str) -> dict[str, float]:
        averages = self._sums[mode].drain(self.accelerator)
        return {name: value for name, value in averages.items() if value or not name.startswith("steps/")}

    # ---- training and checkpoints ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, or go on from a checkpoint.

        Args:
            resume_from_checkpoint: A `checkpoint-N` folder, or True for the newest complete one of `output_dir`.
            trial: Unsupported by this trainer beyond what `transformers` does with it.
            ignore_keys_for_eval: As in `transformers`.

        Raises:
            DataError: The checkpoint is not complete, or there is none.
            UnsoundError: A self-check failed.
        """
        output_dir = Path(self.args.output_dir or ".")
        checkpoint = checkpoints.checkpoint_to_resume(resume_from_checkpoint, output_dir)
        self._resumed = checkpoint is not None
        if self._resumed:
            self.args.eval_on_start = False  # the first run has done it
        if self.args.should_save:
            checkpoints.clear_staging(output_dir)
            if not self._resumed and (stale := checkpoints.latest_complete(output_dir)):
                log.warning("%s already holds %s, which a later resume may pick: use another output_dir, or resume",
                            output_dir, stale.name)
        if self.loss_settings.needs_reference:
            model: Any = self.ref_model if self.ref_model is not None else self.model
            reference.pin_reference(output_dir, reference.weights_fingerprint(model), resumed_from=checkpoint,
                                    write=self.args.should_save)
        return super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the base class, but in a hidden folder that gets its name when it is complete."""
        self.store_flos()
        target = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        staged = checkpoints.staging_folder(target)
        self.save_model(str(staged), _internal_call=True)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._save_state(staged)
            checkpoints.seal(target)
            rotate_checkpoints(str(target.parent), self.args.save_total_limit, self.state.best_model_checkpoint,
                               use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def _save_state(self, staged: Path) -> None:
        """Write the trainer's state with that of the callbacks that have one, as the base class reads it."""
        stateful = [item for item in [*self.callback_handler.callbacks, self.control]
                    if isinstance(item, ExportableState)]
        states: dict[str, list[Any]] = {}
        for item in stateful:
            states.setdefault(type(item).__name__, []).append(item.state())
        self.state.stateful_callbacks = {  # pyright: ignore[reportAttributeAccessIssue]
            name: several if len(several) > 1 else several[0] for name, several in states.items()}
        self.state.save_to_json(str(staged / "trainer_state.json"))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # The base class pickles its arguments. Nobody reads them back: leave a file that people can read.
            folder = Path(output_dir or self.args.output_dir or ".")
            (folder / "training_args.bin").unlink(missing_ok=True)
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")


def _refuse_unsupported(args: StepDPOConfig) -> None:
    if args.n_gpu > 1:
        raise ConfigError("several GPUs are visible to one process", where="CUDA_VISIBLE_DEVICES",
                          mend="start with `accelerate launch` or `torchrun`, or make one GPU visible")


def _refuse_sharding(trainer: StepDPOTrainer) -> None:
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ConfigError("sharded training (DeepSpeed, FSDP) is not supported by this trainer", where="accelerate",
                          mend="use data parallelism (DDP), with LoRA if memory is short")


def _longest_row(args: StepDPOConfig, model: Any) -> int | None:
    """The shorter of `max_length` and the model's window."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (args.max_length, window) if limit]
    return min(limits) if limits else None


def _pad_token(tokenizer: Any) -> int:
    """Hidden by the attention mask, so any token will do."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
