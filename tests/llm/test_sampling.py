"""Drawing of single tokens, against transformers' own logits processors and against the distribution itself."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lpo.llm.base import Sampling
from lpo.llm.sampling import choose_token, keep, penalise, uniform

NONE_SEEN = torch.tensor([], dtype=torch.long)


@pytest.fixture(params=[0, 1, 2])
def logits_V(request: pytest.FixtureRequest) -> torch.Tensor:
    # Larger than the first portion of candidates; the widths make top-p sets of one, some hundreds and thousands.
    generator = torch.Generator().manual_seed(request.param)
    return torch.randn(5000, generator=generator) * (8.0, 2.0, 0.1)[request.param]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.999), (0, 0.01), (40, 1.0), (40, 0.8), (1, 1.0)])
def test_the_kept_tokens_are_those_of_transformers(logits_V: torch.Tensor, top_k: int, top_p: float) -> None:
    chain = LogitsProcessorList()
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    expected = chain(torch.tensor([[0]]), logits_V.double()[None])[0].isfinite().nonzero()[:, 0]
    assert torch.equal(keep(logits_V, top_k, top_p), expected)


def test_the_penalty_is_that_of_transformers(logits_V: torch.Tensor) -> None:
    seen = torch.tensor([3, 7, 7, 4999, 3])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(seen[None], logits_V[None].clone())[0]
    assert torch.equal(penalise(logits_V, seen, 1.3), expected)


@pytest.mark.parametrize("sampling", [
    Sampling(max_tokens=1, temperature=0.5),
    Sampling(max_tokens=1, temperature=1.5, top_p=0.8),
    Sampling(max_tokens=1, top_k=5, repetition_penalty=1.5),
])
def test_frequencies_follow_the_distribution(sampling: Sampling) -> None:
    logits_V = torch.randn(50, generator=torch.Generator().manual_seed(3)) * 2
    seen = torch.tensor([1, 2, 3])
    chain = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
                                 TemperatureLogitsWarper(sampling.temperature),
                                 TopKLogitsWarper(sampling.top_k or 50)])
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    expected = chain(seen[None], logits_V[None].clone())[0].softmax(-1)
    draws = 2000
    # Evenly spaced numbers hit every token as often as its probability says, but for one draw at each edge.
    counts = torch.bincount(torch.stack([
        choose_token(logits_V, sampling, (draw + 0.5) / draws, seen) for draw in range(draws)]), minlength=50)
    assert (counts / draws - expected).abs().max() <= 2 / draws


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits_V = torch.tensor([1.0, 3.0, 2.9])
    assert choose_token(logits_V, Sampling(max_tokens=1, temperature=0), 0.99, NONE_SEEN) == 1
    assert choose_token(logits_V, Sampling(max_tokens=1, temperature=0, repetition_penalty=1.1), 0.99,
                        torch.tensor([1])) == 2


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_impossible_tokens_are_never_drawn(draw: float) -> None:
    logits_V = torch.full((10,), float("-inf"))
    logits_V[4:6] = 0.0
    assert choose_token(logits_V, Sampling(max_tokens=1), draw, NONE_SEEN) == (4 if draw == 0 else 5)


def test_uniform_numbers_are_uniform_and_differ_by_seed_index_and_position() -> None:
    numbers = torch.tensor([uniform(seed, index, position)
                            for seed in range(20) for index in range(20) for position in range(50)],
                           dtype=torch.float64)
    assert len(numbers.unique()) == len(numbers)
    share = torch.histc(numbers, bins=20, min=0, max=1) / len(numbers)
    assert (share - 0.05).abs().max() < 0.006
    assert uniform(2**70, 0, 0) != uniform(2**71, 0, 0)
