"""Facts whose embedding lies near that of a chunk."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from lpo.errors import BackendError

_KEPT = 8192


class EmbeddingRetriever:
    """Facts whose cosine with the chunk is at least `similarity` (LongDPO: 0.8).

    The model (sentence-transformers, extra [embed]) is loaded at the first question, once. Texts are embedded one by
    one, so that a text's vector does not depend on what else is asked, and their vectors are kept. A model reads only
    so many tokens of a text (all-MiniLM-L6-v2: 256): chunks should not be longer. How near is near depends on model
    and chunk: with all-MiniLM-L6-v2 a chunk of 128 words and the fact that one of its sentences contradicts have a
    cosine of about 0.4, a paraphrase of one sentence about 0.7, so 0.8 finds next to nothing.

    Args:
        model: Name or folder of a sentence-transformers model.
        similarity: Smallest cosine.
        top_k: Facts to return, at most.
        section: Of the configuration, for errors.

    Raises:
        BackendError: sentence-transformers is not installed.
    """

    def __init__(self, model: str, *, similarity: float, top_k: int, section: str = "build.memory") -> None:
        self._where = f"{section}.embedder"
        if importlib.util.find_spec("sentence_transformers") is None:
            raise BackendError("the package sentence-transformers, which embeds texts, is not installed",
                               where=self._where,
                               mend=f"pip install 'longform-lpo[embed]', or set {section}.retrieval: bm25")
        self._name = model
        self._similarity = similarity
        self._top_k = top_k
        self._model: Any = None
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def relevant(self, facts: Sequence[str], chunk: str) -> list[int]:
        """Facts near enough, the nearest first; of equally near ones the earlier stands first.

        Raises:
            BackendError: The model cannot be loaded.
        """
        with self._lock:
            vector_D = self._vector(chunk)
            cosines = [float(self._vector(fact) @ vector_D) for fact in facts]
        near = [fact for fact, cosine in enumerate(cosines) if cosine >= self._similarity]
        return sorted(near, key=lambda fact: (-cosines[fact], fact))[:self._top_k]

    def _vector(self, text: str) -> np.ndarray:
        """The text's embedding, of length 1."""
        if text in self._vectors:
            self._vectors.move_to_end(text)
            return self._vectors[text]
        vector_D = self._loaded().encode([text], normalize_embeddings=True, show_progress_bar=False)[0]
        self._vectors[text] = vector_D.astype(np.float64)
        if len(self._vectors) > _KEPT:
            self._vectors.popitem(last=False)
        return self._vectors[text]

    def _loaded(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            try:
                self._model = SentenceTransformer(self._name)
            except Exception as error:  # the hub, the file system and the model's own code raise what they like
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise BackendError(f"the embedding model cannot be loaded: {reason}",
                                   where=f"{self._where} ({self._name})",
                                   mend="give a sentence-transformers model by name or folder") from error
        return self._model
