import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.retrieval import BM25Retriever

FACTS = [
    "Mara's eyes are blue.",
    "The harbour of Lisk burned down in 1931.",
    "Mara lives in Lisk.",
    "The old lighthouse keeper owns two dogs.",
]


def textbook(facts: list[str], query: str) -> list[float]:
    """BM25 as the textbook has it, in Lucene's variant, over distinct words of the query."""
    documents = [re.findall(r"[a-z]+", fact.lower()) for fact in facts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in set(re.findall(r"[a-z]+", query.lower())):
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            score += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean or 1))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("chunk", "first"), [
    ("She looked up, and her eyes were green.", 0),
    ("In 1931 the harbour was still full of ships.", 1),
    ("Nobody in LISK knew her.", 2),
    ("The keeper whistled, and three dogs came running.", 3),
])
def test_the_fact_that_shares_rare_words_comes_first(chunk, first):
    assert BM25Retriever(2).relevant(FACTS, chunk)[0] == first


def test_chinese_is_compared_by_characters():
    facts = ["玛拉的眼睛是蓝色的。", "港口在1931年被烧毁。", "灯塔看守人有两条狗。"]
    assert BM25Retriever(1).relevant(facts, "她抬起头，绿色的眼睛闪着光。") == [0]
    assert BM25Retriever(1).relevant(facts, "三条狗跑了过来。") == [2]


@pytest.mark.parametrize("facts", [
    [], ["Mara."], ["Mara.", "Mara."], ["...", "Mara."], ["..."], ["", "—"], ["一", "二", "三"],
], ids=range(7))
@pytest.mark.parametrize("chunk", ["Mara came.", "nothing shared", "", "?!", "二"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_tiny_pools_give_the_top_facts_or_all(facts, chunk, top_k):
    found = BM25Retriever(top_k).relevant(facts, chunk)
    assert len(found) == min(top_k, len(facts))
    assert sorted(set(found)) == sorted(found)
    if "Mara" in chunk and "Mara." in facts:
        assert facts[found[0]] == "Mara."


def test_equal_facts_keep_their_order():
    assert BM25Retriever(3).relevant(["b a", "a", "a b", "a"], "a") == [1, 3, 0]


def test_facts_without_a_shared_word_come_last_and_in_order():
    assert BM25Retriever(5).relevant(["x", "y", "a", "z"], "a") == [2, 0, 1, 3]


TREES = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"]
WORDS = st.lists(st.sampled_from(TREES), min_size=1, max_size=8).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=9), WORDS, st.integers(1, 9))
def test_the_ranking_is_the_textbooks(facts, chunk, top_k):
    found = BM25Retriever(top_k).relevant(facts, chunk)
    scores = textbook(facts, chunk)
    assert [scores[fact] for fact in found] == pytest.approx(sorted(scores, reverse=True)[:top_k])


@given(st.lists(st.text(max_size=20), max_size=6), st.text(max_size=30), st.integers(1, 5))
def test_any_texts_are_ranked_and_always_alike(facts, chunk, top_k):
    retriever = BM25Retriever(top_k)
    found = retriever.relevant(facts, chunk)
    assert len(set(found)) == len(found) == min(top_k, len(facts))
    assert retriever.relevant(facts, chunk) == BM25Retriever(top_k).relevant(facts, chunk) == found
