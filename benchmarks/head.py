"""Forward and backward of an output head on scored positions: whole logits, TRL's tiles and ours.

All ways are run in turn in one process, on the same hidden states, weight, targets and upstream gradient, and must
agree. A run's memory is the most the process held during it (the system's own high-water mark), above what it held
before, so without inputs; of a head that trains, the weight's gradient is taken off as well.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from memory import Peak
from rich.console import Console
from rich.table import Table
from trl.kernels import ChunkedLogProbFunction

from lpo.kernels import chunked_logprobs
from lpo.kernels.logprob_tiles import Head
from lpo.kernels.logprobs import LogProbs
from lpo.kernels.tile_sizes import last_level_cache, tile_sizes
from lpo.storage import write_json

TRL_VOCAB_CHUNK = 32768  # as `trl.trainer.utils` calls it
TRL_DPO_OUTPUTS = ("entropy", "mean_logits", "is_top1")  # as DPOTrainer asks


@dataclass(frozen=True)
class Case:
    """A way to compute the log-probs.

    Args:
        score: From hidden states [N, D], weight [V, D] and targets [N] to log-probs [N].
        trains: Whether the weight gets a gradient.
        units: Matrix products of 2NDV floating-point operations that it takes.
    """

    score: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    trains: bool
    units: int


def whole_logits(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="none")


def trl_tiles(outputs: tuple[str, ...]) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    def score(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        results: Any = ChunkedLogProbFunction.apply(
            hidden_ND, weight_VD, None, targets_N, 1.0, TRL_VOCAB_CHUNK, None, 1.0, outputs)
        return results[0]

    return score


def recomputed(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Ours with a frozen head, without the gradient that is gathered in the forward."""
    tokens, entries = tile_sizes(hidden_ND.device, *hidden_ND.shape)
    head = Head(scale=1.0, softcap=None, temperature=1.0, token_chunk=tokens, vocab_chunk=entries, dtype=torch.float32)
    return LogProbs.apply(hidden_ND, weight_VD, None, targets_N, head, False)  # type: ignore[no-any-return]


CASES = {
    "whole logits, head trains": Case(whole_logits, True, 3),
    "TRL, head trains": Case(trl_tiles(()), True, 4),
    "TRL as DPOTrainer, head trains": Case(trl_tiles(TRL_DPO_OUTPUTS), True, 4),
    "ours, head trains": Case(chunked_logprobs, True, 4),
    "whole logits, frozen head": Case(whole_logits, False, 2),
    "TRL, frozen head": Case(trl_tiles(()), False, 3),
    "ours, frozen head": Case(chunked_logprobs, False, 2),
    "ours, frozen head, recomputed": Case(recomputed, False, 3),
}

TARGETS = {  # ratios of seconds that are aimed at
    ("ours, head trains", "whole logits, head trains"): 1.35,
    ("ours, head trains", "TRL, head trains"): 0.6,
    ("ours, head trains", "TRL as DPOTrainer, head trains"): 0.6,
    ("ours, frozen head", "whole logits, frozen head"): 1.0,
    ("ours, frozen head", "ours, frozen head, recomputed"): 0.75,
}
TARGET_MB = 150.0
"""Aimed at for the memory of our ways, above inputs and above the weight's gradient."""


@dataclass(frozen=True)
class Run:
    """What one forward and backward took.

    Args:
        seconds: Of both.
        peak_mb: Highest memory above inputs, less the weight's gradient if it trains; in 10^6 bytes.
    """

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Inputs:
    """What is scored, and what autograd hands back for each log-prob."""

    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    targets_N: torch.Tensor
    upstream_N: torch.Tensor

    @classmethod
    def random(cls, n_tokens: int, vocab: int, width: int) -> Inputs:
        """Float32, with logits as wide as a language model's (standard deviation 3)."""
        generator = torch.Generator().manual_seed(0)
        return cls(torch.randn(n_tokens, width, generator=generator),
                   torch.randn(vocab, width, generator=generator).mul_(3 / width**0.5),
                   torch.randint(vocab, (n_tokens,), generator=generator),
                   torch.randn(n_tokens, generator=generator))


def measure(case: Case, inputs: Inputs) -> tuple[Run, torch.Tensor, torch.Tensor]:
    """One forward and backward, with the log-probs and the gradient of the hidden states that came out."""
    hidden_ND = inputs.hidden_ND.detach().requires_grad_()
    weight_VD = inputs.weight_VD.detach().requires_grad_(case.trains)
    peak = Peak()
    start = time.perf_counter()
    logprobs_N = case.score(hidden_ND, weight_VD, inputs.targets_N)
    logprobs_N.backward(inputs.upstream_N)
    seconds = time.perf_counter() - start
    megabytes = peak.megabytes() - (weight_VD.nbytes / 1e6 if case.trains else 0)
    assert hidden_ND.grad is not None
    return Run(seconds, megabytes), logprobs_N.detach(), hidden_ND.grad


def compare(n_tokens: int, vocab: int, width: int, repeats: int, cases: dict[str, Case]) -> dict[str, Any]:
    """All ways at one size, in turn, `repeats` times over.

    Raises:
        RuntimeError: Two ways do not agree on log-probs or gradient.
    """
    for case in cases.values():  # what libraries set up on first use belongs to none of them
        measure(case, Inputs.random(8, 16, width))
    inputs = Inputs.random(n_tokens, vocab, width)
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    for _ in range(repeats):
        for name, case in cases.items():
            run, *results = measure(case, inputs)
            runs[name].append(run)
            first = first or (results[0], results[1])
            for ours, theirs in zip(results, first, strict=True):
                if not (ours - theirs).norm() <= 1e-5 * theirs.norm():
                    raise RuntimeError(f"{name} gives other numbers than {next(iter(cases))}")
    return {
        "n_tokens": n_tokens, "vocab": vocab, "width": width,
        "tile": tile_sizes(inputs.hidden_ND.device, n_tokens, width),
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
        **summarise(runs, 2 * n_tokens * vocab * width),
    }


def summarise(runs: dict[str, list[Run]], flops_per_unit: int) -> dict[str, Any]:
    """Medians of the runs; ratios are medians over the rounds, whose runs lie close together in time."""
    seconds = {name: statistics.median(run.seconds for run in each) for name, each in runs.items()}
    peaks = {name: statistics.median(run.peak_mb for run in each) for name, each in runs.items()}
    ratios = {
        f"{one} / {other}": {
            "ratio": statistics.median(a.seconds / b.seconds for a, b in zip(runs[one], runs[other], strict=True)),
            "target": target,
        }
        for (one, other), target in TARGETS.items() if one in runs and other in runs
    }
    return {
        "median_seconds": seconds, "peak_mb": peaks, "ratios": ratios,
        "gigaflops_per_second": {name: CASES[name].units * flops_per_unit / value / 1e9
                                 for name, value in seconds.items()},
        "memory_target_mb": TARGET_MB,
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{result['n_tokens']:,} tokens, {result['vocab']:,} entries, hidden size {result['width']}; "
                        f"tile {result['tile'][0]} x {result['tile'][1]}")
    for heading in ("", "seconds", "GFLOP/s", "peak MB"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, seconds in result["median_seconds"].items():
        table.add_row(name, f"{seconds:.3f}", f"{result['gigaflops_per_second'][name]:.1f}",
                      f"{result['peak_mb'][name]:,.0f}")
    console.print(table)
    for name, value in result["ratios"].items():
        verdict = "met" if value["ratio"] <= value["target"] else "missed"
        console.print(f"{name}: {value['ratio']:.3f} (aimed at: {value['target']}; {verdict})", highlight=False)
    for name in (name for name in result["peak_mb"] if name.startswith("ours")):
        verdict = "met" if result["peak_mb"][name] <= TARGET_MB else "missed"
        console.print(f"{name}: {result['peak_mb'][name]:.0f} MB (aimed at: {TARGET_MB:.0f}; {verdict})",
                      highlight=False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Forward and backward of an output head, in float32.")
    parser.add_argument("--tokens", type=int, default=4096, help="scored positions N")
    parser.add_argument("--vocab", type=int, default=151_936, help="vocabulary V")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 1024], help="hidden sizes D, one after another")
    parser.add_argument("--repeats", type=int, default=5, help="rounds through all ways; medians are printed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="WAY", help="some of the ways")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "head.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cases = {name: CASES[name] for name in options.only}
    console = Console()
    record: dict[str, Any] = {
        "torch": torch.__version__, "trl": trl.__version__, "processor": platform.processor() or platform.machine(),
        "threads": options.threads, "last_level_cache_bytes": last_level_cache(), "sizes": [],
    }
    for width in options.widths:
        result = compare(options.tokens, options.vocab, width, options.repeats, cases)
        record["sizes"].append(result)
        show(result, console)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, record)
    console.print(f"written: {options.out}", highlight=False)


if __name__ == "__main__":
    main()
