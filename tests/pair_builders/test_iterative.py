"""Iterative correction over models that are plain functions: what is asked, in which order, and what is taken."""

import asyncio
import json
import random
from dataclasses import dataclass, field

import pytest
from builder_cases import PLAIN, PROMPT, ByText, models
from function_llm import FunctionLLM, completion
from scripted_roles import quoted

from lpo.build_config import BuildConfig
from lpo.errors import RequestRejectedError
from lpo.llm.asking import Dialect
from lpo.llm.base import Finish
from lpo.pair_builders import BuildEvent, create_builder
from lpo.pair_builders.correcting import BEFORE_CHARACTERS
from lpo.pair_builders.script_pairs import script_pairs
from lpo.records import CorrectionOutcome, Origin
from lpo.segmentation import split_segments
from lpo.words import count_words

DRAFT = "# One\n\nThe first part is bad.\n\n\n# Two\nThe second part is good.\n\n# Three\n\nThe third part is bad.\n"
SETTINGS = {"answers": {"samples": 1}, "segments": {"by": "sections"}}


def place_of(request):
    """The passage that a prompt in JSON's manner is about, and the text before it."""
    texts = quoted(request.context.prompt[0].content)
    if request.purpose == "revision":
        texts.pop()  # the faults
    return texts[-1], texts[-2] if len(texts) > 2 else ""


@dataclass
class Editor:
    """Finds fault with each of these words and puts the next one in its place; remembers what it was shown."""

    words: tuple = ("bad", "fine")
    asked: list = field(default_factory=list)

    def __call__(self, request):
        passage, before = place_of(request)
        self.asked.append((request.purpose, passage, before))
        word = next((index for index, word in enumerate(self.words[:-1]) if word in passage), None)
        if request.purpose == "revision":
            return json.dumps({"revised": passage.replace(self.words[word], self.words[word + 1])})
        fault = {"aspect": "coherence", "quote": self.words[word or 0], "advice": "Mend it."}
        return json.dumps({"analysis": "Read.", "faults": [] if word is None else [fault]})


def likes_fine(draft):
    """Less bad is better; `fine` is better still."""
    return 0.5 - 0.1 * draft.so_far.count("bad") + 0.1 * draft.so_far.count("fine") + 0.15 * draft.so_far.count("best")


def build(editor=None, scorer=None, prompt=PROMPT, seed=0, drafts=lambda request: DRAFT, delay=lambda request: 0,
          dialect=Dialect.JSON, on_event=lambda event: None, **settings):
    """A tree, and the models that were asked."""
    policy, judge = FunctionLLM(write=drafts, delay=delay), FunctionLLM(write=editor or Editor(), delay=delay)
    scorer = scorer or ByText(likes_fine)
    config = BuildConfig(method="iterdpo", **{**SETTINGS, **settings})
    builder = create_builder(config, models(policy, scorer, judge, dialect=dialect), on_event)
    return asyncio.run(builder.build(prompt, seed=seed)), policy, judge, scorer


def outcomes(tree):
    return [[correction.outcome.value for correction in segment.corrections] for segment in tree.script.segments]


def test_an_answer_is_corrected_segment_by_segment_with_the_corrected_text_before_it():
    editor, events = Editor(), []
    tree, policy, _, scorer = build(editor, on_event=events.append)
    assert tree.script.original == DRAFT and tree.script.revised == DRAFT.replace("bad", "fine")
    assert [segment.original for segment in tree.script.segments] == split_segments(DRAFT, BuildConfig().segments)
    assert outcomes(tree) == [["accepted"], ["unchanged"], ["accepted"]]
    assert (tree.script.draft, tree.script.ends, tree.method) == ("0.0", True, "iterdpo")
    assert [purpose for purpose, _, _ in editor.asked] == ["critique", "revision", "critique", "critique", "revision"]
    assert "first part is fine" in editor.asked[2][2] and "first part is bad" not in editor.asked[3][2]
    assert len(policy.requests) == 1, "one answer is wanted, one is written"
    assert events == [BuildEvent.LAYER, BuildEvent.CORRECTED, BuildEvent.NOT_CORRECTED, BuildEvent.CORRECTED]
    # The judge saw both versions together, in their place, and the answer alone not at all.
    assert [[draft.so_far for draft in drafts] for drafts in scorer.seen] == [
        [DRAFT.split("# Two")[0], DRAFT.split("# Two")[0].replace("bad", "fine")],
        [DRAFT.replace("bad", "fine", 1), DRAFT.replace("bad", "fine")]]
    assert [[draft.complete for draft in drafts] for drafts in scorer.seen] == [[False, False], [True, True]]
    share = len(DRAFT.split("# Two")[0]) / len(DRAFT)
    assert [drafts[0].required_words for drafts in scorer.seen] == [round(40 * share), 40]
    pairs = script_pairs(tree, BuildConfig(method="iterdpo")).pairs
    assert [pair.chosen_ends for pair in pairs] == [False, False, True]


def test_only_a_better_version_is_accepted_and_an_unscored_one_never():
    worse = ByText(lambda draft: 0.5 - 0.1 * draft.so_far.count("fine"))
    tree, *_ = build(scorer=worse)
    assert outcomes(tree) == [["not_better"], ["unchanged"], ["not_better"]]
    assert tree.script.revised == DRAFT
    [attempt] = tree.script.segments[0].corrections
    assert (attempt.before.overall, attempt.after.overall) == (0.5, 0.4) and "fine" in attempt.text
    equal, *_ = build(scorer=ByText(lambda draft: 0.5))
    assert outcomes(equal)[0] == ["not_better"], "as good is not better"
    taken, *_ = build(scorer=worse, correction={"accept": "always"})
    assert taken.script.revised == DRAFT.replace("bad", "fine")
    for bad, fine in (("cut", 0.9), (0.1, "cut"), ("cut", "cut")):
        def half_blind(draft, bad=bad, fine=fine):
            return fine if draft.text.count("fine") else bad

        for accept in ("if_better", "always"):
            tree, *_ = build(scorer=ByText(half_blind), correction={"accept": accept})
            assert outcomes(tree) == [["unscored"], ["unchanged"], ["unscored"]]
            assert tree.script.revised == DRAFT


def test_a_corrected_segment_is_criticised_again_as_often_as_asked():
    tree, *_ = build(Editor(("bad", "fine", "best")), correction={"rounds": 1})
    assert tree.script.revised == DRAFT.replace("bad", "fine")
    tree, *_ = build(Editor(("bad", "fine", "best")), correction={"rounds": 5})
    assert tree.script.revised == DRAFT.replace("bad", "best")
    assert outcomes(tree) == [["accepted", "accepted", "unchanged"], ["unchanged"],
                              ["accepted", "accepted", "unchanged"]]
    assert [one.round for one in tree.script.segments[0].corrections] == [0, 1, 2]
    stubborn, _, judge, _ = build(Editor(("bad", "fine", "best")), ByText(lambda draft: 0.5), correction={"rounds": 5})
    assert outcomes(stubborn)[0] == ["not_better"], "nothing changed, so there is nothing new to criticise"
    # A revision is drawn anew in every round and at every place.
    seeds = [request.seed for request in judge.requests if request.purpose == "revision"]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize(("revised", "outcome", "why"), [
    ("# One\n\nThe first part   is bad.", "unchanged", None),
    ("", "empty", "empty"),
    (" \n", "empty", "empty"),
    (completion("{}"), "no_revision", "unparsable"),
    (completion("nonsense"), "no_revision", "unparsable"),
    (completion("", Finish.STOP), "empty", "empty"),
    (completion('{"revised": "so f', Finish.LENGTH), "no_revision", "cut"),
    (completion("", Finish.REFUSED), "no_revision", "refused"),
    (RequestRejectedError("too long"), "request_rejected", "request_rejected: too long"),
])
def test_what_cannot_be_used_leaves_the_segment_as_it_was(revised, outcome, why):
    def editor(request):
        if request.purpose == "critique":
            return Editor()(request)
        return json.dumps({"revised": revised}) if isinstance(revised, str) else revised

    tree, *_, scorer = build(editor)
    first = tree.script.segments[0]
    assert first.revised == first.original
    [attempt] = first.corrections
    assert attempt.outcome.value == outcome and len(attempt.faults) == 1
    assert (attempt.failed or "").startswith(why or "") and (attempt.failed is None) == (why is None)
    assert scorer.seen == [], "nothing was there to be judged"


@pytest.mark.parametrize(("said", "outcome"), [
    ("All is well.", "no_critique"),
    ('{"faults": []}', "no_critique"),
    (completion("", Finish.REFUSED), "no_critique"),
    (completion("{", Finish.LENGTH), "no_critique"),
    (RequestRejectedError("too long"), "request_rejected"),
    (json.dumps({"analysis": "", "faults": [{"aspect": "coherence", "quote": "never said", "advice": "x"}]}),
     "no_critique"),
    (json.dumps({"analysis": "", "faults": []}), "unchanged"),
])
def test_without_a_critique_nothing_is_revised(said, outcome):
    tree, _, judge, scorer = build(lambda request: said)
    assert outcomes(tree) == [[outcome]] * 3
    assert {request.purpose for request in judge.requests} == {"critique"} and scorer.seen == []


def test_of_several_answers_the_best_is_corrected_and_all_are_compared():
    def drafts(request):
        return DRAFT.replace("bad", ["bad", "fine but bad", "poor"][request.index])

    tree, *_, scorer = build(lambda request: '{"analysis": "", "faults": []}', drafts=drafts, answers={"samples": 3})
    assert tree.script.draft == "0.1" and tree.script.original == drafts_of(tree)[1]
    assert len(scorer.seen[0]) == 3 and [node.score is not None for node in tree.nodes[1:]] == [True] * 3
    derived = script_pairs(tree, BuildConfig(method="iterdpo", **SETTINGS, pairs={"rejected": "worst"}))
    assert [pair.id for pair in derived.pairs] == ["p1/0"] and derived.pairs[0].chosen == drafts_of(tree)[1]
    assert derived.pairs[0].provenance.get("full_length", True)
    unscored, *_ = build(drafts=drafts, answers={"samples": 3}, scorer=ByText(lambda draft: "cut"))
    assert unscored.script.draft == "0.0", "without scores the first"


def drafts_of(tree):
    return [node.text for node in tree.nodes if node.parent is not None]


def test_an_answer_that_comes_with_the_prompt_is_the_draft():
    prompt = PROMPT.model_copy(update={"meta": {"answers": [DRAFT]}})
    tree, policy, *_ = build(prompt=prompt, answers={"samples": 4})
    assert policy.requests == [] and [node.origin for node in tree.nodes[1:]] == [Origin.GIVEN]
    assert tree.script.original == DRAFT and tree.script.revised != DRAFT


@pytest.mark.parametrize("draft", ["", "  \n", completion("", Finish.REFUSED), RequestRejectedError("too long")])
def test_without_a_draft_there_is_no_script(draft):
    tree, _, judge, scorer = build(drafts=lambda request: draft)
    assert tree.script is None and judge.requests == [] and scorer.seen == []
    [row] = script_pairs(tree, BuildConfig(method="iterdpo")).rejected
    assert row.reason == ("request_rejected" if isinstance(draft, Exception) else "empty")


def test_a_draft_that_was_cut_ends_nowhere():
    tree, _, judge, scorer = build(drafts=lambda request: completion(DRAFT, Finish.LENGTH))
    assert not tree.script.ends
    assert not any("text ends with this passage" in request.context.prompt[0].content for request in judge.requests)
    assert not any(draft.complete for drafts in scorer.seen for draft in drafts)
    assert not any(pair.chosen_ends for pair in script_pairs(tree, BuildConfig(method="iterdpo")).pairs)


def test_a_prompt_that_asks_for_no_length_is_held_to_none():
    *_, scorer = build(prompt=PLAIN)
    assert {draft.required_words for drafts in scorer.seen for draft in drafts} == {None}


def test_the_order_of_the_replies_decides_nothing_and_the_seed_only_what_is_drawn():
    def drafts(request):
        return DRAFT.replace("bad", f"bad {request.seed % 7}")

    def editor(request):
        if request.purpose == "critique":
            return Editor()(request)
        return json.dumps({"revised": f"# Drawn\n\nRevised as number {request.seed}, fine."})

    def trees(seed, delay):
        policy, judge = (FunctionLLM(write=write, delay=delay) for write in (drafts, editor))
        config = BuildConfig(method="iterdpo", **{**SETTINGS, "answers": {"samples": 3}})
        builder = create_builder(config, models(policy, ByText(likes_fine), judge))
        prompts = [PROMPT.model_copy(update={"id": f"p{index}"}) for index in range(4)]

        async def all_at_once():
            return await asyncio.gather(*(builder.build(prompt, seed=seed) for prompt in prompts))

        return asyncio.run(all_at_once())

    rng = random.Random(2)
    quick, slow = trees(0, lambda request: 0), trees(0, lambda request: rng.randrange(40))
    assert quick == slow and quick != trees(1, lambda request: 0)
    assert len({tree.script.revised for tree in quick}) == 4, "each prompt has draws of its own"


@pytest.mark.parametrize(("by", "who"), [("judge", 0), ("critic", 1), ("policy", 2)])
def test_the_named_model_corrects(by, who):
    judge, critic = FunctionLLM(write=Editor()), FunctionLLM(write=Editor())
    policy = FunctionLLM(write=lambda request: DRAFT if request.purpose == "policy" else Editor()(request))
    config = BuildConfig(method="iterdpo", **SETTINGS, correction={"by": by})
    builder = create_builder(config, models(policy, ByText(likes_fine), judge, critic))
    tree = asyncio.run(builder.build(PROMPT, seed=0))
    assert tree.script.revised == DRAFT.replace("bad", "fine")
    asked = [sum(request.purpose in ("critique", "revision") for request in llm.requests)
             for llm in (judge, critic, policy)]
    assert asked == [5 * (index == who) for index in range(3)]


def test_of_a_very_long_text_the_end_is_shown():
    parts = [f"# Part {number}\n\n{'Word after word stands here. ' * 60}\n\n" for number in range(40)]
    tree, _, judge, _ = build(lambda request: '{"analysis": "", "faults": []}', drafts=lambda request: "".join(parts))
    assert len(tree.script.segments) == 40
    prompts = [request.context.prompt[0].content for request in judge.requests]
    assert max(map(len, prompts)) < BEFORE_CHARACTERS + len(parts[0]) + 4000
    assert "its beginning is left out" in prompts[-1] and "its beginning is left out" not in prompts[3]
    assert "# Part 38" in prompts[-1] and "# Part 1\n" not in prompts[-1]


def test_critique_and_revision_of_a_segment_begin_alike():
    """So that a server's prefix cache serves the second."""
    _, _, judge, _ = build()
    critique, revision = (request.context.prompt[0].content for request in judge.requests[:2])
    shared = next(index for index, (one, other) in enumerate(zip(critique, revision, strict=False)) if one != other)
    assert "The first part is bad." in critique[:shared]


LISTED = {Dialect.CHAT: "- coherence: mend the word that is wrong\nThat is all.",
          Dialect.TEXT: " coherence: mend the word that is wrong"}


@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.TEXT])
def test_models_that_write_no_json_list_faults_and_write_the_passage(dialect):
    def editor(request):
        prompt = request.context.prompt if dialect is Dialect.TEXT else request.context.prompt[0].content
        assert request.json_schema is None
        passage = prompt.split("\nPassage")[-1]
        if request.purpose == "critique":
            return LISTED[dialect] if "bad" in passage else ("- none" if dialect is Dialect.CHAT else " none")
        text = next(part.strip() for part in split_segments(DRAFT, BuildConfig().segments) if part.strip() in passage)
        fixed = text.replace("bad", "fine")
        return f"<think>So.</think>\n```markdown\n{fixed}\n```" if dialect is Dialect.CHAT else f"\n{fixed}"

    tree, _, judge, _ = build(editor, dialect=dialect)
    assert tree.script.revised == DRAFT.replace("bad", "fine")
    assert outcomes(tree) == [["accepted"], ["unchanged"], ["accepted"]]
    assert tree.script.segments[0].corrections[0].faults[0].quote == ""
    stops = {request.purpose: request.sampling.stop for request in judge.requests}
    assert bool(stops["critique"]) == bool(stops["revision"]) == (dialect is Dialect.TEXT)
    revisions = [request for request in judge.requests if request.purpose == "revision"]
    if dialect is Dialect.TEXT:  # the reply goes on after the mark that it ends with, and ends before the next
        assert all(request.context.prompt.endswith(request.sampling.stop[0]) for request in revisions)


def test_a_document_stands_before_those_who_correct():
    prompt = PROMPT.model_copy(update={"context": "The lighthouse was built in 1871."})
    _, _, judge, _ = build(prompt=prompt)
    assert all("built in 1871" in request.context.prompt[0].content for request in judge.requests)


def test_words_of_pairs_are_those_of_the_texts():
    tree, *_ = build()
    for pair in script_pairs(tree, BuildConfig(method="iterdpo")).pairs:
        assert pair.provenance["words"] == {"chosen": count_words(pair.chosen), "rejected": count_words(pair.rejected)}
    assert {one.outcome for segment in tree.script.segments for one in segment.corrections} == {
        CorrectionOutcome.ACCEPTED, CorrectionOutcome.UNCHANGED}
