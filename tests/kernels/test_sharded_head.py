"""A head sharded by FSDP2 over two processes, against the whole weight on each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from lpo.errors import ConfigError
from lpo.kernels import chunked_logprobs

WORKER = Path(__file__).with_name("sharded_head_worker.py")
ROOT = WORKER.parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_give_the_logprobs_and_the_averaged_gradients_of_the_whole_weight(tmp_path):
    port, out = str(free_port()), tmp_path / "differences.tsv"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [subprocess.Popen([sys.executable, str(WORKER), str(rank), port, str(out)], cwd=ROOT, env=environment,
                                stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert len(lines) == 27
    assert {name: value for value, name in lines if not float(value) < 1e-6} == {}


def test_a_head_that_is_placed_otherwise_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        weight_VD = distribute_tensor(torch.randn(7, 3), init_device_mesh("cpu", (1,)), [Replicate()])
        with pytest.raises(ConfigError, match="placed as"):
            chunked_logprobs(torch.randn(2, 3), weight_VD, torch.tensor([1, 2]))
        with pytest.raises(ConfigError, match="only one"):
            chunked_logprobs(torch.randn(2, 3), weight_VD, torch.tensor([1, 2]), bias=torch.zeros(7))
    finally:
        dist.destroy_process_group()


def test_a_zero_3_parameter_is_refused_by_name():
    weight_VD = torch.nn.Parameter(torch.empty(0))  # as DeepSpeed leaves a partitioned one
    weight_VD.ds_id = 4
    with pytest.raises(ConfigError, match="ZeRO-3"):
        chunked_logprobs(torch.randn(2, 3), weight_VD, torch.tensor([1, 2]))
