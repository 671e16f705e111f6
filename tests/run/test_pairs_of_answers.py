"""`lpo pairs` on runs of whole answers and of corrected ones."""

import pytest
from finished_runs import finished_run
from run_lpo import lpo, write_config

from lpo.build_config import BuildConfig
from lpo.errors import ConfigError
from lpo.pair_builders.answer_pairs import answer_pairs
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.script_pairs import script_pairs
from lpo.records import PreferencePair, SearchTree
from lpo.run.directory import RunDirectory
from lpo.run.pairing import derive
from lpo.run.pipeline import load_config
from lpo.storage import read_json, read_jsonl
from lpo.words import count_words

# Whole answers


def cells(line: str) -> list[str]:
    return line.split(maxsplit=5)


def test_whole_answers_are_compared_by_the_rules_that_mean_something_to_them(tmp_path):
    run = finished_run(tmp_path, method="best_of_n", answers={"samples": 6, "min_scored": 6})
    lines = derive(str(run.path), {"per_layer": "all", "length_penalty": 0.125})
    assert [cells(line)[0] for line in lines[1:-1]] == ["random_consistent", "worst", "margin"]
    trees = [SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")]
    for rule, line in zip(("random_consistent", "worst", "margin"), lines[1:-1], strict=True):
        build = BuildConfig.model_validate({
            "method": "best_of_n", "answers": {"samples": 6, "min_scored": 6},
            "pairs": {"rejected": rule, "per_layer": None, "length_penalty": 0.125}})
        pairs = [pair for tree in trees for pair in answer_pairs(tree, build).pairs]
        longer = sum(pair.provenance["words"]["chosen"] - pair.provenance["words"]["rejected"] for pair in pairs)
        assert int(cells(line)[1]) == len(pairs) > len(trees)
        assert float(cells(line)[4]) == pytest.approx(longer / len(pairs), abs=0.051)
        assert "too_few_scored" in cells(line)[5]
    assert "per_layer all, length_penalty 0.125, min_scored 6" in lines[-1]


def test_a_price_of_length_shortens_what_is_chosen_and_is_written_with_the_pairs(tmp_path):
    run = finished_run(tmp_path, method="best_of_n", pairs={"rejected": "worst"})
    plain, priced = (derive(str(run.path), {"rejected": "worst", **more}) for more in ({}, {"length_penalty": 0.3}))
    assert float(cells(priced[1])[4]) < float(cells(plain[1])[4])
    pairs = [PreferencePair.model_validate(row) for row in read_jsonl(run / "pairs.worst.jsonl")]
    assert pairs and all("raw_margin" in pair.provenance for pair in pairs)


def test_a_new_run_of_answers_is_one_its_configuration_describes(tmp_path):
    run = finished_run(tmp_path, method="best_of_n", pairs={"rejected": "worst"})
    derive(str(run.path), {"rejected": "margin", "per_layer": "all", "length_penalty": 0.1}, name="second")
    new = RunDirectory(run.path.parent / "second")
    config = load_config(str(new / "config.yaml"))
    rules = config.build.pairs
    assert (config.build.method, rules.rejected, rules.per_layer, rules.length_penalty) == (
        "best_of_n", "margin", None, 0.1)
    trees = [SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")]
    expected = [rows_of(tree, config.build) for tree in trees]
    assert read_jsonl(new / "pairs.jsonl") == [pair.to_json() for one in expected for pair in one.pairs] != []
    counts = read_json(new / "build.json")
    assert counts["pairs_by_rule"] == {"margin": counts["pairs"]}
    assert counts["chosen_words"] == sum(count_words(pair.chosen) for one in expected for pair in one.pairs)


@pytest.mark.parametrize(("options", "where", "said"), [
    ({"rejected": "vetoed"}, "--rule", "there is no 'vetoed'"),
    ({"chosen": "best_value"}, "--chosen", "highest score is chosen"),
    ({"layers": "all"}, "--layers", "one layer"),
    ({"mode": "full"}, "--mode", "no corrected answers"),
    ({"per_layer": "every"}, "--per-layer", "valid integer"),
    ({"length_penalty": -1.0}, "--length-penalty", "greater than or equal to 0"),
])
def test_an_option_that_means_nothing_to_answers_is_refused(tmp_path, options, where, said):
    run = finished_run(tmp_path, method="best_of_n")
    with pytest.raises(ConfigError) as caught:
        derive(str(run.path), options)
    assert caught.value.where == where and said in str(caught.value) and caught.value.mend


def test_the_command_line_takes_all_pairs_of_a_layer(tmp_path):
    run = finished_run(tmp_path, method="best_of_n")
    made = lpo("pairs", run.path, "--rule", "margin", "--per-layer", "all", "--length-penalty", "0.1", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(read_jsonl(run / "pairs.margin.jsonl")) > 5 * len(read_jsonl(run / "trees.jsonl"))
    assert "words longer" in made.stdout.splitlines()[0]


# Corrected answers


def test_corrected_answers_are_compared_by_mode(tmp_path):
    run = finished_run(tmp_path, method="iterdpo", correction={"full_share": 0.5})
    lines = derive(str(run.path), {})
    assert [cells(line)[0] for line in lines[1:-1]] == ["prefix", "local", "full"]
    trees = [SearchTree.model_validate(row) for row in read_jsonl(run / "trees.jsonl")]
    for mode, line in zip(("prefix", "local", "full"), lines[1:-1], strict=True):
        share = {"full_share": 0.5} if mode == "prefix" else {}
        build = BuildConfig.model_validate({"method": "iterdpo", "correction": {"mode": mode, **share}})
        derived = [script_pairs(tree, build) for tree in trees]
        assert cells(line)[1:3] == [str(sum(len(one.pairs) for one in derived)),
                                    f"{sum(bool(one.pairs) for one in derived)}/{len(trees)}"]
    assert "full_share 0.5 (prefix)" in lines[-1]


def test_another_mode_makes_a_file_or_a_run(tmp_path):
    run = finished_run(tmp_path, method="iterdpo", correction={"full_share": 0.5})
    lines = derive(str(run.path), {"mode": "local", "per_layer": "all"})
    assert lines[-1] == f"written: {run / 'pairs.local.jsonl'}"
    pairs = read_jsonl(run / "pairs.local.jsonl")
    assert {pair["provenance"]["rule"] for pair in pairs} == {"local", "random_consistent"}
    derive(str(run.path), {"mode": "local", "per_layer": "all"}, name="second")
    new = RunDirectory(run.path.parent / "second")
    correction = load_config(str(new / "config.yaml")).build.correction
    assert (correction.mode, correction.full_share) == ("local", None)
    assert read_jsonl(new / "pairs.jsonl") == pairs
    counts = read_json(new / "build.json")
    assert counts["prefix_pairs"] == sum(not pair["provenance"].get("full_length", True) for pair in pairs) > 0


@pytest.mark.parametrize(("build", "options", "where", "said"), [
    ({}, {"mode": "prefixes"}, "--mode", "did you mean 'prefix'"),
    ({}, {"rejected": "vetoed"}, "--rule", "there is no 'vetoed'"),
    ({}, {"layers": "all"}, "--layers", "one layer"),
    ({"answers": {"samples": 1}}, {"rejected": "worst"}, "--rule", "one answer to each prompt"),
])
def test_an_option_that_means_nothing_to_corrections_is_refused(tmp_path, build, options, where, said):
    run = finished_run(tmp_path, method="iterdpo", **build)
    with pytest.raises(ConfigError) as caught:
        derive(str(run.path), options)
    assert caught.value.where == where and said in str(caught.value) and caught.value.mend


def test_a_run_that_makes_no_pairs_is_refused(tmp_path):
    run = finished_run(tmp_path, method="best_of_n")
    values = run.stored_values()
    values["build"] = {"method": "agent_write"}
    write_config(run / "config.yaml", values)
    for options in ({}, {"rejected": "worst"}, {"mode": "full"}):
        with pytest.raises(ConfigError, match="rows for fine-tuning and no pairs"):
            derive(str(run.path), options)
