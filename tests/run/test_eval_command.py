"""`lpo eval` as a person uses it, in processes of its own: a run, a model alone, suites, kills and comparisons."""

import json
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import yaml
from run_lpo import lpo, start_lpo, write_config, write_prompts
from tiny_models import make_model, make_tokenizer

SMALL = ["policy.chat_template=plain", "prompts.path=prompts.jsonl", "eval.max_tokens=24", "eval.bootstrap=200"]
SHORT_RULER = ["--suite", "longwrite_ruler", "eval.longwrite_ruler.lengths=[10,20]"]


def scores(run: Path) -> dict:
    return json.loads((run / "scores.json").read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("eval")
    make_model("llama").save_pretrained(path / "tiny")
    make_tokenizer().save_pretrained(path / "tiny")
    write_prompts(path / "prompts.jsonl", 24, 12)
    return path


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """A whole run on the tiny model, measured on its held-out prompts."""
    config = write_config(folder / "run.yaml", {
        "name": "whole", "prompts": {"path": "prompts.jsonl", "limit": 6},
        "policy": {"model": str(folder / "tiny"), "chat_template": "plain"},
        "build": {"method": "best_of_n", "answers": {"samples": 3, "max_tokens": 16},
                  "reward": {"judge": 0, "length": 1}, "pairs": {"min_margin": 1e-6}},
        "train": {"peft": {"r": 4}, "sample_prompts": 0, "args": {"max_steps": 2, "learning_rate": 0.01}},
        "eval": {"max_tokens": 24, "bootstrap": 200, "along": {"parts": 2}, "pairwise": {}}})
    done = lpo("run", config, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "whole"


def test_a_model_alone_is_measured_and_its_decoding_is_recorded(folder):
    done = lpo("eval", "./tiny", *SMALL, "name=alone", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "the model judged its own answers" in done.stderr and "held_out: S_l" in done.stderr
    found = scores(folder / "runs" / "alone")
    suite = found["suites"]["held_out"]
    assert suite["decoding"] == {"max_tokens": 24, "temperature": 0.5, "top_p": 1.0, "top_k": 0,
                                 "repetition_penalty": 1.0, "seed": 0}
    answers = lines(folder / "runs" / "alone" / "eval" / "answers.model.jsonl")
    assert suite["models"]["model"]["words"]["mean"] == pytest.approx(
        sum(answer["words"] for answer in answers) / len(answers))
    assert suite["difference"] == {} and found["versions"]["lpo"] and found["judge"]["was_training_reward"] is False
    assert (folder / "runs" / "alone" / "report.html").is_file()


def test_a_suite_is_added_to_a_run_without_asking_for_the_answers_it_has(folder, run):
    before = scores(run)
    answers = (run / "eval" / "answers.trained.jsonl").read_text()
    counted = _calls(run)
    done = lpo("eval", "whole", *SHORT_RULER, cwd=folder)
    assert done.returncode == 0, done.stderr
    after = scores(run)
    assert set(after["suites"]) == {"held_out", "longwrite_ruler"}
    assert after["suites"]["held_out"]["models"] == before["suites"]["held_out"]["models"]
    assert (run / "eval" / "answers.trained.jsonl").read_text() == answers
    ruler = lines(run / "eval" / "longwrite_ruler" / "answers.trained.jsonl")
    assert {row["answer"]["target_words"] for row in ruler} == {10, 20} and len(ruler) == 16
    asked = {purpose: n - counted.get(purpose, 0) for purpose, n in _calls(run).items()}
    assert asked["policy"] == 2 * 16, "two models, sixteen tasks, nothing else is written again"


def _calls(run: Path) -> dict[str, int]:
    with sqlite3.connect(run / "journal.sqlite") as journal:
        return dict(journal.execute("select purpose, count(*) from replies group by purpose"))


def test_what_a_run_says_of_both_models_is_their_difference_prompt_by_prompt(run):
    suite = scores(run)["suites"]["held_out"]
    sides = {model: {row["prompt_id"]: row["words"] for row in lines(run / "eval" / f"answers.{model}.jsonl")}
             for model in ("base", "trained")}
    changes = [sides["trained"][name] - words for name, words in sides["base"].items()]
    assert suite["difference"]["words"]["mean"] == pytest.approx(sum(changes) / len(changes))
    pairwise = scores(run)["pairwise"]["held_out"]
    rows = lines(run / "eval" / "held_out" / "pairwise.jsonl")
    scored = [row["preference"] for row in rows if row["preference"] is not None]
    assert len(rows) == len(changes) and pairwise["win_rate"]["n"] == len(scored)
    assert pairwise["win_rate"]["mean"] == pytest.approx(100 * sum(scored) / len(scored))


def test_other_models_can_stand_for_base_and_trained(folder, run):
    """The same run, but its models run elsewhere: here, another folder of weights."""
    make_model("llama", seed=7).save_pretrained(folder / "other")
    make_tokenizer().save_pretrained(folder / "other")
    shutil.copytree(run, folder / "runs" / "elsewhere")
    named = [f"measured.{side}.{key}" for side, model in (("base", "./tiny"), ("trained", "./other"))
             for key in (f"model={model}", "chat_template=plain")]
    done = lpo("eval", "elsewhere", *named, cwd=folder)
    assert done.returncode == 0, done.stderr
    alone = lpo("eval", "./other", *SMALL, "name=other-alone", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    texts = [{row["prompt_id"]: row["text"] for row in lines(folder / "runs" / name / "eval" / file)} for name, file in
             (("elsewhere", "answers.trained.jsonl"), ("other-alone", "answers.model.jsonl"))]
    shared = texts[0].keys() & texts[1].keys()
    assert shared and all(texts[0][name] == texts[1][name] for name in shared)
    assert texts[0] != {row["prompt_id"]: row["text"] for row in lines(run / "eval" / "answers.trained.jsonl")}


def test_killed_while_it_writes_the_evaluation_goes_on_and_ends_the_same(folder):
    arguments = ["eval", "./tiny", *SMALL, "eval.max_tokens=200", "policy.batch_size=2", *SHORT_RULER]
    process = start_lpo(*arguments, "name=killed", cwd=folder)
    journal = folder / "runs" / "killed" / "journal.sqlite"
    for _ in range(600):
        time.sleep(0.05)
        if journal.is_file() and _stored(journal) >= 3:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = _stored(journal)
    assert stored >= 3 and not (folder / "runs" / "killed" / "scores.json").exists()
    assert lpo(*arguments, "name=killed", cwd=folder).returncode == 0
    assert lpo(*arguments, "name=at-once", cwd=folder).returncode == 0
    first, second = (scores(folder / "runs" / name)["suites"] for name in ("killed", "at-once"))
    assert first == second
    manifest = json.loads((folder / "runs" / "killed" / "manifest.json").read_text())
    assert manifest["stages"]["eval"]["usage"]["cached"] >= 3, "what was answered once is not asked for again"


def _stored(journal: Path) -> int:
    try:
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from replies").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_runs_are_compared_by_a_paired_test(folder, run):
    assert lpo("eval", "./tiny", *SMALL, "name=alone", cwd=folder).returncode == 0
    done = lpo("eval", "--compare", "alone", "whole", "--pairwise", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "held_out: Words: alone" in done.stdout and "paired permutation test p = " in done.stdout
    stored = json.loads((folder / "runs" / "compare-alone-whole" / "comparison.json").read_text())
    suite = stored["suites"]["held_out"]
    sides = [{row["prompt_id"]: row["words"] for row in lines(path)} for path in (
        folder / "runs" / "alone" / "eval" / "answers.model.jsonl", run / "eval" / "answers.trained.jsonl")]
    shared = sides[0].keys() & sides[1].keys()
    assert shared and suite["shared"]["whole"] == len(shared)
    assert suite["difference"]["whole"]["words"]["interval"]["mean"] == pytest.approx(
        sum(sides[1][name] - sides[0][name] for name in shared) / len(shared))
    rates = stored["win_rates"]["held_out"]
    one, other = rates["whole"]["alone"]["interval"], rates["alone"]["whole"]["interval"]
    assert one["n"] == len(shared) and one["mean"] + other["mean"] == pytest.approx(100)
    assert (folder / "runs" / "compare-alone-whole" / "comparison.html").is_file()


@pytest.mark.parametrize(("arguments", "said"), [
    (["nothing-like-it"], "is no configuration, no run and no model"),
    (["quikstart"], "did you mean 'quickstart'?"),
    (["./tiny", "--suite", "longbench"], "there is no suite 'longbench'"),
    (["./tiny", "--suite", "golden_thread=x.jsonl"], "reads no file"),
    (["./tiny", "--suite", "longbench_write"], "needs the section eval.longbench_write"),
    (["./tiny", "--suite", "longbench_write=nowhere.jsonl"], "nowhere.jsonl"),
    (["--compare", "alone"], "needs two runs"),
    (["--compare", "whole", "runs/whole"], "cannot be compared with itself"),
    (["./tiny", "--pairwise"], "belongs to a comparison"),
    (["./tiny", "eval.judge=false", "--suite", "golden_thread"], "nothing without a judge"),
])
def test_what_cannot_be_is_said_in_a_line(folder, run, arguments, said):
    done = lpo("eval", *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "->" in done.stderr and "Traceback" not in done.stderr


def test_the_stored_configuration_of_a_measured_model_can_be_read_again(folder):
    assert lpo("eval", "./tiny", *SMALL, "name=again", cwd=folder).returncode == 0
    stored = yaml.safe_load((folder / "runs" / "again" / "config.yaml").read_text())
    assert "longen" not in stored["eval"], "nothing is stored that nobody reads"
    done = lpo("eval", "runs/again", cwd=folder)
    assert done.returncode == 0 and "already complete" in done.stderr, done.stderr
