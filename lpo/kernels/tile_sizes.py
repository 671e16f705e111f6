"""How large a tile of logits should be on the device at hand."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

import torch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 32 << 20
_UNKNOWN_MEMORY = 16 << 30


def tile_sizes(device: torch.device, n_tokens: int, width: int) -> tuple[int, int]:
    """Tokens and vocabulary entries of a tile.

    Args:
        device: Where the tiles are computed.
        n_tokens: Positions there are.
        width: Hidden size.
    """
    if device.type == "cpu":
        return cpu_tile(last_level_cache(), n_tokens, width)
    return gpu_tile(_memory(device), n_tokens)


def cpu_tile(cache_bytes: int, n_tokens: int, width: int) -> tuple[int, int]:
    """A tile of a quarter of the last-level cache (1 to 16 MiB), twice as many tokens as entries if there are so many.

    Passes over it (maximum, exponential, sum) then read no memory. Long sides spare the matrix products reads and
    writes of their sums: the gradients of the weight are passed over once for every stretch of tokens, those of the
    hidden states once for every stretch of the vocabulary. What stands beside the tile, a stretch of weight in float32
    and its gradient, is held to 32 MiB each.
    """
    size = min(max(cache_bytes // 4, 1 << 20), 16 << 20) // 4
    side = _whole(math.isqrt(size // 2))
    tokens = max(min(2 * side, n_tokens), 1)
    return tokens, min(_whole(size // tokens), _whole((32 << 20) // (4 * max(width, 1))), 8 * side)


def gpu_tile(memory_bytes: int, n_tokens: int) -> tuple[int, int]:
    """4,096 tokens by as many entries as make 1/256 of the memory: matrix products there need long sides."""
    tokens = max(min(4096, n_tokens), 1)
    return tokens, max(1 << ((memory_bytes // (256 * 4 * 4096)).bit_length() - 1), 1024)


@functools.cache
def last_level_cache() -> int:
    """Bytes of the CPU's largest cache; 32 MiB where the system does not say."""
    sizes = [_bytes(path.read_text()) for path in _CACHES.glob("index*/size")]
    return max(sizes, default=_UNKNOWN_CACHE)


def _bytes(size: str) -> int:
    """Size as Linux writes it: `32768K`."""
    match = re.fullmatch(r"(\d+)([KMG]?)", size.strip())
    return 0 if match is None else int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return _UNKNOWN_MEMORY


def _whole(size: int) -> int:
    """A multiple of 64, which blocked matrix products like."""
    return max(size // 64 * 64, 64)
