import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.pair_builders.requested_length import (
    LEAST,
    chinese_number,
    length_asked,
    requested_length,
    with_length,
)
from lpo.records import Message, Prompt


@pytest.mark.parametrize(("text", "words"), [
    ("Write a 400 words story about rain.", 400), ("Write a 400-word story.", 400), ("a 400 - word story", 400),
    ("At least 400 words.", 400), ("no less than 2,000 words, please", 2000), ("an essay of 12,000+ words", 12_000),
    ("The topic. 400 words.", 400), ("a 2k words essay", 2000), ("a 1.5K-word essay", 1500),
    ("two thousand words", 2000), ("Two  thousand\nwords", 2000), ("3.5 thousand words", 3500),
    ("twenty-five hundred words", 2500), ("one thousand two hundred and fifty words", 1250), ("sixty-five words", 65),
    ("two hundred thousand words", 200_000), ("Word limit: 500", 500), ("word count of 1,200", 1200),
    ("300 English words", 300), ("800 Chinese characters", 800), ("800 words. Yes, 800 words!", 800),
    ("300 or more words", 300),
    ("写一篇400字的故事", 400), ("400字左右", 400), ("不少于2000字。", 2000), ("200字以内", 200), ("1000 字", 1000),
    ("写２０００字", 2000), ("两千字", 2000), ("五千个字", 5000), ("八百字", 800), ("一万二千字", 12_000),
    ("1.5万字", 15_000),
    ("3千字", 3000), ("三千五字", 3500), ("三千零五字", 3005), ("一百五字", 150), ("十五万字", 150_000),
    ("两万五千字", 25_000),
    ("一篇300词的英语作文", 300), ("字数要求：2000左右", 2000), ("讲稿字数1400左右。", 1400),
    ("字数：不少于600字", 600),
    ("2000多字", 2000), ("各章齐全，10000字中文", 10_000),
])
def test_one_plain_length_is_read(text, words):
    assert requested_length(text) == words


@pytest.mark.parametrize("text", [
    "Write a story.", "写一个故事。", "Keywords: three words that rhyme", "Do not get any words out.", "四字成语",
    "八字",
    "十字路口的故事", "2000字符", "30字段", "GPT-4 words", "Top 10 words", "in 1916, the more details the better",
    "200 to 300 words", "200-300 words", "2,000–3,000 words", "300到400字", "100至200字", "一千到一千五百字",
    "between two and three thousand words", "between 500 and 800 words", "five to six hundred words",
    "200 or 300 words", "Word count 1,200–1,500", "字数：1000-2000",
    "a 20-word title and 500 words of text", "400字以上，800字以内", "Summarise the 5000-word report in 200 words.",
    "2 000 words", "2.5 words", "1,5000 words", "a thousand words", "several hundred words", "hundred words",
    "几千字", "数千字的文章", "上百字", "1万2千字", "二〇〇〇字", "万字长文", "十十字", "千字",
    "three hundred hundred words", "twenty twelve words", "five six hundred words",
    "400 words each", "three parts of 400 words each", "each of 400 words", "500 words per page", "每篇400字左右",
    "各写1000字", "共五幕，每幕不少于2000字", "字数要求：每篇800", "Shorten this 5000-word text.",
])
def test_no_length_a_range_several_or_an_unclear_one_give_none(text):
    assert requested_length(text) is None


@pytest.mark.parametrize(("text", "words"), [
    ("2,000 words in five parts of 400 words each", 2000), ("每段200字，共1000字", 1000),
    ("Summarise this 5000-word report in 200 words.", 200), ("一个12字的标题，正文800字", 800),
])
def test_lengths_of_parts_and_of_other_texts_are_passed_over(text, words):
    assert requested_length(text) == words


DIGITS, UNITS = "零一二三四五六七八九", ["", "十", "百", "千"]


def spelled(number: int) -> str:
    """As it is written: digit and unit for each place, one 零 for a gap."""
    if number >= 10_000:
        high, low = divmod(number, 10_000)
        gap = "零" if 0 < low < 1000 else ""
        return f"{spelled(high)}万{gap}{spelled(low) if low else ''}"
    text = ""
    for place in (3, 2, 1, 0):
        digit = number // 10**place % 10
        if digit:
            text += DIGITS[digit] + UNITS[place]
        elif text and not text.endswith("零"):
            text += "零"
    return text.rstrip("零")


@given(st.integers(1, 9_999_999))
def test_every_chinese_numeral_is_read(number):
    assert chinese_number(spelled(number)) == number
    if number >= LEAST:
        assert requested_length(f"请写一篇{spelled(number)}字的故事。") == number


ONES = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_english(number: int, joint: str = "") -> str:
    if number >= 1000:
        rest = in_english(number % 1000, joint)
        return f"{in_english(number // 1000, joint)} thousand {rest}".strip()
    if number >= 100:
        rest = in_english(number % 100, joint)
        return f"{ONES[number // 100]} hundred {joint if rest else ''}{rest}".strip()
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + ("-" + ONES[number % 10] if number % 10 else "")


@given(st.integers(LEAST, 999_999), st.sampled_from(["", "and "]))
def test_every_english_numeral_is_read(number, joint):
    assert requested_length(f"Write a story of {in_english(number, joint)} words.") == number


@given(st.text(alphabet="0123456789,.-k \n字词万千百十一two hundred words to每", max_size=60))
def test_whatever_it_reads_it_gives_a_length_or_none(text):
    words = requested_length(text)
    assert words is None or words >= LEAST


def prompt(text, target=None):
    return Prompt(id="p", prompt=(Message(role="user", content=text),), target_words=target)


def test_the_prompts_own_field_counts_before_its_words():
    both = length_asked(prompt("In 500 words.", 800))
    assert (both.words, both.stated, both.differs) == (800, 500, True)
    agreed = length_asked(prompt("In 500 words.", 500))
    assert (agreed.words, agreed.differs) == (500, False)
    alone = length_asked(prompt("In 500 words."))
    assert (alone.words, alone.stated, alone.differs) == (500, 500, False)
    silent = length_asked(prompt("Shortly.", 300))
    assert (silent.words, silent.stated, silent.differs) == (300, None, False)
    assert length_asked(prompt("Shortly.")).words is None


def test_the_context_of_a_prompt_asks_for_nothing():
    task = prompt("Summarise it.").model_copy(update={"context": "Write 900 words."})
    assert length_asked(task).words is None


def test_a_prompt_with_its_length_filled_in_is_otherwise_the_same():
    task = prompt("In 500 words.")
    assert with_length(task) == task.model_copy(update={"target_words": 500})
    assert task.target_words is None
