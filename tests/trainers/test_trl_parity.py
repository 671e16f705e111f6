"""The same rows through TRL's DPOTrainer and ours: losses, margins, gradients and weights."""

import copy

import pytest
import torch
from datasets import Dataset
from gradients import Gradients, relative
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from lpo.trainers import StepDPOConfig, StepDPOTrainer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENINGS = ["The lighthouse stood", "She wrote a letter", "Rain fell", "灯塔矗立在石堤的尽头", "The captain", "Gulls"]
PLAIN = [
    {"prompt": f"Write about {i}.", "chosen": f" {text} at the end of the pier.",
     "rejected": f" {text}" + " and so" * i}
    for i, text in enumerate(OPENINGS, start=1)
]
CONVERSATIONS = [
    {"prompt": [{"role": "user", "content": row["prompt"]}],
     "chosen": [{"role": "assistant", "content": row["chosen"].strip()}],
     "rejected": [{"role": "assistant", "content": row["rejected"].strip()}]}
    for row in PLAIN
]
IMPLICIT = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in CONVERSATIONS]


def train(trainer_type, config_type, folder, model, tokenizer, rows, peft_config, **settings):
    gradients = Gradients()
    args = config_type(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=2, learning_rate=0.3, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, logging_steps=1, save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to="none", disable_tqdm=True, max_length=None, **settings)
    trainer = trainer_type(
        model=model, ref_model=None if peft_config else copy.deepcopy(model), args=args,
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=peft_config,
        callbacks=[gradients])
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
    return [log for log in trainer.state.log_history if "loss" in log], gradients.steps, weights


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("rows", [PLAIN, CONVERSATIONS, IMPLICIT], ids=["plain", "conversational", "implicit_prompt"])
@pytest.mark.parametrize("packing", ["tree", "rows"])
def test_three_steps_equal_trl(tmp_path, tiny_model, tiny_tokenizer, rows, adapter, packing):
    check_parity(tmp_path, tiny_model, tiny_tokenizer, rows, adapter, packing=packing, loss_type=["sigmoid"], beta=0.2)


@pytest.mark.parametrize("settings", [
    {"loss_type": ["ipo"], "beta": 0.1},
    {"loss_type": ["sigmoid_norm"], "beta": 2.0},
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
], ids=["ipo", "sigmoid_norm", "sigmoid_and_sft"])
def test_losses_equal_trl(tmp_path, tiny_model, tiny_tokenizer, settings):
    check_parity(tmp_path, tiny_model, tiny_tokenizer, PLAIN, False, **settings)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
def test_architectures_equal_trl(tmp_path, tiny_model, tiny_tokenizer, kind):
    check_parity(tmp_path, tiny_model, tiny_tokenizer, PLAIN, False, kind=kind, loss_type=["sigmoid"])


def check_parity(tmp_path, tiny_model, tiny_tokenizer, rows, adapter, kind="llama", packing="tree", **settings):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML
    results = []
    for trainer_type, config_type in ((DPOTrainer, DPOConfig), (StepDPOTrainer, StepDPOConfig)):
        peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]) if adapter else None
        ours = {"packing": packing, "precompute_ref_log_probs": False} if config_type is StepDPOConfig else {}
        results.append(train(trainer_type, config_type, tmp_path / trainer_type.__name__, tiny_model(kind),
                             tokenizer, rows, peft_config, **settings, **ours))
    (trl_logs, trl_gradients, trl_weights), (our_logs, our_gradients, our_weights) = results
    assert len(our_logs) == len(trl_logs) == 3
    for ours, theirs in zip(our_logs, trl_logs, strict=True):
        for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            # Differences of sums of some hundred nats in float32.
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=2e-5), name
        assert ours["num_tokens"] == theirs["num_tokens"]
    for ours, theirs in zip(our_gradients, trl_gradients, strict=True):
        assert relative(ours, theirs) < 1e-5
    assert relative(our_weights, trl_weights) < 1e-5
    assert our_gradients[0].norm() > 1e-3
