"""The benchmark of step DPO at a size of seconds: what it writes, that it resumes, that it counts what is computed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3TextConfig, LlamaConfig

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"

GEMMA = Gemma3TextConfig(
    vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
    num_key_value_heads=1, head_dim=256, sliding_window=512,
    layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3)
SEVEN_B = LlamaConfig(
    vocab_size=152064, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8)


@pytest.fixture(autouse=True)
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(folder, *arguments):
    import step_dpo

    step_dpo.main([*arguments, "--out", str(folder), "--threads", "1"])


def read(folder, cell, model):
    return json.loads((folder / f"{cell}.{model}.json").read_text())


@pytest.mark.parametrize(("cell", "model", "n_pairs", "row_tokens", "tree_tokens", "tree_scored"), [
    # Rows: a prompt of 8, steps of 16, end of sequence. Tree: prompt, trunk with an end at each step, siblings.
    ("smoke-4", "tiny", 8, 4 * sum(8 + 16 * i + 1 for i in (1, 2, 3, 4)), 8 + 64 + 4 + 8 * 17, 64 + 4 + 8 * 17),
    ("smoke-growing", "tiny-full", 4, 2 * sum(8 + 15 * i + 1 for i in (1, 2, 3, 4)), 8 + 2 * (60 + 4), 2 * (60 + 4)),
])
def test_ways_of_training_do_the_same_work(
    tmp_path, capsys, cell, model, n_pairs, row_tokens, tree_tokens, tree_scored
):
    run(tmp_path, cell, "--models", model, "--repeats", "1")
    record = read(tmp_path, cell, model)
    assert record["work"]["rows"]["tokens"] == record["work"]["trl"]["tokens"] == row_tokens
    assert (record["work"]["tree"]["tokens"], record["work"]["tree"]["scored"]) == (tree_tokens, tree_scored)
    assert [run["mode"] for run in record["runs"]] == ["tree", "rows", "trl"]
    for one in record["runs"]:
        assert one["pairs"] == list(range(n_pairs)) and one["scaled_seconds"] == one["seconds"] > 0
        assert one["loss"] == pytest.approx(0.693147, abs=1e-4) and one["peak_mb"] > 0
        lengths = sum(length for length, _ in one["micro_batches"])
        assert lengths == (tree_tokens if one["mode"] == "tree" else row_tokens // 2)
    summary = record["summary"]
    assert summary["gradients_differ_by"] < 1e-4
    assert set(summary["ratio"]) == {"rows/tree", "trl/rows", "trl/tree"} and summary["targets"]["equal gradients"]
    assert f"| {cell} | {model} |" in capsys.readouterr().out


def test_a_sample_stands_for_the_whole_and_an_interrupted_run_goes_on(tmp_path, capsys):
    arguments = ("smoke-8", "--models", "tiny", "--modes", "rows", "--sample", "3", "--repeats", "2")
    run(tmp_path, *arguments)
    record = read(tmp_path, "smoke-8", "tiny")
    for one in record["runs"]:
        assert one["pairs"] == [0, 8, 15] and one["scaled_seconds"] > one["seconds"]
    assert "sampled: 3 of 16" in capsys.readouterr().out
    run(tmp_path, *arguments)
    assert read(tmp_path, "smoke-8", "tiny") == record and "done before" in capsys.readouterr().out

    # As a kill after the first run leaves it.
    (tmp_path / "smoke-8.tiny.json").write_text(json.dumps(record | {"asked": None, "runs": record["runs"][:1]}))
    run(tmp_path, *arguments)
    resumed = read(tmp_path, "smoke-8", "tiny")
    assert resumed["runs"][0] == record["runs"][0] and resumed["asked"] == record["asked"]
    assert [one["repeat"] for one in resumed["runs"]] == [0, 1] and resumed["runs"][1] != record["runs"][1]

    other = resumed | {"machine": {**resumed["machine"], "torch": "0"}}
    (tmp_path / "smoke-8.tiny.json").write_text(json.dumps(other))
    run(tmp_path, *arguments, "--max-minutes", "0")
    printed = capsys.readouterr().out
    assert "measured under other conditions before" in printed and "no time left for rows" in printed
    assert read(tmp_path, "smoke-8", "tiny") == other


def test_scaling_a_sample():
    import results

    lengths, flops = [10, 20, 30, 40], [1.0, 2.0, 3.0, 5.0]
    everything = [(length, 2 * work) for length, work in zip(lengths, flops, strict=True)]
    assert results.scaled_seconds(24.0, everything, lengths, flops) == pytest.approx(24)
    # 2 s of the rest, and 2 s an operation for every pair.
    assert results.scaled_seconds(14.0, [everything[0], everything[3]], lengths, flops) == pytest.approx(24)
    # Longer rows are slower: 1, 2, 3 and 4 s an operation.
    assert results.scaled_seconds(23.0, [(10, 1.0), (40, 20.0)], lengths, flops) == pytest.approx(2 + 1 + 4 + 9 + 20)


@pytest.mark.parametrize(("config", "steps", "gain"), [
    (GEMMA, 16, 4.19), (GEMMA, 32, 7.61), (SEVEN_B, 16, 7.63), (SEVEN_B, 32, 14.73),
], ids=["gemma-16", "gemma-32", "7b-16", "7b-32"])
def test_limits_are_those_worked_out_by_hand(config, steps, gain):
    """8,192 tokens in full with checkpointing; worked out without a prompt and without ends of sequence."""
    from cells import Cell, document
    from flops import Mode, work
    from subjects import Lexicon, Subject

    lexicon = Lexicon(SimpleNamespace(eos_token_id=1), [""] * 2000, list(range(2, 2002)), bos=[])
    subject = Subject("x", False, 0, lambda: config, lambda _: None, lambda _: lexicon)
    cell = Cell("x", 8192, steps, prompt_tokens=1)
    pairs = document(cell, 2000)
    rows, tree = (work(mode, subject, cell, pairs).flops for mode in (Mode.ROWS, Mode.TREE))
    assert rows / tree == pytest.approx(gain, rel=0.01)


@pytest.mark.parametrize(("mode", "model", "passes"), [
    ("tree", "tiny", 3),  # forward, gradients of activations, reference
    ("trl", "tiny", 3),
    ("tree", "tiny-full", 5),  # and gradients of weights, and the forward again
    ("rows", "tiny-full", 5),
])
def test_operations_counted_in_a_layer_are_those_of_the_model(mode, model, passes):
    from cells import SMOKE, document
    from flops import Mode, work
    from measure import measure
    from subjects import SMOKE_SUBJECTS

    from lpo.packing.cost import Flops, training_flops

    cell, subject = SMOKE["smoke-4"], SMOKE_SUBJECTS[model]
    pairs = document(cell, len(subject.lexicon.words))
    with FlopCounterMode(display=False) as counter:
        measure(Mode(mode), subject, cell, pairs)
    counts = counter.get_flop_counts()
    name = next(name for name in counts if name.endswith("layers.1.mlp.gate_proj" + ".base_layer" * subject.lora))
    tokens = sum(counts[name].values()) / (2 * subject.config.hidden_size * subject.config.intermediate_size)
    # Before it begins, our trainer compares its head with the model's logits on a row's first 32 tokens, and a small
    # tree with its two rows.
    self_check = {"trl": 0, "rows": 2 * 32, "tree": 2 * 32 + 48 + 2 * 32}[mode]
    expected = passes * work(Mode(mode), subject, cell, pairs).tokens
    assert expected <= tokens <= expected + self_check
    assert passes == training_flops(Flops(body=1), body_trains=not subject.lora,
                                    checkpointing=subject.checkpointing(cell))
