"""Training on token trees: the same numbers as rows and as TRL, however the trees are cut."""

import copy

import pytest
import torch
from datasets import Dataset
from gradients import Gradients, relative
from peft import LoraConfig
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from lpo.errors import ConfigError, UnsoundError
from lpo.packing import PackedTree, take_apart
from lpo.records import Reason
from lpo.trainers import StepDPOConfig, StepDPOTrainer

STEPS = [" The lighthouse stood at the end of the pier.", " She wrote a letter and rain fell.",
         " The captain was there.", " Gulls cried at the end of it."]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def documents(count, siblings=1):
    """Documents of four steps; every step has one or more rejected siblings."""
    return [
        {"id": f"{d}/{i}/{k}", "group": f"document {d}", "step": i, "prompt": f"Write about {d}." + "".join(STEPS[:i]),
         "chosen": STEPS[i], "rejected": " and so on" * (1 + (i + d + k) % 4) + "!" * k}
        for d in range(count) for i in range(len(STEPS)) for k in range(siblings)
    ]


# A step that begins the rejected one, a pair twice, and a document that shares nothing with its prompt's group.
ODD = [
    {"id": "begins", "group": "odd", "prompt": "Write.", "chosen": " Rain fell", "rejected": " Rain fell and so on",
     "chosen_ends": False, "rejected_ends": False},
    {"id": "again", "group": "odd", "prompt": "Write.", "chosen": " Rain fell", "rejected": " Rain fell and so on",
     "chosen_ends": False, "rejected_ends": False},
    {"id": "nested", "group": "odd", "prompt": "Write.", "prefix": " Rain", "chosen": " fell and so on",
     "rejected": " stood"},
    {"id": "other", "group": "odd", "prompt": "Gulls", "chosen": " cried", "rejected": " and so on"},
]


def run(folder, model, tokenizer, rows, *, trainer_type=StepDPOTrainer, config_type=StepDPOConfig, adapter=False,
        trainer_arguments=None, **settings):
    gradients = Gradients()
    args = config_type(output_dir=str(folder), **{
        "max_steps": 3, "per_device_train_batch_size": 100, "learning_rate": 0.2, "optim": "sgd", "use_cpu": True,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "bf16": False,
        "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "max_length": None, **settings})
    torch.manual_seed(0)
    trainer = trainer_type(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        ref_model=copy.deepcopy(model) if trainer_type is DPOTrainer and not adapter else None,
        peft_config=LoraConfig(**LORA) if adapter else None, callbacks=[gradients], **(trainer_arguments or {}))
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
    return trainer, gradients.steps, weights


def assert_equal(ours, theirs, names=("loss", "grad_norm", "rewards/margins", "logps/chosen", "kl", "num_tokens")):
    (our_trainer, our_gradients, our_weights), (their_trainer, their_gradients, their_weights) = ours, theirs
    our_logs, their_logs = ([log for log in trainer.state.log_history if "loss" in log]
                            for trainer in (our_trainer, their_trainer))
    assert len(our_logs) == len(their_logs) > 0
    for our_log, their_log in zip(our_logs, their_logs, strict=True):
        for name in names:
            assert our_log[name] == pytest.approx(their_log[name], rel=1e-4, abs=2e-5), name
    for our_step, their_step in zip(our_gradients, their_gradients, strict=True):
        assert relative(our_step, their_step) < 1e-5
    assert relative(our_weights, their_weights) < 1e-5
    assert our_gradients[0].norm() > 1e-3


@pytest.mark.parametrize(("kind", "adapter"), [("llama", False), ("qwen2", True), ("gemma3", False)])
def test_three_steps_on_trees_equal_rows_and_trl(tmp_path, tiny_model, tiny_tokenizer, kind, adapter):
    rows = documents(2, siblings=2)
    tree = run(tmp_path / "tree", tiny_model(kind), tiny_tokenizer, rows, adapter=adapter)
    as_rows = run(tmp_path / "rows", tiny_model(kind), tiny_tokenizer, rows, adapter=adapter, packing="rows")
    trl = run(tmp_path / "trl", tiny_model(kind), tiny_tokenizer, rows, adapter=adapter, trainer_type=DPOTrainer,
              config_type=DPOConfig)
    assert_equal(tree, as_rows)
    assert_equal(tree, trl, names=("loss", "grad_norm", "rewards/margins", "logps/chosen"))
    shared = tree[0].sharing
    assert tree[0].state.log_history[0]["tree/sharing"] == pytest.approx(shared.ratio) and shared.ratio > 2
    assert shared.row_tokens == tree[0].state.log_history[0]["num_tokens"] and as_rows[0].sharing is None


@pytest.mark.parametrize("settings", [
    {"loss_type": ["ipo"], "beta": 0.1},
    {"loss_type": ["simpo"], "beta": 2.0, "simpo_gamma": 0.5},
    {"loss_type": ["sigmoid_norm"], "beta": 2.0},
    {"loss_type": ["r_dpo"], "r_dpo_alpha": 0.01},
    {"loss_type": ["sampo"], "sampo_seed": 3},
    {"loss_type": ["ld_dpo"], "ld_alpha": 0.4},
    {"loss_type": ["orpo"], "orpo_lambda": 0.3},
    {"loss_type": ["cpo"], "cpo_alpha": 0.5},
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
], ids=lambda settings: "+".join(settings["loss_type"]))
def test_every_loss_on_trees_equals_rows(tmp_path, tiny_model, tiny_tokenizer, settings):
    rows = documents(1, siblings=2) + ODD
    tree = run(tmp_path / "tree", tiny_model(), tiny_tokenizer, rows, max_pack_tokens=130, **settings)
    as_rows = run(tmp_path / "rows", tiny_model(), tiny_tokenizer, rows, packing="rows", **settings)
    names = [name for name in ("loss", "rewards/margins", "lengths/chosen", "kl")
             if name in as_rows[0].state.log_history[0]]
    assert_equal(tree, as_rows, names)


@pytest.mark.parametrize("settings", [
    {"max_pack_tokens": 95},
    {"max_pack_tokens": 95, "oversized": "depth_first"},
    {"max_pack_tokens": 95, "oversized": "depth_first", "gradient_checkpointing": True},
    {"gradient_checkpointing": True},
    {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    {"precompute_ref_log_probs": False},
    {"dataloader_num_workers": 1},
], ids=["split", "depth_first", "depth_first_checkpointed", "checkpointed", "accumulated", "live_reference", "worker"])
@pytest.mark.parametrize("kind", ["gemma3"])
def test_memory_settings_do_not_change_the_result(tmp_path, tiny_model, tiny_tokenizer, kind, settings):
    rows = [row for row in documents(3) if row["step"] < 3] + ODD
    plain = run(tmp_path / "plain", tiny_model(kind), tiny_tokenizer, rows)
    other = run(tmp_path / "other", tiny_model(kind), tiny_tokenizer, rows, **settings)
    assert other[0].rejected_rows == []
    assert_equal(other, plain)


def test_a_group_is_split_and_small_groups_share_a_pass(tmp_path, tiny_model, tiny_tokenizer):
    trainer, *_ = run(tmp_path, tiny_model(), tiny_tokenizer, documents(3), max_pack_tokens=95, max_steps=1)
    units = [trainer.train_dataset[number] for number in range(3)]
    pieces = trainer.data_collator(units)["pieces"]
    assert len(pieces) > 3 and all(piece.tokens.n_tokens <= 95 for piece in pieces)
    assert sorted(slot for piece in pieces for slot in piece.pair_slot_P.tolist()) == list(range(12))
    roomy = run(tmp_path / "roomy", tiny_model(), tiny_tokenizer, documents(3), max_pack_tokens=1000, max_steps=1)[0]
    assert len(roomy.data_collator(units)["pieces"]) == 1


def test_depth_first_keeps_one_branch_at_a_time(tmp_path, tiny_model, tiny_tokenizer):
    """The longest forward is the trunk's, although the whole tree is larger."""
    longest = []

    class Widths(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.get_input_embeddings().register_forward_hook(
                lambda module, inputs, output: longest.append((inputs[0].numel(), torch.is_grad_enabled())))

    trainer, *_ = run(tmp_path, tiny_model(), tiny_tokenizer, documents(1), max_pack_tokens=60, max_steps=1,
                      oversized="depth_first", trainer_arguments={})
    trainer.add_callback(Widths())
    trainer.train()
    tree: PackedTree = trainer.data_collator([trainer.train_dataset[0]])["pieces"][0].tokens
    trunk = tree.chains[0].stop
    with_gradient = [width for width, enabled in longest if enabled]
    assert max(with_gradient) == trunk < tree.n_tokens
    unread = [branch.tree.n_tokens for branch in take_apart(tree).branches if not branch.tree.n_scored]
    assert unread == [1, 1, 1]  # the end after each step but the last: nothing follows it
    assert sum(with_gradient) == tree.n_tokens - sum(unread)


def test_evaluation_on_trees_equals_rows(tmp_path, tiny_model, tiny_tokenizer):
    metrics = []
    for packing in ("tree", "rows"):
        trainer, *_ = run(tmp_path / packing, tiny_model(), tiny_tokenizer, documents(2), packing=packing, max_steps=1,
                          trainer_arguments={"eval_dataset": Dataset.from_list(documents(3, siblings=2) + ODD)},
                          per_device_eval_batch_size=2)
        metrics.append(trainer.evaluate())
    tree, rows = metrics
    for name in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "eval_logps/chosen", "eval_kl"):
        assert tree[name] == pytest.approx(rows[name], rel=1e-4, abs=1e-6), name


def test_rewards_for_compute_metrics_stand_in_the_order_of_the_pairs(tmp_path, tiny_model, tiny_tokenizer):
    seen = {}
    for packing in ("tree", "rows"):
        def keep(prediction, packing=packing):
            seen[packing] = dict(zip(prediction.label_ids.tolist(), prediction.predictions.tolist(), strict=True))
            return {}
        trainer, *_ = run(tmp_path / packing, tiny_model(), tiny_tokenizer, documents(2), packing=packing, max_steps=1,
                          trainer_arguments={"eval_dataset": Dataset.from_list(documents(3)), "compute_metrics": keep})
        trainer.evaluate()
    assert set(seen["tree"]) == set(range(12))
    for number, rewards in seen["rows"].items():
        assert seen["tree"][number] == pytest.approx(rewards, rel=1e-3, abs=1e-5)


def test_reference_log_probs_are_computed_once_and_found_again(tmp_path, tiny_model, tiny_tokenizer, caplog):
    caplog.set_level("INFO")
    shared = {"reference_cache_dir": str(tmp_path / "cache")}
    first = run(tmp_path / "a", tiny_model(), tiny_tokenizer, documents(2), **shared)
    again = run(tmp_path / "b", tiny_model(), tiny_tokenizer, documents(2)[::-1], learning_rate=0.2, **shared)
    assert "2 units computed, 0 found" in caplog.text and "0 units computed, 2 found" in caplog.text
    assert_equal(again, first)
    changed = tiny_model()
    with torch.no_grad():
        changed.lm_head.weight[3, 3] += 1.0
    run(tmp_path / "c", changed, tiny_tokenizer, documents(2), **shared, max_steps=1)
    assert caplog.text.count("2 units computed, 0 found") == 2


# ---- bad input ----

def test_a_pair_that_cannot_fit_is_rejected_with_its_length(tmp_path, tiny_model, tiny_tokenizer):
    long = {"id": "long", "group": "x", "prompt": "Write.", "chosen": " fell" * 150, "rejected": " Rain"}
    rows = [*documents(1), long]
    trainer, *_ = run(tmp_path / "a", tiny_model(), tiny_tokenizer, rows, max_pack_tokens=100, max_steps=1)
    (rejected,) = trainer.rejected_rows
    assert (rejected.id, rejected.reason) == ("long", Reason.TOO_LONG)
    assert "max_pack_tokens=100" in rejected.detail and len(trainer.train_dataset.pairs) == 4
    trainer, *_ = run(tmp_path / "b", tiny_model(), tiny_tokenizer, rows, max_pack_tokens=100, max_steps=1,
                      oversized="depth_first")
    assert trainer.rejected_rows == [] and len(trainer.train_dataset.pairs) == 5


@pytest.mark.parametrize(("settings", "where"), [
    ({"packing": "trees"}, "packing"), ({"packing": "rows", "max_pack_tokens": 100}, "max_pack_tokens"),
    ({"packing": "rows", "tree_attention": "segments"}, "tree_attention"), ({"oversized": "depth_first"}, "oversized"),
    ({"tree_attention": "dense"}, "tree_attention"), ({"max_nonfinite_steps": -1}, "max_nonfinite_steps"),
    ({"reference_cache_dir": "x", "precompute_ref_log_probs": False}, "reference_cache_dir"),
])
def test_settings_that_nothing_would_read_are_refused(tmp_path, settings, where):
    with pytest.raises(ConfigError) as error:
        StepDPOConfig(output_dir=str(tmp_path), **settings)
    assert error.value.where == where


def test_flex_attention_is_refused_on_a_cpu_before_training(tmp_path, tiny_model, tiny_tokenizer):
    with pytest.raises(ConfigError, match="no backward on a CPU"):
        run(tmp_path, tiny_model(), tiny_tokenizer, documents(1), tree_attention="flex")


class Poison(TrainerCallback):
    """Makes the gradient of one optimiser step infinite and keeps the weights after each."""

    def __init__(self, step):
        self.step, self.weights = step, []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.handle = next(model.parameters()).register_hook(lambda grad: grad / 0)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        if state.global_step == self.step + 1:
            self.handle.remove()


def test_a_step_that_is_not_finite_is_skipped_as_often_as_allowed(tmp_path, tiny_model, tiny_tokenizer, caplog):
    def train(folder, allowed):
        poison = Poison(1)
        args = StepDPOConfig(output_dir=str(folder), max_steps=3, per_device_train_batch_size=1, learning_rate=0.01,
                             logging_steps=1, save_strategy="no", disable_tqdm=True, max_nonfinite_steps=allowed)
        trainer = StepDPOTrainer(tiny_model(), args=args, train_dataset=documents(2), processing_class=tiny_tokenizer,
                                 callbacks=[poison])
        trainer.train()
        return [log for log in trainer.state.log_history if "loss" in log], poison.weights

    with pytest.raises(UnsoundError, match=r"gradient is not finite at step 2; pairs: \d/0/0, \d/1/0"):
        train(tmp_path / "none", 0)
    logs, (first, skipped, last) = train(tmp_path / "one", 1)
    assert "step 2 is skipped (1 of at most 1)" in caplog.text
    assert [log.get("nonfinite_steps") for log in logs] == [None, 1, 1]
    assert torch.equal(skipped, first) and not torch.equal(last, first) and bool(torch.isfinite(last).all())
