import asyncio
import json

import pytest
from function_llm import FunctionLLM, completion

from lpo.config import SamplingConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm.base import Finish
from lpo.records import Prompt
from lpo.reward import Draft, JsonJudge, Principle, ReleasedJudge, Weighted, WeightedScorer
from lpo.templates import load_templates

GRADED = json.dumps({"analysis": "Fine.", **{principle.value: [0, 0, 0, 1, 0] for principle in Principle}})


def draft(text: str = "It rained.") -> Draft:
    return Draft(Prompt(id="p", prompt="Write a letter."), "", text, False, None)


def judges(said) -> tuple[JsonJudge, ReleasedJudge]:
    inner = JsonJudge(FunctionLLM(write=lambda request: said), load_templates(), max_tokens=50,
                      sampling=SamplingConfig())
    return inner, ReleasedJudge(inner)


def score(judge, *drafts: Draft):
    return asyncio.run(judge.score(drafts))


@pytest.mark.parametrize(("said", "because"), [
    ("I would give it 8/10.", "unparsable"),
    (GRADED.replace("1", "true"), "unparsable"),
    (GRADED + GRADED, "unparsable"),
    (completion(GRADED, Finish.LENGTH), "cut"),
    (completion("", Finish.STOP), "empty"),
    (completion("I cannot.", Finish.REFUSED), "refused"),
])
def test_what_it_cannot_read_is_an_invented_grade_that_says_so(said, because):
    inner, released = judges(said)
    [honest], [judgement] = score(inner, draft()), score(released, draft())
    assert honest.overall is None
    assert judgement.overall == pytest.approx((2.5 - 1) / 4)
    assert judgement.parts == {**honest.parts, "invented": 2.5, "because": because}
    assert judgement.scores == {} and judgement.unscored is None
    assert judgement.scorer == released.name == "json_judge_released"


def test_what_it_can_read_is_what_the_inner_judge_says():
    inner, released = judges(GRADED)
    [honest], [judgement] = score(inner, draft()), score(released, draft())
    assert judgement == honest.model_copy(update={"scorer": "json_judge_released"})
    assert "invented" not in judgement.parts


@pytest.mark.parametrize(("said", "text", "reason"), [
    (GRADED.replace("1", "-1"), "It rained.", "out_of_range"),
    (RequestRejectedError("too long"), "It rained.", "request_rejected"),
    (GRADED, " \n", "empty"),
])
def test_where_there_is_no_reply_to_misread_nothing_is_invented(said, text, reason):
    [judgement] = score(judges(said)[1], draft(text))
    assert (judgement.overall, judgement.unscored, judgement.scorer) == (None, reason, "json_judge_released")


def test_a_dead_judge_is_an_error():
    with pytest.raises(BackendError, match="no key"):
        score(judges(BackendError("no key"))[1], draft())


def test_the_invention_is_recorded_inside_a_weighted_judgement_too():
    [judgement] = score(WeightedScorer([Weighted(judges("no")[1], 1)]), draft())
    assert judgement.parts["json_judge_released"]["invented"] == 2.5
    assert judgement.overall == pytest.approx(0.375)
