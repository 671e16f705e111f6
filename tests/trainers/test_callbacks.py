"""What the callbacks write and say."""

import json
import logging

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from lpo.chat import load_chat_template
from lpo.records import Message, Prompt
from lpo.trainers import ChosenFalls, MetricsFile, SampleWriter

PROMPTS = [Prompt(id="plain", prompt="Tell me.", target_words=50),
           Prompt(id="chat", prompt=(Message(role="user", content="写一个故事"),))]


def play(callback, values, tmp_path):
    args, state = TrainingArguments(output_dir=str(tmp_path)), TrainerState()
    for step, value in enumerate(values, start=1):
        state.global_step = step
        state.log_history.append({"rewards/chosen": value, "step": step})
        callback.on_log(args, state, TrainerControl(), logs={"rewards/chosen": value})


def test_the_warning_comes_once_when_chosen_sides_fall_steadily(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        play(ChosenFalls(window=4), [0.0, -0.1, -0.2, -0.3, -0.4, -0.5, -0.6], tmp_path)
    assert caplog.text.count("less likely") == 1 and "step 5" in caplog.text


def test_no_warning_for_noise_or_for_a_rising_reward(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        play(ChosenFalls(window=4), [-0.1, -0.3, -0.2, -0.4, -0.3, -0.5], tmp_path)
        play(ChosenFalls(window=4), [0.5, 0.4, 0.3, 0.2, 0.1], tmp_path)
    assert "less likely" not in caplog.text


def test_metrics_lines_hold_values_and_neither_clocks_nor_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    callback, args, state = MetricsFile(path), TrainingArguments(output_dir=str(tmp_path)), TrainerState()
    callback.on_train_begin(args, state, TrainerControl())
    state.global_step = 3
    callback.on_log(args, state, TrainerControl(), logs={"loss": 0.5, "kl": float("nan"), "epoch": 1.0})
    callback.on_log(args, state, TrainerControl(), logs={"eval_loss": 0.4, "eval_runtime": 1.2, "epoch": 1.0})
    callback.on_log(args, state, TrainerControl(), logs={"train_runtime": 3.0, "train_loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 3, "loss": 0.5, "kl": None, "epoch": 1.0}, {"step": 3, "eval_loss": 0.4, "epoch": 1.0}]


def test_samples_are_the_models_own_words_and_leave_the_random_state_alone(tmp_path, tiny_model, tiny_tokenizer):
    import torch

    model = tiny_model()
    writer = SampleWriter(tmp_path / "samples.jsonl", PROMPTS, tiny_tokenizer, load_chat_template("plain"),
                          max_tokens=7, temperature=0.0)
    state = TrainerState()
    before = torch.get_rng_state()
    writer.on_train_begin(TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl(), model=model)
    assert torch.equal(torch.get_rng_state(), before)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt_id"], row["target_words"]) for row in rows] == [
        (0, "plain", 50), (0, "chat", None)]
    ids = tiny_tokenizer("<s>Task:\n写一个故事\n\nText:\n", add_special_tokens=False, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=7, do_sample=False)[0, ids.shape[1]:]
    assert rows[1]["text"] == tiny_tokenizer.decode(written, skip_special_tokens=True)
    assert rows[1]["finish"] == "length"


def test_a_model_that_ends_its_turn_is_said_to_stop(tmp_path, tiny_model, tiny_tokenizer):
    import torch

    model = tiny_model()
    with torch.no_grad():  # a head that prefers </s> to everything
        model.lm_head.weight.zero_()
        model.lm_head.weight[2] = model.model.norm.weight
        model.model.norm.register_forward_hook(lambda module, args, output: output.abs())
    writer = SampleWriter(tmp_path / "samples.jsonl", PROMPTS, tiny_tokenizer, load_chat_template("plain"),
                          temperature=0.0)
    writer.on_train_begin(TrainingArguments(output_dir=str(tmp_path)), TrainerState(), TrainerControl(), model=model)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(row["text"], row["finish"]) for row in rows] == [("", "stop"), ("", "stop")]


def test_texts_and_metrics_reach_tensorboard(tmp_path, tiny_model, tiny_tokenizer, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from lpo.trainers import StepDPOConfig, StepDPOTrainer

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    args = StepDPOConfig(output_dir=str(tmp_path / "train"), max_steps=2, logging_steps=1, report_to="tensorboard",
                         per_device_train_batch_size=1, save_strategy="no", disable_tqdm=True)
    rows = [{"prompt": "Tell me.", "chosen": " Rain fell.", "rejected": " Gulls argued."}] * 2
    writer = SampleWriter(tmp_path / "samples.jsonl", PROMPTS[:1], tiny_tokenizer, max_tokens=4)
    StepDPOTrainer(tiny_model(), args=args, train_dataset=rows, processing_class=tiny_tokenizer,
                   callbacks=[writer]).train()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/rewards/margins")] == [1, 2]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("train/samples/plain/text_summary")]
    written = [json.loads(line)["text"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert texts == written and len(texts) == 2
