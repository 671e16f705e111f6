import asyncio
import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hash_model import AWKWARD, IDENTITY, HashModel, ask, stored_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from lpo.errors import BackendError, BudgetSpentError, RequestRejectedError
from lpo.llm.base import Completion, Context, Finish, Request, Sampling, ScoreRequest, TokenLogprobs
from lpo.llm.journal import Journal, JournaledLLM, request_key
from lpo.llm.journal_file import Outcome
from lpo.records import Message, Usage

# What is returned ----------------------------------------------------------------------------------------------------


def test_a_hit_is_the_same_text_and_bit_identical_floats_in_another_process_life(tmp_path: Path) -> None:
    async def once() -> tuple[Completion, TokenLogprobs, HashModel]:
        with Journal(tmp_path / "journal.sqlite") as journal:
            model = HashModel()
            llm = JournaledLLM(model, journal)
            scores = ScoreRequest((Context("a"), Context("b")), ("x", "y"))
            return await llm.generate(ask()), await llm.logprobs(scores), model

    first, first_scores, reached = asyncio.run(once())
    second, second_scores, unreached = asyncio.run(once())
    assert len(reached.reached) == 2
    assert not unreached.reached
    assert (second.text, second.finish) == (first.text, first.finish)
    assert [value.hex() for value in second.logprobs or ()] == [value.hex() for value in AWKWARD]
    assert second_scores.values == first_scores.values
    assert first.usage.calls == 1
    assert second.usage == second_scores.usage == Usage(cached=1)


def test_totals_of_usage_are_kept_by_purpose(tmp_path: Path) -> None:
    async def work() -> dict[str, Usage]:
        with Journal(tmp_path / "j.sqlite") as journal:
            llm = JournaledLLM(HashModel(), journal)
            for request in (ask(1), ask(1), ask(2), ask(1, purpose="judge")):
                await llm.generate(request)
            return llm.usage

    usage = asyncio.run(work())
    assert usage["policy"] == Usage(calls=2, cached=1, tokens_in=6, tokens_out=14, seconds=1.0, cost=0.5)
    assert usage["judge"].calls == 1


@pytest.mark.parametrize(("finish", "purpose", "kept"), [
    (Finish.STOP, "policy", True), (Finish.LENGTH, "policy", True), (Finish.REFUSED, "policy", False),
    (Finish.STOP, "judge", True), (Finish.LENGTH, "judge", False), (Finish.REFUSED, "judge", False),
    (Finish.LENGTH, "rewrite", False),
])
def test_a_cut_reply_is_kept_for_a_policy_only_and_a_refusal_never(
    tmp_path: Path, finish: Finish, purpose: str, kept: bool
) -> None:
    async def work() -> tuple[int, dict[Outcome, int]]:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel(finish)
            for _ in range(2):
                reply = await JournaledLLM(model, journal).generate(ask(purpose=purpose))
                assert reply.finish is finish
            return len(model.reached), dict(journal.counts().ever)

    reached, ever = asyncio.run(work())
    assert reached == (1 if kept else 2)
    assert ever[Outcome.ANSWER] == (1 if kept else 0)
    assert sum(ever.values()) == reached


def test_errors_are_counted_and_never_stored(tmp_path: Path) -> None:
    async def work() -> Any:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            llm = JournaledLLM(model, journal)
            for error in (BackendError("down"), RequestRejectedError("too long")):
                model.error = error
                with pytest.raises(BackendError):
                    await llm.generate(ask())
            model.error = None
            await llm.generate(ask())
            return journal.counts()

    counts = asyncio.run(work())
    assert (counts.entries, counts.calls, counts.hits) == (1, 3, 0)
    assert (counts.ever[Outcome.FAILED], counts.ever[Outcome.REJECTED], counts.ever[Outcome.ANSWER]) == (1, 1, 1)


def test_lone_surrogates_and_nul_break_nothing(tmp_path: Path) -> None:
    async def work() -> list[Completion]:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            model.text = lambda _request: "half \ud83d and nul \0."
            llm = JournaledLLM(model, journal)
            request = ask(context=Context("a lone \udc00 in the prompt"))
            return [await llm.generate(request), await llm.generate(request)]

    first, second = asyncio.run(work())
    assert first.text == second.text == "half \ufffd and nul ."
    assert second.usage.cached == 1


# Concurrency ---------------------------------------------------------------------------------------------------------


def test_equal_requests_in_flight_make_one_call(tmp_path: Path) -> None:
    async def work() -> tuple[list[Completion], int, Any]:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            model.gate = asyncio.Event()
            llm, other = JournaledLLM(model, journal), JournaledLLM(model, journal)
            tasks = [asyncio.create_task(one.generate(ask())) for one in (llm, llm, other)]
            await asyncio.sleep(0.01)
            model.gate.set()
            return await asyncio.gather(*tasks), len(model.reached), journal.counts()

    replies, reached, counts = asyncio.run(work())
    assert reached == 1
    assert len({reply.text for reply in replies}) == 1
    assert [reply.usage.calls for reply in replies] == [1, 0, 0]
    assert (counts.calls, counts.hits) == (1, 2)


def test_who_waits_for_a_failing_call_gets_its_error(tmp_path: Path) -> None:
    async def work() -> tuple[list[Any], int]:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            model.gate, model.error = asyncio.Event(), RequestRejectedError("no")
            llm = JournaledLLM(model, journal)
            tasks = [asyncio.create_task(llm.generate(ask())) for _ in range(3)]
            await asyncio.sleep(0.01)
            model.gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True), len(model.reached)

    replies, reached = asyncio.run(work())
    assert reached == 1
    assert all(isinstance(reply, RequestRejectedError) for reply in replies)


def test_when_the_caller_of_a_call_gives_up_another_makes_it(tmp_path: Path) -> None:
    async def work() -> tuple[Completion, int]:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            model.gate = asyncio.Event()
            llm = JournaledLLM(model, journal)
            first, second = (asyncio.create_task(llm.generate(ask())) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.sleep(0.01)
            model.gate.set()
            reply = await second
            assert first.cancelled()
            return reply, len(model.reached)

    reply, reached = asyncio.run(work())
    assert reached == 2
    assert reply.usage.calls == 1


def test_replies_that_finish_together_cost_one_commit_and_wake_in_order(tmp_path: Path) -> None:
    statements: list[str] = []
    woken: list[int] = []

    async def one(llm: JournaledLLM, seed: int) -> None:
        await llm.generate(ask(seed))
        woken.append(seed)

    async def work() -> None:
        with Journal(tmp_path / "j.sqlite") as journal:
            journal._file._connection.set_trace_callback(statements.append)
            model = HashModel()
            model.gate = asyncio.Event()
            tasks = [asyncio.create_task(one(JournaledLLM(model, journal), seed)) for seed in range(32)]
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(*tasks)

    asyncio.run(work())
    assert statements.count("COMMIT") == 1
    assert woken == list(range(32))


def test_a_reply_is_in_the_file_before_it_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"

    async def work() -> None:
        with Journal(path) as journal:
            for seed in range(3):
                await JournaledLLM(HashModel(), journal).generate(ask(seed))
                assert request_key(IDENTITY, ask(seed)) in stored_keys(path)

    asyncio.run(work())


def test_one_journal_serves_several_event_loops_one_after_the_other(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.sqlite") as journal:
        for seed in range(3):
            asyncio.run(JournaledLLM(HashModel(), journal).generate(ask(seed)))
        assert journal.counts().entries == 3


# The key -------------------------------------------------------------------------------------------------------------

BASE_SCORES = ScoreRequest((Context("a"),), ("x", "y"))
CHANGES: dict[type, dict[str, Any]] = {
    Context: {"prompt": "Write!", "prefix": "So far."},
    Sampling: {"max_tokens": 10, "temperature": 0.5, "top_p": 0.5, "top_k": 4, "repetition_penalty": 1.1,
               "stop": ("\n",)},
    Request: {"context": Context("Other."), "sampling": Sampling(8), "seed": 1, "index": 1, "purpose": "judge",
              "json_schema": {"type": "object"}},
    ScoreRequest: {"contexts": (Context("b"),), "continuations": ("x",), "purpose": "policy"},
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_field_of_a_request_is_part_of_the_key(kind: type) -> None:
    names = {field.name for field in dataclasses.fields(kind)} - {"siblings"}  # it says how a reply is made, not which
    assert names == set(CHANGES[kind]), "a new field: does it matter?"
    keys = {request_key(IDENTITY, ask()), request_key(IDENTITY, BASE_SCORES)}
    for name, value in CHANGES[kind].items():
        request: Request | ScoreRequest = ask()
        if kind is Context:
            request = ask(context=dataclasses.replace(ask().context, **{name: value}))
        elif kind is Sampling:
            request = ask(sampling=dataclasses.replace(ask().sampling, **{name: value}))
        elif kind is Request:
            request = ask(**{name: value})
        else:
            request = dataclasses.replace(BASE_SCORES, **{name: value})
        keys.add(request_key(IDENTITY, request))
    assert len(keys) == 2 + len(CHANGES[kind])


def test_a_request_made_with_siblings_has_the_key_it_has_alone() -> None:
    assert request_key(IDENTITY, ask(siblings=8)) == request_key(IDENTITY, ask())


def test_every_part_of_the_identity_is_part_of_the_key_and_its_order_is_not() -> None:
    keys = {request_key({**IDENTITY, name: "other"}, ask()) for name in IDENTITY}
    assert len({*keys, request_key(IDENTITY, ask())}) == len(IDENTITY) + 1
    assert request_key(dict(reversed(IDENTITY.items())), ask()) == request_key(IDENTITY, ask())


def test_equal_numbers_are_equal_keys_and_messages_are_not_their_text() -> None:
    assert request_key(IDENTITY, ask(sampling=Sampling(9, temperature=1))) == request_key(IDENTITY, ask())
    message = Message(role="user", content="Write.")
    roles = [(message,), (message.model_copy(update={"role": "system"}),), (message, message)]
    assert len({request_key(IDENTITY, ask(context=Context(prompt))) for prompt in [*roles, "Write."]}) == 4


def test_the_order_of_a_schemas_properties_is_part_of_the_key() -> None:
    schemas = [{"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}]
    assert len({request_key(IDENTITY, ask(json_schema=schema)) for schema in schemas}) == 2


def test_keys_are_the_same_in_every_process() -> None:
    program = textwrap.dedent("""
        from lpo.llm.base import *
        from lpo.llm.journal import request_key
        print(request_key({"b": 1, "a": {"z": 0.7, "y": None}}, Request(Context("漢字", "x"), Sampling(9), seed=3)))
    """)
    keys = {
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


texts = st.text(max_size=8)
requests = st.builds(
    Request, st.builds(Context, texts, texts),
    st.builds(Sampling, st.integers(1, 9), st.sampled_from([0.0, 0.5, 1.0]), stop=st.tuples(texts) | st.just(())),
    seed=st.integers(0, 3), index=st.integers(0, 3), purpose=st.sampled_from(["policy", "judge"]),
)


@settings(max_examples=200, deadline=None)
@given(requests, requests)
def test_keys_are_equal_exactly_when_requests_are(left: Request, right: Request) -> None:
    assert (request_key(IDENTITY, left) == request_key(IDENTITY, right)) == (left == right)


# What was paid -------------------------------------------------------------------------------------------------------


def test_totals_stand_in_the_file_and_grow_with_every_process_that_writes_it(tmp_path: Path) -> None:
    async def work(seeds: range) -> Usage:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            llm = JournaledLLM(model, journal)
            for seed in seeds:
                await llm.generate(ask(seed))
            model.error = BackendError("down")  # nothing is known of it: one call
            with pytest.raises(BackendError):
                await llm.generate(ask(99))
            model.error = RequestRejectedError("ended with 'abort'")
            model.error.usage = Usage(calls=1, tokens_in=50)
            with pytest.raises(RequestRejectedError):
                await llm.generate(ask(98))
            return journal.spent()

    assert asyncio.run(work(range(2))) == Usage(calls=4, tokens_in=56, tokens_out=14, seconds=1.0, cost=0.5)
    assert asyncio.run(work(range(3))) == Usage(calls=7, tokens_in=109, tokens_out=21, seconds=1.5, cost=0.75)
    with Journal(tmp_path / "j.sqlite") as journal:
        assert journal.spent() == journal.counts().spent == Usage(calls=7, tokens_in=109, tokens_out=21, seconds=1.5,
                                                                  cost=0.75)


def test_a_call_that_was_not_made_is_neither_counted_nor_paid(tmp_path: Path) -> None:
    async def work() -> Any:
        with Journal(tmp_path / "j.sqlite") as journal:
            model = HashModel()
            model.error = BudgetSpentError("the budget is spent")
            with pytest.raises(BudgetSpentError):
                await JournaledLLM(model, journal).generate(ask())
            return journal.counts()

    counts = asyncio.run(work())
    assert (counts.calls, sum(counts.ever.values()), counts.spent) == (0, 0, Usage())
