import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lpo.segmentation import split_segments
from lpo.segmentation.word_limit import WordLimit
from lpo.writing_config import SegmentsConfig

SECTIONS = SegmentsConfig(by="sections")
SLIDES = SegmentsConfig(by="slides")
CONFIGS = st.one_of(
    st.builds(SegmentsConfig, by=st.sampled_from(["sections", "paragraphs"]),
              max_words=st.sampled_from([1, 2, 3, 7, 20, None])),
    st.just(SLIDES),
    st.builds(SegmentsConfig, by=st.just("separator"), separator=st.sampled_from(["---", "\n\n", "<s>", "。", " "])),
)
PIECES = st.sampled_from([
    "The rain fell. ", "She waited!", "Dr. Who? ", "word ", "don't ", "3.5 ", "...", "\n", "\n\n", "\r\n", "\r\n\r\n",
    "\r", "```", "```py\n", "~~~\n", "    code\n", "<div>\n", "<!--\n", "| a | b |\n|---|---|\n", "| c. D | e |\n",
    "# Title\n", "Title\n===\n", "- item. More\n", "1. ", "> quote. Yes\n", "**bold.** ", "---\n", "***\n",
    "Slide 3:\n", "第3页\n", "<s>", "他走了。", "“好！”", "“", "”", "，", "日本語の", "한국어 ",
    "สวัสดี", "שלום עולם. ", "مرحبا؟ ",
    "👩‍👩‍👧", "é", "\u2028", "\x85", "\x0b", "\u3000", "\x00", "\ud83d", "\udc67", "\ufeff", "[", ">", "*",
])
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=50).map("".join))


@given(TEXTS, CONFIGS)
@example("[" * 50_000, SegmentsConfig(by="paragraphs"))
@example(">" * 50_000 + "a", SECTIONS)
@example("“" * 50_000, SegmentsConfig(by="paragraphs", max_words=5))
@example("字" * 50_000, SegmentsConfig(by="sections", max_words=200))
@example("a" * 50_000, SegmentsConfig(by="sections", max_words=200))
@example("```\n" + "x = 1\n" * 5_000, SegmentsConfig(by="paragraphs"))
@settings(max_examples=400, deadline=None)
def test_segments_make_up_the_text_and_none_is_empty(text, config):
    segments = split_segments(text, config)
    assert "".join(segments) == text
    assert all(segments)
    assert all(segment.strip() for segment in segments) or not text.strip()
    assert segments == split_segments(text, config)


def words(text: str) -> int:
    """Words counted in another way than the library does: character by character, where no run exceeds 32."""
    count, run = 0, False
    for character in text:
        cjk = re.match("[々〇\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]", character) is not None
        letter = character.isalnum() or character == "_"
        count += cjk or (letter and not run)
        ends = cjk or character.isspace() or character in "‘’“”…、。《》「」『』【】，！？：；（）"
        run = not ends and (run or letter)
    return count


MORE = st.sampled_from(["a", "bc ", "x-y ", "（好）", "end. "])
SHORT_WORDS = st.lists(st.one_of(PIECES, MORE), max_size=40).map("".join)


@given(SHORT_WORDS.filter(lambda text: max(map(len, text.split()), default=0) <= 32), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_only_fences_and_tables_exceed_the_limit(text, limit):
    for by in ("sections", "paragraphs"):
        for segment in split_segments(text, SegmentsConfig(by=by, max_words=limit)):
            whole = re.search(r"```|~~~|\|[ \t]*:?-", segment)
            assert words(segment) <= limit or whole, (segment, text)


@pytest.mark.parametrize("text", [
    "One two three.\n\nFour five.\n\n" * 9, "他走了很远的路，天气很好。" * 9, "word " * 99])
def test_as_many_paragraphs_or_sentences_as_fit_stay_together(text):
    segments = split_segments(text, SegmentsConfig(by="paragraphs", max_words=20))
    first = [re.match(r"\s*(?:[^.。]+[.。]|\w+)\s*", segment) for segment in segments]
    assert all(words(one) + words(unit[0]) > 20 for one, unit in zip(segments, first[1:], strict=False))


@pytest.mark.parametrize(("text", "expected"), [
    ("", []),
    ("\n \n", ["\n \n"]),
    ("no heading\n\nat all", ["no heading\n\nat all"]),
    ("Before.\n\n# One\n\ntext\n\n\n## Two\ntext\n", ["Before.\n\n", "# One\n\ntext\n\n\n", "## Two\ntext\n"]),
    ("\n\n# One\n\ntext", ["\n\n# One\n\ntext"]),
    ("# Title\n\n## One\n\ntext\n# Two", ["# Title\n\n## One\n\ntext\n", "# Two"]),
    ("Title\n===\ntext\n\nTwo\nlines\n---\nmore", ["Title\n===\ntext\n\n", "Two\nlines\n---\nmore"]),
    ("a\r\n\r\n# One\r\ntext\r\n", ["a\r\n\r\n", "# One\r\ntext\r\n"]),
    ("text\n```sh\n# no\n```\n# yes\n~~~\n# no\n```\n# no\n",
     ["text\n```sh\n# no\n```\n", "# yes\n~~~\n# no\n```\n# no\n"]),
    ("- item\n\n  # no\n\n> # no\n\n    # no\n\n#no\n", ["- item\n\n  # no\n\n> # no\n\n    # no\n\n#no\n"]),
    ("text\n\n---\n\ntext", ["text\n\n---\n\ntext"]),
    ("一\n\n## 二\n\n三\n", ["一\n\n", "## 二\n\n三\n"]),
])
def test_sections(text, expected):
    assert split_segments(text, SECTIONS) == expected


@given(st.lists(st.sampled_from(
    ["text.\n", "\n", "\n", "# One\n", "## Two\n", "Three\n===\n", "```\n# no\n```\n", "- item\n", "> quote\n",
     "    # code\n"]), max_size=15).map("".join))
@settings(max_examples=200, deadline=None)
def test_each_section_begins_at_a_heading_of_markdown_it(text):
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    tokens = [token for token in MarkdownIt("commonmark").parse(text) if token.level == 0 and token.map]
    headings = {starts[token.map[0]] for before, token in zip([None, *tokens], tokens, strict=False)
                if token.type == "heading_open" and (before is None or before.type != "heading_open")}
    segments = split_segments(text, SECTIONS)
    ends = {sum(map(len, segments[:count])) for count in range(1, len(segments))}
    assert ends == {start for start in headings if text[:start].strip()}


@pytest.mark.parametrize(("text", "limit", "expected"), [
    ("One two. Three four.\n\nFive six.\n\nSeven.", 4, ["One two. Three four.\n\n", "Five six.\n\nSeven."]),
    ("One two. Three four. Five six.\n\nSeven.", 4, ["One two. Three four.", " Five six.\n\nSeven."]),
    ("# Title\n\nOne two. Three four.\n\nFive.", 4, ["# Title\n\nOne two.", " Three four.\n\nFive."]),
    ("One.\n\n# Title\n\nTwo three four.", 4, ["One.\n\n", "# Title\n\nTwo three four."]),
    ("one two three four five", 2, ["one two", " three four", " five"]),
    ("- one two\n- three four\n- five", 3, ["- one two\n", "- three four\n- five"]),
    ("他走了很远的路。“你好！”她说。今天天气很好，我们走吧。", 11,
     ["他走了很远的路。“你好！”她说。", "今天天气很好，我们走吧。"]),
    ("他走了很远的路今天天气很好，我们走吧。", 8, ["他走了很远的路今", "天天气很好，我们走", "吧。"]),
    ("Dr. Smith came. Mr. Jones left.", 4, ["Dr. Smith came.", " Mr. Jones left."]),
    ("One two.\n\n```\na b c d e f\n\ng h i\n```\n\nThree.", 4,
     ["One two.\n\n", "```\na b c d e f\n\ng h i\n```\n\n", "Three."]),
    ("| a b | c |\n|---|---|\n| d. E | f |\n| g | h |\n\nEnd.", 3,
     ["| a b | c |\n|---|---|\n| d. E | f |\n| g | h |\n\n", "End."]),
])
def test_a_long_text_is_cut_where_a_reader_pauses(text, limit, expected):
    assert split_segments(text, SegmentsConfig(by="paragraphs", max_words=limit)) == expected


def test_sections_are_cut_further_only_if_they_are_too_long():
    text = "# One\n\na b c.\n\n# Two\n\na b c.\n\nd e f.\n"
    assert split_segments(text, SegmentsConfig(by="sections", max_words=5)) == [
        "# One\n\na b c.\n\n", "# Two\n\na b c.\n\n", "d e f.\n"]


@pytest.mark.parametrize("mark", [
    "Slide 3", "slide 3:", "SLIDE 3 - Title", "## Slide 3", "### Slide 3: Title", "**Slide 3**", "**Slide 3:** Title",
    "__Page 3__", "## **Slide 3** Title", "[Page 3]", "[Slide 3: Title]", "【第3页】", "(Slide 3)", "Page 3 of 20",
    "Slide 3/20", "Slide No. 3", "Slide #3.", "第3页", "第 3 页：标题", "第三頁", "第十二张幻灯片",
    "## 第3页 标题", "幻灯片 3", "幻灯片3：标题", "投影片 3", "PPT 3:", "Slide 3 — Title", "   Slide 3",
])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_marks_of_slides_begin_a_page(mark, newline):
    page = f"{mark}{newline}text of the page{newline}"
    assert split_segments(f"Title{newline}{newline}" + page * 2, SLIDES) == [f"Title{newline}{newline}", page, page]


@pytest.mark.parametrize("line", [
    "Slide 3 shows that", "Page 3 is empty", "A slide 3", "Slideshow 3:", "Slide three", "第3页介绍了",
    "第页", "Slide:", "* Slide 3 shows",
    "    Slide 3:", "--", "- - text", "see Slide 3:", "Slide 12345:",
])
def test_prose_begins_no_page(line):
    text = f"text\n\n{line}\nmore\n"
    assert split_segments(text, SLIDES) == [text]


@pytest.mark.parametrize(("text", "expected"), [
    ("a\n---\nb\n\n***\n\nc\n* * *\n", ["a\n---\n", "b\n\n***\n\n", "c\n* * *\n"]),
    ("Slide 1:\na\n\n---\n\nSlide 2:\nb\n", ["Slide 1:\na\n\n---\n\n", "Slide 2:\nb\n"]),
    ("---\n\nSlide 1:\na\n---\n---\nb\n", ["---\n\nSlide 1:\na\n---\n---\n", "b\n"]),
    ("Slide 1:\n```\n---\nSlide 2:\n```\nSlide 3:\n", ["Slide 1:\n```\n---\nSlide 2:\n```\n", "Slide 3:\n"]),
    ("no marks", ["no marks"]),
])
def test_rules_end_a_page(text, expected):
    assert split_segments(text, SLIDES) == expected


@pytest.mark.parametrize(("text", "separator", "expected"), [
    ("a<s>b<s><s>c", "<s>", ["a<s>", "b<s>", "<s>", "c"]),
    ("a<s>", "<s>", ["a<s>"]),
    ("a\n\n\n\nb\n\n", "\n\n", ["a\n\n\n\n", "b\n\n"]),
    ("\n\na\n\nb", "\n\n", ["\n\na\n\n", "b"]),
    ("aaa", "aa", ["aa", "a"]),
    ("# no\n\n# cut", "<s>", ["# no\n\n# cut"]),
])
def test_a_separator_ends_the_segment_it_stands_behind(text, separator, expected):
    assert split_segments(text, SegmentsConfig(by="separator", separator=separator)) == expected


def test_the_words_of_neighbouring_segments_add_up():
    text = "One two, three. 他走了。“好！”she said… x-y “Z” " * 50
    limit = WordLimit(text, 7)
    segments = split_segments(text, SegmentsConfig(by="paragraphs", max_words=7))
    assert len(segments) > 60
    ends = [sum(map(len, segments[:count])) for count in range(len(segments) + 1)]
    assert [limit.count(*span) for span in pairwise(ends)] == [words(segment) for segment in segments]


def test_a_megabyte_of_one_line_is_cut_between_words():
    for text in ("word " * 200_000, "没有标点的一段话" * 125_000, "“" * 999_999 + "字"):
        segments = split_segments(text, SegmentsConfig(by="paragraphs"))
        assert "".join(segments) == text
        assert len(segments) == max(1, words(text) // 200)
