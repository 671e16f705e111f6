"""Two processes under torchrun against one with the same batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lpo.trainers import latest_complete

WORKER = Path(__file__).with_name("ddp_worker.py")
ROOT = WORKER.parent.parent.parent


def run(folder, processes, batch_size, kind):
    folder.mkdir()
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    result = subprocess.run([*launcher, str(WORKER), str(folder), str(batch_size), kind], cwd=ROOT, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=500)
    assert result.returncode == 0, result.stderr
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.load(folder / "weights.pt", weights_only=True), metrics


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("kind", ["lora"])
def test_two_processes_equal_one(tmp_path, kind):
    one, one_metrics = run(tmp_path / "one", 1, 4, kind)
    two, two_metrics = run(tmp_path / "two", 2, 2, kind)
    torch.testing.assert_close(two, one, rtol=0, atol=2e-6)
    assert len(one_metrics) == len(two_metrics) == 6
    for ours, theirs in zip(two_metrics, one_metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert latest_complete(tmp_path / "two" / "train").name == "checkpoint-4"
