"""Killed trainings: whole checkpoints only, and the same result as without the kill. Children are really killed."""

import json
import multiprocessing
import os
import shutil
import signal
import sys

import pytest
import torch
from peft import LoraConfig
from transformers import EarlyStoppingCallback, TrainerCallback

from lpo.errors import DataError, UnsoundError
from lpo.records import Message, Prompt
from lpo.trainers import MetricsFile, SampleWriter, StepDPOConfig, StepDPOTrainer, latest_complete
from lpo.trainers.checkpoints import MARKER, require_complete

ROWS = [
    {"prompt": f"Write about {i}.", "chosen": " The lighthouse stood" + " at the end" * (i % 3),
     "rejected": " and so on" * (1 + i % 4), "step": i % 2, "chosen_ends": i % 2 == 0}
    for i in range(10)
]
SEEN = "seen.jsonl"


class DataOrder(TrainerCallback):
    """Notes which pairs every optimiser step had."""

    def __init__(self, path):
        self.path, self.trainer = path, None

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        pairs = self.trainer._nonfinite.step_pairs
        with self.path.open("a") as handle:
            handle.write(json.dumps([state.global_step, pairs]) + "\n")


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def build(folder, tokenizer, model, adapter, extra=(), **settings):
    """5 optimiser steps per epoch of up to 2 pairs, 2 epochs, a checkpoint every third step (in mid-epoch)."""
    args = StepDPOConfig(output_dir=str(folder / "train"), **{
        "num_train_epochs": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "logging_steps": 2, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 4,
        "disable_tqdm": True, "lr_scheduler_type": "cosine", "warmup_steps": 2, **settings})
    order = DataOrder(folder / SEEN)
    prompts = [Prompt(id="a", prompt="Tell me."), Prompt(id="b", prompt=(Message(role="user", content="Rain?"),))]
    peft_config = None
    if adapter:  # with dropout: the random state must continue, too
        peft_config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.2)
    from lpo.chat import load_chat_template

    trainer = StepDPOTrainer(
        model, args=args, train_dataset=ROWS, eval_dataset=ROWS[:4], processing_class=tokenizer,
        peft_config=peft_config, callbacks=[
            MetricsFile(folder / "metrics.jsonl"), order, *extra,
            SampleWriter(folder / "samples.jsonl", prompts, tokenizer, load_chat_template("plain"), max_tokens=5)])
    order.trainer = trainer
    return trainer


def in_child(work):
    """Run in a forked process, which may be killed; returns its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def order_of(folder):
    """What each step saw; a step that was run twice must have seen the same pairs."""
    seen = {}
    for line in (folder / SEEN).read_text().splitlines():
        step, pairs = json.loads(line)
        assert seen.setdefault(step, pairs) == pairs
    return seen


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("killed_at", [2, 5, 8], ids=["before_a_checkpoint", "mid_epoch", "second_epoch"])
def test_a_killed_training_ends_like_one_that_was_not(tmp_path, tiny_model, tiny_tokenizer, adapter, killed_at):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = build(whole, tiny_tokenizer, tiny_model(), adapter)
    expected.train()

    def killed():
        build(cut, tiny_tokenizer, tiny_model(), adapter, [KillAt(killed_at)]).train()

    assert in_child(killed) == -signal.SIGKILL
    checkpoint = latest_complete(cut / "train")
    assert (checkpoint.name if checkpoint else None) == {2: None, 5: "checkpoint-3", 8: "checkpoint-6"}[killed_at]
    resumed = build(cut, tiny_tokenizer, tiny_model(), adapter)
    resumed.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    for name, value in weights(expected).items():
        assert torch.equal(weights(resumed)[name], value), name
    assert order_of(cut) == order_of(whole)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (cut / name).read_text() == (whole / name).read_text(), name
    if not adapter:
        start = tiny_model().state_dict()
        assert all(torch.equal(value, start[name]) for name, value in resumed.ref_model.state_dict().items())


def test_best_checkpoint_and_early_stopping_survive_a_kill(tmp_path, tiny_model, tiny_tokenizer):
    settings = {"eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True, "num_train_epochs": 4,
                "metric_for_best_model": "eval_rewards/chosen", "greater_is_better": False, "learning_rate": 3e-3,
                "lr_scheduler_type": "constant", "warmup_steps": 0, "save_total_limit": 3}
    results = []
    for name, kill in (("whole", None), ("cut", 3)):
        folder = tmp_path / name
        folder.mkdir()
        if kill:
            assert in_child(lambda folder=folder: build(
                folder, tiny_tokenizer, tiny_model(), False, [EarlyStoppingCallback(3), KillAt(3)], **settings
            ).train()) == -signal.SIGKILL
        trainer = build(folder, tiny_tokenizer, tiny_model(), False, [EarlyStoppingCallback(3)], **settings)
        trainer.train(resume_from_checkpoint=True if kill else None)
        results.append((trainer.state.global_step, trainer.state.best_global_step, trainer.state.best_metric,
                        weights(trainer)))
    whole, cut = results
    assert whole[:3] == cut[:3]
    assert whole[0] < 20, "early stopping did not fire"
    assert all(torch.equal(value, cut[3][name]) for name, value in whole[3].items())


class KillAtWrite:
    """Kills this process at its n-th file operation below a folder, counted from a step on."""

    def __init__(self, folder, n):
        self.folder, self.left, self.armed = str(folder), n, False
        sys.addaudithook(self)

    def __call__(self, event, args):
        if not self.armed:
            return
        writing = event == "open" and any(sign in str(args[1]) for sign in "wax+")
        if writing or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            path = os.fspath(args[0]) if isinstance(args[0], (str, os.PathLike)) else ""
            if self.folder in path or event == "os.rmdir":
                self.left -= 1
                if self.left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)


class Arm(TrainerCallback):
    """Counts file operations from the second save on."""

    def __init__(self, killer):
        self.killer = killer

    def on_step_end(self, args, state, control, **kwargs):
        self.killer.armed = state.global_step == 2

    def on_save(self, args, state, control, **kwargs):
        self.killer.armed = False


def test_a_kill_at_any_write_of_a_save_leaves_the_last_whole_checkpoint(tmp_path, tiny_model, tiny_tokenizer):
    settings = {"max_steps": 3, "save_steps": 1, "save_total_limit": 1, "eval_strategy": "no", "logging_steps": 1,
                "gradient_accumulation_steps": 1}
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = build(whole, tiny_tokenizer, tiny_model(), False, **settings)
    expected.train()
    doomed = build(whole, tiny_tokenizer, tiny_model(), False, **settings)  # each child inherits a fresh one
    points = {}
    for n in range(60):
        folder = tmp_path / f"kill-{n}"
        folder.mkdir()

        def save_and_die(folder=folder, n=n):
            doomed.args.output_dir = str(folder / "train")
            doomed.add_callback(Arm(KillAtWrite(folder / "train", n)))
            doomed.train()

        if in_child(save_and_die) == 0:
            break
        found = latest_complete(folder / "train")
        assert found is not None and found.name in ("checkpoint-1", "checkpoint-2"), n
        points.setdefault(found.name, []).append(n)
    else:
        pytest.fail("the save never came through")
    assert len(points["checkpoint-1"]) >= 8 and points["checkpoint-2"], points

    # The narrowest places: first and last kill before the new checkpoint counts, and while the old one goes.
    for n in sorted({points[name][end] for name in points for end in (0, -1)}):
        folder = tmp_path / f"kill-{n}"
        resumed = build(folder, tiny_tokenizer, tiny_model(), False, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(expected).items()), n
        assert not list((folder / "train").glob(".checkpoint-*")), "leftovers of the killed save"


def damaged(checkpoint, how):
    if how == "no marker":
        (checkpoint / MARKER).unlink()
    elif how == "file cut":
        with (checkpoint / "model.safetensors").open("rb+") as handle:
            handle.truncate(100)
    else:
        (checkpoint / "optimizer.pt").unlink()


@pytest.mark.parametrize("how", ["no marker", "file cut", "file missing"])
def test_torn_checkpoints_are_skipped_and_named(tmp_path, tiny_model, tiny_tokenizer, caplog, how):
    build(tmp_path, tiny_tokenizer, tiny_model(), False, max_steps=6).train()
    assert latest_complete(tmp_path / "train").name == "checkpoint-6"
    damaged(tmp_path / "train" / "checkpoint-6", how)
    assert latest_complete(tmp_path / "train").name == "checkpoint-3"
    assert "skipped checkpoint-6" in caplog.text
    with pytest.raises(DataError, match="not complete"):
        require_complete(tmp_path / "train" / "checkpoint-6")
    with pytest.raises(DataError, match="not complete"):
        build(tmp_path, tiny_tokenizer, tiny_model(), False, max_steps=6).train(
            resume_from_checkpoint=str(tmp_path / "train" / "checkpoint-6"))


def test_nothing_to_resume_from_is_said(tmp_path, tiny_model, tiny_tokenizer):
    assert latest_complete(tmp_path / "nowhere") is None
    with pytest.raises(DataError, match="no complete checkpoint"):
        build(tmp_path, tiny_tokenizer, tiny_model(), False).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_resume_that_would_move_the_reference_is_stopped(tmp_path, tiny_model, tiny_tokenizer, adapter):
    build(tmp_path, tiny_tokenizer, tiny_model(), adapter, max_steps=3).train()
    build(tmp_path, tiny_tokenizer, tiny_model(), adapter, max_steps=4).train(resume_from_checkpoint=True)
    moved = tiny_model()
    with torch.no_grad():
        moved.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-4
    with pytest.raises(UnsoundError, match="reference differs"):
        build(tmp_path, tiny_tokenizer, moved, adapter, max_steps=5).train(resume_from_checkpoint=True)
    shutil.copy(tmp_path / "train" / "reference.json", tmp_path / "kept.json")
    (tmp_path / "train" / "reference.json").unlink()
    with pytest.raises(UnsoundError, match="not known which reference"):
        build(tmp_path, tiny_tokenizer, tiny_model(), adapter, max_steps=5).train(resume_from_checkpoint=True)
