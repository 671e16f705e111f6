import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.llm.asking import NoReply, NoReplyError
from lpo.pair_builders.fact_replies import MAX_STATEMENT, read_contradictions, read_fact_list, read_facts

PASSAGE = "Mara turned to the window.\n  Her green eyes caught the light."
FOUND = '{"fact": 1, "quote": "Her green eyes", "explanation": "They are blue."}'


def verdict(*found: str, analysis: str = '"Fine."') -> str:
    return f'{{"analysis": {analysis}, "contradictions": [{", ".join(found)}]}}'


@pytest.mark.parametrize("reply", [
    verdict(FOUND),
    "```json\n" + verdict(FOUND) + "\n```",
    "One contradiction, 1 of 2:\n" + verdict(FOUND) + "\nThat is all.",
    "<think>{\"contradictions\": []}</think>" + verdict(FOUND),
    verdict(FOUND)[:-1] + ",}",
    verdict(FOUND, analysis='"It says {\\"contradictions\\": []} inside."'),
    verdict(FOUND.replace("Her green eyes", " Her  green\\neyes ")),
], ids=range(7))
def test_accepted_forms_of_one_contradiction(reply):
    [one] = read_contradictions(reply, 2, PASSAGE)
    assert (one.fact, one.quote, one.explanation) == (0, "Her green eyes", "They are blue.")


def test_white_space_does_not_part_a_quote_from_its_passage():
    [one] = read_contradictions(verdict(FOUND.replace("Her green eyes", "the window. Her green")), 1, PASSAGE)
    assert one.quote == "the window. Her green"


def test_no_contradiction_is_a_verdict():
    assert read_contradictions(verdict(), 3, PASSAGE) == []


@pytest.mark.parametrize("reply", [
    "", "No contradictions.", "None", "[]", "{}", '{"contradictions": []}', '{"analysis": "x"}',
    verdict(FOUND) + verdict(FOUND), verdict() + " {}", '{"contradictions": []} ' + verdict(FOUND),
    "[" + verdict() + ", " + verdict() + "]",
    verdict(FOUND)[:-1], verdict(FOUND)[:-3], verdict(FOUND[:-1]),
    verdict(FOUND.replace("1", "0")), verdict(FOUND.replace("1", "3")), verdict(FOUND.replace("1", "-1")),
    verdict(FOUND.replace("1", "true")), verdict(FOUND.replace("1", '"1"')), verdict(FOUND.replace("1", "1.0")),
    verdict(FOUND.replace("1", "１")), verdict(FOUND.replace("1", "null")), verdict(FOUND.replace("1", "[1]")),
    verdict(FOUND.replace("1", "1e0")), verdict(FOUND.replace("1", "NaN")), verdict(FOUND.replace("1", "9" * 5000)),
    verdict(FOUND.replace("green", "blue")), verdict(FOUND.replace("Her", "her")),
    verdict(FOUND.replace("Her green eyes", "")), verdict(FOUND.replace("Her green eyes", " \\n ")),
    verdict(FOUND.replace('"Her green eyes"', "null")), verdict(FOUND.replace('"Her green eyes"', "true")),
    verdict(FOUND.replace("}", ', "certain": true}')), verdict(FOUND.replace(', "explanation": "They are blue."', "")),
    verdict(FOUND.replace('"fact": 1', '"fact": 1, "fact": 2')),
    verdict(FOUND, analysis="7"), verdict(FOUND, analysis="null"),
    verdict(FOUND, FOUND.replace("1", "5")), verdict(FOUND, FOUND.replace("window", "door").replace("Her", "His")),
    '{"analysis": "x", "contradictions": {"fact": 1}}', '{"analysis": "x", "contradictions": null}',
    verdict("1"), verdict('"Her green eyes"'),
    "<think>" + verdict(FOUND),
], ids=range(44))
def test_everything_else_is_no_verdict(reply):
    with pytest.raises(NoReplyError) as caught:
        read_contradictions(reply, 2, PASSAGE)
    assert caught.value.reason is NoReply.UNPARSABLE


@given(st.text(max_size=200))
def test_no_reply_breaks_the_reader_of_verdicts(reply):
    with pytest.raises(NoReplyError):
        read_contradictions(reply, 1, PASSAGE)


@given(st.integers(0, 400))
def test_no_part_of_a_verdict_is_read_as_a_whole(end):
    whole = verdict(FOUND, FOUND)
    if end < len(whole):
        with pytest.raises(NoReplyError):
            read_contradictions(whole[:end], 2, PASSAGE)


@given(st.integers(), st.integers(1, 5))
def test_only_numbers_of_facts_are_accepted(number, facts):
    reply = verdict(FOUND.replace("1", str(number)))
    if 1 <= number <= facts:
        assert read_contradictions(reply, facts, PASSAGE)[0].fact == number - 1
    else:
        with pytest.raises(NoReplyError):
            read_contradictions(reply, facts, PASSAGE)


@given(st.data())
def test_every_piece_of_the_passage_is_a_quote(data):
    start = data.draw(st.integers(0, len(PASSAGE) - 1))
    piece = PASSAGE[start:data.draw(st.integers(start + 1, len(PASSAGE)))]
    reply = verdict(json.dumps({"fact": 1, "quote": piece, "explanation": ""}))
    if piece.strip():
        assert read_contradictions(reply, 1, PASSAGE)[0].quote == " ".join(piece.split())


def test_facts_are_read_as_lines():
    assert read_facts('{"facts": ["Mara is\\n old.", "玛拉住在利斯克。"]}') == ["Mara is old.", "玛拉住在利斯克。"]
    assert read_facts('Here they are: {"facts": []}') == []


def test_half_characters_cannot_get_into_a_fact():
    [fact] = read_facts('{"facts": ["Mara \\ud83d is old."]}')
    assert fact.encode() == "Mara \ufffd is old.".encode()


@pytest.mark.parametrize("reply", [
    "", "- Mara is old.", "[]", '["Mara is old."]', '{"facts": "Mara is old."}', '{"facts": [1]}', '{"facts": [true]}',
    '{"facts": [null]}', '{"facts": [""]}', '{"facts": [" \\n"]}', '{"facts": ["a"], "more": 1}', '{"fact": ["a"]}',
    '{"facts": [["a"]]}', '{"facts": ["a"]', '{"facts": ["a"', '{"facts": ["a"]} {"facts": ["b"]}',
    '{"facts": ["a"], "facts": ["b"]}', json.dumps({"facts": ["x" * (MAX_STATEMENT + 1)]}),
], ids=range(18))
def test_everything_else_is_no_list_of_facts(reply):
    with pytest.raises(NoReplyError) as caught:
        read_facts(reply)
    assert caught.value.reason is NoReply.UNPARSABLE


@pytest.mark.parametrize(("reply", "facts"), [
    ("- Mara is old.\n- Mara lives in Lisk.", ["Mara is old.", "Mara lives in Lisk."]),
    ("1. Mara is old.\n2) Mara lives  in Lisk.\n", ["Mara is old.", "Mara lives in Lisk."]),
    ("  * Mara is old.\n  • Lisk burned in 1931.", ["Mara is old.", "Lisk burned in 1931."]),
    ("1. - Mara is old.", ["Mara is old."]),
    ("- Mara is old.\n\n- Not this.", ["Mara is old."]),
    ("- Mara is old.\nPassage:\n- Not this.", ["Mara is old."]),
    ("- Mara is old.\r\n- She is 1.5 m tall.", ["Mara is old.", "She is 1.5 m tall."]),
    ("1. none", []), ("- None.", []), ("1. (none)", []), ("- 无", []),
    ("- None of them knew Mara.", ["None of them knew Mara."]),
], ids=range(12))
def test_a_list_ends_with_the_first_line_that_is_no_item(reply, facts):
    assert read_fact_list(reply) == facts


@pytest.mark.parametrize("reply", [
    "", "Mara is old.", "Here are the facts:\n- Mara is old.", "-", "1.", "1.5 metres", "- " + "x" * 501, "none",
], ids=range(8))
def test_a_reply_that_does_not_begin_with_a_list_is_none(reply):
    with pytest.raises(NoReplyError) as caught:
        read_fact_list(reply)
    assert caught.value.reason is NoReply.UNPARSABLE
