"""`lpo score`: answers that are there already, against a server whose verdicts stand in the answers themselves."""

import json
import os
import random
import re
import signal
import statistics
import time
from io import StringIO
from pathlib import Path

import pytest
from run_lpo import lpo, start_lpo, write_config
from scripted_roles import quoted
from scripted_server import ScriptedServer

from lpo.errors import ConfigError, DataError, UnsoundError
from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome
from lpo.prompts import load_prompts
from lpo.run.directory import Stage
from lpo.run.pipeline import load_config
from lpo.run.progress import Reporter
from lpo.run.scoring import score as score_file
from lpo.storage import read_json, read_jsonl

RESULTS = ("scored.jsonl", "trees.jsonl", "pairs.jsonl", "rejected_rows.jsonl", "score.json")
VERDICTS = re.compile(r"\[h(\S+) l(\S+) c(\S+):(.*)\]")
WORD = re.compile(r"\b[a-zA-Z]+\b")
CREDIT = {"full": 1, "partial": 0.5, "none": 0}
SUBJECTS = ("bees", "ferries", "ovens", "rivers")


def answer(number, grades, supports):
    """An answer that says what it is to get: helpfulness, logicality, completeness, and how its statements fare."""
    helpful, logical, complete = grades
    return (f"Answer {number}: {'it is long ' * number}so it is. "
            f"[h{helpful} l{logical} c{complete}:{' '.join(supports)}]")


def judge(body, _choice):
    """The judge reads its verdict from the answer; a grade of x is no grade."""
    prompt = body["messages"][-1]["content"]
    text = quoted(prompt)[-1]
    names = set(body["response_format"]["json_schema"]["schema"]["properties"])
    if "notes" in names:
        return json.dumps({"notes": [f"It is about {text.split()[0]}."]})
    if "support" in names:
        return json.dumps({"analysis": "So it is.", "support": text.split()[-1].strip(".")})
    helpful, logical, complete, supports = VERDICTS.search(text).groups()
    if "statements" in names:
        return json.dumps({"statements": [f"Claim {n} of {text[:9]} is {support}."
                                          for n, support in enumerate(supports.split())]})
    grade = helpful if "how helpful" in prompt else complete if "how complete" in prompt else logical
    return json.dumps({"analysis": "So it is.", "grade": "x" if grade == "x" else float(grade)})


def expected(text):
    """Dimensions and overall by the paper's formulas; None where the judge gives no grade."""
    helpful, logical, complete, supports = VERDICTS.search(text).groups()
    if "x" in (helpful, logical, complete):
        return None
    credits = [CREDIT[support] for support in supports.split()]
    faithfulness = 10 * sum(credits) / len(credits) if credits else 0
    four = {"helpfulness": float(helpful), "logicality": float(logical), "faithfulness": faithfulness,
            "completeness": float(complete)}
    return four, sum(four.values()) / 40


def make_rows(questions=3, each=6, seed=0):
    """Rows in LongReward's shape: answers out of order, and documents of 130 words."""
    rng = random.Random(seed)
    answers, documents = [], []
    for question in range(questions):
        query = f"What is said about {SUBJECTS[question % 4]}, {question}?"
        words = [f"{SUBJECTS[question % 4]} {n} go by" for n in range(33)]
        documents.append({"idx": question, "query": query, "answer": "unread", "context": ". ".join(words)})
        for k in range(each):
            supports = [rng.choice(list(CREDIT)) for _ in range(rng.randint(0, 4))]
            grades = [rng.choice([0, 2.5, 5, 7, 10]) for _ in range(3)]
            answers.append({"idx": f"{question}-{k}", "query": query, "answer": answer(k, grades, supports)})
    rng.shuffle(answers)
    return answers, documents


def write_rows(folder: Path, answers, documents):
    folder.mkdir(exist_ok=True)
    for name, rows in (("answers.jsonl", answers), ("documents.jsonl", documents)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def config_file(folder: Path, url: str, **build):
    return write_config(folder / "judge.yaml", {
        "name": "unused", "judge": {"backend": "openai", "model": "scripted", "base_url": url, "method": "json",
                                    "max_concurrency": 8},
        "build": {"method": "best_of_n", "answers": {"min_scored": 5}, "reward": {"judge": 0, "longreward": 1},
                  "longreward": {"passage_words": 16, "passages": 2, "note_words": 50, "tries": 2},
                  "pairs": {"rejected": "worst"}, "concurrency": 2, "max_unscored": 0.5, **build}})


def score(folder: Path, url: str, *more: str, build=None):
    config = config_file(folder, url, **(build or {}))
    return lpo("score", "answers.jsonl", *more, "--config", config, cwd=folder)


def score_here(folder: Path, url: str, *, build=None, **options):
    """The same in this process: what it prints, and what it tells meanwhile."""
    told = StringIO()
    lines = score_file(folder / "answers.jsonl", [f"runs_dir={folder / 'runs'}"],
                       config=str(config_file(folder, url, **(build or {}))), reporter=Reporter(told), **options)
    return "\n".join(lines), told.getvalue()


def run_of(folder: Path, name="answers-scores"):
    return folder / "runs" / name


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Three questions with six answers each: one without a grade, one twice, one row empty; nobody disturbs it."""
    folder = tmp_path_factory.mktemp("scored")
    answers, documents = make_rows()
    answers[3]["answer"] = answer(9, ("x", 1, 1), ["full"])
    question = answers[0]["idx"][0]
    answers.append({**answers[0], "idx": f"{question}-9", "answer": answers[0]["answer"].replace(" ", "  ")})
    answers.append({"idx": f"{question}-10", "query": answers[0]["query"], "answer": " "})
    write_rows(folder, answers, documents)
    with ScriptedServer(answer=judge) as server:
        result = score(folder, server.url, "--contexts", "documents.jsonl")
        assert result.returncode == 0, result.stderr
        return folder, answers, len(server.calls), result


def test_every_answer_has_the_scores_that_the_judge_gave_it(scored):
    folder, answers, _, _ = scored
    rows = read_jsonl(run_of(folder) / "scored.jsonl")
    texts = {row["idx"]: row["answer"] for row in answers}
    order = [row["idx"] for row in answers if row["answer"].strip()]
    questions = list(dict.fromkeys(name[0] for name in order))
    assert [row["id"] for row in rows] == [name for question in questions for name in order if name[0] == question]
    for row in rows:
        if row["unscored"] == "duplicate":
            assert row["same_as"] == answers[0]["idx"] and row["overall"] is None
            continue
        verdict = expected(texts[row["id"]])
        if verdict is None:
            assert row["unscored"] == "unparsable" and row["overall"] is None and not row["scores"]
        else:
            assert row["scores"] == pytest.approx(verdict[0])
            assert row["overall"] == pytest.approx(verdict[1]) and row["total"] == pytest.approx(40 * verdict[1])
    assert [row["unscored"] for row in rows if row["unscored"]].count("duplicate") == 1


def test_the_best_and_the_worst_answer_of_each_question_make_its_pair(scored):
    folder, answers, _, _ = scored
    pairs = {pair["group"]: pair for pair in read_jsonl(run_of(folder) / "pairs.jsonl")}
    assert len(pairs) == 3
    for question, pair in pairs.items():
        verdicts = {row["answer"]: expected(row["answer"]) for row in answers
                    if row["idx"].startswith(f"{question}-") and row in answers[:18]}
        overall = {text: verdict[1] for text, verdict in verdicts.items() if verdict}
        assert overall[pair["chosen"]] == max(overall.values()) and overall[pair["rejected"]] == min(overall.values())
        assert pair["margin"] == pytest.approx(max(overall.values()) - min(overall.values()))


def test_calls_are_statements_and_four_for_an_answer_and_the_notes_once_for_a_question(scored):
    folder, answers, made, _ = scored
    judged = [row["answer"] for row in answers[:18]]
    statements = sum(len(VERDICTS.search(text)[4].split()) for text in judged)
    unread = 1  # the grade that is no number is asked for once more
    assert read_json(run_of(folder) / "score.json")["calls"] == {
        "completeness": 18, "helpfulness": 18 + unread, "logicality": 18, "notes": 3 * 3, "statements": 18,
        "support": statements}
    assert made == 4 * 18 + statements + 9 + unread


def test_the_summary_counts_every_row_and_its_means_leave_out_what_has_no_score(scored):
    folder, answers, _, result = scored
    summary = read_json(run_of(folder) / "score.json")
    assert summary["answers"] + sum(summary["rejected"].values()) == len(answers) == 20
    assert summary["rejected"] == {"empty": 1} and summary["unscored"] == {"duplicate": 1, "unparsable": 1}
    assert summary["scored"] == 17 and summary["questions"] == 3 and summary["interval_over"] == "questions"
    verdicts = [expected(row["answer"]) for row in answers[:18]]
    for name in ("helpfulness", "logicality", "faithfulness", "completeness"):
        mean = statistics.mean(verdict[0][name] for verdict in verdicts if verdict)
        assert summary["means"][name]["mean"] == pytest.approx(mean)
        assert summary["means"][name]["n"] == 17 and summary["means"][name]["low"] is None, "three questions are few"
    pairs = read_jsonl(run_of(folder) / "pairs.jsonl")
    longer = statistics.mean(len(WORD.findall(pair["chosen"])) - len(WORD.findall(pair["rejected"])) for pair in pairs)
    assert summary["chosen_minus_rejected_words"]["mean"] == pytest.approx(longer)
    assert summary["judge"]["model"] == "scripted" and "lpo" in summary["versions"]
    assert f"chosen minus rejected: {summary['chosen_minus_rejected_words']['mean']:+.0f} words" in result.stdout
    assert "17 of 19 answers to 3 questions have a score" in result.stdout
    assert "no score: unparsable" in result.stdout and f"duplicate of {answers[0]['idx']}" in result.stdout


def test_the_same_command_once_more_makes_no_call_and_says_the_same(scored):
    folder, _, _, result = scored
    before = {name: (run_of(folder) / name).read_bytes() for name in RESULTS}
    with ScriptedServer(answer=judge) as server:
        again = score(folder, server.url, "--contexts", "documents.jsonl")
        assert again.returncode == 0, again.stderr
        redone = score(folder, server.url, "--contexts", "documents.jsonl", "--redo", "build")
        assert redone.returncode == 0, redone.stderr
        assert not server.log
    assert "already complete" in again.stderr and again.stdout == redone.stdout == result.stdout
    assert {name: (run_of(folder) / name).read_bytes() for name in RESULTS} == before
    page = lpo("report", "answers-scores", cwd=folder)
    assert page.returncode == 0 and (run_of(folder) / "report.html").stat().st_size > 10_000


def test_other_answers_under_the_same_name_are_refused(scored, tmp_path):
    folder, answers, _, _ = scored
    (tmp_path / "answers.jsonl").write_text(json.dumps(answers[0]) + "\n")
    with ScriptedServer(answer=judge) as server:
        config = config_file(tmp_path, server.url)
        result = lpo("score", tmp_path / "answers.jsonl", "--config", config, "--contexts", "documents.jsonl",
                     cwd=folder)
        assert result.returncode == 2 and "prompts themselves changed" in result.stderr and not server.log


def test_killed_at_random_instants_it_ends_as_if_nothing_had_happened_and_pays_nothing_twice(tmp_path):
    answers, documents = make_rows(questions=4, seed=3)
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        write_rows(folder, answers, documents)
    with ScriptedServer(answer=judge) as server:
        assert score(folders[0], server.url, "--contexts", "documents.jsonl").returncode == 0
        calls = len(server.calls)
    rng, kills = random.Random(1), 0
    with ScriptedServer(answer=judge, latency=0.03) as server:
        config = config_file(folders[1], server.url)
        command = ("score", "answers.jsonl", "--config", config, "--contexts", "documents.jsonl")
        while True:
            process = start_lpo(*command, cwd=folders[1])
            target = len(server.calls) + rng.randint(5, calls // 4)
            while process.poll() is None and len(server.calls) < target:
                time.sleep(0.005)
            if kills == 3:
                assert process.wait(120) == 0, (folders[1] / "output.log").read_text()
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.1)  # what was in flight reaches the server's log
            kills += 1
        made = len(server.calls)
    for name in RESULTS:
        assert (run_of(folders[1]) / name).read_bytes() == (run_of(folders[0]) / name).read_bytes(), name
    assert calls <= made <= calls + 8 * kills, "only calls in flight at a kill may be made again"
    with Journal(run_of(folders[1]) / "journal.sqlite") as journal:
        counts = journal.counts()
        assert counts.ever[Outcome.ANSWER] == counts.entries == calls, "no finished call was made twice"


def test_a_tie_gives_no_pair_and_is_no_failure(tmp_path):
    answers, documents = make_rows(questions=1)
    for number, row in enumerate(answers):
        row["answer"] = answer(number, (5, 5, 5), ["partial"])
    write_rows(tmp_path, answers, documents)
    with ScriptedServer(answer=judge) as server:
        printed, _ = score_here(tmp_path, server.url, contexts=tmp_path / "documents.jsonl", name="ties")
    assert not (run_of(tmp_path, "ties") / "pairs.jsonl").read_bytes()
    assert re.search(r"pairs: none \((tie|small_margin): 1\)", printed)
    summary = read_json(run_of(tmp_path, "ties") / "score.json")
    assert summary["interval_over"] == "answers" and summary["means"]["overall"]["low"] == 0.5


def test_fewer_scored_answers_than_wanted_give_no_pair(tmp_path):
    write_rows(tmp_path, *make_rows(questions=2, each=3))
    with ScriptedServer(answer=judge) as server:
        printed, _ = score_here(tmp_path, server.url, contexts=tmp_path / "documents.jsonl")
    assert "pairs: none (too_few_scored: 2)" in printed


def test_without_documents_two_dimensions_count_and_that_is_said(tmp_path):
    answers, documents = make_rows(questions=1)
    write_rows(tmp_path, answers, documents)
    with ScriptedServer(answer=judge) as server:
        _, told = score_here(tmp_path, server.url)
        assert len(server.calls) == 2 * len(answers)
    assert "no document for 1 of 1 question;" in told and "--contexts" in told
    for row in read_jsonl(run_of(tmp_path) / "scored.jsonl"):
        assert row["scores"].keys() == {"helpfulness", "logicality"} and row["total"] is None


def test_other_scorers_count_beside_longreward(tmp_path):
    answers, documents = make_rows(questions=1)
    write_rows(tmp_path, [{**row, "target_words": 20} for row in answers], documents)
    with ScriptedServer(answer=judge) as server:
        score_here(tmp_path, server.url, contexts=tmp_path / "documents.jsonl",
                   build={"reward": {"judge": 0, "longreward": 3, "length": 1}})
    texts = {row["idx"]: row["answer"] for row in answers}
    for row in read_jsonl(run_of(tmp_path) / "scored.jsonl"):
        dimensions, overall = expected(texts[row["id"]])
        assert row["scores"]["longreward"] == pytest.approx(overall)
        assert row["total"] == pytest.approx(sum(dimensions.values()))
        assert row["overall"] == pytest.approx((3 * overall + row["scores"]["length"]) / 4)


def test_from_six_questions_on_there_are_intervals_and_long_files_have_no_table(tmp_path):
    write_rows(tmp_path, *make_rows(questions=7, each=3))
    with ScriptedServer(answer=judge) as server:
        printed, _ = score_here(tmp_path, server.url, contexts=tmp_path / "documents.jsonl")
    summary = read_json(run_of(tmp_path) / "score.json")
    overall = summary["means"]["overall"]
    assert overall["low"] < overall["mean"] < overall["high"] and overall["n"] == 21
    assert "bootstrap over questions" in printed and f"[{overall['low']:.3f}, {overall['high']:.3f}]" in printed
    assert "0-0" not in printed


def test_a_judge_that_can_rarely_be_read_stops_the_run(tmp_path):
    answers, documents = make_rows(questions=1)
    for number, row in enumerate(answers):
        row["answer"] = answer(number, ("x", 5, 5), [])
    write_rows(tmp_path, answers, documents)
    with ScriptedServer(answer=judge) as server, pytest.raises(UnsoundError, match="6 of 6 judgements have no score"):
        score_here(tmp_path, server.url, contexts=tmp_path / "documents.jsonl")


@pytest.mark.parametrize(("overrides", "options", "said"), [
    (["prompts.limit=1"], {}, "scoring does not read prompts.limit"),
    (["train.args.beta=1"], {}, "scoring does not read train.args.beta"),
    (["build.answers.samples=3"], {}, "scoring does not read build.answers.samples"),
    (["buildings"], {}, "scoring does not read buildings"),
    (["build.max_unscored=2"], {}, "max_unscored"),
    ([], {"config": "other.yaml"}, "this one's is longdpo"),
    ([], {"redo": Stage.TRAIN}, "scoring has no stage train"),
    ([], {"name": "a/b"}, "name"),
    ([], {"contexts": Path("none.jsonl")}, "no such file"),
])
def test_what_cannot_be_is_refused_before_anything_is_asked(tmp_path, monkeypatch, overrides, options, said):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, *make_rows(questions=1))
    config = str(config_file(tmp_path, "http://127.0.0.1:1/v1"))
    write_config(tmp_path / "other.yaml", {"name": "other", "build": {"method": "longdpo"}})
    with pytest.raises((ConfigError, DataError), match=re.escape(said)):
        score_file(Path("answers.jsonl"), overrides, **{"config": config, **options})
    assert not (tmp_path / "runs").exists()


def test_the_recipes_hold_the_papers_figures_and_the_demos_documents_are_there():
    paper = load_config("longreward")
    build, train = paper.build, paper.train.args
    assert (build.answers.samples, build.answers.min_scored, build.pairs.rejected) == (10, 5, "worst")
    assert paper.policy.sampling.temperature == 1 and build.reward.longreward and not build.reward.judge
    assert (train["beta"], train["loss_type"], train["loss_weights"]) == (0.15, ["sigmoid", "sft"], [1.0, 0.1])
    assert train["learning_rate"] == 1e-6
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 16
    demo = load_config("longreward_demo")
    prompts = load_prompts(demo.prompts)
    assert (len(prompts.build), len(prompts.held_out), len(prompts.rejected)) == (3, 1, 0)
    assert all(300 < len((prompt.context or "").split()) < 500 for prompt in (*prompts.build, *prompts.held_out))

