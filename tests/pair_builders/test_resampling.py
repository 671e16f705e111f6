"""Segments drawn again: what is asked of the policy, which version is taken, and which pairs come of it."""

import asyncio

import pytest
from builder_cases import PROMPT, ByText, cut, models
from function_llm import FunctionLLM, completion
from pydantic import ValidationError

from lpo.build_config import BuildConfig
from lpo.errors import RequestRejectedError
from lpo.llm.base import Finish
from lpo.pair_builders import BuildEvent, create_builder
from lpo.pair_builders.script_pairs import script_pairs
from lpo.records import Judgement, Script

DRAFT = "First bad part.\n\nSecond bad part.\n\nThird bad part."
PARTS = ["First bad part.\n\n", "Second bad part.\n\n", "Third bad part."]


def settings(**correction):
    return BuildConfig(
        method="iterdpo", answers={"samples": 1}, segments={"by": "paragraphs", "max_words": 3},
        correction={"by": "resample", "samples": 3, "segment_tokens": 20, "mode": "prefix", **correction})


def build(versions, score, draft=DRAFT, config=None, seed=0, delay=lambda request: 0):
    """A tree over a policy that writes the draft, then versions of its segments."""
    config, events = config or settings(), []

    def write(request):
        return draft if request.purpose == "policy" else versions(request)

    policy, scorer = FunctionLLM(write=write, delay=delay), ByText(score)
    builder = create_builder(config, models(policy, scorer), events.append)
    tree = asyncio.run(builder.build(PROMPT, seed=seed))
    drawn = [request for request in policy.requests if request.purpose == "revision"]
    return tree, drawn, scorer, events


def by_number(request):
    """Versions of a segment that go on; the seed tells them apart."""
    return cut(f"A good {request.seed % 7} one. And then")


def goodness(draft):
    return 0.5 + 0.1 * draft.so_far.count("good") - 0.1 * draft.so_far.count("bad")


def outcomes(tree):
    return [[one.outcome.value for one in segment.corrections] for segment in tree.script.segments]


def test_each_segment_is_written_again_in_its_place_and_a_better_version_is_taken():
    tree, drawn, scorer, events = build(by_number, goodness)
    segments = tree.script.segments
    assert [segment.original for segment in segments] == PARTS
    assert outcomes(tree) == [["accepted"]] * 3
    assert len(drawn) == 9 and len({request.seed for request in drawn}) == 9
    assert [request.context.prefix for request in drawn[::3]] == [
        "", segments[0].revised, segments[0].revised + segments[1].revised]
    assert all(segment.revised.startswith("A good") and segment.revised.endswith(" one.\n\n")
               for segment in segments[:2]), "cut at a sentence, and the white space of the segment is kept"
    # The segment in its place, the draft with all that follows, then the versions.
    first = scorer.seen[0]
    assert [draft.text for draft in first[:2]] == [PARTS[0], DRAFT]
    assert [draft.complete for draft in first] == [False, True] + [False] * (len(first) - 2)
    share = len(PARTS[0]) / len(DRAFT)
    assert [draft.required_words for draft in first[:3]] == [round(40 * share), 40, round(40 * share)]
    assert events.count(BuildEvent.CORRECTED) == 3
    assert (tree.script.ends, tree.script.revised_ends) == (True, False), "the last version was cut, it does not end"


def test_the_version_that_gains_most_is_taken_and_one_that_is_no_better_never():
    def versions(request):
        return cut("A good good one. And") if request.seed % 2 else cut("A good one. And")

    tree, *_ = build(versions, goodness)
    best = max((judged.overall for judged in [tree.script.segments[0].corrections[0].after]), default=None)
    assert tree.script.segments[0].revised.count("good") in (1, 2) and best > 0.5
    for score in (lambda draft: 0.5, lambda draft: 0.5 + 0.1 * draft.so_far.count("bad")):
        tree, *_ = build(by_number, score)
        assert outcomes(tree) == [["not_better"]] * 3
        assert tree.script.revised == DRAFT and tree.script.revised_ends
        assert script_pairs(tree, settings()).rejected[-1].reason == "no_correction"


def test_a_version_that_ends_is_held_against_all_that_follows_and_the_rest_is_struck_out():
    def versions(request):
        return completion("A good end. ", Finish.STOP) if request.context.prefix else by_number(request)

    tree, drawn, scorer, _ = build(versions, goodness)
    script = tree.script
    assert [segment.original for segment in script.segments] == [PARTS[0], PARTS[1] + PARTS[2]]
    assert script.original == DRAFT and script.segments[-1].revised == "A good end."
    assert len(drawn) == 6, "nothing is drawn behind the end"
    assert [(draft.complete, draft.required_words) for draft in scorer.seen[1][1:]] == [(True, 40)] * 2
    [correction] = script.segments[1].corrections
    assert correction.before.overall == goodness(scorer.seen[1][1]) and scorer.seen[1][1].so_far.endswith(PARTS[2])
    *_, last = script_pairs(tree, settings()).pairs
    assert last.chosen == script.revised and last.rejected == DRAFT
    assert last.chosen_ends and last.rejected_ends and last.provenance["full_length"]


def test_an_end_that_the_draft_did_not_have_is_scored_on_the_chosen_side_alone():
    def write(request):
        return cut(DRAFT) if request.purpose == "policy" else completion("A good end.")

    policy = FunctionLLM(write=write)
    tree = asyncio.run(create_builder(settings(), models(policy, ByText(goodness)), lambda event: None)
                       .build(PROMPT, seed=0))
    assert (tree.script.ends, tree.script.revised_ends) == (False, True)
    [pair] = script_pairs(tree, settings()).pairs
    assert (pair.chosen_ends, pair.rejected_ends) == (True, False)
    assert Script.model_validate(tree.script.to_json()) == tree.script
    local = settings(mode="local")
    assert [pair.chosen_ends for pair in script_pairs(tree, local).pairs] == [True]


@pytest.mark.parametrize(("version", "outcome"), [
    (cut("  "), "empty"), (RequestRejectedError("too long"), "request_rejected"),
    (completion("", Finish.REFUSED), "request_rejected")])
def test_versions_that_cannot_be_used_leave_the_segment_as_it_is(version, outcome):
    tree, *_ = build(lambda request: version, goodness)
    assert outcomes(tree) == [[outcome]] * 3 and tree.script.revised == DRAFT


def test_a_score_that_is_missing_is_no_reason_to_take_a_version():
    tree, *_ = build(by_number, lambda draft: "cut" if "good" in draft.text else 0.1)
    assert outcomes(tree) == [["unscored"]] * 3 and tree.script.revised == DRAFT
    assert isinstance(tree.script.segments[0].corrections[0].after, Judgement)


def test_another_round_draws_again_from_what_was_taken():
    tree, drawn, *_ = build(by_number, lambda draft: 0.9 - 0.001 * len(draft.so_far), config=settings(rounds=2))
    assert all(len(corrections) <= 2 for corrections in outcomes(tree)) and len(drawn) > 9
    assert len({request.seed for request in drawn}) == len(drawn)


def test_the_order_of_the_replies_changes_nothing():
    plain, *_ = build(by_number, goodness)
    mixed, *_ = build(by_number, goodness, delay=lambda request: request.seed % 5)
    assert mixed == plain


@pytest.mark.parametrize("unread", [{"file": "c.jsonl"}, {"accept": "always"}, {"max_tokens": 9}])
def test_settings_that_drawing_again_does_not_read_are_refused(unread):
    with pytest.raises(ValidationError, match="resample"):
        settings(**unread)
    with pytest.raises(ValidationError, match="has no samples"):
        BuildConfig(method="iterdpo", correction={"by": "judge", "samples": 2})
