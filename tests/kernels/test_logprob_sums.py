import torch

from lpo.kernels import chunked_logprob_sums, chunked_logprobs


def make(n_tokens: int, vocab: int = 50, width: int = 9):
    generator = torch.Generator().manual_seed(n_tokens)
    return (torch.randn(n_tokens, width, generator=generator).requires_grad_(),
            torch.randn(vocab, width, generator=generator).requires_grad_(),
            torch.randint(vocab, (n_tokens,), generator=generator))


def test_sums_and_gradients_equal_those_of_each_segment_written_out():
    hidden_ND, weight_VD, targets_N = make(20)
    segments = [[0, 1, 2, 3], [0, 1, 2, 7, 8], [], [19], [5, 5]]  # a shared trunk, nothing, and one token twice
    token_index_M = torch.tensor([token for segment in segments for token in segment])
    segment_id_M = torch.repeat_interleave(torch.arange(5), torch.tensor([len(segment) for segment in segments]))
    shuffled_M = torch.randperm(len(token_index_M))
    sums_S = chunked_logprob_sums(hidden_ND, weight_VD, targets_N, token_index_M[shuffled_M], segment_id_M[shuffled_M],
                                  5, temperature=0.7, token_chunk=6, vocab_chunk=20)
    assert sums_S.dtype == torch.float64
    logits_NV = hidden_ND.double() @ weight_VD.double().T / 0.7
    logprobs_N = logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    expected_S = torch.stack([sum((logprobs_N[token] for token in segment), torch.zeros((), dtype=torch.float64))
                              for segment in segments])
    torch.testing.assert_close(sums_S, expected_S, rtol=1e-6, atol=1e-6)
    upstream_S = torch.tensor([1.0, -2.0, 5.0, 0.5, 0.1], dtype=torch.float64)
    ours = torch.autograd.grad(sums_S, (hidden_ND, weight_VD), upstream_S)
    exact = torch.autograd.grad(expected_S, (hidden_ND, weight_VD), upstream_S)
    for our, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-5, atol=1e-5)


def test_a_long_segment_is_summed_without_loss():
    hidden_ND, weight_VD, targets_N = make(20_000)
    with torch.no_grad():
        logprobs_N = chunked_logprobs(hidden_ND, weight_VD, targets_N)
        whole = torch.arange(20_000)
        sums_S = chunked_logprob_sums(hidden_ND, weight_VD, targets_N, whole, whole * 0, 1)
    assert abs(sums_S[0] - logprobs_N.double().sum()) < 1e-6
    one_by_one = torch.zeros(1).index_add(0, whole * 0, logprobs_N)
    assert abs(one_by_one[0] - sums_S[0]) > 1e-2  # what a sum in float32 would have lost
