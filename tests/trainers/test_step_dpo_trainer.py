"""The trainer's promises: gradient accumulation, self-checks, metrics, evaluation, rejected rows."""

import copy
import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback

from lpo.errors import ConfigError, NothingLeftError, UnsoundError
from lpo.records import Reason
from lpo.trainers import StepDPOConfig, StepDPOTrainer, Tokeniser
from lpo.trainers.batches import Packing, RowCollator, UnitDataset

ROWS = [
    {"id": f"pair-{i}", "prompt": "Write a story.", "prefix": " Rain fell." if i % 2 else "", "step": i % 2,
     "chosen": " The lighthouse stood" + " at the end" * (1 + i % 4), "rejected": " and so on" * (1 + i % 3),
     "chosen_ends": i % 3 == 0}
    for i in range(11)
]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def trainer_for(folder, tokenizer, model, rows=ROWS, **settings):
    names = ("peft_config", "ref_model", "eval_dataset", "callbacks", "compute_metrics")
    extra = {name: settings.pop(name) for name in names if name in settings}
    args = StepDPOConfig(output_dir=str(folder), **{
        "max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.1, "optim": "sgd", "logging_steps": 1,
        "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True, "packing": "rows",
        # Computed beside the policy's, they are equal to the last bit at the start: accuracies are then 0, not noise.
        "precompute_ref_log_probs": False, **settings})
    return StepDPOTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer, **extra)


def trained_weights(trainer):
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_no_training_argument_is_needed_and_a_cpu_needs_no_switch(tmp_path):
    args = StepDPOConfig(output_dir=str(tmp_path))
    if not torch.accelerator.is_available():
        assert (args.use_cpu, args.bf16, args.gradient_checkpointing) == (True, False, False)
        assert StepDPOConfig(output_dir=str(tmp_path), bf16=True).bf16
    assert (args.learning_rate, args.beta, args.loss_type) == (1e-6, 0.1, ["sigmoid"])
    assert StepDPOConfig(output_dir=str(tmp_path), loss_type="ipo").loss_type == ["ipo"]
    with pytest.raises(ConfigError, match="no chosen loss reads it"):
        StepDPOConfig(output_dir=str(tmp_path), simpo_gamma=1.0)


@pytest.mark.parametrize("n_rows", [8, 11], ids=["even", "uneven_last_step"])
def test_accumulated_micro_batches_equal_one_batch(tmp_path, tiny_model, tiny_tokenizer, n_rows):
    # 11 rows: the epoch's last optimiser step has 3 pairs, in micro-batches of 1, or of 3 and nothing.
    shared = {"num_train_epochs": 1, "max_steps": -1}
    whole = trainer_for(tmp_path / "a", tiny_tokenizer, tiny_model(), ROWS[:n_rows], **shared)
    parts = trainer_for(tmp_path / "b", tiny_tokenizer, tiny_model(), ROWS[:n_rows], **shared,
                        per_device_train_batch_size=1, gradient_accumulation_steps=4)
    uneven = trainer_for(tmp_path / "c", tiny_tokenizer, tiny_model(), ROWS[:n_rows], **shared,
                         per_device_train_batch_size=2, gradient_accumulation_steps=2)
    weights = trained_weights(whole)
    for other in (parts, uneven):
        torch.testing.assert_close(trained_weights(other), weights, rtol=0, atol=2e-6)
        for ours, theirs in zip(logged(other), logged(whole), strict=True):
            for name in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "kl",
                         "lengths/chosen", "steps/1", "num_tokens"):
                assert ours.get(name) == pytest.approx(theirs.get(name), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_before_the_first_step_margins_are_zero_and_every_weight_then_moves(
    tmp_path, tiny_model, tiny_tokenizer, adapter
):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), max_steps=3,
                          peft_config=LoraConfig(**LORA) if adapter else None)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    first = logged(trainer)[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["kl"] == pytest.approx(0, abs=1e-7)
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name


def test_metrics_are_averages_over_pairs_and_tokens(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), num_train_epochs=1, max_steps=-1, logging_steps=3,
                          learning_rate=0.0, eval_dataset=ROWS[:7], per_device_eval_batch_size=3)
    trainer.train()
    pairs = Tokeniser(tiny_tokenizer).rows(ROWS).pairs
    window = logged(trainer)[0]  # 4 + 4 + 3 pairs
    assert window["lengths/chosen"] == pytest.approx(sum(p.chosen.n_scored for p in pairs) / 11)
    assert window["steps/0"] == pytest.approx(6 / 11)
    assert window["num_tokens"] == sum(len(p.chosen.ids) + len(p.rejected.ids) for p in pairs)

    metrics = trainer.evaluate()
    model = trainer.model.eval()
    sums = []
    for pair in pairs[:7]:
        ids = torch.tensor(list(pair.chosen.ids))
        with torch.no_grad():
            logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
        sums.append(float(logprobs[pair.chosen.start - 1:].sum()))
    assert metrics["eval_logps/chosen"] == pytest.approx(sum(sums) / 7, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_collator_on_literal_rows(tiny_tokenizer):
    pairs = Tokeniser(tiny_tokenizer).rows([ROWS[0], ROWS[4]]).pairs
    units = UnitDataset(pairs, Packing.ROWS)
    batch = RowCollator(pad_token_id=0)([units[1], units[0]])
    (piece,) = batch["pieces"]
    sides = [pairs[1].chosen, pairs[1].rejected, pairs[0].chosen, pairs[0].rejected]
    assert batch["pair_index"].tolist() == [1, 0] and piece.pair_slot_P.tolist() == [0, 1]
    width = piece.tokens.input_ids_BT.shape[1]
    for row, side in enumerate(sides):
        assert piece.tokens.input_ids_BT[row].tolist() == list(side.ids) + [0] * (width - len(side.ids))
        assert piece.tokens.attention_mask_BT[row].tolist() == [1] * len(side.ids) + [0] * (width - len(side.ids))
    targets = piece.tokens.scored_targets_N
    assert targets.tolist() == [token for side in sides for token in side.ids[side.start:]]
    chosen = [token for side in sides[0::2] for token in side.ids[side.start:]]
    assert targets[piece.chosen.token_index_M].tolist() == chosen
    assert piece.chosen.side_id_M.tolist() == [0] * sides[0].n_scored + [1] * sides[2].n_scored


# ---- self-checks ----

def test_a_start_with_attention_dropout_on_is_stopped(tmp_path, tiny_model, tiny_tokenizer):
    model = tiny_model(attention_dropout=0.3)
    with pytest.raises(UnsoundError, match="dropout is on"):
        trainer_for(tmp_path, tiny_tokenizer, model, disable_dropout=False).train()
    trainer_for(tmp_path, tiny_tokenizer, tiny_model(attention_dropout=0.3)).train()


def test_a_start_with_a_trained_adapter_is_stopped(tmp_path, tiny_model, tiny_tokenizer):
    model = get_peft_model(tiny_model(), LoraConfig(**LORA, init_lora_weights=False))
    with pytest.raises(UnsoundError, match="adapter does not start at zero"):
        trainer_for(tmp_path, tiny_tokenizer, model).train()


def test_another_reference_is_allowed_when_it_is_given(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), ref_model=tiny_model(seed=5))
    trainer.train()
    assert logged(trainer)[0]["kl"] > 1e-3


def test_a_changed_reference_is_stopped(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model())
    with torch.no_grad():
        trainer.ref_model.lm_head.weight.mul_(1.1)
    with pytest.raises(UnsoundError, match="another model"):
        trainer.train()


def test_losses_without_a_reference_keep_none(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), loss_type=["simpo"], beta=2.0, simpo_gamma=0.5)
    trainer.train()
    assert trainer.ref_model is None and "kl" not in logged(trainer)[0]
    assert not (tmp_path / "reference.json").exists()
    with pytest.raises(ConfigError, match="has no reference"):
        trainer_for(tmp_path, tiny_tokenizer, tiny_model(), loss_type=["simpo"], ref_model=tiny_model())


def test_the_reference_is_the_model_in_memory_and_does_not_move(tmp_path, tiny_model, tiny_tokenizer):
    model = tiny_model()
    start = copy.deepcopy(model.state_dict())
    trainer = trainer_for(tmp_path, tiny_tokenizer, model, max_steps=3)
    trainer.train()
    assert all(torch.equal(value, start[name]) for name, value in trainer.ref_model.state_dict().items())
    assert not torch.equal(trainer.model.lm_head.weight, start["lm_head.weight"])


def test_training_again_goes_on_from_where_it_is(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model())
    trainer.train()
    trainer.train()
    assert logged(trainer)[0]["rewards/margins"] > 0.01


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_before_the_weights_move(tmp_path, tiny_model, tiny_tokenizer, what):
    model = tiny_model()
    trainer = trainer_for(tmp_path, tiny_tokenizer, model, ROWS[:4])
    if what == "gradient":
        model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    else:
        trainer.loss_settings = copy.copy(trainer.loss_settings)
        object.__setattr__(trainer.loss_settings, "beta", float("inf"))
    before = model.model.embed_tokens.weight.detach().clone()
    with pytest.raises(UnsoundError, match=rf"the {what} is not finite at step 1; pairs: pair-") as caught:
        trainer.train()
    assert all(f"pair-{i}" in caught.value.cause for i in range(4))
    assert torch.equal(model.model.embed_tokens.weight, before)


# ---- rows ----

def test_rejected_rows_are_counted_and_change_nothing(tmp_path, tiny_model, tiny_tokenizer):
    bad = [{**ROWS[0], "id": "long", "chosen": " and" * 2000}, {**ROWS[0], "id": "same", "rejected": ROWS[0]["chosen"]}]
    with_bad = trainer_for(tmp_path / "a", tiny_tokenizer, tiny_model(), [bad[0], *ROWS, bad[1]], max_length=300)
    assert [(row.id, row.reason) for row in with_bad.rejected_rows] == [
        ("long", Reason.TOO_LONG), ("same", Reason.EQUAL_TEXTS)]
    without = trainer_for(tmp_path / "b", tiny_tokenizer, tiny_model(), ROWS)
    torch.testing.assert_close(trained_weights(with_bad), trained_weights(without), rtol=0, atol=0)


def test_nothing_left_says_why(tmp_path, tiny_model, tiny_tokenizer):
    with pytest.raises(NothingLeftError, match=r"none of 2 rows is left: 2 x empty"):
        trainer_for(tmp_path, tiny_tokenizer, tiny_model(), [{**ROWS[0], "chosen": " "}] * 2)


def test_rows_beyond_the_models_window_are_rejected(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(max_position_embeddings=32),
                          [ROWS[0], {**ROWS[0], "chosen": " and" * 40}])
    assert trainer.rejected_rows[0].detail.endswith("more than 32")


def test_a_dataset_a_list_and_several_evaluation_sets(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), Dataset.from_list(ROWS),
                          eval_dataset={"first": ROWS[:2], "second": Dataset.from_list(ROWS[2:5])})
    assert {"eval_first_loss", "eval_second_rewards/margins"} <= set(trainer.evaluate())
    assert "test_rewards/accuracies" in trainer.evaluate(ROWS[:3], metric_key_prefix="test")


def test_compute_metrics_gets_the_rewards(tmp_path, tiny_model, tiny_tokenizer):
    seen = {}

    def compute(prediction):
        seen["shape"] = prediction.predictions.shape
        return {"mine": float((prediction.predictions[:, 0] - prediction.predictions[:, 1]).mean())}

    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(), eval_dataset=ROWS[:5], compute_metrics=compute,
                          per_device_eval_batch_size=2)
    trainer.train()
    metrics = trainer.evaluate()
    assert seen["shape"] == (5, 2)
    assert metrics["eval_mine"] == pytest.approx(metrics["eval_rewards/margins"], rel=1e-4)


# ---- best model, other models ----

def test_the_best_checkpoint_is_kept_loaded_and_training_stops_early(tmp_path, tiny_model, tiny_tokenizer):
    # The evaluation rows prefer what the training rows reject, so the first evaluation is the best one.
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"], "chosen_ends": True} for row in ROWS]
    trainer = trainer_for(
        tmp_path, tiny_tokenizer, tiny_model(), eval_dataset=turned, max_steps=20, eval_strategy="steps",
        eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=2, load_best_model_at_end=True,
        metric_for_best_model="rewards/margins", greater_is_better=True, callbacks=[EarlyStoppingCallback(3)])
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_global_step == 1
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in saved.items())
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-1")


def test_no_pickled_arguments_are_written(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model())
    trainer.save_model(str(tmp_path / "final"))
    names = {path.name for path in (tmp_path / "final").iterdir()}
    assert "training_args.json" in names and not {name for name in names if name.endswith((".bin", ".pkl"))}


def test_gradient_checkpointing_changes_nothing(tmp_path, tiny_model, tiny_tokenizer):
    weights = [trained_weights(trainer_for(tmp_path / str(on), tiny_tokenizer, tiny_model(),
                                           peft_config=LoraConfig(**LORA), gradient_checkpointing=on))
               for on in (False, True)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("settings", [{"bf16": True}, {}], ids=["autocast", "bfloat16_weights"])
def test_half_precision_starts_equal_and_learns(tmp_path, tiny_model, tiny_tokenizer, settings, adapter):
    model = tiny_model() if settings else tiny_model().to(torch.bfloat16)
    trainer = trainer_for(tmp_path, tiny_tokenizer, model, max_steps=6, optim="adamw_torch", learning_rate=5e-3,
                          peft_config=LoraConfig(**LORA) if adapter else None, **settings)
    trainer.train()
    first, last = logged(trainer)[0], logged(trainer)[-1]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert last["rewards/margins"] > 0.05 and last["logps/chosen"] < 0


def test_lora_dropout_is_left_on_and_the_models_is_not(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(tmp_path, tiny_tokenizer, tiny_model(attention_dropout=0.3),
                          peft_config=LoraConfig(**LORA, lora_dropout=0.25))
    rates = {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}
    trainer.train()


def test_adapters_that_cannot_be_taken_off_are_refused(tmp_path, tiny_model, tiny_tokenizer):
    from peft import PromptTuningConfig

    with pytest.raises(ConfigError, match="biases"):
        trainer_for(tmp_path, tiny_tokenizer, tiny_model(), peft_config=LoraConfig(**LORA, bias="all"))
    with pytest.raises(ConfigError, match="before the prompt"):
        trainer_for(tmp_path, tiny_tokenizer, tiny_model(),
                    peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


def test_a_model_given_by_name_is_loaded_with_its_tokenizer(tmp_path, tiny_model, tiny_tokenizer):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    args = StepDPOConfig(output_dir=str(tmp_path / "out"), max_steps=1, save_strategy="no", disable_tqdm=True,
                         per_device_train_batch_size=2)
    StepDPOTrainer(str(tmp_path / "model"), args=args, train_dataset=ROWS).train()
    with pytest.raises(ConfigError, match="already loaded"):
        trainer_for(tmp_path, tiny_tokenizer, tiny_model(), model_init_kwargs={"dtype": "float32"})


def four_bit_model(folder):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                               bnb_4bit_compute_dtype=torch.float32))


def test_a_4_bit_model_trains_as_its_dequantised_twin(tmp_path, tiny_model, tiny_tokenizer):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    twin = tiny_model()
    twin.save_pretrained(tmp_path / "model")
    model = four_bit_model(tmp_path / "model")
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            twin.get_submodule(name).weight.data.copy_(weight)
    # Evaluating in between is what makes bitsandbytes repack its weights on some CPUs.
    settings = {"max_steps": 3, "eval_dataset": ROWS[:2], "eval_strategy": "steps", "eval_steps": 1}
    quantised, exact = (
        trainer_for(tmp_path / name, tiny_tokenizer, start, peft_config=LoraConfig(**LORA), **settings)
        for name, start in (("4bit", model), ("twin", twin)))
    before = torch.cat([p.detach().flatten().clone() for p in exact.model.parameters() if p.requires_grad])
    expected = trained_weights(exact)
    assert float((trained_weights(quantised) - expected).norm() / (expected - before).norm()) < 1e-4
    assert logged(quantised)[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert logged(quantised)[-1]["loss"] < math.log(2)


def test_4_bit_weights_repacked_for_inference_are_refused(tmp_path, tiny_model, tiny_tokenizer):
    pytest.importorskip("bitsandbytes")
    tiny_model().save_pretrained(tmp_path / "model")
    model = four_bit_model(tmp_path / "model").eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 5, 6]]))
    if not getattr(model.model.layers[0].mlp.up_proj.weight.quant_state, "packing_format_for_cpu", False):
        pytest.skip("this CPU does not repack")
    with pytest.raises(ConfigError, match="repacked for inference"):
        trainer_for(tmp_path / "out", tiny_tokenizer, model, peft_config=LoraConfig(**LORA))
