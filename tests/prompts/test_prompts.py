import json
import random
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lpo.config import PromptsConfig
from lpo.errors import DataError, NothingLeftError
from lpo.prompts import PromptSet, load_prompts, overlap, split_prompts
from lpo.records import Message, Prompt, Reason
from lpo.storage import write_jsonl


def write(folder: Path, *rows: dict[str, Any] | str, name: str = "prompts.jsonl") -> str:
    path = folder / name
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load_all(folder: Path, *rows: dict[str, Any] | str, **settings: Any) -> PromptSet:
    """Load with a held-out file of its own, so that every row of `rows` stays in the build part."""
    other = write(folder, {"prompt": "An unrelated request about tide tables."}, name="held_out.jsonl")
    return load_prompts(PromptsConfig(path=write(folder, *rows), held_out_path=other, **settings))


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def task(index: int) -> Prompt:
    nouns = ["amber", "bridge", "copper", "dune", "ember", "fjord", "grove", "harbour", "inlet", "juniper"]
    words = random.Random(index).choices(nouns, k=9)
    return Prompt(id=str(index), prompt=f"Write {chr(97 + index % 26) * (3 + index // 26)} about {' '.join(words)}")


# Formats


def test_own_format_fills_every_field(tmp_path: Path) -> None:
    row = {"id": "a-1", "prompt": "Write 90 words on rain.", "kind": "essay", "target_words": 90, "language": "en",
           "source": {"page": 3}}
    [prompt] = load_all(tmp_path, row).build
    assert prompt == Prompt(id="a-1", prompt=user("Write 90 words on rain."), target_words=90,
                            meta={"kind": "essay", "language": "en", "source": {"page": 3}})


def test_longbench_write_columns_become_target_and_kind(tmp_path: Path) -> None:
    rows = [{"prompt": "写一篇500字的游记", "type": "Literature", "length": 500},
            {"prompt": "Write 200 words on reading.", "type": "Popular Science", "length": 200}]
    chinese, english = load_all(tmp_path, *rows).build
    assert (chinese.target_words, chinese.meta) == (500, {"kind": "Literature", "language": "zh"})
    assert (english.target_words, english.meta) == (200, {"kind": "Popular Science", "language": "en"})
    assert chinese.prompt == user("写一篇500字的游记")


def test_length_without_type_is_no_target(tmp_path: Path) -> None:
    [prompt] = load_all(tmp_path, {"prompt": "Write about rain.", "length": 71}).build
    assert prompt.target_words is None
    assert prompt.meta["length"] == 71


def test_messages_are_kept_and_the_rest_goes_to_meta(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Write on rain."},
                {"role": "assistant", "content": "Rain."}, {"role": "user", "content": "Longer.", "name": None}]
    [prompt] = load_all(tmp_path, {"prompt": messages, "score": 0.5, "context": "A page on weather."}).build
    assert [message.role for message in prompt.prompt if isinstance(message, Message)] == \
        ["system", "user", "assistant", "user"]
    assert prompt.context == "A page on weather."
    assert prompt.meta == {"score": 0.5, "language": "en"}
    assert prompt.id.startswith("p-")


def test_plain_text_is_left_as_text_only_when_asked_for(tmp_path: Path) -> None:
    row = {"prompt": "The harbour was quiet until"}
    assert load_all(tmp_path, row).build[0].prompt == user("The harbour was quiet until")
    assert load_all(tmp_path, row, plain_text=True).build[0].prompt == "The harbour was quiet until"


def test_prompt_records_survive_a_round_trip(tmp_path: Path) -> None:
    originals = load_prompts(PromptsConfig()).build
    path = tmp_path / "copy.jsonl"
    write_jsonl(path, [prompt.to_json() for prompt in originals])
    again = load_prompts(PromptsConfig(path=str(path)))
    assert again.build == originals and not again.held_out


def test_hub_dataset_is_read_with_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "essays"
    folder.mkdir()
    for split, words in (("train", 100), ("test", 200)):
        rows = [{"prompt": f"Write {words} words on {topic}.", "target_words": words if topic == "rain" else None}
                for topic in ("rain", "salt", "clocks", "mirrors", "yeast", "ferries")]
        write(folder, *rows, name=f"{split}.jsonl")
    train = load_prompts(PromptsConfig(path=f"hub:{folder}"))
    test = load_prompts(PromptsConfig(path=f"hub:{folder}:test"))
    targets = {prompt.request: prompt.target_words for prompt in (*train.build, *train.held_out)}
    assert targets["Write 100 words on rain."] == 100 and targets["Write 100 words on salt."] is None
    assert len(targets) == 6
    assert {prompt.request.split()[1] for prompt in (*test.build, *test.held_out)} == {"200"}


def test_missing_hub_dataset_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_prompts(PromptsConfig(path=f"hub:{tmp_path / 'nothing'}"))
    assert caught.value.where == f"hub:{tmp_path / 'nothing'}" and caught.value.mend


def test_values_json_cannot_hold_are_made_plain(tmp_path: Path) -> None:
    [prompt] = load_all(tmp_path, '{"prompt": "Write on rain.", "target_words": NaN, "score": NaN}\n').build
    assert prompt.target_words is None and prompt.meta["score"] is None
    json.dumps(prompt.to_json(), allow_nan=False)


# Bad input


@pytest.mark.parametrize(("row", "reason", "says"), [
    ({"prompt": ""}, Reason.EMPTY, "empty"),
    ({"prompt": " \n\t"}, Reason.EMPTY, "empty"),
    ({"prompt": "\0"}, Reason.EMPTY, "empty"),
    ({"prompt": []}, Reason.EMPTY, "list of messages is empty"),
    ({"prompt": [{"role": "user", "content": "  "}]}, Reason.EMPTY, "user's message is empty"),
    ({"query": "Write on rain."}, Reason.MALFORMED, "no 'prompt' (columns: query)"),
    ({"prompt": None}, Reason.MALFORMED, "no 'prompt'"),
    ({"prompt": 7}, Reason.MALFORMED, "text or a list of messages"),
    ({"prompt": ["Write on rain."]}, Reason.MALFORMED, "'role'"),
    ({"prompt": [{"role": "tool", "content": "x"}]}, Reason.MALFORMED, "'role'"),
    ({"prompt": [{"role": "user", "content": "x", "image": "y"}]}, Reason.MALFORMED, "two keys"),
    ({"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, Reason.MALFORMED,
     "last message must be the user's"),
    ({"prompt": "Write on salt.", "target_words": 0}, Reason.MALFORMED, "target_words"),
    ({"prompt": "Write on salt.", "target_words": -5}, Reason.MALFORMED, "target_words"),
    ({"prompt": "Write on salt.", "target_words": 10.5}, Reason.MALFORMED, "target_words"),
    ({"prompt": "Write on salt.", "target_words": "300"}, Reason.MALFORMED, "target_words"),
    ({"prompt": "Write on salt.", "target_words": True}, Reason.MALFORMED, "target_words"),
    ('{"prompt": "Write on salt.", "target_words": 1e999}\n', Reason.MALFORMED, "target_words"),
    ({"prompt": "Write on salt.", "context": ["a"]}, Reason.MALFORMED, "context"),
    ({"prompt": "  write ON rain. "}, Reason.DUPLICATE, "stands in line 1"),
])
def test_a_bad_row_is_rejected_with_reason_and_line(
    tmp_path: Path, row: dict[str, Any] | str, reason: Reason, says: str
) -> None:
    prompts = load_all(tmp_path, {"prompt": "Write on rain."}, row, {"prompt": "Write on clocks."})
    assert [prompt.request for prompt in prompts.build] == ["Write on rain.", "Write on clocks."]
    [rejected] = prompts.rejected
    assert (rejected.stage, rejected.id, rejected.reason) == ("prompts", "prompts.jsonl:2", reason)
    assert rejected.detail.startswith("line 2: ") and says in rejected.detail


def test_every_row_is_kept_rejected_or_filtered(tmp_path: Path) -> None:
    rows = [{"prompt": f"Write {n} words on subject {'abcdefghij'[n % 10] * (n + 1)}.", "target_words": n + 1}
            for n in range(40)]
    bad = [{"prompt": ""}, {"prompt": 3}, rows[7]]
    prompts = load_prompts(PromptsConfig(path=write(tmp_path, *rows, *bad), max_words=30, limit=5))
    counts = len(prompts.build) + len(prompts.held_out) + len(prompts.rejected) + sum(prompts.filtered.values())
    assert counts == len(rows) + len(bad)
    assert Counter(row.reason for row in prompts.rejected) == {Reason.EMPTY: 1, Reason.MALFORMED: 1,
                                                               Reason.DUPLICATE: 1}
    assert prompts.filtered["max_words"] == 10 and len(prompts.build) == 5


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 is not valid JSON") as caught:
        load_all(tmp_path, {"prompt": "Write on rain."}, '{"prompt": "cut\n', {"prompt": "Write on salt."})
    assert str(caught.value.where).endswith("prompts.jsonl:2")


def test_missing_files_folders_and_empty_files_are_data_errors(tmp_path: Path) -> None:
    for path, says in ((str(tmp_path / "none.jsonl"), "no such file"), (str(tmp_path), "folder"),
                       (write(tmp_path, "", name="empty.jsonl"), "no prompts in it"),
                       (write(tmp_path, "\n \n", name="blank.jsonl"), "no prompts in it")):
        with pytest.raises(DataError, match=says) as caught:
            load_prompts(PromptsConfig(path=path))
        assert caught.value.mend


def test_when_no_row_can_be_used_the_reasons_are_counted(tmp_path: Path) -> None:
    with pytest.raises(NothingLeftError, match=r"3 rows .*empty 1, malformed 2") as caught:
        load_all(tmp_path, {"prompt": ""}, {"text": "a"}, {"text": "b"})
    assert "line 1" in str(caught.value.mend)


def test_two_prompts_with_one_id_are_an_error_that_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lines 1 and 3 have the same id '7'"):
        load_all(tmp_path, {"id": 7, "prompt": "Rain."}, {"id": 8, "prompt": "Salt."}, {"id": "7", "prompt": "Clocks."})


def test_filters_that_leave_nothing_say_which(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt is left") as caught:
        load_all(tmp_path, {"prompt": "Write 900 words on rain.", "target_words": 900}, max_words=100)
    assert "prompts.max_words set 2 aside" in str(caught.value.mend)


def test_text_is_cleaned_at_the_door_and_counted(tmp_path: Path) -> None:
    prompts = load_all(tmp_path, r'{"prompt": "Half an emoji \ud83d and a \u0000 NUL", "note": "\udc00"}' "\n")
    [prompt] = prompts.build
    assert prompt.request == "Half an emoji \ufffd and a  NUL"
    assert prompt.meta["note"] == "\ufffd"
    assert prompts.cleaned == 3
    json.dumps(prompt.to_json(), ensure_ascii=False).encode()


def test_bom_crlf_and_line_separators_do_not_break_lines(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    long = "\u200fשלום 👩‍👩‍👧 " + "a" * 100_000
    path.write_bytes(f'\ufeff{{"prompt": "One \u2028 two \u0085 three"}}\r\n{{"prompt": "{long}"}}\r\n'.encode())
    other = write(tmp_path, {"prompt": "Something else."}, name="other.jsonl")
    first, second = load_prompts(PromptsConfig(path=str(path), held_out_path=other)).build
    assert first.request == "One \u2028 two \u0085 three"
    assert len(second.request) > 100_000


# Split, filters, identity


def test_adding_removing_and_shuffling_prompts_moves_none() -> None:
    prompts = [task(index) for index in range(200)]
    build, held_out = split_prompts(prompts)
    side = {prompt.id: "build" for prompt in build} | {prompt.id: "held_out" for prompt in held_out}
    shuffled = random.Random(0).sample(prompts, 120)
    build_again, held_out_again = split_prompts(shuffled)
    assert all(side[prompt.id] == "build" for prompt in build_again)
    assert all(side[prompt.id] == "held_out" for prompt in held_out_again)
    assert [prompt.id for prompt in build] == sorted((prompt.id for prompt in build), key=int)


def test_about_one_prompt_in_four_is_held_out() -> None:
    _, held_out = split_prompts([task(index) for index in range(2000)])
    assert 440 < len(held_out) < 560  # 500 +- 3 standard deviations of a fair draw


def test_the_same_task_at_several_lengths_stays_on_one_side() -> None:
    for index in range(30):
        variants = [Prompt(id=f"{index}-{n}", prompt=f"{task(index).request}, in {n:,} words")
                    for n in (100, 2000, 30000)]
        build, held_out = split_prompts(variants)
        assert not build or not held_out


def test_held_out_file_overrides_the_split(tmp_path: Path) -> None:
    rows = [{"prompt": task(index).prompt} for index in range(40)]
    other = write(tmp_path, {"prompt": "Tides."}, {"prompt": "Moss."}, name="other.jsonl")
    prompts = load_prompts(PromptsConfig(path=write(tmp_path, *rows), held_out_path=other))
    assert len(prompts.build) == 40
    assert [prompt.request for prompt in prompts.held_out] == ["Tides.", "Moss."]


def test_limit_cuts_the_build_part_only() -> None:
    everything = load_prompts(PromptsConfig())
    limited = load_prompts(PromptsConfig(limit=3))
    assert limited.build == everything.build[:3]
    assert limited.held_out == everything.held_out
    assert limited.filtered == {"limit": len(everything.build) - 3}


def test_language_and_length_filters_apply_to_both_parts() -> None:
    prompts = load_prompts(PromptsConfig(language="zh", max_words=150))
    assert prompts.build and prompts.held_out
    for prompt in (*prompts.build, *prompts.held_out):
        assert prompt.meta["language"] == "zh"
        assert prompt.target_words is not None and prompt.target_words <= 150


def test_a_language_under_another_name_is_kept_and_the_script_decides(tmp_path: Path) -> None:
    prompts = load_all(tmp_path, {"prompt": "Rain.", "language": "English"}, {"prompt": "雨。", "language": "Chinese"},
                       language="en")
    assert [prompt.meta["language"] for prompt in prompts.build] == ["English"]
    assert prompts.filtered == {"language": 1}


def test_prompts_without_a_length_do_not_pass_max_words(tmp_path: Path) -> None:
    prompts = load_all(tmp_path, {"prompt": "Write on rain."}, {"prompt": "40 words on salt.", "target_words": 40},
                       max_words=100)
    assert [prompt.request for prompt in prompts.build] == ["40 words on salt."]


def test_ids_made_from_the_text_are_stable_and_differ(tmp_path: Path) -> None:
    first = load_all(tmp_path, {"prompt": "Rain."}, {"prompt": "Salt."}).build
    second = load_all(tmp_path, {"prompt": "Salt."}, {"prompt": "Rain."}).build
    assert {prompt.request: prompt.id for prompt in first} == {prompt.request: prompt.id for prompt in second}
    assert first[0].id != first[1].id


# Overlap


def test_overlap_finds_equal_and_nearly_equal_prompts_only() -> None:
    long = ("Write a guide for parents who want to set up a walking school bus: choosing the route, finding adults, "
            "rules at the kerb, rain, the first week and what to do when enthusiasm fades again")
    build = [Prompt(id="b1", prompt="Write 500 words on why the sea is salt."), Prompt(id="b2", prompt=user(long)),
             Prompt(id="b3", prompt="以“等”为题写一篇随笔，可以从电梯口、医院走廊或灶台边写起。")]
    held_out = [Prompt(id="h1", prompt="write 2,000 words on WHY the sea is salt!"),
                Prompt(id="h2", prompt=long.replace("parents", "grandparents") + " soon."),
                Prompt(id="h3", prompt="以等为题写一篇随笔，可以从电梯口、医院走廊或灶台边写起吧"),
                Prompt(id="h4", prompt="Write 500 words on why the sky is blue.")]
    assert overlap(build, held_out) == [("b1", "h1"), ("b2", "h2"), ("b3", "h3")]
    assert overlap(build, []) == [] and overlap([], held_out) == []


def test_overlap_agrees_with_comparing_every_pair_of_sets() -> None:
    rng = random.Random(1)
    vocabulary = [f"word{chr(97 + n)}" for n in range(26)]
    texts = [rng.choices(vocabulary, k=12) for _ in range(60)]
    for words in list(texts):  # near copies: one word changed at either end, or in the middle
        copy = list(words)
        copy[rng.choice([0, 5, 11])] = rng.choice(vocabulary)
        texts.append(copy)
    prompts = [Prompt(id=str(index), prompt=" ".join(words)) for index, words in enumerate(texts)]

    def grams(prompt: Prompt) -> set[tuple[str, str, str]]:
        words = unicodedata.normalize("NFKC", prompt.request).split()
        return set(zip(words, words[1:], words[2:], strict=False))

    build, held_out = prompts[:60], prompts[60:]
    expected = {(a.id, b.id) for a in build for b in held_out
                if len(grams(a) & grams(b)) >= 0.8 * len(grams(a) | grams(b))}
    assert 10 < len(expected) < 60
    assert set(overlap(build, held_out)) == expected


# The built-in set


def test_built_in_set_has_what_the_quickstart_needs() -> None:
    prompts = load_prompts(PromptsConfig(language="en", max_words=150))
    assert len(prompts.build) >= 8 and len(prompts.held_out) >= 8
    kinds = {prompt.meta["kind"] for prompt in prompts.held_out}
    assert kinds == {"story", "report", "guide", "news", "letter", "essay", "speech", "review"}


def test_built_in_set_is_even_clean_and_names_its_lengths() -> None:
    prompts = load_prompts(PromptsConfig())
    everything = (*prompts.build, *prompts.held_out)
    assert not prompts.rejected and not prompts.cleaned and not prompts.filtered
    assert len(everything) == 56
    assert Counter(prompt.meta["language"] for prompt in everything) == {"en": 40, "zh": 16}
    assert set(Counter(prompt.meta["kind"] for prompt in everything).values()) == {7}
    for prompt in everything:
        assert prompt.target_words is not None and 80 <= prompt.target_words <= 2000
        assert str(prompt.target_words) in prompt.request.replace(",", ""), prompt.id
        has_han = any("\u4e00" <= char <= "\u9fff" for char in prompt.request)
        assert prompt.meta["language"] == ("zh" if has_han else "en")
        assert prompt.id.startswith(f"{prompt.meta['language']}-{prompt.meta['kind']}-")


def test_no_two_built_in_prompts_are_alike() -> None:
    prompts = load_prompts(PromptsConfig())
    everything = [*prompts.build, *prompts.held_out]
    assert overlap(everything, everything) == [(prompt.id, prompt.id) for prompt in everything]
