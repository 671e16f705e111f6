"""The lengths that LonGen asks for: how a constraint reads, and how far a text is from it (arXiv 2410.23933)."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

_WIDE = "\u4e00-\u9fff\u3000-\u303f\uff00-\uffef"
_TOKEN = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]+")
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_NUMBER = re.compile(r"(?P<digits>\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)\s*(?P<unit>[kK](?![A-Za-z])|千|万)?"
                     r"|(?P<han>[零〇一二两三四五六七八九十百千万]*[十百千万][零〇一二两三四五六七八九十百千万]*)")


@dataclass(frozen=True)
class Window:
    """The lengths that count as right, both ends included.

    Args:
        low: Fewest words, above 0.
        high: Most words.
    """

    low: float
    high: float

    def score(self, length: int) -> float:
        """0–100: 100 inside; under it, falling to 0 at half of `low`; over it, falling to 0 at one and a half `high`.

        Args:
            length: Words written.
        """
        if length < self.low:
            return 100 * max(2 * length / self.low - 1, 0.0)
        if length > self.high:
            return 100 * max(3 - 2 * length / self.high, 0.0)
        return 100.0


class Kind(StrEnum):
    """How a length is asked for."""

    ABOUT = "about"
    RANGE = "range"
    ABOVE = "above"
    BELOW = "below"

    @classmethod
    def read(cls, name: str) -> Kind:
        """A kind by its name in English or Chinese.

        Raises:
            ValueError: There is no such kind.
        """
        wanted = unicodedata.normalize("NFKC", name).strip().casefold()
        found = next((kind for kind in cls if wanted == kind.value or wanted in _NAMES[kind]), None)
        if found is None:
            raise ValueError(f"{name!r} is not one of {', '.join(cls)}")
        return found

    def window(self, numbers: tuple[float, ...]) -> Window:
        """The window around what is asked for.

        Args:
            numbers: One; for a range two, the smaller first.

        Raises:
            ValueError: There are fewer or more, or they are no lengths.
        """
        wanted = 2 if self is Kind.RANGE else 1
        if len(numbers) != wanted:
            raise ValueError(f"{self.value!r} needs {wanted} number{'s' if wanted > 1 else ''}, found {len(numbers)}")
        if not 0 < numbers[0] <= numbers[-1] < math.inf:
            raise ValueError("lengths must be numbers above 0, the smaller one first")
        one = numbers[0]
        match self:
            case Kind.ABOUT:
                return Window(one * 4 / 5, one * 6 / 5)
            case Kind.RANGE:
                return Window(one, numbers[1])
            case Kind.ABOVE:
                return Window(one, one * 3 / 2)
            case Kind.BELOW:
                return Window(one / 2, one)


_NAMES: dict[Kind, frozenset[str]] = {
    Kind.ABOUT: frozenset({"around", "大约", "约", "大概", "左右"}),
    Kind.RANGE: frozenset({"between", "范围", "区间", "之间", "介于"}),
    Kind.ABOVE: frozenset({"more", "more than", "at least", "over", "大于", "超过", "多于", "不少于", "至少", "以上"}),
    Kind.BELOW: frozenset({"less", "less than", "at most", "under", "小于", "少于", "不超过", "不多于", "至多", "以内",
                           "以下"}),
}


def read_numbers(constraint: object) -> tuple[float, ...]:
    """The lengths that a constraint names, in order.

    Args:
        constraint: A number, a list of numbers, or words such as `4000-6000 words`, `2-4k`, `小于2000字`, `三千五百字`.

    Raises:
        ValueError: It is nothing of the kind.
    """
    if isinstance(constraint, (list, tuple)):
        return tuple(number for part in constraint for number in read_numbers(part))
    if isinstance(constraint, (int, float)) and not isinstance(constraint, bool):
        return (float(constraint),)
    if not isinstance(constraint, str):
        raise ValueError(f"a constraint must be text or numbers, not {type(constraint).__name__}")
    found = [_number(match) for match in _NUMBER.finditer(unicodedata.normalize("NFKC", constraint))]
    if len(found) == 2 and found[0][1] == 1 and found[0][0] < found[1][0] < 1000 <= found[1][1]:
        found[0] = (found[0][0], found[1][1])  # "2-4k" means 2k to 4k
    return tuple(value * unit for value, unit in found)


def count_longen_words(text: str) -> int:
    """Words as LonGen's own evaluation counts them.

    Chinese characters, CJK punctuation and full-width forms count one each; what is left, one for each run between
    spaces. `lpo.words.count_words` counts less: no punctuation, no digits.
    """
    return len(_TOKEN.findall(text))


def _number(match: re.Match[str]) -> tuple[float, int]:
    """A number as `(value, unit)`; Chinese numerals are values with the unit 1."""
    if match["han"]:
        return _chinese_number(match["han"]), 1
    unit = {"k": 1000, "千": 1000, "万": 10_000, "": 1}[(match["unit"] or "").lower()]
    return float(match["digits"].replace(",", "")), unit


def _chinese_number(numeral: str) -> float:
    """三千五百 is 3500, and so is 三千五, as people say it."""
    total, section, digit, last = 0, 0, 0, 1
    for place, char in enumerate(numeral):
        if char == "万":
            total, section, digit, last = (total + section + digit) * 10_000, 0, 0, 10_000
        elif char in _UNITS:
            last = _UNITS[char]
            section, digit = section + (digit or 1) * last, 0
        else:
            digit = _DIGITS[char]
            if digit == 0:
                last = 10
            elif place == len(numeral) - 1 and last >= 100:
                digit *= last // 10
    return float(total + section + digit)
