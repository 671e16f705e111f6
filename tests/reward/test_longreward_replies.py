import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.llm.asking import Dialect, NoReply, NoReplyError
from lpo.reward.longreward_replies import GRADE, LONGEST_LIST, MAX_ITEM, NOTES, STATEMENTS, SUPPORT, Support

JSON, CHAT, TEXT = Dialect.JSON, Dialect.CHAT, Dialect.TEXT


def graded(grade: str, analysis: str = '"Fine."', more: str = "") -> str:
    return f'{{"analysis": {analysis}, "grade": {grade}{more}}}'


@pytest.mark.parametrize(("reply", "grade"), [
    (graded("7"), 7), (graded("0"), 0), (graded("10"), 10), (graded("7.25"), 7.25), (graded("1e1"), 10),
    (graded("0.0"), 0), ("```json\n" + graded("7") + "\n```", 7), ("I give it 3/10:\n" + graded("7") + "\nDone.", 7),
    ("<think>{\"grade\": 1}</think>" + graded("7"), 7), (graded("7").replace('"', "'"), 7),
    (graded("7")[:-1] + ",}", 7), (graded("7", '"It quotes {\\"grade\\": 2} and Grade: 3."'), 7),
    ('{"grade": 7, "analysis": "x"}', 7),
], ids=range(13))
def test_accepted_grades_in_json(reply, grade):
    assert GRADE.read(reply, JSON).value == grade


@pytest.mark.parametrize("reply", [
    "", "7", "8/10", "[7]", "{}", '{"grade": 7}', '{"analysis": "x"}', graded("11"), graded("10.01"), graded("-1"),
    graded("-0.1"), graded('"8"'), graded('"8/10"'), graded("8/10"), graded("true"), graded("null"), graded("NaN"),
    graded("Infinity"), graded("1e999"), graded("9" * 5000), graded("[8]"), graded('{"value": 8}'), graded("８"),
    graded("7 8"), graded("7,5"), graded("7", more=', "grade": 8'), graded("7", more=", 'grade': 8"),
    graded("7", more=', "confidence": 1'), graded("7", "5"), graded("7", "null"), graded("7", '""'),
    graded("7", '" \\n"'), graded("7") + graded("7"), graded("7") + " {}", "[" + graded("7") + ", " + graded("7") + "]",
    graded("7")[:-1],
    graded("7")[:-2], "<think>" + graded("7"), graded("7").replace("grade", "Grade"), "Analysis: x\nGrade: 7",
], ids=range(40))
def test_everything_else_is_no_grade_in_json(reply):
    with pytest.raises(NoReplyError) as caught:
        GRADE.read(reply, JSON)
    assert caught.value.reason is NoReply.UNPARSABLE


@pytest.mark.parametrize("dialect", [CHAT, TEXT])
@pytest.mark.parametrize(("reply", "grade", "analysis"), [
    ("Analysis: It keeps to the point.\nGrade: 7", 7, "It keeps to the point."),
    (" It keeps to the point.\nGrade: 7\n", 7, "It keeps to the point."),
    ("One.\n\nTwo, so 8/10.\n\nGrade: 7.5", 7.5, "One.\n\nTwo, so 8/10."),
    ("Fine.\n**Grade:** 10.0", 10, "Fine."), ("Fine.\n**Grade: 0**", 0, "Fine."), ("Fine.\n  Grade : 10 ", 10, "Fine."),
    ("分析：切题。\n评分：7", 7, "切题。"), ("切题。\n评分: 6.5", 6.5, "切题。"),
    ("Fine. Grade: 7", 7, "Fine."), ("It has a grade of 3.\nGrade:7", 7, "It has a grade of 3."),
], ids=range(10))
def test_accepted_grades_in_plain_text(dialect, reply, grade, analysis):
    verdict = GRADE.read(reply, dialect)
    assert (verdict.value, verdict.analysis) == (grade, analysis)


@pytest.mark.parametrize("dialect", [CHAT, TEXT])
@pytest.mark.parametrize("reply", [
    "Fine.", "Grade: 7", "Analysis:\nGrade: 7", "分析：\n评分：7", "Fine. Grade: 9 Grade: 7", "Fine.\nGrade: 8/10",
    "Fine.\nGrade: 11", "Fine.\nGrade: 100", "Fine.\nGrade: 10.5", "Fine.\nGrade: -1", "Fine.\nGrade: +7",
    "Fine.\nGrade: ８", "Fine.\nGrade: ٧", "Fine.\nGrade: ²", "Fine.\nGrade: seven", "Fine.\nGrade: 7 or 8",
    "Fine.\nGrade: 7.", "Fine.\nGrade: 7,5", "Fine.\nGrade: .5", "Fine.\nGrade: 1e1", "Fine.\nGrade: NaN",
    "Fine.\nGrade: true", "Fine.\nGrade:", "Fine.\nGrade: [[7]]", "Fine.\nGrade 7", "Fine.\ngrade: 7",
    "Fine.\nGrade: 7\nGrade: 8", "Fine.\nGrade: 7\nGrade: 7", "Grade: 9\nFine.\nGrade: 7", "好。\n评分：9\nGrade: 7",
    "Fine.\nGrade: 7\nThank you.", "It says `Grade: 3`.\nGrade: 7", "Fine.\nSupport: full", "Fine.\n分数：7",
    '{"analysis": "x", "grade": 7}', "7",
], ids=range(36))
def test_everything_else_is_no_grade_in_plain_text(dialect, reply):
    with pytest.raises(NoReplyError) as caught:
        GRADE.read(reply, dialect)
    assert caught.value.reason is NoReply.UNPARSABLE


def test_what_a_chat_model_thinks_is_no_part_of_its_reply():
    assert GRADE.read("<think>Grade: 3</think>\nFine.\nGrade: 7", CHAT).value == 7
    for reply in ("<think>Fine.\nGrade: 7", "<think>Fine.\nGrade: 7</think>"):
        with pytest.raises(NoReplyError):
            GRADE.read(reply, CHAT)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(("word", "support", "credit"), [
    ("full", Support.FULL, 1), ("partial", Support.PARTIAL, 0.5), ("none", Support.NONE, 0),
])
def test_labels(dialect, word, support, credit):
    reply = json.dumps({"analysis": "x", "support": word}) if dialect is JSON else f"Analysis: x\nSupport: {word}"
    verdict = SUPPORT.read(reply, dialect)
    assert (verdict.value, verdict.value.credit, verdict.analysis) == (support, credit, "x")


def test_labels_in_chinese():
    assert [SUPPORT.read(f"有依据。\n支持：{word}", TEXT).value for word in ("完全", "部分", "没有")] == list(Support)


@pytest.mark.parametrize("label", ['"Full"', '"fully"', '"full "', '""', "1", "true", "null", '["full"]', '"完全"'])
def test_everything_else_is_no_label_in_json(label):
    with pytest.raises(NoReplyError):
        SUPPORT.read(f'{{"analysis": "x", "support": {label}}}', JSON)


@pytest.mark.parametrize("line", [
    "Support: Full", "Support: full support", "Support: full/partial", "Support: 1", "Support:", "full", "Grade: full",
    "Support: none\nSupport: full", "Support: not", "支持：支持",
])
def test_everything_else_is_no_label_in_plain_text(line):
    with pytest.raises(NoReplyError):
        SUPPORT.read(f"Fine.\n{line}", TEXT)


@pytest.mark.parametrize(("form", "key"), [(STATEMENTS, "statements"), (NOTES, "notes")])
def test_lists(form, key):
    items = ["The mill is old.", "磨坊很旧。"]
    assert form.read(json.dumps({key: items}), JSON) == items
    assert form.read(json.dumps({key: [" The mill\nis old. ", "磨坊很旧。", "The mill  is old."]}), JSON) == items
    assert form.read("1. The mill is old.\n2. 磨坊很旧。\n\nThat is all.", CHAT) == items
    assert form.read("- The mill is old.\n* 磨坊很旧。", CHAT) == items
    assert form.read("1. The mill is old.\n2. 磨坊很旧。", TEXT) == items
    assert form.read("1、The mill is old.\n2、磨坊很旧。", CHAT) == items


@pytest.mark.parametrize(("form", "key"), [(STATEMENTS, "statements"), (NOTES, "notes")])
def test_nothing_to_list_is_a_reply(form, key):
    assert form.read(f'{{"{key}": []}}', JSON) == []
    assert [form.read(reply, CHAT) for reply in ("1. none", "- None.", "1. 无", "1. 没有。", "1. (none)")] == [[]] * 5
    assert [form.read(reply, TEXT) for reply in ("1. none", "1. 无", "1. None.\n")] == [[]] * 3


@pytest.mark.parametrize(("form", "key"), [(STATEMENTS, "statements"), (NOTES, "notes")])
def test_everything_else_is_no_list(form, key):
    too_long = "x" * (MAX_ITEM + 1)
    for value in ("null", "{}", '"x"', '["x", ""]', '["x", " "]', "[1]", "[null]", '[["x"]]', f'["{too_long}"]'):
        with pytest.raises(NoReplyError):
            form.read(f'{{"{key}": {value}}}', JSON)
    for reply in ('{"facts": []}', f'{{"{key}": [], "more": 1}}', f'{{"{key}": [], "{key}": ["x"]}}', "[]", '["x"]',
                  f'{{"{key}": ["x"', "none"):
        with pytest.raises(NoReplyError):
            form.read(reply, JSON)
    for reply in ("Here they are:\n1. x", "none", "x", f"1. {too_long}"):
        with pytest.raises(NoReplyError):
            form.read(reply, CHAT)


def test_the_longest_list_of_a_model_that_continues_ends_at_a_stop():
    for form in (NOTES, STATEMENTS):
        assert all(f"\n{LONGEST_LIST + 1}." in form.stop[language] for language in ("en", "zh"))


@given(st.floats(0, 10))
def test_every_grade_in_range_is_read_as_it_stands(grade):
    assert GRADE.read(graded(repr(grade)), JSON).value == grade


@given(st.floats().filter(lambda grade: not 0 <= grade <= 10))
def test_no_grade_out_of_range_is_read(grade):
    for reply, dialect in [(graded(json.dumps(grade)), JSON), (f"Fine.\nGrade: {grade}", TEXT)]:
        with pytest.raises(NoReplyError):
            GRADE.read(reply, dialect)


@given(st.text(max_size=200), st.sampled_from([GRADE, SUPPORT, STATEMENTS, NOTES]), st.sampled_from([JSON, CHAT]))
def test_no_reply_breaks_a_reader(text, form, dialect):
    try:
        read = form.read(text, dialect)
    except NoReplyError:
        return
    assert dialect is CHAT and isinstance(read, list), "only a list can come about by chance"


@given(st.integers(0, 100))
def test_no_part_of_a_reply_in_json_is_read_as_a_whole(end):
    for whole, form in [(graded("10"), GRADE), ('{"statements": ["one", "two"]}', STATEMENTS)]:
        if end < len(whole):
            with pytest.raises(NoReplyError):
                form.read(whole[:end], JSON)


@pytest.mark.parametrize("form", [GRADE, SUPPORT, STATEMENTS, NOTES])
def test_a_schema_names_what_the_reader_wants_the_analysis_first(form):
    assert form.schema["additionalProperties"] is False
    assert form.schema["required"] == list(form.schema["properties"])
    if form in (GRADE, SUPPORT):
        assert form.schema["required"][0] == "analysis"
