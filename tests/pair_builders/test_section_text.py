import pytest

from lpo.pair_builders.section_text import (
    REFUSAL_WORDS,
    is_refusal,
    lists_titles,
    repeats_a_line,
    without_label,
)


@pytest.mark.parametrize(("text", "kept"), [
    ("Paragraph 3: The ferry left.", "The ferry left."),
    ("paragraph 3 - The ferry left.", "The ferry left."),
    ("Section 3 – The ferry left.", "The ferry left."),
    ("**Paragraph 3:** The ferry left.", "The ferry left."),
    ("**Paragraph 3**: The ferry left.", "The ferry left."),
    ("**Paragraph 3**\n\nThe ferry left.", "The ferry left."),
    ("### Paragraph 3\n\nThe ferry left.", "The ferry left."),
    ("### Paragraph 3: The ferry\n\nIt left.", "### The ferry\n\nIt left."),
    ("**Section 3 - The ferry**\n\nIt left.", "**The ferry**\n\nIt left."),
    ("## **Section 3: The ferry**\nIt left.", "## **The ferry**\nIt left."),
    ("Paragraph 3: **The ferry** left.", "**The ferry** left."),
    ("第三段：渡船走了。", "渡船走了。"),
    ("第3节: 渡船走了。", "渡船走了。"),
    ("段落3：渡船走了。", "渡船走了。"),
    ("Paragraph 3", ""),
])
def test_a_label_of_the_plan_goes(text, kept):
    assert without_label(text, 3, known="Of a ferry.") == kept


@pytest.mark.parametrize("text", [
    "The ferry left. Paragraph 3: it came back.",
    "Section 3 of the act says so.",
    "Section 3. Powers of the council",
    "Section 3-4 is torn.",
    "Paragraph 4: The ferry left.",
    "Paragraph 33: The ferry left.",
    "Paragraph three: The ferry left.",
    "Chapter 3: The ferry",
    "Part 3 - The ferry",
    "## The ferry\n\nIt left.",
    "**The ferry**",
    "第三章：渡船",
    "第四段：渡船",
    "",
])
def test_whatever_may_belong_to_the_text_stays(text):
    assert without_label(text, 3, known="Of a ferry.") == text


@pytest.mark.parametrize("known", ["Write section 3: the duties.", "Amend SECTION 3 of the bylaws."])
def test_a_label_that_the_request_or_the_title_speaks_of_stays(known):
    assert without_label("Section 3: The duties are these.", 3, known=known) == "Section 3: The duties are these."


@pytest.mark.parametrize("text", [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with this request.",
    "I am very sorry, I am unable to write this section.",
    "Sorry, I can't continue.",
    "I cannot write about this topic.",
    "I apologize, but I'm not able to provide that.",
    "As an AI language model, I cannot have opinions.",
    "抱歉，我无法完成这个请求。", "很抱歉，我不能写这部分内容。", "作为一个人工智能，我无法提供。",
])
def test_a_refusal_is_known(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", [
    "\"I'm sorry, but I can't help you,\" said the ferryman.",
    "“抱歉，我无法帮你。”船夫说。",
    "I'm sorry, he said at last, for what happened to the boat.",
    "I cannot say when the ferry was built.",
    "Unfortunately, the ferry cannot carry lorries.",
    "The model said: I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't help with that. " + "And yet the story goes on. " * REFUSAL_WORDS,
    "",
])
def test_a_text_is_none(text):
    assert not is_refusal(text)


INSTRUCTIONS = "Plan:\n1. The keel (100 words)\n2. The sails\n\n0123456789ab\nDo not wrap up.\n"


@pytest.mark.parametrize("text", [
    "1. The keel (100 words)\nIt is of oak.", "0123456789ab", "It is of oak. Do not wrap up. More follows.",
])
def test_a_line_of_the_instructions_is_found(text):
    assert repeats_a_line(text, INSTRUCTIONS, known="Of boats.")


@pytest.mark.parametrize(("text", "known"), [
    ("1. The keel (90 words)", "Of boats."), ("Plan:\nIt is of oak.", "Of boats."), ("2. The sails", "The sails"),
    ("1. The keel (100 words)\nIt is of oak.", "Write by this outline:\n1. The keel (100 words)"), ("", ""),
])
def test_short_lines_and_what_the_request_says_may_be_repeated(text, known):
    assert not repeats_a_line(text, INSTRUCTIONS, known=known)


TITLES = ["The keel", "The sails", "The harbour"]


@pytest.mark.parametrize(("text", "listed"), [
    ("1. The keel\n2. The sails\n", True), ("## The keel\nIt is of oak.\n## The sails", True),
    ("**the keel**\n\n**The Sails**", True), ("The harbour\nThe keel", True),
    ("## The keel\n\nIt is of oak.", False), ("The keel\nThe keel", False), ("The keel and\nthe sails.", False),
    ("The keel, The sails", False), ("", False),
])
def test_titles_of_several_sections_are_a_list_and_one_is_a_heading(text, listed):
    assert lists_titles(text, TITLES) is listed
