"""Files of answers: every shape that is read, what is put together, what is rejected and why."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpo.errors import DataError, NothingLeftError
from lpo.given_answers import ANSWER_IDS, ANSWERS, read_answers
from lpo.records import Message, Reason


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(tmp_path, rows, contexts=None):
    documents = write(tmp_path / "documents.jsonl", contexts) if contexts is not None else None
    return read_answers(write(tmp_path / "answers.jsonl", rows), documents)


def shape(found):
    """What matters of the prompts, in their order."""
    return [(prompt.id, prompt.request, prompt.context, prompt.meta[ANSWER_IDS], prompt.meta[ANSWERS])
            for prompt in found.prompts]


def test_answers_find_their_documents_by_what_stands_before_the_last_hyphen(tmp_path):
    rows = [{"idx": "11-7", "query": "Why?", "answer": "Because."}, {"idx": "4-0", "query": "When?", "answer": "Then."},
            {"idx": "11-0", "query": "Why?", "answer": "For this."}]
    documents = [{"idx": 11, "query": "Why?", "answer": "its own", "context": "Eleven."},
                 {"idx": 4, "query": "When?", "answer": "its own", "context": "Four."}]
    found = read(tmp_path, rows, documents)
    assert shape(found) == [("11", "Why?", "Eleven.", ["11-7", "11-0"], ["Because.", "For this."]),
                            ("4-0", "When?", "Four.", ["4-0"], ["Then."])]
    assert found.prompts[0].prompt == (Message(role="user", content="Why?"),)
    assert found.answers == 3 and not found.rejected


def test_longrewards_own_answers_are_read_with_the_documents_beside_them(tmp_path):
    rows = [{"idx": 11, "query": "Why?", "answer": "Because.", "context": "Eleven."},
            {"idx": 12, "query": "Why?", "answer": "Since.", "context": "Twelve."}]
    assert shape(read(tmp_path, rows)) == [("11", "Why?", "Eleven.", ["11"], ["Because."]),
                                           ("12", "Why?", "Twelve.", ["12"], ["Since."])]


def test_our_own_shapes_one_answer_a_row_or_all_of_them(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows = [{"id": "a", "prompt": "Why?", "answers": ["One.", "Two."], "context": "Text.", "target_words": 5},
            {"prompt": turns, "answer": "Three.", "unknown column": 1}]
    found = read(tmp_path, rows)
    assert shape(found) == [("a", "Why?", "Text.", ["a-0", "a-1"], ["One.", "Two."]),
                            ("line-2", "Why?", None, ["line-2"], ["Three."])]
    assert found.prompts[0].target_words == 5 and found.prompts[1].prompt[0].role == "system"


def test_equal_questions_about_other_documents_are_other_questions_and_names_are_never_shared(tmp_path):
    rows = [{"id": "q-1", "prompt": "Why?", "answer": "A.", "context": "One."},
            {"id": "q-2", "prompt": "Why?", "answer": "B.", "context": "Two."},
            {"id": "q-3", "prompt": "Why?", "answer": "C.", "context": "One."},
            {"id": "q-4", "prompt": "Why?", "answer": "D.", "context": "Two."}]
    found = read(tmp_path, rows)
    assert [prompt.meta[ANSWER_IDS] for prompt in found.prompts] == [["q-1", "q-3"], ["q-2", "q-4"]]
    assert found.prompts[0].id == "q" and found.prompts[1].id.startswith("q-") and len(found.prompts[1].id) > 8


DOCUMENTS = [{"idx": 1, "query": "Why?", "context": "One."}]
BAD = [
    ({"idx": "1-0", "query": "Why?", "answer": ""}, Reason.EMPTY, "empty"),
    ({"idx": "1-0", "query": "Why?", "answer": " \n"}, Reason.EMPTY, "empty"),
    ({"idx": "1-0", "query": "Why?", "answer": 7}, Reason.MALFORMED, "must be text"),
    ({"idx": "1-0", "query": "Why?", "answer": None}, Reason.MALFORMED, "must be text"),
    ({"idx": "1-0", "query": "Why?"}, Reason.MALFORMED, "'answer' or 'answers'"),
    ({"idx": "1-0", "query": "Why?", "answer": "A.", "answers": ["B."]}, Reason.MALFORMED, "'answer' or 'answers'"),
    ({"idx": "1-0", "query": "Why?", "answers": []}, Reason.MALFORMED, "list of texts"),
    ({"idx": "1-0", "query": "Why?", "answers": "A."}, Reason.MALFORMED, "list of texts"),
    ({"idx": "1-0", "answer": "A."}, Reason.MALFORMED, "'query' or 'prompt'"),
    ({"idx": "1-0", "query": "Why?", "prompt": "Why?", "answer": "A."}, Reason.MALFORMED, "'query' or 'prompt'"),
    ({"idx": "1-0", "query": " ", "answer": "A."}, Reason.EMPTY, "question is empty"),
    ({"idx": "1-0", "query": 5, "answer": "A."}, Reason.MALFORMED, "question must be text"),
    ({"idx": "1-0", "query": [{"role": "assistant", "content": "x"}], "answer": "A."}, Reason.EMPTY, "not the user's"),
    ({"idx": "1-0", "query": [{"role": "user"}], "answer": "A."}, Reason.MALFORMED, "'role' and 'content'"),
    ({"idx": "1-0", "query": "Why?", "answer": "A.", "context": 5}, Reason.MALFORMED, "'context' must be text"),
    ({"idx": "1-0", "query": "Why?", "answer": "A.", "context": " "}, Reason.EMPTY, "context is empty"),
    ({"idx": "1-0", "query": "Why?", "answer": "A.", "target_words": True}, Reason.MALFORMED, "'target_words'"),
    ({"idx": "1-0", "query": "Why?", "answer": "A.", "target_words": 0}, Reason.MALFORMED, "'target_words'"),
    ({"idx": "2-0", "query": "Why?", "answer": "A."}, Reason.MALFORMED, "no document for '2-0'"),
    ({"query": "Why?", "answer": "A."}, Reason.MALFORMED, "no document for 'line-2'"),
    ({"idx": "1-5", "query": "When?", "answer": "A."}, Reason.MALFORMED, "another question"),
    ({"idx": "1-9", "query": "Why?", "answer": "A."}, Reason.DUPLICATE, "stands in line 1"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD)
def test_rows_that_cannot_be_used_are_rejected_with_reason_and_line(tmp_path, row, reason, detail):
    good = {"idx": "1-9", "query": "Why?", "answer": "Good."}
    found = read(tmp_path, [good, row], DOCUMENTS)
    assert found.answers == 1
    [rejected] = found.rejected
    assert rejected.reason is reason and detail in rejected.detail and "line 2" in rejected.detail
    assert rejected.id == "answers.jsonl:2" and rejected.stage == "prompts"


def test_one_bad_answer_of_a_row_does_not_take_the_others_with_it(tmp_path):
    found = read(tmp_path, [{"id": "a", "prompt": "Why?", "answers": ["One.", "", "Three."]}])
    assert found.prompts[0].meta[ANSWER_IDS] == ["a-0", "a-2"]
    assert [row.id for row in found.rejected] == ["answers.jsonl:1#1"]


GOOD = [{"query": "Why?", "answer": "A."}, {"query": "When?", "answer": "B."}, {"prompt": "Why?", "answer": "C."},
        {"query": "Why?", "answer": "D.", "context": "One."}]
BROKEN = [{key: value for key, value in row.items() if key != "idx"} for row, reason, _ in BAD[:18]
          if reason is not Reason.DUPLICATE]


@given(st.lists(st.sampled_from([*GOOD, *BROKEN]), min_size=1, max_size=12))
def test_kept_and_rejected_are_all_that_was_read(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("answers", numbered=True)
    usable = sum(row in GOOD for row in rows)
    if not usable:
        with pytest.raises(NothingLeftError):
            read(folder, rows)
        return
    found = read(folder, rows)
    assert found.answers == usable and len(found.rejected) == len(rows) - usable
    given_texts = Counter(text for prompt in found.prompts for text in prompt.meta[ANSWERS])
    assert given_texts == Counter(row["answer"] for row in rows if row in GOOD)
    questions = {(prompt.request, prompt.context) for prompt in found.prompts}
    assert len(questions) == len(found.prompts) == len({prompt.id for prompt in found.prompts})


def test_files_that_cannot_be_read_at_all_are_told_with_their_line(tmp_path):
    row = {"query": "Why?", "answer": "A."}
    with pytest.raises(DataError, match="no such file"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no answers in it"):
        read(tmp_path, [])
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        read(tmp_path, [row, '{"query":'])
    with pytest.raises(NothingLeftError, match="none of its 1 rows") as error:
        read(tmp_path, [{"query": "Why?"}])
    assert "line 1" in (error.value.mend or "")
    with pytest.raises(DataError, match="stands there twice"):
        read(tmp_path, [row], [*DOCUMENTS, *DOCUMENTS])
    with pytest.raises(DataError, match="'context'"):
        read(tmp_path, [row], [{"idx": 1}])
    with pytest.raises(DataError, match="no answer needs it"):
        read(tmp_path, [{**row, "context": "Its own."}], DOCUMENTS)


def test_what_no_tokenizer_accepts_is_replaced_and_counted(tmp_path):
    found = read(tmp_path, [r'{"query": "Why\u0000?", "answer": "A \ud83d."}'])
    assert found.cleaned == 2 and found.prompts[0].request == "Why?" and found.prompts[0].meta[ANSWERS] == ["A \ufffd."]
