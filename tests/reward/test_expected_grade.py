import asyncio
import math

import pytest
from function_llm import FunctionLLM

from lpo.errors import RequestRejectedError
from lpo.llm.base import Context
from lpo.records import Message, Prompt
from lpo.reward import Draft, ExpectedGradeJudge, Principle
from lpo.templates import load_templates

PROMPT = Prompt(id="p", prompt=(Message(role="system", content="s"), Message(role="user", content="Write a letter.")))


def draft(text: str, prefix: str = "") -> Draft:
    return Draft(PROMPT, prefix, text, False, None)


def score(judge, *drafts):
    return asyncio.run(judge.score(drafts))


def test_the_expectation_over_renormalised_grades_is_the_score():
    weights = {" 1": 0.05, " 2": 0.05, " 3": 0.1, " 4": 0.1, " 5": 0.2}
    judge = ExpectedGradeJudge(FunctionLLM(grade=lambda context, grade: math.log(weights[grade])), load_templates())
    [judgement] = score(judge, draft("It rained."))
    expected = (1 * 0.05 + 2 * 0.05 + 3 * 0.1 + 4 * 0.1 + 5 * 0.2) / 0.5
    assert judgement.overall == pytest.approx((expected - 1) / 4)
    assert judgement.scores == pytest.approx({principle.value: expected for principle in Principle})
    assert judgement.parts["weights"]["insight"] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4])
    assert judgement.parts["grade_mass"] == pytest.approx({principle.value: 0.5 for principle in Principle})


def test_overall_is_the_mean_over_principles():
    def grade(context: Context, text: str) -> float:
        assert isinstance(context.prompt, str)
        wanted = " 5" if "insight" in context.prompt.rsplit("\n\n", 1)[1] else " 1"
        return 0.0 if text == wanted else -1e9

    [judgement] = score(ExpectedGradeJudge(FunctionLLM(grade=grade), load_templates()), draft("It rained."))
    assert judgement.overall == pytest.approx(1 / 7)
    assert judgement.scores["insight"] == 5


@pytest.mark.parametrize("size", [-5000.0, -800.0, 0.0])
def test_tiny_probabilities_neither_underflow_nor_count_for_nothing(size):
    judge = ExpectedGradeJudge(FunctionLLM(grade=lambda context, text: size - float(text)), load_templates())
    [judgement] = score(judge, draft("It rained."))
    shares = [math.exp(-grade) for grade in range(1, 6)]
    mean = sum(grade * share for grade, share in enumerate(shares, start=1)) / sum(shares)
    assert judgement.overall == pytest.approx((mean - 1) / 4)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_no_probability_for_any_grade_is_no_score(value):
    judge = ExpectedGradeJudge(FunctionLLM(grade=lambda context, text: value), load_templates())
    [judgement] = score(judge, draft("It rained."))
    assert judgement.overall is None
    assert judgement.unscored == "no_grade"


@pytest.mark.parametrize("bad", range(1, 6))
def test_one_grade_whose_probability_is_not_a_number_spoils_the_score(bad):
    def grade(context: Context, text: str) -> float:
        return math.nan if int(text) == bad else -1.0

    [judgement] = score(ExpectedGradeJudge(FunctionLLM(grade=grade), load_templates()), draft("It rained."))
    assert (judgement.overall, judgement.unscored) == (None, "no_grade")


def test_a_grade_that_is_impossible_counts_for_nothing():
    def grade(context: Context, text: str) -> float:
        return -math.inf if int(text) > 2 else -5.0

    [judgement] = score(ExpectedGradeJudge(FunctionLLM(grade=grade), load_templates()), draft("It rained."))
    assert judgement.scores["insight"] == 1.5


def test_one_request_per_draft_whose_contexts_share_the_text():
    llm = FunctionLLM(grade=lambda context, text: -1.0)
    score(ExpectedGradeJudge(llm, load_templates()), draft(" She waited.", prefix="It rained."), draft("x"))
    assert len(llm.score_requests) == 2
    request = llm.score_requests[0]
    assert len(request.contexts) == 7
    assert request.continuations == (" 1", " 2", " 3", " 4", " 5")
    assert all("It rained. She waited." in str(context.prompt) for context in request.contexts)
    assert all("Write a letter." in str(context.prompt) for context in request.contexts)


def test_a_chat_model_gets_messages_and_grades_that_begin_its_turn():
    llm = FunctionLLM(grade=lambda context, text: -1.0)
    score(ExpectedGradeJudge(llm, load_templates(), style="chat"), draft("It rained."))
    request = llm.score_requests[0]
    assert request.continuations == ("1", "2", "3", "4", "5")
    assert all(isinstance(context.prompt, tuple) and context.prompt[-1].role == "user" for context in request.contexts)


def test_an_empty_draft_is_not_judged():
    [judgement] = score(ExpectedGradeJudge(FunctionLLM(), load_templates()), draft(" \n"))
    assert judgement.unscored == "empty"


def test_a_refused_request_leaves_only_its_own_draft_unscored():
    def grade(context: Context, text: str) -> float:
        if "too long" in str(context.prompt):
            raise RequestRejectedError("9000 tokens are more than 8192")
        return -float(text)

    refused, judged = score(ExpectedGradeJudge(FunctionLLM(grade=grade), load_templates()),
                            draft("too long"), draft("short"))
    assert refused.unscored == "request_rejected"
    assert refused.parts == {"cause": "9000 tokens are more than 8192"}
    assert judged.overall is not None


@pytest.mark.parametrize("style", ["text", "chat"])
@pytest.mark.parametrize("reworded", [False, True])
def test_a_real_model_is_judged_as_its_own_probabilities_say(tiny_tokenizer, tiny_model, style, reworded):
    """Oracle: one forward pass per principle and grade, log-softmax, by hand."""
    import torch

    from lpo.chat import load_chat_template, render_context
    from lpo.llm.transformers import TransformersLLM

    model = tiny_model("llama")
    template = load_chat_template("plain")
    llm = TransformersLLM(model, tiny_tokenizer, template=template)
    judge = ExpectedGradeJudge(llm, load_templates(), reworded=reworded, style=style)
    one = draft(" She waited.", prefix="It rained.")
    [judgement] = score(judge, one)
    lead = " " if style == "text" else ""
    overall = 0.0
    for context, principle in zip(judge.contexts(one), Principle, strict=True):
        text = render_context(tiny_tokenizer, context.prompt, "", template)
        before = tiny_tokenizer(text, add_special_tokens=style == "text").input_ids
        totals = []
        for grade in range(1, 6):
            row = tiny_tokenizer(f"{text}{lead}{grade}", add_special_tokens=style == "text").input_ids
            assert row[:len(before)] == before
            with torch.no_grad():
                logprobs = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
            totals.append(sum(logprobs[at - 1, row[at]].item() for at in range(len(before), len(row))))
        probabilities = torch.tensor(totals).exp()
        assert judgement.parts["grade_mass"][principle] == pytest.approx(probabilities.sum().item(), rel=1e-3)
        mean = ((probabilities / probabilities.sum()) * torch.arange(1, 6)).sum().item()
        assert judgement.scores[principle] == pytest.approx(mean, abs=1e-4)
        overall += (mean - 1) / 4 / 7
    assert judgement.overall == pytest.approx(overall, abs=1e-4)
