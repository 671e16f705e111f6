"""Where reference log-probs come from: a cache on disk, or the reference model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from lpo.trainers.batches import Piece, Unit
from lpo.trainers.reference_cache import ReferenceCache

log = logging.getLogger(__name__)

Collator = Callable[[Sequence[Unit]], dict[str, Any]]


class ReferenceSource:
    """Gives the reference's log-probs of the scored tokens of a piece.

    Args:
        model: The model that is the reference within `context`.
        context: Makes it the reference (adapter off) for as long as it is entered.
        autocast: The training's autocast.
        collate: Makes batches as the training does: the numbers are those of the same path.
    """

    def __init__(
        self, model: Callable[[], Any], context: Callable[[], AbstractContextManager[Any]],
        autocast: Callable[[], AbstractContextManager[Any]], collate: Collator,
    ) -> None:
        self._model = model
        self._context = context
        self._autocast = autocast
        self._collate = collate
        self.cache: ReferenceCache | None = None
        self._known: Collection[str] = ()

    def of(self, piece: Piece) -> torch.Tensor:
        """Log-probs [N] in nats, from the cache if it holds the piece's units, else computed."""
        cache = self.cache
        if cache is None or not all(part.digest in self._known for part in piece.parts):
            return self.compute(piece)
        values = [cache[part.digest] if part.index_n is None else cache[part.digest][part.index_n]
                  for part in piece.parts]
        return torch.cat(values).to(piece.pair_slot_P.device)

    def compute(self, piece: Piece) -> torch.Tensor:
        """Log-probs [N] in nats, computed."""
        with torch.no_grad(), self._context(), self._autocast():
            return self._model()(**piece.model_inputs)

    def prepare(
        self, units: Sequence[Unit], cache: ReferenceCache, accelerator: Any, *, tolerance: float
    ) -> None:
        """Compute what the cache lacks, and a sample of what it holds once more; from then on read from it.

        Args:
            units: All units of the training; each process computes a share.
            cache: Where the values are kept.
            accelerator: Joins the processes.
            tolerance: Largest difference of the sample, in nats per token.

        Raises:
            UnsoundError: The cache holds other values than the reference gives.
        """
        by_digest = {unit.digest: unit for unit in units}
        mine = list(by_digest)[accelerator.process_index :: accelerator.num_processes]
        missing = cache.missing(mine)
        draw = time.time_ns()  # other units at every start, so that runs over one cache look at more of it
        for digest in cache.sample_for_check(sorted(set(mine) - set(missing)), seed=draw):
            cache.check(digest, self._whole(by_digest[digest], accelerator.device), tolerance)
        for digest in missing:
            cache.put(digest, self._whole(by_digest[digest], accelerator.device))
        cache.flush()
        log.info("reference log-probs: %d units computed, %d found in %s", len(missing), len(mine) - len(missing),
                 cache.folder)
        accelerator.wait_for_everyone()
        cache.refresh()
        self.cache, self._known = cache, by_digest.keys()

    def _whole(self, unit: Unit, device: Any) -> torch.Tensor:
        """All scored tokens of a unit, whichever pieces it is read in."""
        computed: list[tuple[torch.Tensor | None, torch.Tensor]] = []
        for piece in self._collate([unit])["pieces"]:
            values_N = self.compute(piece.to(device)).float().cpu()
            sizes = [len(values_N) if part.index_n is None else len(part.index_n) for part in piece.parts]
            computed += zip((part.index_n for part in piece.parts), values_N.split(sizes), strict=True)
        if computed[0][0] is None:
            return computed[0][1]
        whole_N = torch.full((1 + max(int(index.max()) for index, _ in computed if index is not None),), torch.nan)
        for index, values in computed:
            whole_N[index] = values
        return whole_N
