"""IterDPOTrainer against pairs expanded by hand, against TRL, and resumed; how much nested rows share."""

import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from lpo.chat import load_chat_template
from lpo.errors import ConfigError, NothingLeftError
from lpo.llm.demo import resolve_model
from lpo.packing import Group, Row, pack
from lpo.records import Reason
from lpo.trainers import IterDPOConfig, IterDPOTrainer, IterMode, StepDPOConfig, StepDPOTrainer, Tokeniser
from lpo.trainers.iter_rows import expand_rows

LIGHTHOUSE = {
    "id": "lighthouse", "prompt": "Explain the lighthouse, page by page.\n\n",
    "segments_original": ["The lighthouse stood.\n\n", "", "Gulls gulls gulls.\n\n", "The end of the pier."],
    "segments_revised": ["The lighthouse stood.\n\n", "Rain fell on the harbour.\n\n", "Gulls argued over fish.\n\n",
                         "The end of the pier."],
}
BRIDGE = {
    "id": "bridge", "prompt": "Explain a bridge.\n\n",
    "segments_original": ["A bridge is a bridge.\n\n", "Then piers."],
    "segments_revised": ["First the ground.\n\n", "Then piers."],
}
PLAIN = {"id": "plain", "prompt": "Write a letter.", "chosen": " Dear brother.", "rejected": " and so on"}
ROWS = [LIGHTHOUSE, BRIDGE, PLAIN]


def by_hand(script, first, last, number, **ends):
    """The pair of segments first..last - 1 of a script."""
    original, revised = script["segments_original"], script["segments_revised"]
    return {"id": f"{script['id']}/{number}", "group": script["id"], "prompt": script["prompt"],
            "prefix": "".join(revised[:first]), "chosen": "".join(revised[first:last]),
            "rejected": "".join(original[first:last]), "step": last - 1, **ends}


OPEN = {"chosen_ends": False, "rejected_ends": False}
EXPANDED = {
    "prefix": [by_hand(LIGHTHOUSE, 0, 2, 2, **OPEN), by_hand(LIGHTHOUSE, 0, 3, 3, **OPEN), by_hand(LIGHTHOUSE, 0, 4, 4),
               by_hand(BRIDGE, 0, 1, 1, **OPEN), by_hand(BRIDGE, 0, 2, 2), PLAIN],
    "local": [by_hand(LIGHTHOUSE, 2, 3, 3, **OPEN), by_hand(BRIDGE, 0, 1, 1, **OPEN), PLAIN],
    "full": [{"prompt": script["prompt"], "chosen": "".join(script["segments_revised"]),
              "rejected": "".join(script["segments_original"])} for script in (LIGHTHOUSE, BRIDGE)] + [PLAIN],
}
LEFT_OUT = {
    "prefix": [("lighthouse/1", Reason.EQUAL_TEXTS)],
    "local": [("lighthouse/1", Reason.EQUAL_TEXTS), ("lighthouse/4", Reason.EQUAL_TEXTS),
              ("bridge/2", Reason.EQUAL_TEXTS), ("lighthouse/2", Reason.EMPTY)],
    "full": [],
}
STEPS = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 0.3, "optim": "sgd", "seed": 1,
         "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no",
         "disable_tqdm": True, "beta": 0.2}


def build(trainer_type, config_type, folder, tokenizer, model, rows, settings=None, **others):
    args = config_type(output_dir=str(folder), **{**STEPS, **(settings or {})})
    return trainer_type(model, args=args, train_dataset=rows, processing_class=tokenizer, **others)


def trained(trainer):
    """Logs of the steps, and all weights in one vector."""
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return logs, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("as_dataset", [False, True], ids=["list", "dataset"])
@pytest.mark.parametrize("mode", list(IterMode))
def test_three_steps_equal_those_on_pairs_expanded_by_hand(tmp_path, tiny_model, tiny_tokenizer, mode, as_dataset):
    rows = Dataset.from_list([{name: row.get(name) for name in LIGHTHOUSE | PLAIN} for row in ROWS]) if as_dataset \
        else ROWS
    trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path / "iter", tiny_tokenizer, tiny_model(), rows,
                    {"mode": mode.value})
    plain = build(StepDPOTrainer, StepDPOConfig, tmp_path / "step", tiny_tokenizer, tiny_model(), EXPANDED[mode])
    assert not plain.rejected_rows
    assert [(row.id, row.reason) for row in trainer.rejected_rows] == LEFT_OUT[mode]
    (logs, weights), (expected_logs, expected) = trained(trainer), trained(plain)
    assert torch.equal(weights, expected)
    assert not torch.equal(weights, torch.cat([p.flatten() for p in tiny_model().parameters()]))
    assert len(logs) == 3 and logs == expected_logs


class Gradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.steps.append(torch.cat([p.grad.flatten().clone() for p in kwargs["model"].parameters()]))


@pytest.mark.parametrize(("mode", "kind"), [("prefix", "llama"), ("prefix", "gemma3"), ("local", "llama"),
                                            ("full", "llama")])
def test_trees_give_the_gradients_of_rows(tmp_path, tiny_model, tiny_tokenizer, mode, kind):
    results = []
    for packing, batch_size in (("tree", 3), ("rows", len(EXPANDED[mode]))):  # all pairs in every step
        gradients = Gradients()
        trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path / packing, tiny_tokenizer, tiny_model(kind), ROWS, {
            "mode": mode, "packing": packing, "per_device_train_batch_size": batch_size,
            "learning_rate": 0.05}, callbacks=[gradients])
        logs, weights = trained(trainer)
        results.append((logs, [*gradients.steps, weights]))
    (tree_logs, tree), (row_logs, rows) = results
    assert [entry["loss"] for entry in tree_logs] == pytest.approx([entry["loss"] for entry in row_logs], rel=1e-5)
    assert len(tree) == 4
    for ours, expected in zip(tree, rows, strict=True):
        assert float((ours - expected).norm() / expected.norm()) < 1e-5


def test_full_pairs_equal_trl(tmp_path, tiny_model, tiny_tokenizer):
    ours, theirs = Gradients(), Gradients()
    trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path / "iter", tiny_tokenizer, tiny_model(), ROWS,
                    {"mode": "full"}, callbacks=[ours])
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in EXPANDED["full"]]
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
                "max_length": None}
    trl = build(DPOTrainer, DPOConfig, tmp_path / "trl", tiny_tokenizer, tiny_model(), Dataset.from_list(rows),
                settings, callbacks=[theirs], ref_model=tiny_model())
    (logs, weights), (trl_logs, trl_weights) = trained(trainer), trained(trl)
    for entry, expected in zip(logs, trl_logs, strict=True):
        for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-5), name
    for gradient, expected in zip(ours.steps, theirs.steps, strict=True):
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5
    assert float((weights - trl_weights).norm() / trl_weights.norm()) < 1e-6


def test_the_end_of_the_turn_is_scored_after_prefixes_only_when_asked_for(tmp_path, tiny_model, tiny_tokenizer):
    end = tiny_tokenizer.eos_token_id
    for prefixes_end in (False, True):
        trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), ROWS[:1],
                        {"prefixes_end": prefixes_end})
        ends = [[side.ids[-1] == end for side in (pair.chosen, pair.rejected)] for pair in trainer.train_dataset.pairs]
        assert ends == [[prefixes_end] * 2] * 2 + [[True, True]]


def test_a_resumed_training_ends_like_a_whole_one(tmp_path, tiny_model, tiny_tokenizer):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch",
                "learning_rate": 1e-2}
    whole = build(IterDPOTrainer, IterDPOConfig, tmp_path / "whole", tiny_tokenizer, tiny_model(), ROWS, settings)
    logs, expected = trained(whole)
    cut = build(IterDPOTrainer, IterDPOConfig, tmp_path / "cut", tiny_tokenizer, tiny_model(), ROWS,
                settings, callbacks=[StopAfter(3)])  # in mid-epoch, one step after the checkpoint
    cut.train()
    assert cut.state.global_step == 3
    resumed = build(IterDPOTrainer, IterDPOConfig, tmp_path / "cut", tiny_tokenizer, tiny_model(), ROWS, settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert torch.equal(torch.cat([p.detach().flatten() for p in resumed.model.parameters()]), expected)
    again = [entry for entry in resumed.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in logs]
    stored = json.loads((tmp_path / "cut" / "checkpoint-4" / "training_args.json").read_text())
    assert (stored["mode"], stored["prefixes_end"]) == ("prefix", False)


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_evaluation_expands_scripts_as_well(tmp_path, tiny_model, tiny_tokenizer):
    results = []
    for trainer_type, config_type, rows in ((IterDPOTrainer, IterDPOConfig, ROWS),
                                            (StepDPOTrainer, StepDPOConfig, EXPANDED["prefix"])):
        trainer = build(trainer_type, config_type, tmp_path, tiny_tokenizer, tiny_model(), rows,
                        eval_dataset={"all": rows}, ref_model=tiny_model(seed=3))
        results.append([trainer.evaluate(), trainer.evaluate(rows[:1] if rows is ROWS else rows[:3])])
    for ours, theirs in zip(*results, strict=True):
        names = [name for name in theirs if "runtime" not in name and "per_second" not in name]
        assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


def test_settings_that_would_not_be_read_are_refused(tmp_path, tiny_model, tiny_tokenizer):
    with pytest.raises(ConfigError, match="no mode 'prefixes'"):
        IterDPOConfig(output_dir=str(tmp_path), mode="prefixes")
    for mode in ("local", "full"):
        with pytest.raises(ConfigError, match="scores no prefixes"):
            IterDPOConfig(output_dir=str(tmp_path), mode=mode, prefixes_end=True)
    with pytest.raises(ConfigError, match="StepDPOConfig has no mode"):
        build(IterDPOTrainer, StepDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), ROWS)


def test_what_is_refused_or_glued_is_said(tmp_path, tiny_model, tiny_tokenizer, caplog):
    bad = {**BRIDGE, "id": "bad", "segments_original": ["A"]}
    glued = {**BRIDGE, "id": "glued", "segments_revised": ["First the ground.", "Then piers."]}
    trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), [bad, glued])
    assert [(row.id, row.reason) for row in trainer.rejected_rows] == [("bad", Reason.MALFORMED)]
    assert "1 of 2 rows refused: 1 x malformed" in caplog.text and "at 1 places where segments meet" in caplog.text
    with pytest.raises(NothingLeftError, match="none of 1 rows is left: 1 x malformed") as error:
        build(IterDPOTrainer, IterDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), [bad])
    assert error.value.mend == "the first one, bad: 1 original segments but 2 revised ones"
    with pytest.raises(ConfigError, match="countable"):
        build(IterDPOTrainer, IterDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), iter(ROWS))


def test_the_model_card_names_the_method(tmp_path, tiny_model, tiny_tokenizer):
    trainer = build(IterDPOTrainer, IterDPOConfig, tmp_path, tiny_tokenizer, tiny_model(), ROWS)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "iter-dpo" in card and "2502.14834" in card and "LongWriter-V" in card


# ---- nested rows share their tokens ----

PAGES = ("The lighthouse stood at the end of the stone pier.", "Every evening the keeper climbed its stairs.",
         "She wrote long letters to a brother who never answered.", "Gulls argued over fish;", "Rain fell.")


def packed_tokens(tokenizer, separator, prompt, template=None):
    """Tokens of a packed script of 20 pages, half of them corrected; those of its last pair alone; and of all rows."""
    original = [PAGES[i % 5] + separator for i in range(20)]
    revised = [page if i % 2 else f"On page {i}: {page}" for i, page in enumerate(original)]
    script = {"prompt": prompt, "segments_original": original, "segments_revised": revised}
    pairs = Tokeniser(tokenizer, template).rows(expand_rows([script], IterMode.PREFIX).rows).pairs
    assert len(pairs) == 20
    rows = [[Row(side.ids, side.start) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    whole, last = (pack([Group(tuple(row for both in part for row in both))]) for part in (rows, rows[-1:]))
    return whole.n_tokens, last.n_tokens, whole.n_row_tokens


def check_sharing(tokenizer, prompt, template=None):
    for separator in ("\n\n", "\n"):
        packed, last, rows = packed_tokens(tokenizer, separator, prompt, template)
        assert packed == last  # every row is a beginning of the last one, up to the end of its turn
        assert rows / packed > 10  # 21 / 2 if all pages were equally long and there was no prompt
    # A blank that goes into the next word's token costs each side one token a boundary, no more.
    packed, last, _ = packed_tokens(tokenizer, " ", prompt, template)
    assert last <= packed <= last + 2 * 19


def test_pairs_of_a_script_pack_into_the_tokens_of_its_last_pair(tiny_tokenizer):
    check_sharing(tiny_tokenizer, "Explain the slides.\n\n")
    check_sharing(tiny_tokenizer, [{"role": "user", "content": "Explain."}], load_chat_template("plain"))


@pytest.mark.demo
def test_so_they_do_with_the_tokenizer_of_a_real_model():
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("demo:gemma-3-270m"))
    check_sharing(tokenizer, "Explain the slides.\n\n")
    check_sharing(tokenizer, [{"role": "user", "content": "Explain."}], load_chat_template("plain"))
