"""The length that a prompt asks for in its own words (the filter of Minimum Tuning, arXiv 2410.10210, section 3).

Only what is plain is read: one number of words (or Chinese characters) for the whole text, in digits or spelled out. A
range, two different numbers, or a number that could mean something else gives none. Numbers of one part (`400 words
each`) and of a text that is only spoken of (`this 5000-word report`) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lpo.records import Prompt

LEAST = 20
"""A smaller number is not the length of a text: `three words that rhyme`, `四字成语`."""

_SMALL = {word: value for value, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"))}
_TENS = {word: 10 * value for value, word in enumerate(
    ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2)}
_HAN_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000}
_MULTIPLES = {"k": 1000, "thousand": 1000, "千": 1000, "万": 10_000}

_DIGITS = r"(?<![A-Za-z\d万千百])(?<!\d[.,])(?:\d{1,3}(?:,\d{3}){1,2}|\d{1,7}(?:\.\d{1,3})?)(?!\d)"
_MULTIPLE = r"(?:\s?(?:k\b|千|万)|[\s-]thousand\b)"
_NAMES = "|".join([*_SMALL, *_TENS])
_SPELLED = rf"\b(?:{_NAMES})\b(?:(?:\sand)?[\s-](?:{_NAMES}|hundred|thousand)\b){{0,9}}"
_HAN = "[一二两三四五六七八九十][零〇一二两三四五六七八九十百千万]{0,12}"
_FIGURE = rf"{_DIGITS}{_MULTIPLE}?"
_NUMBER = rf"(?:{_FIGURE}|{_SPELLED}|(?<![几数上成好]){_HAN})"

_WORDS = r"(?:\+|\sor\smore)?(?:\s?-\s?|\s)?(?:english\s)?words?\b"
_CHARACTERS = (r"\s?[多余来]?\s?个?\s?(?:字(?![段符母节号体典幕型迹面形])|汉字|单词|词(?![语汇类句]))"
               r"|\schinese\scharacters\b")
_UNIT = rf"(?:{_WORDS}|{_CHARACTERS})"
_COUNT_OF_WORDS = r"(?:字数|word\s(?:count|limit))[^\d\n。.;；每各]{0,12}?"

_SPAN = (rf"(?:{_FIGURE}\s?[-–—~～]\s?{_FIGURE}|{_NUMBER}\s?(?:\bto\b|\bor\b|[至到或~～])\s?{_NUMBER}"
         rf"|\bbetween\s{_NUMBER}\sand\s{_NUMBER})")
_RANGE = re.compile(rf"{_SPAN}{_UNIT}|{_COUNT_OF_WORDS}{_SPAN}", re.IGNORECASE)
_LENGTH = re.compile(rf"(?P<number>{_NUMBER}){_UNIT}", re.IGNORECASE)
_COUNT = re.compile(rf"{_COUNT_OF_WORDS}(?P<number>{_NUMBER})", re.IGNORECASE)
_UNCLEAR = re.compile(rf"\d \d{{3}}{_WORDS}", re.IGNORECASE)
"""2 000 words, or 500 words of something numbered 2."""

_OF_A_PART = re.compile(r"(?:\b(?:each|every|per)\b|[每各])[^.,;:!?。，；：！？\n]*\Z", re.IGNORECASE)
_OF_EACH = re.compile(r"\s?(?:\)\s?)?(?:(?:each|apiece|per|a\sday)\b|(?:for|in|on)\s(?:each|every)\b|/)",
                      re.IGNORECASE)
_OF_ANOTHER = re.compile(r"(?:\b(?:this|these|those|following|above|attached|existing|original)|[这那此上下]篇)\s?\Z",
                         re.IGNORECASE)


@dataclass(frozen=True)
class LengthAsked:
    """The length of a prompt, and what its own words say of it.

    Args:
        words: What counts: `target_words` where the prompt brings it, else what its words say; None when neither does.
        stated: What its words say.
    """

    words: int | None
    stated: int | None

    @property
    def differs(self) -> bool:
        """Do the words ask for another length than the one that counts?"""
        return self.stated is not None and self.stated != self.words


def length_asked(prompt: Prompt) -> LengthAsked:
    """The length a prompt asks for."""
    stated = requested_length(prompt.request)
    return LengthAsked(stated if prompt.target_words is None else prompt.target_words, stated)


def with_length(prompt: Prompt) -> Prompt:
    """The prompt with its `target_words` read from its own words, where it brings none."""
    return prompt.model_copy(update={"target_words": length_asked(prompt).words})


def requested_length(text: str) -> int | None:
    """The length of the whole text that is asked for, in words (Chinese: characters).

    Read are `2,000 words`, `2000-word`, `2k words`, `1.5 thousand words`, `two thousand words`, `word count: 2000`,
    `2000字`, `两千字`, `五千个字`, `1.5万字`, `300词`, `字数要求：2000左右`, also as a bound (`at least`, `以内`).

    Args:
        text: The request.

    Returns:
        None when no length, a range, or more than one length is asked for.
    """
    text = re.sub(r"\s+", lambda gap: "\n" if "\n" in gap[0] else " ", text)
    if _RANGE.search(text) or _UNCLEAR.search(text):
        return None
    lengths = set(_lengths(text))
    return lengths.pop() if len(lengths) == 1 else None


def _lengths(text: str) -> Iterator[int | None]:
    """Every length that stands in the text; None for one that cannot be read."""
    for match in (*_LENGTH.finditer(text), *_COUNT.finditer(text)):
        before, after = text[max(0, match.start() - 40):match.start()], text[match.end():match.end() + 20]
        if _OF_A_PART.search(before) or _OF_EACH.match(after) or _OF_ANOTHER.search(before):
            continue
        value = _value(match["number"].casefold())
        if value is None or value >= LEAST:
            yield value


def _value(number: str) -> int | None:
    """A number in digits or spelled out; None when it is no whole number, or spelled unclearly."""
    if number[0].isdigit():
        digits, _, multiple = re.sub(r"([\d.,]+)[\s-]?", r"\1|", number).partition("|")
        value = float(digits.replace(",", "")) * _MULTIPLES.get(multiple, 1)
        return round(value) if abs(value - round(value)) < 1e-6 and ("." not in digits or multiple) else None
    return _spelled(re.split(r"[\s-]+", number)) if number[0].isascii() else chinese_number(number)


def _spelled(words: list[str]) -> int | None:
    """`twenty-five hundred`, `one thousand two hundred and fifty`."""
    total, current, last = 0, 0, 10**6
    for word in words:
        if word == "and":
            continue
        if word in ("hundred", "thousand"):
            last = 100 if word == "hundred" else 1000
            if not current or total * (last == 1000) or current >= last:
                return None
            current *= last
            if last == 1000:
                total, current = current, 0
            continue
        value, size = (_SMALL[word], 1) if word in _SMALL else (_TENS[word], 10)
        if size >= last or (size == 1 and last == 10 and not 1 <= value <= 9):
            return None
        current += value
        last = size
    return total + current


def chinese_number(number: str) -> int | None:
    """`两千`, `一万二千五百`, `三千五` (3,500); None for a numeral that is not formed like these."""
    upper, ten_thousands, lower = number.partition("万")
    if ten_thousands:
        high = _han_section(upper)
        low = _han_section(lower, below=10_000) if lower else 0
        return None if high is None or low is None else high * 10_000 + low
    return _han_section(number)


def _han_section(number: str, below: int | None = None) -> int | None:
    """A numeral below 10,000; `below` is the unit that stands before it."""
    total, unit, position = 0, below or 10_000, 0
    skipped = False
    while position < len(number):
        digit = _HAN_DIGITS.get(number[position])
        if digit == 0:
            skipped = True
            position += 1
            continue
        position += digit is not None
        following = _HAN_UNITS.get(number[position]) if position < len(number) else None
        if following is None:
            if digit is None or position < len(number):
                return None
            ones = skipped or unit == 10 or (below is None and unit == 10_000)
            return total + (digit if ones else digit * unit // 10)
        if following >= unit or (digit is None and following != 10):
            return None
        total += (digit or 1) * following
        unit, skipped = following, False
        position += 1
    return None if skipped else total
