"""`lpo pairs`: other pairs from the trees of a finished build, without a call."""

import json
import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from finished_runs import finished_run
from run_lpo import lpo, write_config, write_prompts
from scripted_server import ScriptedServer
from tiny_models import make_model, make_tokenizer

from lpo.errors import ConfigError, DataError, LpoError, NothingLeftError
from lpo.llm.journal_file import Entry, JournalFile, Outcome
from lpo.pair_builders.pairs import Derived, derive_pairs
from lpo.prompts import load_prompts
from lpo.records import (
    PreferencePair,
    Reason,
    RejectedRow,
    SearchTree,
    Usage,
)
from lpo.run.directory import RunDirectory, Stage
from lpo.run.pairing import compare, derive
from lpo.run.pipeline import load_config
from lpo.storage import append_jsonl, read_json, read_jsonl, write_jsonl
from lpo.words import count_words

RULES = ("random_consistent", "worst", "vetoed", "margin")
@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    make_model("qwen2", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return finished_run(tmp_path)


def derived_again(run: RunDirectory, **rules: object) -> list[Derived]:
    """The pairs of every tree, each asked for by itself."""
    trees = [SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")]
    config = load_config(str(run / "config.yaml"))
    return [derive_pairs(tree, config.build.pairs.model_copy(update=rules)) for tree in trees]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith("journal.sqlite-")}


# Comparing


def test_without_a_rule_all_rules_stand_side_by_side_and_nothing_is_written(run):
    before = content(run.path)
    lines = derive(str(run.path), {"per_layer": 2, "min_margin": 0.1})
    assert content(run.path) == before
    assert [line.split()[0] for line in lines[1:5]] == list(RULES)
    for rule, line in zip(RULES, lines[1:5], strict=True):
        derived = derived_again(run, rejected=rule, per_layer=2, min_margin=0.1)
        pairs = [pair for one in derived for pair in one.pairs]
        margins = [pair.margin for pair in pairs if pair.margin is not None]
        rejected = [row for one in derived for row in one.rejected]
        layers = 3 * len(derived)
        cells = line.split(maxsplit=5)
        assert cells[1:3] == [str(len(pairs)), f"{layers - len(rejected)}/{layers}"]
        assert float(cells[3]) == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        longer = [count_words(pair.chosen) - count_words(pair.rejected) for pair in pairs]
        assert float(cells[4]) == pytest.approx(sum(longer) / len(longer), abs=0.051) and cells[4][0] in "+-"
        assert sum(int(part.split(": ")[1]) for part in cells[5].split(", ")) == len(rejected)
    assert "per_layer 2" in lines[-1] and "no call" in lines[-1]


def test_the_released_pairs_are_compared_for_a_run_of_the_released_method(tmp_path):
    run = finished_run(tmp_path, method="longdpo_released")
    lines = derive(str(run.path), {})
    assert [line.split()[0] for line in lines[1:6]] == ["released", *RULES]
    assert lines[1].split()[1] == str(len(read_jsonl(run / "pairs.jsonl")))


def test_trees_are_read_one_at_a_time(tmp_path):
    run = finished_run(tmp_path)
    config = load_config(str(run / "config.yaml"))
    rows = read_jsonl(run / "trees.jsonl")
    write_jsonl(run / "trees.jsonl", rows * 40)
    tracemalloc.start()
    compare(run, config.build)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (run / "trees.jsonl").stat().st_size / 2


# Writing


def test_the_runs_own_rule_gives_the_runs_own_files(run):
    own = load_config(str(run / "config.yaml")).build.pairs.rejected
    lines = derive(str(run.path), {"rejected": own})
    assert (run / f"pairs.{own}.jsonl").read_bytes() == (run / "pairs.jsonl").read_bytes()
    assert (run / f"rejected_rows.{own}.jsonl").read_bytes() == (run / "rejected_rows.jsonl").read_bytes()
    assert lines[-1] == f"written: {run / f'pairs.{own}.jsonl'}"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_writes_its_pairs_and_why_others_are_missing(run, rule):
    derive(str(run.path), {"rejected": rule, "layers": "best_path"})
    pairs = [PreferencePair.model_validate(row) for row in read_jsonl(run / f"pairs.{rule}.jsonl")]
    rows = [RejectedRow.model_validate(row) for row in read_jsonl(run / f"rejected_rows.{rule}.jsonl")]
    expected = derived_again(run, rejected=rule, layers="best_path")
    assert pairs == [pair for one in expected for pair in one.pairs] != []
    assert [row.stage for row in rows] == ["prompts"] + ["build"] * (len(rows) - 1)
    assert rows[1:] == [row for one in expected for row in one.rejected]
    assert len({pair.provenance["parent"] + pair.group for pair in pairs}) + len(rows) - 1 == 3 * len(expected)
    assert Reason.OFF_PATH in {row.reason for row in rows}


def test_making_the_build_again_takes_derived_pairs_away(run):
    derive(str(run.path), {"rejected": "worst"})
    run.discard(Stage.BUILD)
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "manifest.json", "journal.sqlite"}


# A run of its own


def test_a_new_run_has_everything_a_build_leaves_and_another_rule(run):
    before = content(run.path)
    derive(str(run.path), {"rejected": "worst", "min_margin": 0.2}, name="second")
    assert content(run.path) == before
    new = RunDirectory(run.path.parent / "second")
    assert {path.name for path in new.path.iterdir()} == {
        "config.yaml", "manifest.json", "journal.sqlite", "trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl",
        "build.json"}
    config = load_config(str(new / "config.yaml"))
    old = load_config(str(run / "config.yaml"))
    assert (config.name, config.build.pairs.rejected, config.build.pairs.min_margin) == ("second", "worst", 0.2)
    pairs = old.build.pairs.model_copy(update={"rejected": "worst", "min_margin": 0.2})
    build = old.build.model_copy(update={"pairs": pairs})
    assert config == old.model_copy(update={"name": "second", "build": build})
    assert config.run_dir == new.path
    expected = derived_again(run, rejected="worst", min_margin=0.2)
    assert read_jsonl(new / "trees.jsonl") == [one.tree.to_json() for one in expected]
    assert read_jsonl(new / "pairs.jsonl") == [pair.to_json() for one in expected for pair in one.pairs]
    counts = read_json(new / "build.json")
    assert counts["pairs"] == len(read_jsonl(new / "pairs.jsonl"))
    assert sum(counts["rejected"].values()) == len(read_jsonl(new / "rejected_rows.jsonl"))
    assert counts["layers"] == 3 * counts["trees"] and counts["usage"]["calls"] == 0
    assert new.stage_entry(Stage.BUILD)["derived_from"] == "first"


def test_a_new_run_has_the_replies_but_not_the_bill(run):
    derive(str(run.path), {"rejected": "worst"}, name="second")
    copy, original = (JournalFile(folder / "journal.sqlite") for folder in (run.path.parent / "second", run.path))
    assert copy.read("k" * 64) == original.read("k" * 64) != None  # noqa: E711
    assert copy.calls() == original.calls()
    assert (copy.spent().tokens_out, original.spent().tokens_out) == (0, 7)
    copy.write([Entry("m" * 64, "step", Outcome.ANSWER, Usage(calls=1), "{}")])
    assert original.read("m" * 64) is None and original.entries() == 1
    copy.close()
    original.close()


def test_a_new_run_does_not_need_a_journal(run):
    (run / "journal.sqlite").unlink()
    derive(str(run.path), {"rejected": "worst"}, name="second")
    assert not (run.path.parent / "second" / "journal.sqlite").exists()
    assert RunDirectory(run.path.parent / "second").is_complete(Stage.BUILD)


def test_a_new_run_stands_beside_the_old_one_wherever_that_was_moved(run, tmp_path):
    moved = tmp_path / "elsewhere" / "first"
    shutil.move(run.path, moved)
    derive(str(moved), {"rejected": "worst"}, name="second")
    assert load_config(str(moved.parent / "second" / "config.yaml")).run_dir == moved.parent / "second"


def test_the_new_run_trains_without_a_build(run, model_folder):
    folder = run.path.parent.parent
    values = run.stored_values()
    values["policy"] |= {"model": str(model_folder), "chat_template": "plain"}
    values["train"] |= {"sample_prompts": 0, "args": {"max_steps": 2, "per_device_train_batch_size": 1}}
    write_config(run / "config.yaml", values)
    made = lpo("pairs", run.path, "--rule", "margin", "--per-layer", "2", "--name", "second", cwd=folder)
    assert made.returncode == 0, made.stderr
    config = folder / "runs" / "second" / "config.yaml"
    assert made.stdout.endswith(f"train on them: lpo run {config}\n")
    trained = lpo("train", config, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((config.parent / "train.json").read_text())
    assert summary["pairs"] == len(read_jsonl(config.parent / "pairs.jsonl"))
    prompts_hash = RunDirectory(config.parent).manifest["prompts_hash"]
    with pytest.raises(ConfigError, match=r"build\.pairs\.min_margin: 0\.01 -> 0\.5"):
        RunDirectory(config.parent).adopt(load_config(str(config), ["build.pairs.min_margin=0.5"]), prompts_hash)


def test_the_new_run_is_what_its_own_build_would_have_made(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", 5)
    with ScriptedServer() as server:
        model = {"backend": "openai", "model": "scripted", "base_url": server.url}
        config = write_config(tmp_path / "run.yaml", {
            "name": "first", "prompts": {"path": "prompts.jsonl"}, "policy": model,
            "judge": {**model, "method": "json"},
            "build": {"branching": 3, "depth": 2, "step_tokens": 60, "search": {"num_paths": 2}}})
        built = lpo("build", config, cwd=tmp_path)
        assert built.returncode == 0, built.stderr
    made = lpo("pairs", "first", "--rule", "worst", "--per-layer", "2", "--name", "second", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    second = tmp_path / "runs" / "second"
    files = {name: (second / name).read_bytes() for name in ("trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl")}
    counts = read_json(second / "build.json")
    again = lpo("build", second / "config.yaml", "--redo", "build", cwd=tmp_path)  # there is no server any more
    assert again.returncode == 0, again.stderr
    assert {name: (second / name).read_bytes() for name in files} == files
    rebuilt = read_json(second / "build.json")
    clocked = ("usage", "usage_by_purpose")
    assert {name: rebuilt[name] for name in rebuilt if name not in clocked} == {
        name: counts[name] for name in counts if name not in clocked}
    assert rebuilt["usage"]["calls"] == 0


# General data


def test_general_data_is_mixed_in_as_a_build_would(tmp_path):
    general = tmp_path / "general.jsonl"
    prompts = load_prompts(load_config(str(finished_run(tmp_path) / "config.yaml")).prompts)
    rows = [{"prompt": f"Explain topic {'abcdefghij'[i % 10] * 3} number {i}.", "chosen": f"good {i}",
             "rejected": f"bad {i}"} for i in range(200)]
    rows.append({"prompt": prompts.held_out[0].request, "chosen": "leak", "rejected": "no"})
    write_jsonl(general, rows)
    run = finished_run(tmp_path, mix={"path": str(general), "ratio": 0.25})
    lines = derive(str(run.path), {"rejected": "margin"}, name="second")
    pairs = read_jsonl(run.path.parent / "second" / "pairs.jsonl")
    taken = [pair for pair in pairs if pair["method"] == "general"]
    built = [pair for pair in pairs if pair["method"] == "longdpo"]
    assert pairs == built + taken and len(taken) == round(len(built) / 3)
    rejected = read_jsonl(run.path.parent / "second" / "rejected_rows.jsonl")
    assert rejected[-1]["reason"] == "held_out" and "leak" not in {pair["chosen"] for pair in taken}
    assert any("mixed in" in line for line in lines)
    assert read_json(run.path.parent / "second" / "build.json")["mixed"]["taken"] == len(taken)


# What can be wrong


@pytest.mark.parametrize(("options", "where", "said"), [
    ({"rejected": "worts"}, "--rule", "did you mean 'worst'"),
    ({"chosen": "best"}, "--chosen", "best_"),
    ({"layers": "some"}, "--layers", "all, best_path"),
    ({"min_margin": 0.0}, "--min-margin", "greater than 0"),
    ({"min_margin": float("nan")}, "--min-margin", "nan"),
    ({"per_layer": 0}, "--per-layer", "greater than 0"),
])
def test_a_wrong_option_is_named_with_the_nearest_right_one(run, options, where, said):
    with pytest.raises(ConfigError) as caught:
        derive(str(run.path), options)
    assert caught.value.where == where and said in str(caught.value)


def test_the_command_line_says_it_in_two_lines_and_exits_2(run):
    result = lpo("pairs", run.path, "--rule", "worts", cwd=run.path)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == ("error: --rule: there is no 'worts' (did you mean 'worst'?)\n"
                             "  -> one of: random_consistent, worst, vetoed, margin\n")


@pytest.mark.parametrize("name", ["../elsewhere", "", ".hidden", "a b"])
def test_a_name_that_is_none_is_refused(run, name):
    with pytest.raises(ConfigError, match="name"):
        derive(str(run.path), {"rejected": "worst"}, name=name)
    assert [path.name for path in run.path.parent.iterdir()] == ["first"]


def test_a_run_that_is_there_is_not_written_over(run):
    before = content(run.path)
    with pytest.raises(ConfigError, match="there already"):
        derive(str(run.path), {"rejected": "worst"}, name="first")
    assert content(run.path) == before


def test_a_rule_that_gives_nothing_makes_no_run_and_exits_3(run):
    with pytest.raises(NothingLeftError, match="small_margin"):
        derive(str(run.path), {"rejected": "worst", "min_margin": 1.5}, name="second")
    assert [path.name for path in run.path.parent.iterdir()] == ["first"]
    result = lpo("pairs", run.path, "--rule", "worst", "--min-margin", "1.5", cwd=run.path)
    assert result.returncode == 3 and "small_margin" in result.stderr


def test_what_fails_half_way_leaves_no_run(run):
    (run / "journal.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(LpoError, match="journal"):
        derive(str(run.path), {"rejected": "worst"}, name="second")
    assert [path.name for path in run.path.parent.iterdir()] == ["first"]


def test_a_journal_that_is_being_written_to_is_copied_whole(run):
    writer = sqlite3.connect(run / "journal.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO replies VALUES ('x', 'step', '{}', '')")
    derive(str(run.path), {"rejected": "worst"}, name="second")
    writer.execute("ROLLBACK")
    writer.close()
    copy = JournalFile(run.path.parent / "second" / "journal.sqlite")
    assert copy.entries() == 1
    copy.close()


def test_a_line_that_is_no_tree_is_named(run):
    append_jsonl(run / "trees.jsonl", {"id": "x"})
    lines = len(read_jsonl(run / "trees.jsonl"))
    for options in ({}, {"rejected": "worst"}):
        with pytest.raises(DataError, match=f"trees.jsonl:{lines}"):
            derive(str(run.path), options)
    assert not (run / "pairs.worst.jsonl").exists()


def test_a_build_that_is_not_complete_has_no_pairs_to_derive(run):
    run.mark(Stage.BUILD, status="started", identity="x")
    with pytest.raises(DataError, match="not complete"):
        derive(str(run.path), {})


def test_an_unknown_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such run"):
        derive(str(tmp_path / "nowhere"), {})


def test_the_released_method_has_no_rule_to_change(tmp_path):
    run = finished_run(tmp_path, method="longdpo_released")
    with pytest.raises(ConfigError, match="follow no rule"):
        derive(str(run.path), {"rejected": "worst"}, name="second")
    derive(str(run.path), {"rejected": "worst"})
    assert read_jsonl(run / "pairs.worst.jsonl")
