"""The benchmark of the output head at a size of seconds."""

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_all_ways_agree_and_what_was_measured_is_written(tmp_path, capsys):
    import head

    out = tmp_path / "new" / "head.json"
    head.main(["--tokens", "40", "--vocab", "300", "--widths", "8", "16", "--repeats", "2", "--threads", "1",
               "--out", str(out)])
    record = json.loads(out.read_text())
    assert [size["width"] for size in record["sizes"]] == [8, 16]
    assert record["threads"] == 1
    for size in record["sizes"]:
        assert (size["n_tokens"], size["vocab"]) == (40, 300)
        assert set(size["runs"]) == set(size["median_seconds"]) == set(size["peak_mb"]) == set(head.CASES)
        assert all(len(runs) == 2 and all(run["seconds"] > 0 for run in runs) for runs in size["runs"].values())
        assert len(size["ratios"]) == len(head.TARGETS)
        assert all(value["ratio"] > 0 for value in size["ratios"].values())
    assert "ours, frozen head" in capsys.readouterr().out


def test_peak_memory_sees_whole_logits_and_not_the_weights_gradient():
    import head

    inputs = head.Inputs.random(500, 40_000, 32)  # logits of 80 MB, a gradient of 5 MB
    whole, _, _ = head.measure(head.CASES["whole logits, head trains"], inputs)
    ours, _, _ = head.measure(head.CASES["ours, head trains"], inputs)
    assert whole.peak_mb > 2 * 80
    assert ours.peak_mb < 80 / 2


def test_a_way_that_gives_other_numbers_stops_the_benchmark():
    import head

    wrong = head.Case(lambda hidden, weight, targets: head.whole_logits(hidden * 1.001, weight, targets), True, 3)
    with pytest.raises(RuntimeError, match="wrong gives other numbers than right"):
        head.compare(10, 20, 4, 1, {"right": head.CASES["whole logits, head trains"], "wrong": wrong})


def test_ratios_are_taken_round_by_round():
    import head

    ours, whole = "ours, head trains", "whole logits, head trains"
    runs = {ours: [head.Run(1.0, 5.0), head.Run(3.0, 7.0), head.Run(2.0, 6.0)],
            whole: [head.Run(1.0, 90.0), head.Run(6.0, 90.0), head.Run(2.5, 90.0)]}
    summary = head.summarise(runs, 10**9)
    assert summary["median_seconds"] == {ours: 2.0, whole: 2.5}
    assert summary["peak_mb"][ours] == 6.0
    assert summary["gigaflops_per_second"][ours] == 4 / 2
    assert summary["ratios"] == {f"{ours} / {whole}": {"ratio": 0.8, "target": 1.35}}
