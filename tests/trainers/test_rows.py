"""Rows in and out: what is accepted, and that whatever is dropped is counted with its reason."""

import pytest

from lpo.errors import ConfigError
from lpo.records import Reason
from lpo.trainers import TokenisedPair, Tokeniser

GOOD = {"prompt": "Tell me.", "chosen": " Rain fell.", "rejected": " Gulls argued."}
USER = {"role": "user", "content": "Tell me."}


def said(text, role="assistant"):
    return [{"role": role, "content": text}]


@pytest.mark.parametrize(("row", "reason"), [
    ({**GOOD, "chosen": None}, Reason.MALFORMED),
    ({"chosen": "ab", "rejected": "ab"}, Reason.MALFORMED),
    ({"chosen": "x", "rejected": "y"}, Reason.MALFORMED),
    ({**GOOD, "prompt": 3}, Reason.MALFORMED),
    ({**GOOD, "prompt": []}, Reason.MALFORMED),
    ({**GOOD, "prompt": [{"role": "wizard", "content": "x"}]}, Reason.MALFORMED),
    ({**GOOD, "chosen": said(" Rain."), "rejected": said(" Gulls.")}, Reason.MALFORMED),
    ({**GOOD, "prompt": [USER], "chosen": said("Rain.") + said("Fog.")}, Reason.MALFORMED),
    ({**GOOD, "prompt": [USER], "chosen": said("Rain.", "user")}, Reason.MALFORMED),
    ({**GOOD, "tools": [{"name": "search"}]}, Reason.MALFORMED),
    ({**GOOD, "step": "third"}, Reason.MALFORMED),
    ({**GOOD, "chosen": ""}, Reason.EMPTY),
    ({**GOOD, "rejected": " \n\t"}, Reason.EMPTY),
    ({**GOOD, "rejected": " Rain fell."}, Reason.EQUAL_TEXTS),
    ({**GOOD, "rejected": "\nRain  fell. "}, Reason.EQUAL_TEXTS),
    ({**GOOD, "chosen": " caf\u00e9", "rejected": " cafe\u0301"}, Reason.EQUAL_TEXTS),
    ({**GOOD, "chosen": " Rain" * 100}, Reason.TOO_LONG),
    ({**GOOD, "prompt": "Rain " * 100}, Reason.TOO_LONG),
])
def test_unusable_rows_are_rejected_with_a_reason(tiny_tokenizer, row, reason):
    result = Tokeniser(tiny_tokenizer, max_length=64).row({"id": "r", **row}, "row 0")
    assert not isinstance(result, TokenisedPair)
    assert (result.id, result.reason, result.stage) == ("r", reason, "train")
    assert result.detail


def test_a_row_exactly_at_the_limit_is_kept_and_one_token_more_is_not(tiny_tokenizer):
    longest = len(Tokeniser(tiny_tokenizer).row(GOOD, "r").rejected.ids)
    assert isinstance(Tokeniser(tiny_tokenizer, max_length=longest).row(GOOD, "r"), TokenisedPair)
    result = Tokeniser(tiny_tokenizer, max_length=longest - 1).row(GOOD, "r")
    assert (result.reason, result.detail) == (Reason.TOO_LONG, f"{longest} tokens, more than {longest - 1}")


def test_kept_and_rejected_make_up_the_input_and_unusable_characters_are_counted(tiny_tokenizer):
    rows = [GOOD, {**GOOD, "chosen": ""}, {**GOOD, "chosen": " half \ud83d and\0"}, {**GOOD, "chosen": ""}]
    result = Tokeniser(tiny_tokenizer).rows(rows, "row")
    assert (len(result.pairs), len(result.rejected), result.cleaned_characters) == (2, 2, 2)
    assert [row.id for row in result.rejected] == ["row 1", "row 3"]
    assert result.reasons() == "2 x empty"


def test_defaults_of_the_optional_columns(tiny_tokenizer):
    tokeniser = Tokeniser(tiny_tokenizer)
    bare, full = tokeniser.row(GOOD, "row 0"), tokeniser.row(
        {**GOOD, "prefix": "", "chosen_ends": True, "rejected_ends": None, "step": 0, "id": None, "score": 3}, "row 0")
    assert bare == full
    other = tokeniser.row({**GOOD, "prompt": "Tell us."}, "row 1")
    assert bare.group == tokeniser.row({**GOOD, "chosen": " Fog."}, "row 2").group != other.group
    assert tokeniser.row({**GOOD, "step": 4, "group": "doc"}, "row 3").step == 4


@pytest.mark.parametrize("row", [
    {"prompt": [USER], "chosen": "Rain fell.", "rejected": "Gulls argued."},
    {"prompt": [USER], "chosen": said("Rain fell."), "rejected": said("Gulls argued.")},
    {"chosen": [USER, *said("Rain fell.")], "rejected": [USER, *said("Gulls argued.")]},
    {"prompt": [{**USER, "tool_calls": None}], "chosen": said("Rain fell."), "rejected": said("Gulls argued.")},
])
def test_ways_to_write_a_conversation_are_the_same_row(tiny_tokenizer, row):
    from lpo.chat import load_chat_template

    tokeniser = Tokeniser(tiny_tokenizer, load_chat_template("plain"))
    pair = tokeniser.row(row, "row 0")
    assert tokeniser.tokenizer.decode(pair.chosen.ids) == "<s>Task:\nTell me.\n\nText:\nRain fell.</s>"


def test_messages_without_a_chat_template_are_an_error_not_a_guess(tiny_tokenizer):
    with pytest.raises(ConfigError, match="no chat template"):
        Tokeniser(tiny_tokenizer).row({**GOOD, "prompt": [USER]}, "row 0")
