"""A head whose weight is spread over processes by FSDP2: gathered one stretch of the vocabulary at a time.

Needed where the head is a unit of its own (`fully_shard(model.lm_head)`) and its weight is used without calling its
module. A weight that belongs to the root's unit is whole while the root's forward runs and never comes here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard

from lpo.errors import ConfigError
from lpo.kernels.logprob_tiles import Head


class ShardedWeight:
    """A `DTensor` with its rows split over one dimension of processes.

    Every process walks the same stretches in the same order; their owner broadcasts them. So every process must make
    the same calls, forward and backward, even with no token to score; their number of tokens may differ, and decides
    nothing about the stretches. Gradients are, as everywhere in FSDP2 and DDP, the mean over processes of what each
    process's own loss gives, and each process gets its rows of it.

    Args:
        weight_VD: The weight.
        device: Where the tiles are wanted.

    Raises:
        ConfigError: It is placed in another way.
    """

    def __init__(self, weight_VD: DTensor, device: torch.device) -> None:
        if weight_VD.device_mesh.ndim != 1 or weight_VD.placements != (Shard(0),):
            raise ConfigError(f"the output head is placed as {weight_VD.placements} on {weight_VD.device_mesh}",
                              where="fsdp", mend="shard it by rows over one dimension of processes (plain FSDP2)")
        self._weight_VD = weight_VD
        self._device = device
        self._group = weight_VD.device_mesh.get_group()
        self._rank = dist.get_rank(self._group)
        self._n_ranks = dist.get_world_size(self._group)
        # As `torch.chunk` splits: all shards but the last are this long, and the last ones may be shorter or empty.
        self._shard_rows = -(-len(weight_VD) // self._n_ranks)

    def tiles(self, head: Head) -> Iterator[tuple[slice, torch.Tensor]]:
        """Each stretch, broadcast by its owner."""
        local_VD = self._weight_VD.to_local()
        for vocab, owner in self._stretches(head):
            if owner == self._rank:
                first = self._shard_rows * owner
                tile_vD = local_VD[vocab.start - first : vocab.stop - first].to(self._device).contiguous()
            else:
                shape = (vocab.stop - vocab.start, self._weight_VD.shape[1])
                tile_vD = torch.empty(shape, dtype=local_VD.dtype, device=self._device)
            dist.broadcast(tile_vD, group=self._group, group_src=owner)
            yield vocab, tile_vD.to(head.dtype)

    def add_rows(self, sum_ND: torch.Tensor, targets_N: torch.Tensor, factor_N: torch.Tensor, head: Head) -> None:
        """The target rows, picked while all stretches pass by once more."""
        for vocab, weight_vD in self.tiles(head):
            found = ((targets_N >= vocab.start) & (targets_N < vocab.stop)).nonzero()[:, 0]
            sum_ND.index_add_(0, found, weight_vD[targets_N[found] - vocab.start] * factor_N[found, None])

    def new_gradient(self, head: Head) -> _ShardedGradient:
        """A gradient of which each process will hold its own rows."""
        return _ShardedGradient(self, head)

    def mean_bias_gradient(self, grad_V: torch.Tensor, bias_V: DTensor) -> DTensor:
        """Each process's rows of the mean over processes of the bias's gradient.

        Args:
            grad_V: This process's gradient of the whole bias.
            bias_V: The bias, placed like the weight.
        """
        dist.all_reduce(grad_V.div_(self._n_ranks), group=self._group)
        rows = slice(self._shard_rows * self._rank, self._shard_rows * (self._rank + 1))
        return _like(bias_V, grad_V[rows].to(bias_V.to_local()))

    def _stretches(self, head: Head) -> Iterator[tuple[slice, int]]:
        """Stretches of the vocabulary that lie within one shard, and the rank that holds them."""
        for owner in range(self._n_ranks):
            first = self._shard_rows * owner
            for vocab in head.vocab_slices(min(self._shard_rows, len(self._weight_VD) - first)):
                yield slice(first + vocab.start, first + vocab.stop), owner


class _ShardedGradient:
    """Stretches are summed at their owner as they become complete."""

    def __init__(self, weight: ShardedWeight, head: Head) -> None:
        self._weight = weight
        self._dtype = head.dtype
        self._local_VD = torch.empty_like(weight._weight_VD.to_local())

    def tile(self, vocab: slice) -> torch.Tensor:
        shape = (vocab.stop - vocab.start, self._local_VD.shape[1])
        return torch.zeros(shape, dtype=self._dtype, device=self._weight._device)

    def store(self, vocab: slice, tile_vD: torch.Tensor) -> None:
        weight = self._weight
        owner = vocab.start // weight._shard_rows
        dist.reduce(tile_vD.div_(weight._n_ranks), group=weight._group, group_dst=owner)
        if owner == weight._rank:
            first = weight._shard_rows * owner
            self._local_VD[vocab.start - first : vocab.stop - first] = tile_vD

    def result(self) -> DTensor:
        return _like(self._weight._weight_VD, self._local_VD)


def _like(whole: DTensor, local: torch.Tensor) -> DTensor:
    return DTensor.from_local(local, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape,
                              stride=whole.stride())


def sharded_vocab_chunk(weight_VD: DTensor) -> int:
    """Rows of 16 MiB: decided by the weight alone, since every process must come to the same stretches."""
    return max((16 << 20) // (weight_VD.shape[1] * weight_VD.element_size()), 64)
