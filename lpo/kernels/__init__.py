"""Tensor kernels that know nothing of preference optimisation."""

from lpo.kernels.logprobs import chunked_logprobs

__all__ = ["chunked_logprobs"]
