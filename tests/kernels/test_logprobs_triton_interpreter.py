import os
import subprocess
import sys
from pathlib import Path

import torch

from lpo.kernels import chunked_logprobs

CASES = Path(__file__).with_name("triton_interpreter_cases.py")


def test_numbers_of_the_triton_kernels_in_the_interpreter():
    # Triton reads the variable when it is first imported: hence a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(CASES)]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_log_probs_need_no_triton():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from lpo.kernels import chunked_logprobs\n"
        "hidden_ND = torch.arange(6.0).view(2, 3) / 9\n"
        "print(chunked_logprobs(hidden_ND, hidden_ND.repeat(2, 1) + 1, torch.tensor([0, 3])).tolist())\n")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    hidden_ND = torch.arange(6.0).view(2, 3) / 9
    expected_N = chunked_logprobs(hidden_ND, hidden_ND.repeat(2, 1) + 1, torch.tensor([0, 3]))
    assert ran.stdout.strip() == str(expected_N.tolist())
