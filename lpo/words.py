"""Counting words as LongBench-Write does, so that lengths agree with published numbers."""

import re

_HAN = re.compile(r"[\u4e00-\u9fff]")
_ASCII_WORD = re.compile(r"\b[a-zA-Z]+\b")


def count_words(text: str) -> int:
    r"""Words of a text: Chinese characters (U+4E00-9FFF) plus runs of ASCII letters between word boundaries.

    Digits and other scripts are not counted. Source: LongBench-Write (arXiv 2408.07055), its evaluation code.
    """
    return len(_HAN.findall(text)) + len(_ASCII_WORD.findall(text))


def is_chinese(text: str) -> bool:
    """Are there more Chinese characters than words in ASCII letters?"""
    return len(_HAN.findall(text)) > len(_ASCII_WORD.findall(text))


_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_ANY_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+(?:['’.,-][^\W_{_CJK}]+)*")


def count_all_words(text: str) -> int:
    """Words of a text in any script: each Chinese character and kana, and each run of other letters or digits.

    What an apostrophe, hyphen, point or comma joins without a space is one word: "don't", "well-known", "3.14". The
    published count (`count_words`) leaves out digits, letters with accents and every script but Latin and Han.
    """
    return len(_ANY_WORD.findall(text))


def word_starts(text: str) -> list[int]:
    """Where the words begin that `count_all_words` counts."""
    return [match.start() for match in _ANY_WORD.finditer(text)]
