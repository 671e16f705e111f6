"""The efficacy benchmark at a size of seconds: every arm, going on after a stop, and the report."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, make_tokenizer

from lpo.llm.base import Finish
from lpo.words import count_words

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_tasks_are_drawn_with_a_seed_and_share_no_topic():
    from efficacy_prompts import BUILD_TOPICS, HELD_OUT_TOPICS, LENGTHS, make_prompts

    assert not BUILD_TOPICS.keys() & HELD_OUT_TOPICS.keys()
    prompts = make_prompts(HELD_OUT_TOPICS, 24, seed=1)
    assert prompts == make_prompts(HELD_OUT_TOPICS, 24, seed=1) != make_prompts(HELD_OUT_TOPICS, 24, seed=2)
    assert sorted(prompt.target_words for prompt in prompts) == sorted(LENGTHS * 4)
    assert all(str(prompt.target_words) in prompt.request and point in prompt.request
               for prompt in prompts for point in prompt.meta["cover"])
    with pytest.raises(ValueError, match="24 topics"):
        make_prompts(HELD_OUT_TOPICS, 25, seed=1)


def test_the_base_is_cut_at_the_word_asked_for_and_a_shorter_answer_stays():
    from efficacy_arms import cut_at_target, score_answer
    from efficacy_prompts import BUILD_TOPICS, make_prompts

    prompt = make_prompts(BUILD_TOPICS, 1, seed=0)[0].model_copy(update={"target_words": 3})
    long = cut_at_target(prompt, score_answer(prompt, "One, two; three. Four five", Finish.LENGTH))
    assert (long["text"], long["words"], long["length_score"], long["ended"]) == ("One, two; three", 3, 100, 1)
    short = cut_at_target(prompt, score_answer(prompt, "One two", Finish.LENGTH))
    assert (short["text"], short["words"], short["ended"]) == ("One two", 2, 0)


def test_differences_are_paired_by_seed_and_prompt_and_grouped_by_prompt():
    from efficacy_report import as_markdown, summarise

    from lpo.intervals import bootstrap_mean

    def result(arm, seed, scores):
        return {"arm": arm, "seed": seed, "machine": None, "answers": [
            {"prompt_id": f"p{place}", "length_score": score, "repetition": 0.5, "coverage": 1.0, "words": 9,
             "ended": 1.0} for place, score in enumerate(scores)]}

    base = [[10.0, 20, 30, 40, 50, 60, 70], [12.0, 22, 32, 42, 52, 62, 72]]
    after = [[30.0, 35, 30, 80, 70, 61, 90], [22.0, 30, 31, 90, 50, 80, 99]]
    results = [result("base", seed, scores) for seed, scores in enumerate(base)]
    results += [result("outcome", seed, scores) for seed, scores in enumerate(after)]
    summary = summarise(results)
    differences = [late - early for before, later in zip(base, after, strict=True)
                   for early, late in zip(before, later, strict=True)]
    expected = bootstrap_mean(differences, seed=0, resamples=10_000, groups=[f"p{n}" for n in range(7)] * 2)
    found = summary["difference"]["outcome-base"]["length_score"]
    assert found["mean"] == pytest.approx(sum(differences) / 14)
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    assert summary["by_seed"]["base"]["1"]["length_score"] == 42
    text = as_markdown(summary)
    assert "(a) outcome DPO − base" in text and "50.0 / 100.0" in text


def test_all_arms_run_go_on_where_they_were_and_are_reported(tmp_path, monkeypatch, capsys):
    import efficacy
    import efficacy_arms
    import efficacy_prompts
    from efficacy_arms import Arm

    monkeypatch.setattr(efficacy_prompts, "LENGTHS", (4, 6))  # a random model writes few words
    tokenizer = make_tokenizer()
    make_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    answers = {"samples": 3, "max_tokens": 24}
    pairs = {"chosen": "best_score", "rejected": "worst", "min_margin": 1e-6}
    monkeypatch.setitem(efficacy_arms.BUILDS, Arm.OUTCOME, {"method": "best_of_n", "answers": answers, "pairs": pairs})
    monkeypatch.setitem(efficacy_arms.BUILDS, Arm.ITERDPO, {
        **efficacy_arms.BUILDS[Arm.ITERDPO], "answers": answers, "pairs": pairs,
        "correction": {"by": "resample", "samples": 2, "segment_tokens": 12, "mode": "local"}})
    out = tmp_path / "out"
    command = ["--seeds", "0", "--build-prompts", "2", "--held-out", "2", "--threads", "1", "--out", str(out),
               f"policy.model={tmp_path / 'tiny'}", "policy.dtype=float32", "build.step_tokens=12", "build.depth=2",
               "build.pairs.min_margin=1e-6", "train.args.max_steps=2", "train.args.bf16=false", "eval.max_tokens=20"]
    efficacy.main([*command, "--dry-run"])
    assert "2 tasks to build from, 2 held out" in capsys.readouterr().out and not out.exists()
    efficacy.main([*command, "--arms", "base", "outcome"])
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("seed-0/*/result.json")}
    assert len(stamps) == 2
    efficacy.main(command)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "what is finished is left alone"
    results = {path.parent.name: json.loads(path.read_text()) for path in out.glob("seed-0/*/result.json")}
    assert set(results) == {arm.value for arm in Arm}
    for arm, result in results.items():
        assert [answer["prompt_id"] for answer in result["answers"]] == [
            answer["prompt_id"] for answer in results["base"]["answers"]]
        assert all(count_words(answer["text"]) == answer["words"] for answer in result["answers"])
        if Arm(arm).trains:
            assert result["train"]["steps"] == 2 and result["train"]["parameters_moved"] > 0
            assert result["build"]["tokens"] > 0 and result["build"]["pairs"] > 0
    assert results["iterdpo"]["build"]["tokens_shared"] > 0, "answers of the outcome arm are not written again"
    assert not list(out.glob("seed-0/*/merged")), "merged weights are not kept"
    table = capsys.readouterr().out
    assert all(arm.label in table for arm in Arm)
    assert json.loads((out / "report.json").read_text())["seeds"] == [0]
    with pytest.raises(SystemExit, match="other settings"):
        (out / "seed-0" / "sft" / "result.json").unlink()
        efficacy.main([*command, "train.args.beta=0.7"])
