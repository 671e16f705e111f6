"""TRL's fused-head forward over a token tree: rows of a padded batch that begin alike are computed once."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import FusedCausalLMOutput

from lpo.errors import ConfigError, UnsoundError
from lpo.kernels.tree_attention import enable_tree_attention, tree_hidden_states
from lpo.packing import Group, PackedTree, Row, pack
from lpo.trainers.scoring import HeadTransform, require_plain_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

USE_TRL = "train this model with trl.DPOTrainer"


@dataclass
class TokenCount:
    """Tokens of a model's latest shared forward.

    Args:
        rows: As often as they occur in the rows, padding left out.
        packed: As often as they were computed.
    """

    rows: int = 0
    packed: int = 0


def attach_shared_forward(
    model: PreTrainedModel, outputs: tuple[str, ...],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> TokenCount:
    """Let `model(..., labels=, fused_lm_head=True)` compute what the rows of a batch share only once.

    The instance's `forward` is replaced once more, after `trl.trainer.utils.add_fused_lm_head`. The answer is the same
    `FusedCausalLMOutput`: per-token values of shape [B, T - 1], zero where the label is -100, from the same
    function of hidden states and head. Without the flag the forward is the model's own, so generation is untouched.

    Args:
        model: A causal language model with TRL's fused head, not wrapped by PEFT (its base model, if it is).
        outputs: Fields of `FusedCausalLMOutput` to compute, as TRL's function takes them; `log_probs` always is.
        autocast: Entered around each shared forward. For a model that accelerate has already prepared, whose own
            autocast lies inside the forward that is replaced.

    Returns:
        A counter, filled by each shared forward.

    Raises:
        ConfigError: The model cannot read a tree, or log-probs cannot be computed from its head's weight.
    """
    require_plain_head(model)
    with _way_out():
        enable_tree_attention(model)
    padded_forward: Any = model.forward
    transform = HeadTransform.of(model.config)
    count = TokenCount()

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return padded_forward(*args, **kwargs)
        batch = pack_batch(**_padded_batch(args, kwargs))
        if batch is None:  # TRL's zeros stay connected to the weights, so that a backward still works
            count.rows = count.packed = int(kwargs["attention_mask"].sum())
            return padded_forward(*args, fused_lm_head=True, **kwargs)
        count.rows, count.packed = batch.tree.n_row_tokens, batch.tree.n_tokens
        with autocast():
            return _score(self, batch, transform, outputs)

    model.forward = types.MethodType(forward, model)
    return count


@dataclass(frozen=True)
class PackedBatch:
    """A padded batch as a tree.

    Args:
        tree: Its rows, without padding and without rows in which nothing is scored.
        label_mask_BT: bool [B, T - 1], which next tokens are scored.
        scored_index_M: int64 [M], for each True of `label_mask_BT`, in row-major order, an index into the N distinct
            scored tokens of the tree.
    """

    tree: PackedTree
    label_mask_BT: torch.Tensor
    scored_index_M: torch.Tensor

    def to_rows(self, values_N: torch.Tensor) -> torch.Tensor:
        """Values [N] of distinct tokens where the rows have them, [B, T - 1], zero elsewhere; differentiable."""
        values_M = values_N.index_select(0, self.scored_index_M)
        return values_M.new_zeros(self.label_mask_BT.shape).masked_scatter(self.label_mask_BT, values_M)


def pack_batch(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> PackedBatch | None:
    """Make a tree of a padded batch.

    Args:
        input_ids: int64 [B, T].
        attention_mask: [B, T], 1 at the tokens of each row, which stand before its padding.
        labels: int64 [B, T], the token itself where it is scored, else -100. The first token is never scored.

    Returns:
        The batch on the device of `input_ids`; None if nothing is scored.

    Raises:
        ConfigError: Rows are not padded on the right.
    """
    lengths = attention_mask.sum(1, keepdim=True)
    if not torch.equal(attention_mask.bool(), torch.arange(attention_mask.shape[1], device=lengths.device) < lengths):
        raise ConfigError("rows are not padded on the right", where="data_collator",
                          mend="pad them after their last token, as TRL's DataCollatorForPreference does")
    label_mask_BT = labels[:, 1:] != -100
    rows: list[Row] = []
    wanted: list[torch.Tensor] = []
    for ids, length, mask_T in zip(input_ids.tolist(), lengths[:, 0].tolist(), label_mask_BT.cpu(), strict=True):
        scored = mask_T.nonzero()[:, 0] + 1
        if len(scored):
            rows.append(Row(ids[:length], int(scored[0]), int(scored[-1]) + 1))
            wanted.append(scored - scored[0])
    if not rows:
        return None
    tree = pack([Group(tuple(rows))])
    index_M = torch.cat([tokens[chosen] for tokens, chosen in zip(tree.row_tokens, wanted, strict=True)])
    return PackedBatch(tree.to(input_ids.device), label_mask_BT, index_M.to(input_ids.device))


def _padded_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The three tensors of a padded batch; whatever else would change the result is refused by name."""
    if args:
        raise ConfigError("the batch must be given by name", where="model(..., fused_lm_head=True)",
                          mend="call model(input_ids=, attention_mask=, labels=, fused_lm_head=True)")
    given = {name: value for name, value in kwargs.items() if value is not None and name != "use_cache"}
    names = ("input_ids", "attention_mask", "labels")
    odd = [name for name in given if name not in names] + [name for name in names if name not in given]
    if odd:
        raise ConfigError(f"a shared forward takes {', '.join(names)} and nothing else; extra or missing: "
                          f"{', '.join(odd)}", where="data_collator", mend=USE_TRL)
    return given


def _score(model: Any, batch: PackedBatch, transform: HeadTransform, outputs: tuple[str, ...]) -> FusedCausalLMOutput:
    """One tree forward, and the fused head at the distinct scored tokens only."""
    with _way_out():
        hidden_TD = tree_hidden_states(model.base_model, batch.tree)
    hidden_ND = hidden_TD.index_select(0, batch.tree.hidden_index_N)
    head = model.get_output_embeddings()
    values = ChunkedLogProbFunction.apply(
        hidden_ND, head.weight, head.bias, batch.tree.target_id_N, 1.0, _vocabulary_tile(hidden_ND.device),
        transform.softcap, transform.scale, outputs)
    names = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # the order of TRL's function
    per_token = {name: None if values_N is None else batch.to_rows(values_N)
                 for name, values_N in zip(names, values, strict=True)}
    log_probs = per_token["log_probs"]
    assert log_probs is not None
    return FusedCausalLMOutput(loss=-log_probs.sum() / batch.label_mask_BT.sum(), label_mask=batch.label_mask_BT,
                               **per_token)


@contextmanager
def _way_out() -> Iterator[None]:
    """Where tree attention advises `packing: rows`, advise what this trainer has in its place."""
    try:
        yield
    except (ConfigError, UnsoundError) as error:
        mend = re.sub("(set )?packing: rows", USE_TRL, error.mend or USE_TRL)
        raise type(error)(error.cause, where=error.where, mend=mend) from error


def _vocabulary_tile(device: torch.device) -> int:
    """Vocabulary entries per tile. TRL's function holds about eight float32 tiles of up to 4096 tokens on a CPU."""
    return 1024 if device.type == "cpu" else 32768
