"""Recorded results of a real lm-eval (`lm_eval_tasks.py` says how) become scores, checked by counting documents."""

import copy
import json
import math

import pytest
from lm_eval_tasks import recorded

from lpo.errors import UnsoundError
from lpo.evaluation.guard import Abilities, guard_scores, read_results
from lpo.intervals import bootstrap_mean

RESULTS = recorded()
VERSIONS = {"lm_eval": "0.4.13"}
BASE, TRAINED = (read_results(RESULTS[name], VERSIONS) for name in ("base", "trained"))


def scores(base=BASE, trained=TRAINED, limit=None, **settings):
    return guard_scores(base, trained, limit=limit, seed=0, resamples=500, **settings)


def test_groups_without_a_measure_are_shown_as_their_members():
    # `coast` holds the group `harbour` and the task `harbour_write` and has no measure of its own.
    assert BASE.shown == ("harbour_story", "harbour", "harbour_write")
    found = scores()
    assert set(found.tasks) == {"harbour", "harbour_write", "harbour_story"}
    assert set(found.subtasks) == {"harbour_words", "harbour_pier"}
    assert set(found.tasks["harbour"]) == {"acc,none"}
    assert set(found.tasks["harbour_write"]) == {"exact_match,strict", "exact_match,loose"}


@pytest.mark.parametrize(("task", "key", "members"), [
    ("harbour_words", "acc,none", ["harbour_words"]), ("harbour_pier", "acc_norm,none", ["harbour_pier"]),
    ("harbour", "acc,none", ["harbour_words", "harbour_pier"]),
    ("harbour_write", "exact_match,loose", ["harbour_write"]),
])
def test_values_and_differences_are_means_over_the_documents_that_were_logged(task, key, members):
    found = scores()
    row = (found.tasks | found.subtasks)[task][key]
    metric, filtered = key.split(",")
    sides = [[sample[metric] for member in members for sample in RESULTS[side]["samples"][member]
              if sample["filter"] == filtered] for side in ("base", "trained")]
    count = len(sides[0])
    assert (row.base, row.trained) == pytest.approx([sum(side) / count for side in sides])
    assert row.n == count
    assert row.difference == bootstrap_mean([after - before for before, after in zip(*sides, strict=True)], seed=0,
                                            resamples=500)
    assert row.higher_is_better is True
    assert row.base_stderr == RESULTS["base"]["results"][task][f"{metric}_stderr,{filtered}"]


def test_the_group_weighs_its_tasks_by_their_documents():
    row = scores().tasks["harbour"]["acc,none"]
    assert row.n == 34
    assert row.base == pytest.approx((24 * 0.375 + 10 * 0.3) / 34)
    assert row.trained == pytest.approx((24 / 3 + 10 * 0.4) / 34)
    assert row.difference.low < 0 < row.difference.high, "right and wrong on other documents: an interval, not a zero"


def test_what_is_no_mean_over_documents_has_a_difference_without_an_interval():
    found = scores()
    row = found.tasks["harbour_story"]["byte_perplexity,none"]
    assert row.difference.mean == pytest.approx(row.trained - row.base)
    assert (row.difference.low, row.difference.high, row.difference.n) == (None, None, 8)
    assert row.base_stderr is None and row.higher_is_better is False
    [note] = found.notes
    assert note == "no mean over documents, so the difference has no interval: harbour_story (byte_perplexity)"


def test_a_group_whose_tasks_count_alike_whatever_their_size_is_no_mean_over_documents():
    unweighted = copy.deepcopy(RESULTS["base"])
    unweighted["results"]["harbour"]["acc,none"] = (0.375 + 0.3) / 2
    assert read_results(unweighted, VERSIONS).tasks["harbour"]["acc,none"].documents is None
    assert len(BASE.tasks["harbour"]["acc,none"].documents) == 34


def test_one_model_alone_has_values_and_no_difference():
    found = scores(trained=None)
    row = found.tasks["harbour"]["acc,none"]
    assert (row.trained, row.trained_stderr, row.difference) == (None, None, None)
    assert row.base == pytest.approx(12 / 34) and found.notes == ()


def test_scores_are_plain_json_and_results_survive_their_file():
    found = scores(limit=100, notes=("without a template",))
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["tasks"]["harbour"]["acc,none"]["difference"]["n"] == 34
    assert plain["limit"] == 100 and plain["notes"][0] == "without a template" and "at most 100" in plain["notes"][1]
    assert plain["versions"] == VERSIONS and plain["task_versions"]["harbour_words"] == "1.0"
    assert plain["shots"]["harbour_words"] == 0
    assert Abilities.model_validate(json.loads(json.dumps(BASE.to_json()))) == BASE


def test_models_measured_on_other_documents_or_tasks_are_not_compared():
    other = copy.deepcopy(RESULTS["trained"])
    other["samples"]["harbour_words"][3]["doc_hash"] = "0" * 64
    with pytest.raises(UnsoundError, match="different documents"):
        scores(trained=read_results(other, VERSIONS))
    fewer = copy.deepcopy(RESULTS["trained"])
    del fewer["results"]["harbour_story"]
    with pytest.raises(UnsoundError, match="different tasks"):
        scores(trained=read_results(fewer, VERSIONS))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_none(value):
    broken = copy.deepcopy(RESULTS["trained"])
    broken["results"]["harbour_story"]["byte_perplexity,none"] = value
    row = scores(trained=read_results(broken, VERSIONS)).tasks["harbour_story"]["byte_perplexity,none"]
    assert row.trained is None and row.difference.mean is None and row.difference.unscored == 8
    json.dumps(scores(trained=read_results(broken, VERSIONS)).to_json(), allow_nan=False)
