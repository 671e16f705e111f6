"""Preference optimisation on steps: pairs of continuations of one prefix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TrainerCallback, set_seed
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import EvalPrediction, TrainOutput

from lpo.chat import load_chat_template
from lpo.errors import ConfigError
from lpo.kernels import TreeBackend
from lpo.packing import Budget, PackedTree, Sharing, packed_tokens, sharing
from lpo.records import RejectedRow
from lpo.trainers import checkpoints, policy, reference
from lpo.trainers.batches import Batch, Packing, Piece, RowCollator, TreeCollator, Unit, UnitDataset
from lpo.trainers.callbacks import ChosenFalls, LogAndSaveTogether, SampleWriter
from lpo.trainers.depth_first import depth_first_step
from lpo.trainers.losses import LossInputs, LossOutputs, preference_loss
from lpo.trainers.measuring_trainer import MeasuringTrainer
from lpo.trainers.metric_sums import PairMetrics
from lpo.trainers.nonfinite import NonFiniteGuard
from lpo.trainers.predictions import by_unit, on_pairs
from lpo.trainers.reference_cache import ReferenceCache
from lpo.trainers.reference_identity import reference_key
from lpo.trainers.reference_key import ReferenceKey
from lpo.trainers.reference_source import ReferenceSource
from lpo.trainers.row_intake import RowIntake
from lpo.trainers.scoring import attach_scoring
from lpo.trainers.start_checks import check_model, check_reference
from lpo.trainers.step_dpo_config import Oversized, StepDPOConfig
from lpo.trainers.support import require_one_device, require_supported_launch
from lpo.trainers.tokenise import Tokeniser

log = logging.getLogger(__name__)


class StepDPOTrainer(MeasuringTrainer):
    """Trains on `prompt`, `prefix`, `chosen`, `rejected`; TRL's plain and conversational columns train as they are.

    By default the pairs of one group (one document) are packed into a token tree and every distinct token is computed
    once, with the gradients of row-by-row computation; `sharing` counts both. The loss of an optimiser step is the
    mean over all its pairs, however they fall into trees, micro-batches and processes. Rows that cannot be used are in
    `rejected_rows`, each with a reason; none is cut. Nothing is sent anywhere: TRL's start-up ping is off.

    Args:
        model: A causal language model, its name, or a PeftModel whose adapter starts at zero.
        ref_model: The reference; None takes the starting policy (adapter off, or a copy kept in memory).
        args: Settings; None takes the defaults.
        data_collator: Makes a `Batch` of units; None takes that of `args.packing` (`TreeCollator`, `RowCollator`).
        train_dataset: Rows, as a `datasets.Dataset` or a list of dicts.
        eval_dataset: The same, or a dict of sets by name.
        processing_class: The tokenizer; None loads the model's.
        compute_metrics: Gets `predictions` [P, 2] (rewards of chosen and rejected) and `label_ids` [P] (pair numbers).
        callbacks: As for `transformers.Trainer`.
        optimizers: As for `transformers.Trainer`.
        peft_config: Adapter to train; None trains in full.

    Raises:
        ConfigError: Settings that cannot work together, or a model that cannot read trees (`packing="rows"` trains it).
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
        require_one_device(args)
        set_seed(args.seed)
        name = model if isinstance(model, str) else None
        model = policy.load_model(model, args)
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(name or policy.base_of(model).config._name_or_path,
                                                             trust_remote_code=args.trust_remote_code)
        self.loss_settings = args.loss_settings()
        self.packing = Packing(args.packing)
        template = load_chat_template(args.chat_template)
        self.intake = RowIntake(
            Tokeniser(processing_class, template, _longest_row(args, policy.base_of(model))), self.packing,
            args.max_pack_tokens if args.oversized == Oversized.REJECT else None)
        self.rejected_rows: list[RejectedRow] = []
        self.sharing: Sharing | None = None
        self._pair_metrics = {"train": PairMetrics(), "eval": PairMetrics()}
        self._nonfinite = NonFiniteGuard(args.max_nonfinite_steps)
        train_units = self._tokenise(train_dataset, "train row") if train_dataset is not None else None
        eval_units = self._tokenise_eval(eval_dataset) if eval_dataset is not None else None

        needs_reference = self.loss_settings.needs_reference
        if ref_model is not None and not needs_reference:
            raise ConfigError(f"{', '.join(self.loss_settings.loss_types)} has no reference", where="ref_model",
                              mend="leave it out")
        self._given_reference = ref_model is not None
        model = policy.wrap_policy(model, args, peft_config)
        self.ref_model = reference.make_reference(model, ref_model) if needs_reference else None
        for base in (policy.base_of(one) for one in (model, self.ref_model) if one is not None):
            attach_scoring(base, args.tree_attention if self.packing is Packing.TREE else None, args.device)

        self._unchecked = True
        self._resumed = False
        self._mean_chosen: torch.Tensor | None = None
        super().__init__(
            model=model, args=args, data_collator=data_collator or self._collator(args, train_units, eval_units),
            train_dataset=train_units, eval_dataset=eval_units, processing_class=processing_class,
            compute_metrics=on_pairs(compute_metrics), optimizers=optimizers,
            callbacks=[LogAndSaveTogether(), ChosenFalls(), *(callbacks or [])],
        )
        require_supported_launch(self)
        trackers = tuple(get_reporting_integration_callbacks(args.report_to))
        for callback in callbacks or []:
            if isinstance(callback, SampleWriter):
                callback.trackers = [one for one in self.callback_handler.callbacks if isinstance(one, trackers)]
        if self.ref_model is not None:
            self.ref_model = self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)
        self.reference = ReferenceSource(self._reference_model, self._as_reference, self.accelerator.autocast,
                                         self.data_collator)

    # ---- rows ----

    def _tokenise(self, rows: Any, name: str) -> UnitDataset:
        if isinstance(rows, UnitDataset):
            return rows
        units, rejected = self.intake.read(rows, name)
        self.rejected_rows += rejected
        for metrics in self._pair_metrics.values():
            metrics.steps |= {pair.step for pair in units.pairs}
        return units

    def _tokenise_eval(self, rows: Any) -> UnitDataset | dict[str, UnitDataset]:
        if isinstance(rows, dict):
            return {name: self._tokenise(part, f"{name} row") for name, part in rows.items()}
        return self._tokenise(rows, "eval row")

    def _collator(self, args: StepDPOConfig, *datasets: Any) -> Callable[[Sequence[Unit]], dict[str, Any]]:
        if self.packing is Packing.ROWS:
            return RowCollator(_pad_token(self.intake.tokeniser.tokenizer))
        parts = _parts(*datasets)
        groups = [unit.group for part in parts for unit in part]
        if groups:
            self.sharing = sharing(groups)
            log.info("%d row tokens, %d of them distinct: each is computed once, %.2f x fewer", *self.sharing,
                     self.sharing.ratio)
        largest = max(map(packed_tokens, groups), default=None)
        return TreeCollator(Budget(tokens=args.max_pack_tokens or largest),
                            depth_first=args.oversized == Oversized.DEPTH_FIRST)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate on the trainer's evaluation set, or on other rows."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._tokenise_eval(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # pyright: ignore[reportArgumentType]

    # ---- log-probs and loss ----

    def _reference_model(self) -> Any:
        return self.model if self.ref_model is None else self.ref_model

    def _as_reference(self) -> AbstractContextManager[None]:
        if self.ref_model is not None:
            return nullcontext()
        return reference.adapter_off(self.accelerator.unwrap_model(self.model))

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of a micro-batch.

        Args:
            model: The policy, wrapped.
            inputs: A batch of the collator.
            return_outputs: Return the loss and a list of `LossOutputs`, one a piece.
            num_items_in_batch: Pairs of the whole optimiser step over all processes; None takes this batch's.
        """
        pieces: list[Piece] = inputs["pieces"]
        mean_chosen = self._mean_chosen
        if mean_chosen is None or not model.training:
            mean_chosen = _chosen_tokens(inputs) / inputs["pair_index"].numel()
        outputs = [self._piece_loss(model, inputs, piece, mean_chosen) for piece in pieces]
        loss = torch.cat([output.losses_P for output in outputs]).sum()
        if num_items_in_batch is None:
            loss = loss / inputs["pair_index"].numel()
        else:
            # Gradients are averaged over processes, so each process's share counts as often as there are processes.
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def _piece_loss(
        self, model: Any, batch: Batch, piece: Piece, mean_chosen: torch.Tensor | float
    ) -> LossOutputs:
        # The reference first: the policy's activations are kept.
        reference_N = self.reference.of(piece) if self.loss_settings.needs_reference else None
        policy_N = model(**piece.model_inputs)
        if self._unchecked and model.training:
            self._check_start(piece, policy_N, reference_N)
        outputs = preference_loss(self._loss_inputs(model, batch, piece, policy_N, reference_N, mean_chosen),
                                  self.loss_settings)
        self._metrics_of(model).add(outputs, piece, batch["step"][piece.pair_slot_P])
        return outputs

    def _metrics_of(self, model: Any) -> PairMetrics:
        return self._pair_metrics["train" if model.training else "eval"]

    def _loss_inputs(
        self, model: Any, batch: Batch, piece: Piece, policy_N: torch.Tensor, reference_N: torch.Tensor | None,
        mean_chosen: torch.Tensor | float,
    ) -> LossInputs:
        return LossInputs(policy_N, piece.chosen, piece.rejected, reference_N,
                          pair_key_P=batch["pair_index"][piece.pair_slot_P], mean_chosen_tokens=mean_chosen,
                          step=self.state.global_step if model.training else 0)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        pairs = torch.cat([batch["pair_index"] for batch in batch_samples]).tolist()
        self._nonfinite.begin_step(self._pair_ids(pairs))
        chosen = sum(map(_chosen_tokens, batch_samples))
        counts = torch.tensor([len(pairs), chosen], device=device)
        n_pairs, n_chosen = self.accelerator.reduce(counts, reduction="sum")
        self._mean_chosen = n_chosen / n_pairs
        return n_pairs

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, piece by piece: gradients add up, and only the last piece joins the processes."""
        pieces: list[Piece] = inputs["pieces"]
        self._pair_metrics["train"].count_tokens(pieces)
        total = torch.zeros((), device=self.args.device)
        for number, piece in enumerate(pieces, start=1):
            with nullcontext() if number == len(pieces) else self.accelerator.no_sync(model):
                if piece.depth_first:
                    loss = self._depth_first_step(model, inputs, piece, num_items_in_batch)
                else:
                    loss = super().training_step(model, {**inputs, "pieces": [piece]}, num_items_in_batch)
            ids = self._pair_ids(inputs["pair_index"][piece.pair_slot_P].tolist())
            total += self._nonfinite.see_loss(loss, ids)
        return total

    def _depth_first_step(self, model: Any, inputs: Batch, piece: Piece, num_items_in_batch: Any) -> torch.Tensor:
        """Forward and backward of a piece too big for one forward."""
        model.train()
        inputs = self._prepare_inputs(inputs)  # pyright: ignore[reportAssignmentType, reportArgumentType]
        assert isinstance(piece.tokens, PackedTree) and self._mean_chosen is not None
        reference_N = self.reference.of(piece) if self.loss_settings.needs_reference else None
        mean_chosen, total = self._mean_chosen, torch.zeros((), device=self.args.device)

        def step(logprobs_N: torch.Tensor, part: Piece) -> None:
            outputs = preference_loss(self._loss_inputs(model, inputs, part, logprobs_N, reference_N, mean_chosen),
                                      self.loss_settings)
            self._pair_metrics["train"].add(outputs, part, inputs["step"][part.pair_slot_P])
            loss = outputs.losses_P.sum() / num_items_in_batch
            self.accelerator.backward(loss)
            total.add_(loss.detach())

        depth_first_step(model, piece, step, self.compute_loss_context_manager)
        return total

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaled = getattr(self.accelerator, "scaler", None) is not None  # fp16: its scaler skips such steps itself
        if norm is not None and not scaled and self._nonfinite.must_skip(
                norm, self.accelerator, self.state.global_step + 1):
            self.optimizer.zero_grad()  # without gradients the optimiser leaves the weights as they are
        return norm

    def _pair_ids(self, numbers: Iterable[int]) -> list[str]:
        pairs = self.train_dataset.pairs  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        return [pairs[number].id for number in numbers]

    def prediction_step(
        self, model: Any, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Loss of an evaluation batch; rewards [U, K, 2] and pair numbers [U, K] of its units, padded with -100."""
        inputs = self._prepare_inputs(inputs)  # pyright: ignore[reportAssignmentType, reportArgumentType]
        self._pair_metrics["eval"].count_tokens(inputs["pieces"])
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        slots_P = torch.cat([piece.pair_slot_P for piece in inputs["pieces"]])
        rewards_P2 = torch.cat([torch.stack((one.rewards_chosen_P, one.rewards_rejected_P), 1) for one in outputs])
        return loss, *by_unit(rewards_P2[slots_P.argsort()], inputs)

    def floating_point_ops(self, inputs: Batch) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Six operations per parameter and token read, as the base class estimates."""
        weights = policy.base_of(self.accelerator.unwrap_model(self.model)).num_parameters(exclude_embeddings=True)
        return 6.0 * weights * sum(piece.tokens.n_tokens for piece in inputs["pieces"])

    # ---- self-checks ----

    def _check_start(self, piece: Piece, policy_N: torch.Tensor, reference_N: torch.Tensor | None) -> None:
        """Before the first step: are log-probs understood, and is the reference the starting policy?"""
        self._unchecked = False
        model: Any = self.accelerator.unwrap_model(self.model)
        tolerance = reference.tolerance_for(_autocast(self.args) or policy.base_of(model).dtype)
        row = self.train_dataset.pairs[0].chosen.ids  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        model.eval()
        with self.accelerator.autocast():
            check_model(self.model, torch.tensor(row, device=policy_N.device), tolerance,
                        tree=self.packing is Packing.TREE)
        model.train()
        if reference_N is None or self._resumed or not self.args.check_reference:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self._given_reference:
            log.info("policy and given reference differ by up to %.3g nats per token at the start",
                     reference.start_difference(policy_N, reference_N))
        else:
            check_reference(model, policy_N, reference_N, tolerance)

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
            key = self._reference_key()
            reference.pin_reference(output_dir, key.weights, resumed_from=checkpoint, write=self.args.should_save)
            if self.args.precompute_ref_log_probs:  # pyright: ignore[reportAttributeAccessIssue]
                self._precompute_reference(key)
        history = checkpoints.logged_until(checkpoint) if checkpoint else []
        self._nonfinite.skipped = checkpoints.last_logged(history, "nonfinite_steps")
        return super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)

    def _reference_key(self) -> ReferenceKey:
        """What the reference's log-probs depend on."""
        args: Any = self.args
        model = self.accelerator.unwrap_model(self._reference_model())
        if self.packing is Packing.TREE:
            attention = str(TreeBackend(args.tree_attention).on(args.device, policy.base_of(model)))
        else:
            attention = policy.base_of(model).config._attn_implementation
        return reference_key(
            model, self.processing_class, template=self.intake.tokeniser.template, adapter_off=self.ref_model is None,
            computation=f"{self.packing}, {attention}, chunked head", autocast=_autocast(args))

    def _precompute_reference(self, key: ReferenceKey) -> None:
        """Reference log-probs of every unit, each computed once by one of the processes."""
        args: Any = self.args
        units = [unit for part in _parts(self.train_dataset, self.eval_dataset) for unit in part]
        folder = Path(args.reference_cache_dir or Path(args.output_dir) / "reference")
        dtype = _autocast(args) or policy.base_of(self.accelerator.unwrap_model(self._reference_model())).dtype
        self.reference.prepare(units, ReferenceCache(folder, key, rank=self.accelerator.process_index),
                               self.accelerator, tolerance=reference.tolerance_for(dtype))


def _autocast(args: Any) -> torch.dtype | None:
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _longest_row(args: StepDPOConfig, model: Any) -> int | None:
    """The shorter of `max_length` and the model's window."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (args.max_length, window) if limit]
    return min(limits) if limits else None


def _pad_token(tokenizer: Any) -> int:
    """Hidden by the attention mask, so any token will do."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def _parts(*datasets: Any) -> list[UnitDataset]:
    """Every data set there is: given, missing, or several by name."""
    return [part for dataset in datasets if dataset is not None
            for part in (dataset.values() if isinstance(dataset, dict) else [dataset])]


def _chosen_tokens(batch: Batch) -> int:
    return sum(piece.chosen.token_index_M.numel() for piece in batch["pieces"])
