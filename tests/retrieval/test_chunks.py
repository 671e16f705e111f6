import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.retrieval import last_words, split_into_chunks

LETTERS = st.sampled_from(list("ab 1\n\t.,“”'’-。，她说家カ한é\u0301\U00020000"))
TEXTS = st.text(alphabet=LETTERS | st.characters(), max_size=80)


@pytest.mark.parametrize(("text", "words", "chunks"), [
    ("", 3, []),
    ("one two three", 3, ["one two three"]),
    ("one two three four", 3, ["one two three ", "four"]),
    ("one  two\n\nthree", 1, ["one  ", "two\n\n", "three"]),
    ("  one two", 1, ["  one ", "two"]),
    ("well-known don't 3.14", 1, ["well-known ", "don't ", "3.14"]),
    ("one - two, – three", 2, ["one - two, – ", "three"]),
    ("她的眼睛是蓝的。", 4, ["她的眼睛", "是蓝的。"]),
    ("她说：“你好。”他走了。", 2, ["她说：", "“你好。”", "他走", "了。"]),
    ("他在 London 住。", 2, ["他在 ", "London 住。"]),
    ("カメラを買う", 3, ["カメラ", "を買う"]),
    ("...!?", 1, ["...!?"]),
    ("x" * 70, 1, ["x" * 32, "x" * 32, "x" * 6]),
], ids=range(13))
def test_cutting(text, words, chunks):
    assert split_into_chunks(text, words) == chunks


@given(TEXTS, st.integers(1, 9))
def test_chunks_are_the_text_again_and_none_is_empty(text, words):
    chunks = split_into_chunks(text, words)
    assert "".join(chunks) == text
    assert all(chunks)


@given(st.lists(st.sampled_from(["cat", "don't", "3.14", "Straße", "x,"]), min_size=1, max_size=60), st.integers(1, 9))
def test_every_chunk_but_the_last_has_as_many_words_as_asked(words, size):
    counts = [len(chunk.split()) for chunk in split_into_chunks(" ".join(words), size)]
    assert counts == [size] * (len(words) // size) + ([len(words) % size] if len(words) % size else [])


@given(st.text(alphabet="她在花园里，。", min_size=1), st.integers(1, 9))
def test_chinese_chunks_have_as_many_characters_as_asked(text, size):
    counts = [len(re.sub("[，。]", "", chunk)) for chunk in split_into_chunks(text, size)]
    total = len(re.sub("[，。]", "", text))
    assert all(count == size for count in counts[:-1])
    assert sum(counts) == total


@given(TEXTS, st.integers(1, 9))
def test_the_last_words_are_the_end_of_the_text(text, words):
    end = last_words(text, words)
    assert text.endswith(end)
    assert len(split_into_chunks(end, words)) <= 1
    if end != text:
        assert len(split_into_chunks(text, words)) > 1


def test_text_without_spaces_gives_no_endless_chunk():
    assert max(len(chunk) for chunk in split_into_chunks("ก" * 100_000, 16)) <= 16 * 32
