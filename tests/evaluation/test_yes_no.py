import asyncio
import math

import pytest
from function_llm import FunctionLLM, completion

from lpo.config import SamplingConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.evaluation.judging import JudgeModel
from lpo.evaluation.yes_no import YesNo, yes_or_no
from lpo.llm.asking import Dialect
from lpo.llm.base import Finish
from lpo.templates import load_templates

QUESTION = "Here is a text.\nf00\nIt rained.\nf00\n\nDid it rain?"


def judge(llm: FunctionLLM, dialect: Dialect) -> JudgeModel:
    return JudgeModel(llm, dialect, load_templates(), max_tokens=100, sampling=SamplingConfig(temperature=0), name="j")


def written(*replies) -> tuple[YesNo, FunctionLLM]:
    """The answer to the question when the judge gives these replies, one after the other."""
    waiting = iter(replies)
    llm = FunctionLLM(write=lambda request: next(waiting))
    return asyncio.run(yes_or_no(judge(llm, Dialect.JSON), QUESTION)), llm


def probable(yes: float, no: float, dialect: Dialect = Dialect.TEXT) -> tuple[YesNo, FunctionLLM]:
    llm = FunctionLLM(grade=lambda context, word: yes if word.strip() == "Yes" else no)
    return asyncio.run(yes_or_no(judge(llm, dialect), QUESTION)), llm


@pytest.mark.parametrize(("reply", "yes"), [
    ('{"reason": "It says so.", "answer": "yes"}', True),
    ('{"reason": "It does not.", "answer": "no"}', False),
    ('Sure:\n```json\n{"reason": "yes, \\"answer\\": \\"yes\\" is quoted", "answer": "no"}\n```', False),
    ('<think>The answer is "yes"?</think>{"reason": "", "answer": "no"}', False),
])
def test_a_written_answer_is_taken_as_it_is(reply, yes):
    answer, llm = written(reply)
    assert answer == YesNo(yes, None, reply)
    [request] = llm.requests
    assert QUESTION in request.context.prompt[0].content
    assert request.json_schema["properties"]["answer"]["enum"] == ["yes", "no"]


@pytest.mark.parametrize("reply", [
    "yes", "Yes.", '{"answer": "yes"}', '{"reason": "r", "answer": "maybe"}', '{"reason": "r", "answer": true}',
    '{"reason": "r", "answer": "yes", "answer": "no"}', '{"reason": "r", "answer": "yes", "score": 1}',
    '{"reason": "r", "answer": "yes or no"}', '[{"reason": "r", "answer": "yes"}] {"reason": "r", "answer": "no"}',
    '<think>{"reason": "r", "answer": "yes"}', '{"reason": "r", "answer": "ye',
])
def test_what_is_no_clear_answer_is_neither_yes_nor_no(reply):
    answer, _ = written(reply)
    assert (answer.yes, answer.unscored, answer.reply) == (None, "unparsable", reply)


@pytest.mark.parametrize(("replies", "reason"), [
    (["  "], "empty"),
    ([completion("", Finish.REFUSED)], "refused"),
    ([completion('{"reason": "', Finish.LENGTH)] * 2, "cut"),
    ([RequestRejectedError("the question is too long")], "request_rejected"),
])
def test_no_reply_is_unscored_for_its_reason(replies, reason):
    answer, _ = written(*replies)
    assert (answer.yes, answer.unscored) == (None, reason)


def test_a_cut_reply_is_asked_for_once_more_with_more_room():
    answer, llm = written(completion('{"reason": "', Finish.LENGTH), '{"reason": "r", "answer": "yes"}')
    assert answer.yes is True
    assert [request.sampling.max_tokens for request in llm.requests] == [100, 200]
    assert len({request.seed for request in llm.requests}) == 1


@pytest.mark.parametrize("dialect", [Dialect.TEXT, Dialect.CHAT])
@pytest.mark.parametrize(("yes", "no", "verdict", "unscored"), [
    (-1.0, -2.0, True, None), (-2.0, -1.0, False, None), (-1.0, -1.0, None, "undecided"),
    (math.nan, -1.0, None, "unparsable"), (-1.0, -math.inf, None, "unparsable"),
    (-math.inf, -math.inf, None, "unparsable"),
])
def test_the_likelier_word_is_the_answer(dialect, yes, no, verdict, unscored):
    answer, llm = probable(yes, no, dialect)
    assert (answer.yes, answer.unscored) == (verdict, unscored)
    [request] = llm.score_requests
    lead = " " if dialect is Dialect.TEXT else ""
    assert request.continuations == (f"{lead}Yes", f"{lead}No")
    prompt = request.contexts[0].prompt
    text = prompt if isinstance(prompt, str) else prompt[0].content
    assert text.startswith(QUESTION), "questions about one text begin alike"
    assert isinstance(prompt, str) == (dialect is Dialect.TEXT)
    assert not text[-1].isspace()


def test_a_refused_request_for_probabilities_is_unscored():
    class Refusing(FunctionLLM):
        async def logprobs(self, request):
            raise RequestRejectedError("too long")

    answer = asyncio.run(yes_or_no(judge(Refusing(), Dialect.TEXT), QUESTION))
    assert answer == YesNo(None, "request_rejected", "too long")


def test_a_judge_that_cannot_be_used_is_an_error():
    llm = FunctionLLM(write=lambda request: BackendError("connection refused"))
    with pytest.raises(BackendError):
        asyncio.run(yes_or_no(judge(llm, Dialect.JSON), QUESTION))
