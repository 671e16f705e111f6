"""Reading what those who correct say: the exact forms that are accepted, and nothing beside them."""

import json

import pytest
from builder_cases import PROMPT
from hypothesis import given
from hypothesis import strategies as st

from lpo.llm.asking import NoReply, NoReplyError
from lpo.pair_builders.correcting import (
    MAX_ADVICE,
    Segment,
    checked_revision,
    read_critique,
    read_fault_list,
    read_revision,
    unwrapped,
)
from lpo.records import Aspect

PASSAGE = "The tower is 40 metres high.\nIt is  40 metres high."
MARK = "0123456789ab"


def fault(aspect="repetition", quote="40 metres high", advice="Strike it out."):
    return {"aspect": aspect, "quote": quote, "advice": advice}


def critique(*faults, **more):
    return json.dumps({"analysis": "Read.", "faults": list(faults), **more})


def test_a_critique_in_json():
    read = read_critique(critique(fault(), fault("missing", "", " Say when\nit was built. ")), PASSAGE)
    assert [(one.aspect, one.quote, one.advice) for one in read.faults] == [
        (Aspect.REPETITION, "40 metres high", "Strike it out."), (Aspect.MISSING, "", "Say when it was built.")]
    assert read.dropped is None
    assert read_critique(critique(), PASSAGE).faults == ()
    across_lines = read_critique(critique(fault(quote="high. It is 40 metres")), PASSAGE)
    assert across_lines.faults[0].quote == "high. It is 40 metres"


@pytest.mark.parametrize(("bad", "why"), [
    (fault(quote="50 metres"), "faults.1.quote"),
    (fault(quote=""), "faults.1.quote"),
    (fault(advice=" "), "faults.1.advice"),
    (fault(advice="x" * (MAX_ADVICE + 1)), "faults.1.advice"),
])
def test_a_fault_that_cannot_be_used_is_dropped_and_says_why(bad, why):
    read = read_critique(critique(fault(), bad), PASSAGE)
    assert len(read.faults) == 1 and read.dropped.startswith(why)
    with pytest.raises(NoReplyError) as caught:
        read_critique(critique(bad), PASSAGE)
    assert caught.value.reason is NoReply.UNPARSABLE


@pytest.mark.parametrize("reply", [
    "", "none", "[]", '{"faults": []}', critique(fault("style")), critique(fault(), note="x"),
    critique({"aspect": "missing"}), critique(fault(quote=None)), critique("repetition"),
    f"{critique()} {critique()}", critique(fault())[:-3],
    "<think>" + critique(),
])
def test_any_other_critique_is_none(reply):
    with pytest.raises(NoReplyError):
        read_critique(reply, PASSAGE)


@pytest.mark.parametrize(("reply", "aspects"), [
    ("- repetition: strike it out", [Aspect.REPETITION]),
    ("1. **Coherence**: mind the tense\n2) missing: say when\nI hope this helps.", [Aspect.COHERENCE, Aspect.MISSING]),
    ("- factuality： 四十米", [Aspect.FACTUALITY]),
    ("- None.", []),
    (" none\n", []),
    ("- none\n- repetition: no", []),
    ("- style: be brief\n- repetition: strike it out", [Aspect.REPETITION]),
    ("\n".join(f"- missing: say when it was {done}" for done in ("built", "lit", "sold", "moved", "lost")),
     [Aspect.MISSING] * 4),
    ("- missing: say when\n- coherence: Say when\n- coherence: mind the tense", [Aspect.MISSING, Aspect.COHERENCE]),
])
def test_a_list_of_faults(reply, aspects):
    assert [one.aspect for one in read_fault_list(reply, "Faults:").faults] == aspects


@pytest.mark.parametrize("reply", ["", "There are none.", "Here they are:\n- repetition: x", "- style: be brief",
                                   "repetition: x", "- strike the second sentence out"])
def test_any_other_list_is_none(reply):
    with pytest.raises(NoReplyError):
        read_fault_list(reply, "Faults:")


def test_advice_of_an_example_is_no_advice():
    asked = "Faults:\n- repetition: The first sentence is said twice; strike it out.\nFaults:\n-"
    with pytest.raises(NoReplyError, match="was given already"):
        read_fault_list("- repetition: The first sentence is said twice; strike it out.", asked)


def test_a_revision_in_json():
    assert read_revision('{"revised": "# One\\n\\nTwo \\"three\\"."}') == '# One\n\nTwo "three".'
    assert read_revision('Here it is:\n```json\n{"revised": "One"}\n```') == "One"
    assert read_revision('{"revised": "One\n\nTwo"}') == "One\n\nTwo", "a line break that should have been escaped"
    for reply in ("One", '{"revised": 1}', '{"revised": "a", "why": "b"}', '{"text": "a"}', '{"revised": "a'):
        with pytest.raises(NoReplyError):
            read_revision(reply)


@given(text=st.text(), damage=st.sampled_from(["", "\n", '"', "'", "\\", ",", " "]), at=st.integers(0, 30))
def test_a_broken_revision_never_loses_a_letter(text, damage, at):
    whole = json.dumps({"revised": text}, ensure_ascii=False)
    place = 12 + at % max(1, len(whole) - 14)
    broken = whole[:place] + damage + whole[place:]
    try:
        read = read_revision(broken)
    except NoReplyError:
        return
    try:
        assert read == json.loads(broken, strict=False)["revised"].replace("\0", "") or damage == "\\"
    except ValueError:
        assert [char for char in read if char.isalnum()] == [char for char in text if char.isalnum()] or "\\" in broken


@pytest.mark.parametrize(("reply", "text"), [
    ("The tower.", "The tower."),
    ("```\nThe tower.\n```", "The tower."),
    ("~~~markdown\n# Tower\n\nHigh.\n~~~", "# Tower\n\nHigh."),
    (f"{MARK}\nThe tower.\n{MARK}", "The tower."),
    (f"The tower.  \n{MARK}\n", "The tower."),
    ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
    ("Sure! Here it is:\n\nThe tower.", "Sure! Here it is:\n\nThe tower."),
    ("```", "```"),
])
def test_only_what_certainly_is_no_part_of_it_is_taken_off(reply, text):
    assert unwrapped(reply, PASSAGE, MARK) == text


def test_the_fence_of_a_code_segment_stays():
    code = "```python\nprint(1)\n```"
    assert unwrapped("```python\nprint(2)\n```", code, MARK) == "```python\nprint(2)\n```"


BEFORE = "It stands on the hill above the town. Nobody knows who built it."
ASKED = f"Write anew.\n{MARK}\n{BEFORE}\n{MARK}\nPassage, the last one:\n{MARK}\n{PASSAGE}\n{MARK}\nFaults:\n" \
        "- repetition: Leave the second sentence out altogether.\n"


@pytest.mark.parametrize(("text", "reason"), [
    (" \n", NoReply.EMPTY),
    (f"The tower.\n{MARK}\nMore.", NoReply.UNPARSABLE),
    (f"{BEFORE} The tower is high.", NoReply.UNPARSABLE),
    ("It stands on the hill above the town.", NoReply.UNPARSABLE),
    ("Leave the second sentence out altogether.", NoReply.UNPARSABLE),
    ("The tower is high.\nPassage, the last one:\nMore.", NoReply.UNPARSABLE),
    ("The tower is high.\nFaults:\n", NoReply.UNPARSABLE),
    ("The tower is high. - repetition: Leave the second sentence out altogether.", NoReply.UNPARSABLE),
])
def test_a_revision_that_repeats_the_question_is_none(text, reason):
    with pytest.raises(NoReplyError) as caught:
        checked_revision(text, Segment(PROMPT, BEFORE, PASSAGE, last=True), ASKED, MARK)
    assert caught.value.reason is reason


@pytest.mark.parametrize("text", ["The tower is 40 metres high.", PASSAGE, "Write a letter.", " High.\n", "Nobody"])
def test_any_other_revision_is_taken(text):
    """Also a part of the passage, and words of the request."""
    assert checked_revision(text, Segment(PROMPT, BEFORE, PASSAGE, last=True), ASKED, MARK) == text.strip()
