"""A whole run on a tiny real model: every stage, kills while training and while writing the page, resume."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from run_lpo import lpo, start_lpo, write_config, write_prompts
from tiny_models import make_model, make_tokenizer

STEPS = 12


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    make_model("qwen2", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_config(folder: Path, model: Path, **args: object) -> Path:
    folder.mkdir(exist_ok=True)
    write_prompts(folder / "prompts.jsonl", 16, target_words=20)
    policy = {"model": str(model), "chat_template": "plain", "sampling": {"temperature": 1.0}}
    return write_config(folder / "run.yaml", {
        "name": "whole", "prompts": {"path": "prompts.jsonl"}, "policy": policy,
        "build": {"branching": 3, "depth": 2, "step_tokens": 24, "pairs": {"min_margin": 1e-6}, "stability_check": True,
                  "search": {"algorithm": "greedy"}, "memory": {"enabled": False}, "critique": {"enabled": False},
                  "reward": {"judge": 1.0, "repetition": 0.5, "length": 0.5}},
        "train": {"peft": {"r": 4}, "eval_fraction": 0.2, "sample_prompts": 1, "sample_tokens": 12,
                  "args": {"learning_rate": 1e-3, "max_steps": STEPS, "per_device_train_batch_size": 2,
                           "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 4,
                           "save_steps": 4, **args}},
        "eval": {"max_tokens": 40, "bootstrap": 200}})


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of everything a run produced whose content is determined by configuration and seed."""
    run = folder / "runs" / "whole"
    names = ["trees.jsonl", "pairs.jsonl", "metrics.jsonl", "samples.jsonl", "scores.json",
             "train/final/adapter_model.safetensors", "eval/answers.base.jsonl", "eval/answers.trained.jsonl",
             "eval/preferences.jsonl"]
    return {name: hashlib.sha256(without_clock(run / name)).hexdigest() for name in names}


def without_clock(path: Path) -> bytes:
    """The file's content without what a clock wrote into it."""
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    timed = ("runtime", "per_second")
    return json.dumps([{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]).encode()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("whole")
    result = lpo("run", run_config(folder, model_folder), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_one_command_leaves_every_file_of_a_run(whole_run):
    folder, result = whole_run
    run = folder / "runs" / "whole"
    for name in ("config.yaml", "manifest.json", "journal.sqlite", "trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl",
                 "build.json", "metrics.jsonl", "samples.jsonl", "scores.json", "report.html", "log.jsonl"):
        assert (run / name).stat().st_size > 0 or name == "rejected_rows.jsonl", name
    manifest = json.loads((run / "manifest.json").read_text())
    assert {stage: entry["status"] for stage, entry in manifest["stages"].items()} == {
        "build": "complete", "train": "complete", "eval": "complete"}
    assert "layers" in result.stderr and "steps" in result.stderr and "report: " in result.stderr


def test_kept_and_rejected_make_the_input(whole_run):
    run = whole_run[0] / "runs" / "whole"
    build, train = (json.loads((run / name).read_text()) for name in ("build.json", "train.json"))
    assert build["pairs"] + sum(build["rejected"].values()) == build["layers"]
    rows = [json.loads(line) for line in (run / "rejected_rows.jsonl").read_text().split("\n") if line]
    assert len(rows) == sum(build["rejected"].values()) + train["rejected"] + train["held_out_rejected"]
    assert train["pairs"] + train["held_out_pairs"] == build["pairs"]


def test_training_moved_the_adapter_and_the_held_out_log_probs(whole_run):
    run = whole_run[0] / "runs" / "whole"
    assert json.loads((run / "train.json").read_text())["parameters_moved"] > 1e-4
    rows = [json.loads(line) for line in (run / "eval" / "preferences.jsonl").read_text().split("\n") if line]
    assert rows and any(row["base"]["chosen"] != row["trained"]["chosen"] for row in rows)


def test_the_first_logged_margin_is_zero_and_later_ones_are_not(whole_run):
    rows = [json.loads(line) for line in
            (whole_run[0] / "runs" / "whole" / "metrics.jsonl").read_text().split("\n") if line]
    margins = [row["rewards/margins"] for row in rows if "rewards/margins" in row]
    assert abs(margins[0]) < 1e-6 and abs(margins[-1]) > 1e-4


def test_every_score_has_its_interval_and_the_judge_is_named_as_training_reward(whole_run):
    scores = json.loads((whole_run[0] / "runs" / "whole" / "scores.json").read_text())
    for model in ("base", "trained"):
        for interval in scores["models"][model].values():
            assert set(interval) == {"mean", "low", "high", "n", "unscored"}
    assert scores["judge"]["was_training_reward"] is True
    assert scores["overlap"]["found"] == 0 and scores["overlap"]["checked"] == scores["n_prompts"]


def test_the_same_seed_gives_the_same_run(whole_run, model_folder, tmp_path):
    result = lpo("run", run_config(tmp_path, model_folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert outcome(tmp_path) == outcome(whole_run[0])


def test_killed_while_training_it_continues_to_the_same_weights(whole_run, model_folder, tmp_path):
    run = tmp_path / "runs" / "whole"
    config = run_config(tmp_path, model_folder)
    for logged in (5, 9):
        process = start_lpo("run", config, cwd=tmp_path)
        while process.poll() is None and lines(run / "metrics.jsonl") < logged:
            time.sleep(0.002)
        assert process.poll() is None, (tmp_path / "output.log").read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        reference = (run / "train" / "reference.json").read_bytes()
    result = lpo("run", config, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "training continues from checkpoint-" in result.stderr
    assert (run / "train" / "reference.json").read_bytes() == reference, "the reference has not moved"
    assert outcome(tmp_path) == outcome(whole_run[0])


def test_killed_while_writing_the_page_leaves_the_old_page_or_the_new_one(whole_run):
    folder, _ = whole_run
    page = folder / "runs" / "whole" / "report.html"
    complete = page.read_text()
    assert complete.rstrip().endswith("</html>")
    rng = random.Random(1)
    for _ in range(6):
        process = start_lpo("report", "runs/whole", cwd=folder)
        time.sleep(rng.uniform(0.2, 2.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert page.read_text().rstrip().endswith("</html>")
    result = lpo("report", "whole", cwd=folder)
    assert result.returncode == 0, result.stderr
    leftovers = [path.name for path in page.parent.iterdir() if path.name.startswith(".report")]
    assert len(leftovers) <= 6


def test_train_made_again_keeps_pairs_and_reuses_finished_calls(whole_run, tmp_path):
    folder, _ = whole_run
    run = folder / "runs" / "whole"
    pairs = (run / "pairs.jsonl").read_bytes()
    before = outcome(folder)
    result = lpo("run", folder / "run.yaml", "--redo", "train", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "build: already complete" in result.stderr
    assert (run / "pairs.jsonl").read_bytes() == pairs and outcome(folder) == before


def test_other_settings_of_the_evaluation_make_only_the_evaluation_again(whole_run):
    folder, _ = whole_run
    weights = folder / "runs" / "whole" / "train" / "final" / "adapter_model.safetensors"
    written = weights.stat().st_mtime_ns
    result = lpo("run", folder / "run.yaml", "eval.max_tokens=20", cwd=folder)
    assert result.returncode == 0, result.stderr
    scores = json.loads((folder / "runs" / "whole" / "scores.json").read_text())
    assert scores["decoding"]["max_tokens"] == 20
    assert "train: already complete" in result.stderr and weights.stat().st_mtime_ns == written


def test_full_fine_tuning_is_measured_on_its_own_weights(model_folder, tmp_path):
    config = run_config(tmp_path, model_folder)
    result = lpo("run", config, "train.peft=null", "train.args.max_steps=2", "train.args.eval_steps=2",
                 "train.args.save_steps=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "whole"
    assert (run / "train" / "final" / "model.safetensors").is_file()
    rows = [json.loads(line) for line in (run / "eval" / "preferences.jsonl").read_text().split("\n") if line]
    assert any(row["base"]["chosen"] != row["trained"]["chosen"] for row in rows)
    first = (run / "eval" / "answers.trained.jsonl").read_bytes()
    again = lpo("run", config, "train.peft=null", "train.args.max_steps=4", "train.args.eval_steps=2",
                "train.args.save_steps=2", "train.args.learning_rate=0.05", "--redo", "train", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (run / "eval" / "answers.trained.jsonl").read_bytes() != first, "no answer of other weights is reused"


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
