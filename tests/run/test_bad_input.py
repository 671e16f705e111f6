"""Wrong configurations and data: every error at once, one line of cause, one of mend, the right exit code."""

import json

import pytest
from run_lpo import lpo, write_config, write_prompts

from lpo.config import to_yaml, validate
from lpo.errors import ConfigError, DataError
from lpo.run.pipeline import load_config


def test_every_error_of_a_configuration_is_reported_at_once_with_path_and_nearest_key(tmp_path):
    config = write_config(tmp_path / "run.yaml", {
        "name": "x", "bild": {"depth": 2}, "build": {"dept": 3, "branching": "many", "pairs": {"min_margin": 0}},
        "judge": {"backend": "openai"}, "train": {"peft": {"rank": 4}, "args": {"betta": 0.2}}})
    result = lpo("run", config, cwd=tmp_path)
    assert result.returncode == 2
    for line in ("bild: unknown key (did you mean 'build'?)", "build.dept: unknown key (did you mean 'depth'?)",
                 "build.branching: ", "'many'", "build.pairs.min_margin: Input should be greater than 0, got 0",
                 "judge: backend 'openai' needs base_url", "train.peft.rank: unknown key",
                 "train.args.betta: unknown key (did you mean 'beta'?)"):
        assert line in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists(), "nothing is started"


def test_a_misspelt_training_argument_is_found_before_anything_starts(tmp_path):
    config = write_config(tmp_path / "run.yaml", {"name": "x", "train": {"args": {
        "learning_rat": 1e-4, "betta": 0.1, "output_dir": "elsewhere"}}})
    with pytest.raises(ConfigError) as caught:
        load_config(str(config))
    assert "train.args.learning_rat: unknown key (did you mean 'learning_rate'?)" in str(caught.value)
    assert "train.args.betta: unknown key (did you mean 'beta'?)" in str(caught.value)
    assert "train.args.output_dir: is set by the run itself" in str(caught.value)


def test_a_training_argument_of_the_wrong_kind_is_found_too(tmp_path):
    config = write_config(tmp_path / "run.yaml", {"name": "x", "train": {"args": {"loss_type": ["sigmiod"]}}})
    with pytest.raises(ConfigError, match=r"train\.args"):
        load_config(str(config))


@pytest.mark.parametrize(("text", "cause"), [
    ("name: a\nname: b\n", "the key 'name' stands twice"),
    ("", "the file is empty"),
    ("- 1\n- 2\n", "not a mapping"),
    ("a: b: c", "not a usable YAML file"),
    ("name: ${oc.env:HOME}", "environment variables are not resolved"),
    ("name: ${missing}", "not a usable YAML file"),
    ("a: &a [*a]", "unfold"),
    ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
     "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n", "unfold"),
    ("\tname: x", "not a usable YAML file"),
])
def test_a_file_that_is_no_configuration(tmp_path, text, cause):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=cause):
        load_config(str(path))


def test_overrides_win_and_read_numbers_as_yaml_does(tmp_path):
    path = write_config(tmp_path / "run.yaml", {"name": "x", "build": {"depth": 2}})
    config = load_config(str(path), ["build.depth=5", "train.args.learning_rate=1e-6", "name=y"])
    assert (config.build.depth, config.name) == (5, "y")
    assert config.train.args["learning_rate"] == 1e-6


def test_an_override_without_a_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not of the form key=value"):
        load_config(str(write_config(tmp_path / "run.yaml", {"name": "x"})), ["build.depth"])


def test_an_unknown_recipe_is_a_missing_file_with_exit_code_2(tmp_path):
    result = lpo("run", "quickstrat", cwd=tmp_path)
    assert result.returncode == 2 and "no such file" in result.stderr and "lpo recipes" in result.stderr


def test_a_name_that_leaves_the_runs_folder_is_refused():
    config, issues = validate({"name": "../elsewhere"})
    assert config is None and issues[0].path == "name"


def _config_with_prompts(tmp_path, text: bytes):
    (tmp_path / "prompts.jsonl").write_bytes(text)
    return write_config(tmp_path / "run.yaml", {"name": "x", "prompts": {"path": "prompts.jsonl"}})


def test_missing_prompts_file_exits_2(tmp_path):
    config = write_config(tmp_path / "run.yaml", {"name": "x", "prompts": {"path": "nowhere.jsonl"}})
    result = lpo("build", config, cwd=tmp_path)
    assert result.returncode == 2 and "nowhere.jsonl" in result.stderr and "no such file" in result.stderr


def test_a_broken_line_is_named_by_its_number(tmp_path):
    config = _config_with_prompts(tmp_path, b'{"prompt": "Write a poem."}\n{"prompt": "Write\n')
    result = lpo("build", config, cwd=tmp_path)
    assert result.returncode == 2 and "prompts.jsonl:2" in result.stderr


def test_an_empty_prompt_list_is_an_error(tmp_path):
    result = lpo("build", _config_with_prompts(tmp_path, b""), cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr


def test_held_out_prompts_that_are_also_built_from_are_refused(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", 6)
    (tmp_path / "held_out.jsonl").write_text((tmp_path / "prompts.jsonl").read_text())
    config = write_config(tmp_path / "run.yaml", {
        "name": "x", "prompts": {"path": "prompts.jsonl", "held_out_path": "held_out.jsonl"}})
    result = lpo("build", config, cwd=tmp_path)
    assert result.returncode == 2 and "both the build and the held-out part" in result.stderr


def test_stages_out_of_order_say_what_to_run_first(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", 8)
    config = write_config(tmp_path / "run.yaml", {"name": "x", "prompts": {"path": "prompts.jsonl"}})
    result = lpo("train", config, cwd=tmp_path)
    assert result.returncode == 2 and "lpo build" in result.stderr


def test_report_of_no_run_exits_2(tmp_path):
    result = lpo("report", "nothing", cwd=tmp_path)
    assert result.returncode == 2 and "no such run" in result.stderr


def test_surrogates_and_nul_are_cleaned_at_the_door_and_counted(tmp_path):
    from lpo.config import PromptsConfig
    from lpo.prompts import load_prompts

    rows = [{"prompt": "Write about a \ud83d cut emoji."}, {"prompt": "Write about n\x00thing."},
            {"prompt": "Write about bread."}, {"prompt": "Write about a bridge."}, {"prompt": "Write about rain."}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = load_prompts(PromptsConfig(path=str(path)))
    assert prompts.cleaned == 2
    texts = [prompt.request for prompt in (*prompts.build, *prompts.held_out)]
    assert "Write about a \ufffd cut emoji." in texts and "Write about nthing." in texts


def test_reading_a_missing_json_line_file_names_it(tmp_path):
    from lpo.storage import read_jsonl

    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl")


def test_a_setting_of_the_other_back_end_is_refused_not_ignored():
    for policy, stray in (({"base_url": "http://127.0.0.1:1/v1"}, "base_url"),
                          ({"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "dtype": "float32"}, "dtype")):
        config, issues = validate({"name": "x", "policy": policy})
        assert config is None and stray in issues[0].message


def test_a_judge_that_writes_nothing_takes_no_settings_for_writing():
    config, issues = validate({"name": "x", "judge": {"method": "expected_grade", "max_tokens": 10}})
    assert config is None and "has no max_tokens" in issues[0].message


def test_patience_without_held_out_pairs_is_refused():
    config, issues = validate({"name": "x", "train": {"early_stopping_patience": 2}})
    assert config is None and "eval_fraction" in issues[0].message


@pytest.mark.parametrize("policy", [{}, {"backend": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}])
def test_the_stored_configuration_can_be_run_again(tmp_path, policy):
    first, issues = validate({"name": "x", "policy": policy, "judge": {**policy, "method": "json"}})
    assert not issues and first is not None
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    assert load_config(str(tmp_path / "config.yaml")) == first
