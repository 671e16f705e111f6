"""General preference data: every form of row, and how much of it is taken."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.errors import DataError
from lpo.pair_builders.mixing import mix, read_general
from lpo.records import Message, PreferencePair, Reason

ASKED = {"role": "user", "content": "Name a colour."}
EARLIER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
           {"role": "assistant", "content": "Hi"}, ASKED]


def said(text):
    return {"role": "assistant", "content": text}


def read(tmp_path, *rows, **options):
    path = tmp_path / "general.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_general(str(path), **options)


@pytest.mark.parametrize(("row", "prompt"), [
    ({"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Dog."}, [ASKED]),
    ({"prompt": [ASKED], "chosen": "Red.", "rejected": "Dog."}, [ASKED]),
    ({"prompt": [ASKED], "chosen": [said("Red.")], "rejected": [said("Dog.")]}, [ASKED]),
    ({"prompt": "Name a colour.", "chosen": [said("Red.")], "rejected": [said("Dog.")]}, [ASKED]),
    ({"prompt": "Name a colour.", "chosen": [ASKED, said("Red.")], "rejected": [ASKED, said("Dog.")]}, [ASKED]),
    ({"chosen": [ASKED, said("Red.")], "rejected": [ASKED, said("Dog.")]}, [ASKED]),
    ({"chosen": [*EARLIER, said("Red.")], "rejected": [*EARLIER, said("Dog.")]}, EARLIER),
    ({"prompt": EARLIER, "chosen": [*EARLIER, said("Red.")], "rejected": [*EARLIER, said("Dog.")]}, EARLIER),
    ({"prompt": " Name a\ncolour.", "chosen": [*EARLIER, said("Red.")], "rejected": [*EARLIER, said("Dog.")]}, EARLIER),
    ({"prompt": "Name a colour.", "prompt_id": "x", "score_chosen": 8.0, "score_rejected": 3, "tools": None,
      "chosen": [{**ASKED, "name": None}, said("Red.")], "rejected": [ASKED, said("Dog.")]}, [ASKED]),
])
def test_every_form_of_row_becomes_the_same_pair(tmp_path, row, prompt):
    general = read(tmp_path, row)
    assert not general.rejected
    [pair] = general.pairs
    assert pair.prompt == tuple(Message.model_validate(message) for message in prompt)
    assert (pair.chosen, pair.rejected, pair.prefix) == ("Red.", "Dog.", "")
    assert pair.chosen_ends and pair.rejected_ends and pair.method == "general"
    assert pair.provenance["line"] == 1


def test_a_text_prompt_stays_plain_where_the_run_says_so(tmp_path):
    row = {"prompt": "The sky is", "chosen": " blue", "rejected": " loud"}
    assert read(tmp_path, row, plain_text=True).pairs[0].prompt == "The sky is"
    assert read(tmp_path, row).pairs[0].prompt == (Message(role="user", content="The sky is"),)


CASES = [
    ({"prompt": "p", "chosen": "a"}, Reason.MALFORMED, "no 'rejected'"),
    ({"prompt": "p", "chosen": "a", "rejected": None}, Reason.MALFORMED, "no 'rejected'"),
    ({"prompt": "p", "chosen": 3, "rejected": "b"}, Reason.MALFORMED, "text or a list"),
    ({"prompt": "p", "chosen": [], "rejected": "b"}, Reason.MALFORMED, "text or a list"),
    ({"prompt": "p", "chosen": ["a"], "rejected": "b"}, Reason.MALFORMED, "role"),
    ({"prompt": "p", "chosen": [{"role": "bot", "content": "a"}], "rejected": "b"}, Reason.MALFORMED, "role"),
    ({"prompt": "p", "chosen": [ASKED], "rejected": [said("b")]}, Reason.MALFORMED, "must be the assistant's"),
    ({"prompt": 5, "chosen": "a", "rejected": "b"}, Reason.MALFORMED, "'prompt'"),
    ({"chosen": "a b", "rejected": "a c"}, Reason.MALFORMED, "no 'prompt'"),
    ({"chosen": [said("a")], "rejected": [said("b")]}, Reason.MALFORMED, "no 'prompt'"),
    ({"chosen": [ASKED, said("a")], "rejected": [{"role": "user", "content": "Else?"}, said("b")]}, Reason.MALFORMED,
     "differ"),
    ({"chosen": [ASKED, said("a")], "rejected": [said("b")]}, Reason.MALFORMED, "differ"),
    ({"prompt": "Else?", "chosen": [ASKED, said("a")], "rejected": [ASKED, said("b")]}, Reason.MALFORMED, "hold the"),
    ({"prompt": [said("x")], "chosen": "a", "rejected": "b"}, Reason.MALFORMED, "must be the user's"),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "images": ["x"]}, Reason.MALFORMED, "'images'"),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, Reason.MALFORMED,
     "lower"),
    *(({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": number, "score_rejected": 2}, Reason.MALFORMED,
       "numbers") for number in (float("inf"), float("nan"), True)),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": "1", "score_rejected": 2}, Reason.MALFORMED,
     "numbers"),
    ({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 2.0}, Reason.TIE, "score 2"),
    ({"prompt": "p", "chosen": "a  b", "rejected": "a b\n"}, Reason.EQUAL_TEXTS, "same"),
    ({"prompt": "p", "chosen": "a", "rejected": " "}, Reason.EMPTY, "no text"),
    ({"prompt": " ", "chosen": "a", "rejected": "b"}, Reason.EMPTY, "prompt"),
    ({"prompt": [{"role": "user", "content": ""}], "chosen": "a", "rejected": "b"}, Reason.EMPTY, "message"),
    ({"prompt": "Sound?", "chosen": "yes", "rejected": "no"}, Reason.DUPLICATE, "line 1"),
]


def test_rows_that_are_no_preference_are_rejected_each_with_its_reason_and_line(tmp_path):
    sound = {"prompt": "Sound?", "chosen": "yes", "rejected": "no"}
    general = read(tmp_path, sound, *(row for row, _, _ in CASES), {**sound, "rejected": "perhaps"})
    assert [pair.rejected for pair in general.pairs] == ["no", "perhaps"]
    for line, (rejected, (row, reason, detail)) in enumerate(zip(general.rejected, CASES, strict=True), start=2):
        assert (rejected.reason, rejected.id) == (reason, f"general.jsonl:{line}"), row
        assert detail in rejected.detail and f"line {line}" in rejected.detail and rejected.stage == "build", row


def test_every_pair_is_a_group_of_its_own(tmp_path):
    general = read(tmp_path, *({"prompt": "p", "chosen": f"a{i}", "rejected": "b", "id": "same", "group": "same"}
                               for i in range(5)))
    assert len({pair.group for pair in general.pairs}) == len({pair.id for pair in general.pairs}) == 5


def test_texts_are_cleaned_at_the_door(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a\\ud83d", "rejected": "b\\u0000"}\n')
    general = read_general(str(path))
    assert (general.pairs[0].chosen, general.pairs[0].rejected, general.cleaned) == ("a�", "b", 2)


def test_a_data_set_of_the_hub_is_read_like_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"prompt": "Name a colour.", "chosen": [ASKED, said("Red.")], "rejected": [ASKED, said(text)]}
            for text in ("Dog.", "Red.")]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    general = read_general(f"hub:{tmp_path / 'set'}")
    assert [pair.rejected for pair in general.pairs] == ["Dog."]
    assert [row.reason for row in general.rejected] == [Reason.EQUAL_TEXTS]


@pytest.mark.parametrize(("path", "said_"), [("nowhere.jsonl", "no such file"), (".", "folder")])
def test_a_source_that_is_not_there_is_named(path, said_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said_):
        read_general(path)


# How many


def some(count: int) -> list[PreferencePair]:
    return [PreferencePair(id=f"g{i}", group=f"g{i}", prompt="p", chosen=f"a{i}", rejected="b") for i in range(count)]


MANY = some(400)


@settings(deadline=None)
@given(st.integers(0, 60), st.floats(0.01, 0.8), st.integers(0, 400), st.integers(0, 99))
def test_the_share_is_as_near_as_whole_numbers_and_the_data_allow(built, ratio, available, seed):
    general = MANY[:available]
    taken = mix(built, general, ratio, seed)
    assert taken == [pair for pair in general if pair in taken], "in the given order, none twice"
    if not built:
        assert not taken
        return
    misses = [abs(Fraction(count, count + built) - Fraction(ratio)) for count in range(available + 1)]
    assert float(misses[len(taken)] - min(misses)) < 1e-12


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    first = mix(30, MANY, 0.25, seed=1)
    assert len(first) == 10
    assert {pair.id for pair in mix(30, MANY[::-1], 0.25, seed=1)} == {pair.id for pair in first}
    assert mix(30, MANY, 0.25, seed=2) != first
    assert {pair.id for pair in first} < {pair.id for pair in mix(60, MANY, 0.25, seed=1)}, "more of them, none dropped"
    counts = [sum(pair.id == "g7" for pair in mix(30, MANY[:40], 0.25, seed)) for seed in range(400)]
    assert 65 < sum(counts) < 135  # a quarter of 400 draws; the deviation is 8.7
