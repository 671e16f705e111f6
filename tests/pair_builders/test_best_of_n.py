"""Best-of-N: which answers are asked for, given or lengthened, and how they are scored."""

import asyncio
import random
from collections import Counter

import pytest
from builder_cases import PLAIN, PROMPT, ByText, by_number, models
from function_llm import FunctionLLM, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.build_config import BuildConfig
from lpo.errors import BackendError, DataError, RequestRejectedError
from lpo.llm.base import Finish
from lpo.llm.journal import Journal, JournaledLLM
from lpo.pair_builders import BuildEvent, create_builder
from lpo.pair_builders.best_of_n import answers_of
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.self_lengthen import Extender, length_biased_keep
from lpo.pair_builders.steps import derive_seed
from lpo.pair_builders.tree_search import TreeSearch
from lpo.records import Origin, Prompt
from lpo.templates import load_templates
from lpo.words import count_words


def config(extension=None, **answers):
    return BuildConfig.model_validate({
        "method": "best_of_n", "answers": {"samples": 4, "max_tokens": 64, "extension": extension, **answers}})


def build(write, scorer=None, prompt=PROMPT, seed=0, delay=lambda request: 0, on_event=lambda event: None, **answers):
    """A tree, and the policy that was asked."""
    llm = FunctionLLM(write=write, delay=delay)
    builder = create_builder(config(**answers), models(llm, scorer or ByText(by_number)), on_event)
    return asyncio.run(builder.build(prompt, seed=seed)), llm


def answer(request):
    return completion(f"Answer {request.seed % 90 + 5} is whole.", Finish.STOP, [-1.0, -2.0])


def layer(tree):
    return tree.nodes[1:]


# What the policy is asked


def one_layer_search(llm, samples):
    """What best-of-N was before it had a builder of its own: a search of one layer."""
    search = BuildConfig.model_validate({
        "branching": samples, "depth": 1, "step_tokens": 64, "boundary": "tokens", "search": {"algorithm": "greedy"},
        "memory": {"enabled": False}, "critique": {"enabled": False}})
    return TreeSearch(search, models(llm, ByText(by_number)), lambda event: None, method="best_of_n")


@pytest.mark.parametrize("prompt", [PROMPT, PLAIN])
def test_requests_and_nodes_are_those_of_a_search_of_one_layer(prompt):
    def write(request):
        said = f"Answer {request.seed % 7}. It goes on, and then it is c"
        return completion(said, [Finish.STOP, Finish.LENGTH][request.index % 2], [-1.0, -request.index])

    tree, llm = build(write, prompt=prompt, seed=11, samples=6)
    before = FunctionLLM(write=write)
    search = asyncio.run(one_layer_search(before, 6).build(prompt, seed=11))
    assert llm.requests == before.requests and len(llm.requests) == 6
    assert [node.model_copy(update={"visits": 0, "value": None}) for node in search.nodes] == list(tree.nodes)
    assert (tree.id, tree.prompt, tree.method, tree.seed) == (search.id, search.prompt, search.method, search.seed)


def test_replies_in_the_journal_of_such_a_search_are_found_again(tmp_path):
    async def work(make):
        llm = FunctionLLM(write=answer)
        with Journal(tmp_path / "journal.sqlite") as journal:
            tree = await make(JournaledLLM(llm, journal)).build(PROMPT, seed=3)
        return tree, llm.requests

    search, asked = asyncio.run(work(lambda llm: one_layer_search(llm, 4)))
    tree, again = asyncio.run(work(lambda llm: create_builder(config(), models(llm, ByText(by_number)))))
    assert len(asked) == 4 and not again
    assert [node.text for node in layer(tree)] == [node.text for node in layer(search)]


def test_an_answer_that_is_cut_stays_whole_and_open():
    tree, _ = build(lambda request: completion("A sentence. And then it was c", Finish.LENGTH)
                    if request.index else "Done.")
    ended, cut = layer(tree)[:2]
    assert (ended.text, ended.ends) == ("Done.", True)
    assert (cut.text, cut.ends) == ("A sentence. And then it was c", False)


def test_all_answers_are_scored_in_one_call_against_the_length_asked_for():
    events, scorer = [], ByText(by_number)
    tree, _ = build(lambda request: completion(f"Number {request.index}", Finish.LENGTH)
                    if request.index == 2 else f"Number {request.index}", scorer, on_event=events.append)
    [drafts] = scorer.seen
    assert [(draft.prompt, draft.prefix, draft.text) for draft in drafts] == [
        (PROMPT, "", f"Number {index}") for index in range(4)]
    assert [draft.complete for draft in drafts] == [True, True, False, True]
    assert {draft.required_words for draft in drafts} == {40}
    assert [node.score for node in layer(tree)] == [0.0, 0.01, 0.02, 0.03]
    assert events == [BuildEvent.LAYER] and not tree.paths


def test_what_cannot_be_used_is_set_aside_and_never_scored():
    def write(request):
        return [RequestRejectedError("too long"), completion("", Finish.REFUSED), " \n", "Text 4.", "Text  4.\n",
                "Text 6."][request.index]

    scorer = ByText(by_number)
    tree, _ = build(write, scorer, samples=6)
    assert [node.note for node in layer(tree)] == [
        "request_rejected: too long", "refused", "empty", None, "duplicate of 0.3", None]
    assert [[draft.text for draft in drafts] for drafts in scorer.seen] == [["Text 4.", "Text 6."]]
    assert [node.judgement is None for node in layer(tree)] == [True, True, True, False, True, False]


def test_where_no_answer_is_left_nothing_is_scored():
    scorer, events = ByText(by_number), []
    tree, _ = build(lambda request: "", scorer, on_event=events.append)
    derived = rows_of(tree, config())
    assert not scorer.seen and events == [BuildEvent.LAYER]
    assert not derived.pairs and [row.reason for row in derived.rejected] == ["empty"]


def test_a_policy_that_cannot_be_used_ends_the_build():
    with pytest.raises(BackendError, match="gone"):
        build(lambda request: BackendError("gone"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8))
def test_the_tree_does_not_depend_on_the_order_of_replies(shuffle, samples):
    rng = random.Random(shuffle)
    late, _ = build(answer, samples=samples, seed=shuffle, delay=lambda request: rng.randrange(30))
    assert late == build(answer, samples=samples, seed=shuffle)[0]


# Given answers


def given_prompt(*texts):
    return Prompt(id="g", prompt="Say it.", meta={"answers": list(texts)})


def test_answers_that_the_prompt_brings_along_are_taken_instead():
    scorer = ByText(by_number)
    prompt = given_prompt("Given 3.", "Given 9.", "Given  3.", "Given 5.")
    tree, llm = build(answer, scorer, prompt=prompt)
    assert not llm.requests
    assert [(node.id, node.text, node.note) for node in layer(tree)] == [
        ("0.0", "Given 3.", None), ("0.1", "Given 9.", None), ("0.2", "Given  3.", "duplicate of 0.0"),
        ("0.3", "Given 5.", None)]
    assert all(node.ends and node.origin is Origin.GIVEN and node.depth == 1 for node in layer(tree))
    [pair] = rows_of(tree, BuildConfig.model_validate({"method": "best_of_n", "pairs": {"rejected": "worst"}})).pairs
    assert (pair.chosen, pair.rejected, pair.margin) == ("Given 9.", "Given 3.", pytest.approx(0.06))
    assert pair.chosen_ends and pair.rejected_ends


@pytest.mark.parametrize("answers", ["one text", [], [1, 2], {"a": "b"}, ["text", None]])
def test_given_answers_that_are_no_texts_are_refused(answers):
    with pytest.raises(DataError, match="'answers' must be a list of texts") as caught:
        build(answer, prompt=Prompt(id="g", prompt="Say it.", meta={"answers": answers}))
    assert caught.value.where == "prompt g" and caught.value.mend


def test_a_prompt_that_brings_none_is_written_for():
    assert answers_of(PROMPT) is None
    assert answers_of(given_prompt("a", "b")) == ("a", "b")


# Longer versions


def sentences(count, name):
    letters = "abcdefghij"
    return " ".join(name + "".join(letters[int(digit)] for digit in str(index)) for index in range(count)) + "."


def grows(request):
    """Answers of 20 words and more; where they are extended, some much longer, some not at all."""
    asked = request.context.prompt[-1].content
    if asked == "Write a letter.":
        return "\n\n".join(sentences(10 + request.index, name) for name in f"abcdef{request.index}"[request.index % 3:])
    if not request.context.prefix:
        return "\n\n".join(sentences(30, name) for name in "ghi")
    return sentences(5 + request.seed % 90, "r")


EXTENSION = {"rounds": 2, "tries": 1}


@pytest.mark.parametrize("seed", range(4))
def test_longer_versions_are_candidates_beside_the_sampled_ones(seed):
    scorer = ByText(lambda draft: count_words(draft.text) / 1000)
    tree, llm = build(grows, scorer, seed=seed, samples=8, extension=EXTENSION)
    plain, _ = build(grows, seed=seed, samples=8)
    sampled = [node for node in layer(tree) if node.extends is None]
    longer = [node for node in layer(tree) if node.extends is not None]
    assert [node.text for node in sampled] == [node.text for node in layer(plain)], "the originals are left alone"
    assert list(layer(tree)) == sampled + longer

    extender = Extender(FunctionLLM(write=grows), config(EXTENSION).answers.extension, load_templates())
    requests = iter(llm.requests[8:])
    expected = {}
    for node in sampled:  # each by itself, with whatever seed it was extended with
        alone = asyncio.run(extender.extend(PROMPT, node.text, seed=derive_seed(seed, "p1", node.id, "extend")))
        expected[node.id] = alone.text
        assert node.failures == ({} if alone.text is not None else {"extend": alone.failure})
    assert {node.extends: node.text for node in longer} == {
        name: text for name, text in expected.items() if text is not None}
    assert all(node.id == f"{node.extends}e" and node.origin is Origin.EXTENDED and node.ends and node.depth == 1
               for node in longer)
    assert sum(1 for _ in requests) == 4 * len(sampled), "two rounds of two requests for each answer"

    left_out = "left_out: the draw favours longer ones"
    draws = [derive_seed(seed, "p1", node.id, "keep") / 2**31 for node in longer]
    kept = length_biased_keep([count_words(node.text) for node in longer], seed_of=draws.__getitem__)
    assert [node.note != left_out for node in longer] == kept
    assert all(node.note in (None, left_out) or node.note.startswith("duplicate of 0.") for node in longer)
    assert [draft.text for draft in scorer.seen[0]] == [node.text for node in layer(tree) if node.note is None]


def test_the_length_biased_draw_differs_between_seeds_and_always_drops_the_shortest():
    dropped = Counter()
    for seed in range(12):
        tree, _ = build(grows, seed=seed, samples=6, extension=EXTENSION)
        longer = [node for node in layer(tree) if node.extends is not None]
        left_out = [node for node in longer if node.note is not None]
        assert not longer or min(longer, key=lambda node: count_words(node.text)) in left_out
        dropped[len(left_out)] += 1
    assert len(dropped) > 1


def test_what_could_not_be_lengthened_says_so_and_stays_a_candidate():
    def stuck(request):
        return grows(request) if request.context.prompt[-1].content == "Write a letter." else "No."

    tree, _ = build(stuck, ByText(lambda draft: 0.5), samples=3, extension=EXTENSION)
    assert len(layer(tree)) == 3
    for node in layer(tree):
        assert node.failures["extend"] and node.note is None and node.score == 0.5


def test_longer_versions_do_not_depend_on_the_order_of_replies():
    rng = random.Random(5)
    late, _ = build(grows, samples=5, extension=EXTENSION, delay=lambda request: rng.randrange(20))
    assert late == build(grows, samples=5, extension=EXTENSION)[0]


# Settings that mean nothing


@pytest.mark.parametrize(("settings_", "said"), [
    ({"pairs": {"rejected": "vetoed"}}, "pairs.rejected: method 'best_of_n' checks no answer"),
    ({"pairs": {"layers": "best_path"}}, "pairs.layers"),
    ({"answers": {"samples": 1}}, "needs two or more"),
    ({"answers": {"samples": 1, "extension": {}}}, "needs two or more"),
    ({"branching": 8}, "has no branching"),
])
def test_a_setting_that_means_nothing_to_answers_is_refused(settings_, said):
    with pytest.raises(ValueError, match=said):
        BuildConfig.model_validate({"method": "best_of_n", **settings_})


def test_a_stored_configuration_can_be_read_again():
    for pairs in ({}, {"rejected": "worst", "chosen": "best_score"}, {"rejected": "margin", "per_layer": None}):
        build_ = BuildConfig.model_validate({"method": "best_of_n", "pairs": pairs})
        assert BuildConfig.model_validate(build_.model_dump()) == build_
