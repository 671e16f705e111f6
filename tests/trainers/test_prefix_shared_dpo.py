"""PrefixSharedDPOTrainer against trl.DPOTrainer: the same numbers from fewer tokens."""

import copy
import json

import pytest
import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from lpo.errors import ConfigError, UnsoundError
from lpo.trainers import PrefixSharedDPOTrainer
from lpo.trainers.policy import is_peft
from lpo.trainers.shared_forward import attach_shared_forward, pack_batch

DOCUMENT = "The lighthouse stood at the end of the stone pier, and every evening the keeper climbed its stairs. " * 3
QUESTIONS = ["Who climbed?", "Who climbed?", "Where was it?", "Tell me more.", "灯塔在哪里？", "Who climbed?"]
ROWS = [
    {"prompt": f"{DOCUMENT}{question}", "chosen": " The keeper" + " and so on" * (i % 3),
     "rejected": " The keeper" * (i % 2) + " gulls" * (1 + i % 4)}
    for i, question in enumerate(QUESTIONS)
]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False}


class Watch(TrainerCallback):
    """Gradients of each step, and tokens that went through the policy's embedding."""

    def __init__(self):
        self.gradients = []
        self.tokens = 0

    def on_train_begin(self, args, state, control, **kwargs):
        kwargs["model"].get_input_embeddings().register_forward_hook(self.count)

    def count(self, module, args, output):
        self.tokens += args[0].numel()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = kwargs["model"].named_parameters()
        self.gradients.append(torch.cat([p.grad.flatten().clone() for _, p in named if p.grad is not None]))


def relative(a, b):
    return float((a - b).norm() / b.norm())


def trainer_for(kind, folder, model, tokenizer, rows=None, adapter=False, reference=None, callbacks=(), **settings):
    args = DPOConfig(**{
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 3, "learning_rate": 0.3,
        "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1,
        "save_strategy": "no", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "disable_tqdm": True, "max_length": None, "train_sampling_strategy": "sequential", **settings})
    rows = rows or Dataset.from_list(ROWS)
    if reference is None and not (is_peft(model) or adapter or args.precompute_ref_log_probs):
        reference = other_weights(model)  # than the policy's from the start, so that each margin is a number
    return kind(
        model=model, ref_model=reference, args=args, train_dataset=rows,
        eval_dataset=rows.select(range(3)), processing_class=copy.deepcopy(tokenizer),
        peft_config=LoraConfig(**LORA) if adapter else None, callbacks=list(callbacks))


def other_weights(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return other


def both(folder, model_of, tokenizer, **settings):
    """Train with TRL's trainer and with ours, then evaluate."""
    results = []
    for kind in (DPOTrainer, PrefixSharedDPOTrainer):
        watch = Watch()
        trainer = trainer_for(kind, folder / kind.__name__, model_of(), tokenizer, callbacks=[watch], **settings)
        trainer.train()
        tokens = watch.tokens
        trainer.evaluate()
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
        results.append((trainer, watch, tokens, weights))
    return results


def check_parity(folder, model_of, tokenizer, **settings):
    (trl, trl_watch, trl_tokens, trl_weights), (ours, watch, tokens, weights) = both(
        folder, model_of, tokenizer, **settings)
    assert isinstance(ours, DPOTrainer)
    assert tokens < 0.5 * trl_tokens
    assert len(watch.gradients) == len(trl_watch.gradients) == 3
    for mine, theirs in zip(watch.gradients, trl_watch.gradients, strict=True):
        assert relative(mine, theirs) < 1e-5
    assert relative(weights, trl_weights) < 1e-5
    check_logs(ours.state.log_history, trl.state.log_history)
    return ours


def check_logs(ours, trl):
    """Every value TRL logs, in training and in evaluation; wall-clock values aside."""
    assert len(ours) == len(trl) == 5  # three steps, the summary, the evaluation
    for mine, theirs in zip(ours, trl, strict=True):
        timing = {name for name in theirs if name.endswith(("_runtime", "_per_second", "total_flos"))}
        assert set(mine) - set(theirs) <= {"tree/sharing", "eval_tree/sharing"}
        for name in set(theirs) - timing:
            # A margin is a small difference of sums over tokens, a mean logit one of values around zero, in float32.
            absolute = 2e-5 if "rewards" in name else 1e-6 if "logits" in name else 0.0
            assert mine[name] == pytest.approx(theirs[name], rel=2e-5, abs=absolute), name


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("settings", [
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3], "gradient_checkpointing": True},
    {"loss_type": ["ipo"], "ld_alpha": 0.4, "learning_rate": 2e-3},
    {"loss_type": ["sigmoid_norm"], "beta": 2.0, "use_weighting": True},
    {"loss_type": ["apo_zero"], "precompute_ref_log_probs": True, "ld_alpha": 0.4, "gradient_accumulation_steps": 2},
], ids=["checkpointing", "ld_alpha", "weighting", "precomputed"])
def test_three_steps_equal_trl(tmp_path, tiny_model, tiny_tokenizer, settings, adapter):
    trainer = check_parity(tmp_path, tiny_model, tiny_tokenizer, adapter=adapter, **settings)
    steps = [log for log in trainer.state.log_history if "loss" in log]
    assert all(log["tree/sharing"] > 2 for log in steps)
    assert trainer.state.log_history[-1]["eval_tree/sharing"] > 2


@pytest.mark.parametrize(("kind", "config"), [("qwen2", {}), ("gemma3", {"final_logit_softcapping": 0.5})])
def test_architectures_equal_trl(tmp_path, tiny_model, tiny_tokenizer, kind, config):
    check_parity(tmp_path, lambda: tiny_model(kind, **config), tiny_tokenizer)


def test_cut_rows_and_bfloat16_autocast(tmp_path, tiny_model, tiny_tokenizer):
    settings = {"max_length": 112, "truncation_mode": "keep_start", "learning_rate": 1e-2}
    exact = trainer_for(PrefixSharedDPOTrainer, tmp_path / "exact", tiny_model(), tiny_tokenizer, **settings)
    exact.train()
    (trl, *_), (ours, *_) = both(tmp_path, tiny_model, tiny_tokenizer, bf16=True, **settings)
    for name in ("loss", "rewards/margins", "logps/chosen", "entropy"):
        theirs, mine, rounded_less = (
            [log[name] for log in trainer.state.log_history if "loss" in log] for trainer in (trl, ours, exact))
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-3) and mine != rounded_less, name


def test_policy_and_reference_round_alike_under_autocast(tmp_path, tiny_model, tiny_tokenizer):
    trainer = trainer_for(PrefixSharedDPOTrainer, tmp_path, tiny_model(), tiny_tokenizer, bf16=True,
                          reference=tiny_model())
    trainer.train()
    assert [log["rewards/margins"] == 0.0 for log in trainer.state.log_history if "loss" in log] == [True, False, False]


def test_the_model_writes_as_before_and_nothing_is_sent(tmp_path, tiny_model, tiny_tokenizer, monkeypatch):
    monkeypatch.delenv("CI", raising=False)  # TRL sends nothing there
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *args, **kwargs: pytest.fail("a ping"))
    trainer = trainer_for(PrefixSharedDPOTrainer, tmp_path, tiny_model(), tiny_tokenizer)
    trainer.train()
    trainer = trainer_for(PrefixSharedDPOTrainer, tmp_path, trainer.model, tiny_tokenizer)  # a second one on the model
    trainer.train()
    plain = tiny_model()
    plain.load_state_dict(trainer.model.state_dict())
    ids = tiny_tokenizer([DOCUMENT, "Rain fell"], return_tensors="pt", padding=True, padding_side="left")
    texts = [model.eval().generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], do_sample=False,
                                   max_new_tokens=12) for model in (trainer.model, plain)]
    assert torch.equal(*texts)
    labelled = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"], "labels": ids["input_ids"]}
    ours, theirs = (model(**labelled) for model in (trainer.model, plain))
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.loss, theirs.loss)


def test_a_trained_adapter_is_its_own_reference(tmp_path, tiny_model, tiny_tokenizer):
    """TRL copies a given adapter to one named "ref": at the first step policy and reference are equal."""
    def adapted():
        torch.manual_seed(0)
        return get_peft_model(tiny_model(), LoraConfig(**LORA))

    (trl, _, _, trl_weights), (ours, _, _, weights) = both(tmp_path, adapted, tiny_tokenizer)
    first, *later = [log for log in ours.state.log_history if "loss" in log]
    assert first["rewards/margins"] == 0.0 and any(log["rewards/margins"] for log in later)
    assert relative(weights, trl_weights) < 1e-5
    check_logs(ours.state.log_history, trl.state.log_history)


def test_precomputed_reference_is_shared_and_its_cache_knows_its_settings(tmp_path, tiny_model, tiny_tokenizer):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    data = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path))
    for ld_alpha, max_length in ((None, None), (0.4, None), (0.4, 112)):
        model, watch = tiny_model(), Watch()
        model.get_input_embeddings().register_forward_hook(watch.count)
        rows = trainer_for(PrefixSharedDPOTrainer, tmp_path, model, tiny_tokenizer, data, max_length=max_length,
                           precompute_ref_log_probs=True, ld_alpha=ld_alpha).train_dataset
        assert 0 < watch.tokens < 0.5 * sum(2 * len(row["prompt_ids"]) for row in [*rows, *rows])  # also evaluation's
        for row in rows:
            prompt = row["prompt_ids"]
            sides = {side: row[f"{side}_ids"][: max_length and max_length - len(prompt)]
                     for side in ("chosen", "rejected")}
            n_shared = min(map(len, sides.values()))
            for side, answer in sides.items():
                logps = plain_logps(tiny_model(), prompt, answer)
                expected = logps[:n_shared].sum() + (1.0 if ld_alpha is None else ld_alpha) * logps[n_shared:].sum()
                assert row[f"ref_{side}_logps"] == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def plain_logps(model, prompt, answer):
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


IDS = torch.tensor([[5, 6, 7, 8, 0], [5, 6, 9, 0, 0], [5, 6, 7, 4, 3]])
MASK = (IDS != 0).long()


def test_packed_batch_gives_each_row_its_own_values():
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100] * 5, [-100, 6, -100, -100, 3]])  # one row has a hole
    batch = pack_batch(IDS, MASK, labels)
    assert batch.tree.input_ids_T.tolist() == [5, 6, 7, 4, 3, 8]  # 9 is of a row in which nothing is scored
    values_N = batch.tree.target_id_N.double().requires_grad_()
    rows_BT = batch.to_rows(values_N)
    assert rows_BT.tolist() == [[0, 7, 8, 0], [0] * 4, [6, 0, 0, 3]]
    rows_BT.sum().backward()
    scored = dict(zip(batch.tree.target_id_N.tolist(), values_N.grad.tolist(), strict=True))
    assert scored == {6: 1, 7: 1, 4: 0, 3: 1, 8: 1}


def test_left_padding_is_refused():
    with pytest.raises(ConfigError, match="padded on the right"):
        pack_batch(IDS.flip(1), MASK.flip(1), IDS)


def test_a_batch_without_scored_tokens_gives_a_differentiable_zero(tiny_model):
    model = tiny_model()
    add_fused_lm_head(model)
    count = attach_shared_forward(model, ())
    output = model(input_ids=IDS, attention_mask=MASK, labels=torch.full_like(IDS, -100), fused_lm_head=True)
    output.log_probs.sum().backward()
    assert output.log_probs.tolist() == [[0] * 4] * 3 and (count.rows, count.packed) == (12, 12)
    with pytest.raises(ConfigError, match="position_ids"):
        model(input_ids=IDS, attention_mask=MASK, labels=IDS, position_ids=IDS, fused_lm_head=True)


def test_what_cannot_be_shared_is_refused(tmp_path, tiny_model, tiny_tokenizer):
    sizes = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1}
    moe = AutoModelForCausalLM.from_config(MixtralConfig(
        **sizes, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, num_local_experts=2))
    recurrent = AutoModelForCausalLM.from_config(MambaConfig(**sizes, state_size=4))
    virtual = get_peft_model(tiny_model(), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    for model, match in ((moe, "load-balancing loss"), (recurrent, "Mamba"), (virtual, "before the prompt")):
        with pytest.raises(ConfigError, match=match) as error:
            trainer_for(PrefixSharedDPOTrainer, tmp_path, model, tiny_tokenizer)
        assert "DPOTrainer" in error.value.mend or model is virtual
    with pytest.raises(UnsoundError, match="attention dropout") as error:
        trainer_for(PrefixSharedDPOTrainer, tmp_path, tiny_model(attention_dropout=0.1), tiny_tokenizer).train()
    assert error.value.mend == "set attention_dropout to 0, or train this model with trl.DPOTrainer"
