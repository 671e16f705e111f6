import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lpo.segmentation.steps import MIN_KEPT, CutStep, cut_step

PIECES = st.sampled_from([
    "The rain fell. ", "She waited! ", "Why? ", "word ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r",
    "```", "```py\n", "~~~\n", "    code\n", "<div>\n", "| a | b |\n|---|---|\n", "| c. D | e |\n", "# Title\n",
    "- item. More\n", "1. ", "> quote. Yes\n", "**bold.** ", "e.g. ", "3.5 ", "…",
    "他走了。", "“好！”", "，", "👩‍👩‍👧 ", "\u2028", "\x85", "\x00", "\ud83d", "\ufeff",
])
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join))


def kept(text: str, prefix: str = "") -> str:
    cut = cut_step(text, boundary="sentence", prefix=prefix)
    assert cut.text + cut.dropped == text
    return cut.text


@given(TEXTS, TEXTS)
@example("```\ncode", "")
@example("Fine. But \ud83d", "\x00")
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_and_enough_is_kept(text, prefix):
    cut = cut_step(text, boundary="sentence", prefix=prefix)
    assert cut.text + cut.dropped == text
    assert len(cut.text) >= round(len(text) * MIN_KEPT)
    assert cut.text.strip() or not text.strip()


@given(TEXTS)
@settings(deadline=None)
def test_a_token_boundary_keeps_the_text_whole(text):
    assert cut_step(text, boundary="tokens") == CutStep(text, "")


@pytest.mark.parametrize(("text", "expected"), [
    ("One is here.\n\nTwo. Three and the", "One is here.\n\n"),
    ("One.\n\nTwo stands here. Three stands here as well and it", "One.\n\nTwo stands here."),
    ("One is here.\r\n\r\nTwo. Three and", "One is here.\r\n\r\n"),
    ("One is here.\n \t\n\nTwo and", "One is here.\n \t\n\n"),
    ("One\rtwo\rthree is here.\n\nFour is\nhere and", "One\rtwo\rthree is here.\n\n"),
    ("- an item\n- two items\n- three it", "- an item\n- two items\n"),
    ("> A quote is here.\n\nAnd then", "> A quote is here.\n\n"),
    ("Code:\n\n```py\nx = 1\n\ny = 2\n```\n\nAnd then", "Code:\n\n```py\nx = 1\n\ny = 2\n```\n\n"),
])
def test_a_paragraph_ends_after_its_newlines(text, expected):
    assert kept(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("It rained. She waited all day. Then a man", "It rained. She waited all day."),
    ('He asked: "Why?" She said no. "And the', 'He asked: "Why?" She said no.'),
    ("Dr. Smith paid 3.5 pounds. Mrs. Jones did not. The", "Dr. Smith paid 3.5 pounds. Mrs. Jones did not."),
    ("他走了很远的路。“你好！”她说。今天天气", "他走了很远的路。“你好！”她说。"),
    ('He left early. "Yes," she said. "But wh', 'He left early. "Yes," she said.'),
    ("他走了很远的路。“你好。今天", "他走了很远的路。“你好。"),
    ("他走了很远的路。“你好，今天", "他走了很远的路。"),
    ("真的吗？没有人知道答案。然后他", "真的吗？没有人知道答案。"),
    ("A line ends here.\nThe next one goes on and", "A line ends here.\n"),
    ("A day went by. Nothing 😀 happened at all! So", "A day went by. Nothing 😀 happened at all!"),
    ("A\u2028B is here. Next\x85line is not", "A\u2028B is here."),
    ("**It rained.** She waited. **Th", "**It rained.** She waited."),
])
def test_a_sentence_ends_before_the_space_of_the_next(text, expected):
    assert kept(text) == expected


@pytest.mark.parametrize("text", [
    "It rained. She waited.",
    "他走了。今天天气很好。",
    "It rained all day.\n\n",
    "```py\nx = 1. Then\n\ny = 2. Then\n```",
    "She said: \"It rained.\"",
])
def test_a_text_that_is_complete_stays_whole(text):
    assert kept(text) == text


@pytest.mark.parametrize("text", [
    "```py\nprint('One. Two.')\n\nprint('Three. Four",
    "~~~\nOne. Two.\n\n```\n\nThree. Four",
    "no end anywhere and none to come",
    "没有标点的一段话一直写下去",
    "I. " + "and so it goes on " * 20,
    "   \n\n  ",
    "",
])
def test_where_nothing_ends_the_text_stays_whole(text):
    assert kept(text) == text


def test_a_table_is_cut_between_rows_only():
    table = "| a | b |\n|---|---|\n| One. Two. | three |\n| Four. Five. | six. Sev"
    assert kept(table) == "| a | b |\n|---|---|\n| One. Two. | three |\n"
    head = "| One. Two | three |\n|---|---|\n| Four. Five. | six. Sev"
    assert kept(head) == head


def test_a_heading_or_list_marker_is_never_left_at_the_end():
    assert kept("It rained all day.\n\n## The next day\n\nThen") == "It rained all day.\n\n"
    assert kept("It rained. It poured.\n1. An item of it\n2. ") == "It rained. It poured.\n1. An item of it\n"
    assert kept("## A heading that is long\n\n1. item") == "## A heading that is long\n\n1. item"


def test_a_fence_opened_in_the_prefix_is_known():
    assert kept("x = 'One. Two.'\n\ny = 'Three. Fo", prefix="Code:\n\n```py\n") == "x = 'One. Two.'\n\ny = 'Three. Fo"
    assert kept("x = 'One. Two.'\n```\n\nThree. Fo", prefix="Code:\n\n```py\n") == "x = 'One. Two.'\n```\n\n"


def test_a_step_that_begins_inside_a_sentence_is_cut_at_its_end():
    assert kept(" of the day. Night came. And the", prefix="It was the end") == " of the day. Night came."


def test_a_cut_is_tokenised_as_the_whole_is(tiny_tokenizer):
    text = ("The lighthouse stood there. Rain fell on it, and the keeper wrote.\n\nShe never answered. "
            "A letter came in winter.\n\n- one item\n- two items\n\n"
            "灯塔矗立在石堤的尽头。每天傍晚，守灯人写信。The end")
    for end in range(20, len(text)):
        cut = cut_step(text[:end], boundary="sentence")
        if not cut.dropped:
            continue
        whole = tiny_tokenizer(cut.text + text[len(cut.text):], add_special_tokens=False).input_ids
        parts = [tiny_tokenizer(part, add_special_tokens=False).input_ids for part in (cut.text, text[len(cut.text):])]
        assert whole == parts[0] + parts[1], repr(cut.text[-20:])


def test_a_long_answer_before_the_step_changes_nothing():
    step = " the evening. Night came over the sea. And the"
    assert kept(step, prefix="It rained all day. " * 5000 + "It was") == " the evening. Night came over the sea."
    assert kept(step, prefix="word " * 30_000 + "and it was") == " the evening. Night came over the sea."


@pytest.mark.parametrize("text", [
    "word " * 20_000, "a" * 100_000, "Hi. " * 25_000, "。" * 100_000, "”" * 100_000, "\n" * 100_000, "> " * 50_000,
    "[" * 50_000, "- " * 30_000, "\n\na" * 30_000, ("> " * 200 + "\n") * 200, "* a\n" * 20_000, "```\n" * 25_000,
    "|a|b|\n|-|-|\n" + "|c|d|\n" * 10_000, "<div>\n" * 20_000, "1. " * 30_000, "Hi.\n" * 25_000, "“" * 50_000,
    "*_" * 50_000, "`" * 100_000, "\r" * 100_000,
], ids=lambda text: repr(text[:8]))
def test_a_hundred_kilobytes_of_hostile_text_take_seconds_at_most(text):
    begin = time.process_time()
    kept(text)
    assert time.process_time() - begin < 10
