"""Finding the facts that a piece of text may be about."""

from lpo.retrieval.base import Retriever
from lpo.retrieval.bm25 import BM25Retriever
from lpo.retrieval.chunks import last_words, split_into_chunks
from lpo.retrieval.embeddings import EmbeddingRetriever

__all__ = ["BM25Retriever", "EmbeddingRetriever", "Retriever", "last_words", "split_into_chunks"]
