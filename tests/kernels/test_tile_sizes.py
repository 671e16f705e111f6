import pytest
import torch

from lpo.kernels import chunked_logprobs
from lpo.kernels.tile_sizes import cpu_tile, gpu_tile, last_level_cache, tile_sizes

MIB = 1 << 20


@pytest.mark.parametrize("cache", [1, 8, 32, 36, 105, 512])
@pytest.mark.parametrize("n_tokens", [1, 70, 512, 4096, 100_000])
@pytest.mark.parametrize("width", [64, 1024, 8192])
def test_a_tile_on_a_cpu_fits_its_share_of_the_cache_and_its_weight_stays_small(cache, n_tokens, width):
    tokens, entries = cpu_tile(cache * MIB, n_tokens, width)
    assert 1 <= tokens <= n_tokens
    assert entries >= 64
    assert 4 * tokens * entries <= max(cache * MIB // 4, MIB)
    assert 4 * entries * width <= 32 * MIB


def test_a_larger_cache_gives_larger_tiles_and_few_tokens_give_wide_ones():
    assert cpu_tile(32 * MIB, 4096, 64) == cpu_tile(32 * MIB, 4096, 1024) == (2048, 1024)
    assert cpu_tile(8 * MIB, 4096, 1024) == (1024, 512)
    assert cpu_tile(32 * MIB, 512, 64) == (512, 4096)
    assert cpu_tile(32 * MIB, 512, 8192) == (512, 1024)


def test_a_tile_on_a_gpu_is_a_small_part_of_its_memory():
    assert gpu_tile(80 << 30, 10_000) == (4096, 16384)
    assert gpu_tile(24 << 30, 10_000) == (4096, 4096)
    assert gpu_tile(24 << 30, 100) == (100, 4096)


def test_no_tokens_still_have_a_tile():
    assert all(size >= 1 for size in (*cpu_tile(32 * MIB, 0, 64), *gpu_tile(24 << 30, 0)))


def test_the_cache_of_this_machine_is_read():
    assert MIB // 4 <= last_level_cache() <= 4096 * MIB
    assert tile_sizes(torch.device("cpu"), 4096, 64) == cpu_tile(last_level_cache(), 4096, 64)


def test_the_tile_chosen_gives_the_same_numbers_as_a_small_one():
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(2500, 8, generator=generator)
    weight_VD, targets_N = torch.randn(5000, 8, generator=generator), torch.randint(5000, (2500,), generator=generator)
    chosen_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
    torch.testing.assert_close(
        chosen_N, chunked_logprobs(hidden_ND, weight_VD, targets_N, token_chunk=300, vocab_chunk=700),
        rtol=0, atol=5e-6)
