"""Compiles the kernels for GPUs that are not there, just as the launches ask for them, and reads the machine code."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lpo.kernels.logprob_tiles import Head, WholeWeight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from lpo.kernels import logprobs_triton  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
KERNELS = ("statistics_kernel", "gradient_kernel", "product_kernel")
# Bytes of shared memory a program may have, and the matrix instruction, by compute capability.
SHARED = {80: 166_912, 90: 232_448, 100: 232_448}
MATRIX = {80: "mma.sync.aligned", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
A_REGISTER_OR_TWO = 8  # bytes of stack: one version of ptxas takes them for one kernel that the next needs none for
ALIGNED, RAGGED, UNALIGNED = (4096, 16384, 2304), (1105, 1105, 2304), (1105, 1105, 1023)


@dataclass(frozen=True)
class Launch:
    """A launch as the library made it."""

    kernel: Any
    arguments: dict[str, Any]

    def compile(self, capability: int, *, aligned: bool) -> Any:
        """The kernel specialised as Triton does at a launch: on ones and, if aligned, on multiples of 16."""
        arguments = dict(self.arguments)
        options = {name: arguments.pop(name) for name in ("num_warps", "num_stages")}
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = arguments[parameter.name]
            if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
                divisible = aligned
            else:
                signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
                divisible = isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
            if parameter.name not in constants and divisible:
                attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def record(monkeypatch, shape, dtype, capability):
    """All different launches of a forward and a backward that ask for everything, on tensors without memory."""
    launches: dict[tuple, Launch] = {}

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*values, **settings):
                arguments = {**dict(zip(self.kernel.arg_names, values, strict=False)), **settings}
                transposed = arguments.get("left_row_stride") == 1
                launches[self.kernel.__name__, transposed, settings.get("SHIFTED")] = Launch(self.kernel, arguments)
            return launch

    for name in KERNELS:
        monkeypatch.setattr(logprobs_triton, name, Recorder(getattr(logprobs_triton, name)))
    n_tokens, vocab, width = shape
    with torch.device("meta"):
        hidden_ND, weight_VD = torch.empty(n_tokens, width, dtype=dtype), torch.empty(vocab, width, dtype=dtype)
        bias_V, targets_N = torch.empty(vocab, dtype=dtype), torch.empty(n_tokens, dtype=torch.int64)
        upstream_N = torch.empty(n_tokens)
    head = Head(scale=1.0, softcap=30.0, temperature=1.0, token_chunk=4096, vocab_chunk=16384, dtype=torch.float32)
    blocks = logprobs_triton.choose_blocks(dtype, width, divmod(capability, 10))
    inputs = (hidden_ND, WholeWeight(weight_VD), bias_V, targets_N)
    statistics, _ = logprobs_triton.forward(*inputs, head, True, blocks)
    logprobs_triton.backward(*inputs, statistics.log_normaliser_N, upstream_N, head, (True, True, True), blocks)
    # The plain product's code is that of the shifted one, less the shift.
    del launches["product_kernel", False, False]
    return list(launches.values())


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Bytes of stack, where spilled registers go, and of local memory of each thread."""
    (folder / "kernel.cubin").write_bytes(cubin)
    usage = subprocess.run([CUOBJDUMP, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True,
                           check=True)
    found = dict(re.findall(r"(STACK|LOCAL):(\d+)", usage.stdout + usage.stderr))
    return {name: int(found[name]) for name in ("STACK", "LOCAL")}


@pytest.mark.parametrize("dtype, capability, shape", [
    (torch.bfloat16, 80, ALIGNED),
    (torch.bfloat16, 80, UNALIGNED),
    (torch.bfloat16, 90, ALIGNED),
    (torch.bfloat16, 90, RAGGED),
    (torch.bfloat16, 90, UNALIGNED),
    (torch.bfloat16, 100, ALIGNED),
    (torch.bfloat16, 100, UNALIGNED),
    (torch.float32, 80, ALIGNED),
    (torch.float32, 90, UNALIGNED),
])
def test_machine_code(dtype, capability, shape, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    launches = record(monkeypatch, shape, dtype, capability)
    assert sorted(launch.kernel.__name__ for launch in launches) == sorted([*KERNELS, "product_kernel"])
    for launch in launches:
        compiled = launch.compile(capability, aligned=shape != UNALIGNED)
        what = f"{launch.kernel.__name__} {launch.arguments}"
        ptx = compiled.asm["ptx"]
        # Exact float32 products have no matrix instruction; a TF32 one there would be rounding that nobody asked for.
        assert (MATRIX[capability] in ptx) == (dtype == torch.bfloat16), what
        assert "tf32" not in ptx, what
        assert compiled.metadata.shared <= SHARED[capability], what
        used = resources(compiled.asm["cubin"], tmp_path)
        assert used["LOCAL"] == 0, what
        assert used["STACK"] <= A_REGISTER_OR_TWO, what
        if shape == ALIGNED:
            assert "cp.async" in ptx, what
