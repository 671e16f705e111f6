"""Tensor kernels that know nothing of preference optimisation."""

from lpo.kernels.logprobs import chunked_logprob_sums, chunked_logprobs
from lpo.kernels.tree_attention import TreeBackend, enable_tree_attention, refuse_tree_positions, tree_hidden_states

__all__ = [
    "TreeBackend", "chunked_logprob_sums", "chunked_logprobs", "enable_tree_attention", "refuse_tree_positions",
    "tree_hidden_states",
]
