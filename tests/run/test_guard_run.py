"""The guard's processes: measured once, kept, and gone when they have to be. What lm-eval says is recorded."""

import asyncio
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import pytest
from run_lpo import ROOT

sys.path.insert(0, str(ROOT / "tests" / "evaluation"))

from lm_eval_tasks import RECORDED, write_models, write_tasks

from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError, StoppedError
from lpo.eval_config import GuardConfig
from lpo.run.guarding import NOTE, run_guard
from lpo.run.measuring import Subject

STAND_IN = ROOT / "tests" / "run" / "lm_eval_stand_in"
REAL = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """How the stand-in was called so far."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    file = tmp_path / "calls"
    for name, value in {"PYTHONPATH": f"{STAND_IN}{os.pathsep}{ROOT}", "LM_EVAL_CALLS": str(file),
                        "LM_EVAL_RECORDED": str(RECORDED)}.items():
        monkeypatch.setenv(name, value)
    return lambda: [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture
def subjects(tmp_path):
    """A model's files, as far as anybody looks at them here, and an adapter's."""
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(name.encode())
    config = ModelConfig(model=str(tmp_path / "model"), device="cpu", dtype="bfloat16")
    return Subject("base", config), Subject("trained", config, tmp_path / "adapter")


def guard(subjects, folder, stop=None, said=None, **settings):
    config = GuardConfig(**{"tasks": ("coast", "harbour_story"), **settings})
    return asyncio.run(run_guard(config, base=subjects[0], trained=subjects[1] if subjects[1:] else None,
                                 folder=folder / "guard", seed=0, resamples=200, stop=stop,
                                 say=(said if said is not None else []).append))


def test_both_models_are_measured_with_their_settings_and_kept(tmp_path, calls, subjects):
    found = guard(subjects, tmp_path, limit=50, num_fewshot=3, batch_size=2)
    assert found.tasks["harbour"]["acc,none"].n == 34 and found.limit == 50 and found.notes[0] == NOTE
    assert found.versions["lm_eval"] == "0.4.13" and "torch" in found.versions
    base, trained = calls()
    model = {"pretrained": str(tmp_path / "model"), "revision": "main", "dtype": "bfloat16", "use_safetensors": True,
             "trust_remote_code": False}
    assert base["model_args"] == model and trained["model_args"] == {**model, "peft": str(tmp_path / "adapter")}
    assert {key: base[key] for key in ("model", "tasks", "device", "batch_size", "limit", "num_fewshot")} == {
        "model": "hf", "tasks": ["coast", "harbour_story"], "device": "cpu", "batch_size": 2, "limit": 50,
        "num_fewshot": 3}

    said = []
    again = guard(subjects, tmp_path, said=said, limit=50, num_fewshot=3, batch_size=8)
    assert again == found and len(calls()) == 2, "a batch of another size is the same measurement"
    assert all("before" in line for line in said)

    # Other weights of the adapter: it is measured again, the base model is not.
    (tmp_path / "adapter" / "weights.safetensors").write_bytes(b"trained longer")
    guard(subjects, tmp_path, limit=50, num_fewshot=3)
    assert ["peft" in call["model_args"] for call in calls()] == [False, True, True]

    # A result that is torn is measured again, never believed.
    (tmp_path / "guard" / "base.json").write_text('{"key": ')
    assert guard(subjects[:1], tmp_path, limit=50, num_fewshot=3).tasks["harbour"]["acc,none"].difference is None
    assert len(calls()) == 4


def test_a_folder_of_tasks_is_measured_as_it_is(tmp_path, calls, subjects):
    tasks = write_tasks(tmp_path / "tasks")
    guard(subjects[:1], tmp_path, tasks=(str(tasks),))
    assert calls()[-1]["tasks"] == ["coast", "harbour_story"]
    with (tasks / "words.jsonl").open("a") as handle:
        handle.write("\n")
    guard(subjects[:1], tmp_path, tasks=(str(tasks),))
    assert len(calls()) == 2, "its files have changed"


@pytest.mark.parametrize(("behaviour", "cause", "where"), [
    ("fail", "lm-eval failed: Couldn't reach 'cais/mmlu' on the Hub", "base.log"),
    ("die", "lm-eval ended with code 134", "base.log"),
])
def test_a_failure_is_an_error_that_names_the_log(tmp_path, calls, subjects, monkeypatch, behaviour, cause, where):
    monkeypatch.setenv("LM_EVAL_BEHAVIOUR", behaviour)
    with pytest.raises(BackendError) as caught:
        guard(subjects, tmp_path)
    assert cause in caught.value.cause and caught.value.where.endswith(where) and caught.value.mend
    assert "Running loglikelihood requests" in (tmp_path / "guard" / "base.log").read_text()
    assert sorted(path.name for path in (tmp_path / "guard").iterdir()) == ["base.log"]
    assert len(calls()) == 1, "the trained model is not begun"


def test_unknown_tasks_and_empty_folders_are_errors_before_a_model_is_loaded(tmp_path, calls, subjects):
    with pytest.raises(ConfigError, match="did you mean 'coast'"):
        guard(subjects, tmp_path, tasks=("coasts",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no tasks in this folder"):
        guard(subjects, tmp_path, tasks=(str(tmp_path / "empty"),))
    assert calls() == []


def test_a_request_to_stop_ends_the_process_and_keeps_what_was_measured(tmp_path, calls, subjects, monkeypatch):
    guard(subjects[:1], tmp_path)
    monkeypatch.setenv("LM_EVAL_BEHAVIOUR", "hang")
    stop, pid = asyncio.Event(), tmp_path / "pid"

    async def stopped():
        config = GuardConfig(tasks=("coast", "harbour_story"))
        work = asyncio.create_task(run_guard(config, base=subjects[0], trained=subjects[1], seed=0, resamples=200,
                                             folder=tmp_path / "guard", say=lambda text: None, stop=stop))
        while not (pid.is_file() and pid.read_text()):
            await asyncio.sleep(0.05)
            assert not work.done()
        stop.set()
        await work

    with pytest.raises(StoppedError):
        asyncio.run(stopped())
    end = time.monotonic() + 30
    while Path(f"/proc/{pid.read_text()}").exists():
        assert time.monotonic() < end, "the process is still there"
        time.sleep(0.05)
    assert (tmp_path / "guard" / "base.json").is_file() and not (tmp_path / "guard" / "trained.json").exists()


def test_what_cannot_be_measured_is_said_at_once(tmp_path, subjects, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError) as caught:
        guard(subjects, tmp_path)
    assert caught.value.mend == "pip install 'longform-lpo[lm-eval]'"
    assert not (tmp_path / "guard").exists()


def test_servers_and_missing_folders_are_refused(tmp_path, calls, subjects):
    server = Subject("model", ModelConfig(backend="openai", base_url="http://127.0.0.1:9/v1", model="m"))
    with pytest.raises(ConfigError, match="behind a server"):
        guard((server,), tmp_path)
    with pytest.raises(ConfigError, match="no such folder of tasks"):
        guard(subjects, tmp_path, tasks=("./tasks-that-are-not-there",))
    assert calls() == []


@pytest.mark.skipif(not REAL, reason="lm-eval is not installed")
def test_a_real_lm_eval_finds_what_was_recorded(tmp_path, monkeypatch):
    model, adapter = write_models(tmp_path)
    config = ModelConfig(model=str(model), device="cpu")
    tasks = write_tasks(tmp_path / "tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = guard((Subject("base", config), Subject("trained", config, adapter)), tmp_path, tasks=(str(tasks),))
    recorded = json.loads(RECORDED.read_text())
    assert set(found.tasks) == {"harbour", "harbour_write", "harbour_story"}
    for task, measures in (found.tasks | found.subtasks).items():
        for key, row in measures.items():
            assert row.base == pytest.approx(recorded["base"]["results"][task][key], rel=1e-4)
            assert row.trained == pytest.approx(recorded["trained"]["results"][task][key], rel=1e-4)
