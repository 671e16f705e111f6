"""One of two processes with a head sharded by FSDP2. Arguments: rank, port, file for what rank 0 saw.

Every case is computed sharded and, on the same process, from the whole weight; the weight's gradients are averaged over
the processes, as DDP does.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lpo.kernels import chunked_logprobs

OPTIONS: dict[str, Any] = {"softcap": 3.0, "scale": 0.8, "token_chunk": 5, "vocab_chunk": 4}


def inputs(rank: int, n_tokens: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return (torch.randn(n_tokens, 6, generator=generator).requires_grad_(),
            torch.randint(vocab, (n_tokens,), generator=generator), torch.randn(n_tokens, generator=generator))


def head(vocab: int, biased: bool) -> torch.nn.Linear:
    torch.manual_seed(99)
    return torch.nn.Linear(6, vocab, bias=biased)


def averaged(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    if isinstance(gradient, DTensor):
        assert len(gradient.to_local()) < len(gradient)  # each process holds its own rows and no more
        return gradient.full_tensor()
    dist.all_reduce(gradient)
    return gradient / 2


def run(rank: int, score: Callable[..., torch.Tensor], linear: torch.nn.Linear, n_tokens: int) -> list[torch.Tensor]:
    hidden_ND, targets_N, upstream_N = inputs(rank, n_tokens, linear.out_features)
    logprobs_N = score(hidden_ND, linear, targets_N)
    logprobs_N.backward(upstream_N)
    assert hidden_ND.grad is not None
    trained = [parameter for parameter in linear.parameters() if parameter.requires_grad]
    return [logprobs_N.detach(), hidden_ND.grad, *(averaged(parameter.grad) for parameter in trained)]


def function(hidden_ND: torch.Tensor, linear: torch.nn.Linear, targets_N: torch.Tensor) -> torch.Tensor:
    return chunked_logprobs(hidden_ND, linear.weight, targets_N, bias=linear.bias, **OPTIONS)


class Scorer(torch.nn.Module):
    """A root module that reads its head's weight without calling the head, as a causal model scored by us does."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.linear.weight, DTensor) == self.head_is_a_unit
        return function(hidden_ND, self.linear, targets_N)

    head_is_a_unit = False


def check(rank: int, seen: dict[str, float]) -> None:
    cases = [(vocab, biased, trains, n_tokens) for vocab in (13, 12, 3) for biased in (False, True)
             for trains in (False, True) for n_tokens in ((7, 11), (0, 9))]
    for vocab, biased, trains, n_tokens in cases:
        sharded = head(vocab, biased).requires_grad_(trains)
        fully_shard(sharded)
        assert isinstance(sharded.weight, DTensor)
        ours = run(rank, function, sharded, n_tokens[rank])
        whole = run(rank, function, head(vocab, biased).requires_grad_(trains), n_tokens[rank])
        name = f"V={vocab} bias={biased} trains={trains} N={n_tokens}"
        seen[name] = difference(ours, whole)
    # Resharded after the forward (accelerate's default), the root's weight is gathered anew before the backward.
    for unit, resharded in ((False, False), (False, True), (True, True)):
        scorer = Scorer(head(13, True))
        scorer.head_is_a_unit = unit
        if unit:
            fully_shard(scorer.linear, reshard_after_forward=resharded)
        fully_shard(scorer, reshard_after_forward=resharded)
        ours = run(rank, lambda h, _, t, scorer=scorer: scorer(h, t), scorer.linear, 7 + rank)
        seen[f"root forward, head a unit of its own: {unit}, resharded: {resharded}"] = difference(
            ours, run(rank, function, head(13, True), 7 + rank))


def difference(ours: list[torch.Tensor], whole: list[torch.Tensor]) -> float:
    """The largest over all results and both processes."""
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in whole]
    largest = torch.stack([(a - b).abs().max() if a.numel() else torch.zeros(())
                           for a, b in zip(ours, whole, strict=True)]).max()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


if __name__ == "__main__":
    rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    differences: dict[str, float] = {}
    check(rank, differences)
    if rank == 0:
        with open(out, "w") as file:
            file.writelines(f"{value}\t{name}\n" for name, value in differences.items())
    dist.barrier()
    dist.destroy_process_group()
