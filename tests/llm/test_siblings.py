"""Siblings drawn in one call, against a real server that misbehaves."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hash_model import stored_keys
from scripted_model import tokens_of
from scripted_model import write as scripted_write
from scripted_server import EMPTY, FILTERED, NO_CHOICES, RESET, Fault, ScriptedServer, rate_limited

from lpo.config import ModelConfig, Prices
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm import retry
from lpo.llm.base import Completion, Context, Finish, Request, Sampling
from lpo.llm.journal import Journal, JournaledLLM, request_key
from lpo.llm.openai import OpenAILLM
from lpo.records import Message, Usage

USER = (Message(role="user", content="Write about a river."),)
PRICES = Prices(input=1.0, output=100.0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.05)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def siblings(count: int, **changes: Any) -> list[Request]:
    request = dataclasses.replace(Request(Context(USER), Sampling(max_tokens=40), seed=0, siblings=count), **changes)
    return [dataclasses.replace(request, seed=100 + index, index=index) for index in range(count)]


def using(server: ScriptedServer, work: Callable[[OpenAILLM], Awaitable[Any]], **config: Any) -> Any:
    async def run() -> Any:
        values = {"backend": "openai", "base_url": server.url, "model": "scripted", **config}
        llm = OpenAILLM(ModelConfig(**values))
        try:
            return await work(llm)
        finally:
            await llm.close()

    return asyncio.run(run())


def draw(server: ScriptedServer, requests: list[Request], **config: Any) -> list[Any]:
    """All at once; errors are results."""
    return using(server, lambda llm: asyncio.gather(*(llm.generate(request) for request in requests),
                                                    return_exceptions=True), **config)


def sent(server: ScriptedServer) -> list[tuple[int, int]]:
    """`(n, seed)` of every call that came in."""
    return [(entry.body.get("n", 1), entry.body["seed"]) for entry in server.calls]


def written(server: ScriptedServer, call: int, choice: int) -> str:
    """What the scripted model writes as one choice of a call that came in."""
    return scripted_write(server.calls[call].body, choice).text


def total(replies: list[Any]) -> Usage:
    return sum((reply.usage for reply in replies), Usage())


# Which calls are made ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [USER, "Once upon a time"], ids=["messages", "string"])
def test_siblings_that_come_together_are_one_call_with_the_seed_of_the_first(
    server: ScriptedServer, prompt: Any
) -> None:
    server.misbehave(Fault(backwards=True))  # choices are told by their index, not by their place
    replies = draw(server, siblings(5, context=Context(prompt)))
    assert sent(server) == [(5, 100)]
    assert [reply.text for reply in replies] == [written(server, 0, index) for index in range(5)]
    assert len({reply.text for reply in replies}) == 5
    assert all(len(reply.logprobs) == len(tokens_of(reply.text)) for reply in replies)


def test_the_order_in_which_siblings_come_changes_nothing(server: ScriptedServer) -> None:
    forth, back = draw(server, siblings(4)), draw(server, siblings(4)[::-1])
    assert [reply.text for reply in forth] == [reply.text for reply in back[::-1]]
    assert sent(server) == [(4, 100)] * 2


def test_siblings_that_come_a_few_turns_apart_are_still_one_call(server: ScriptedServer) -> None:
    async def late(llm: OpenAILLM, request: Request) -> Completion:
        for _ in range(3 * request.index):
            await asyncio.sleep(0)
        return await llm.generate(request)

    using(server, lambda llm: asyncio.gather(*(late(llm, request) for request in siblings(4))))
    assert sent(server) == [(4, 100)]


def test_some_of_the_siblings_are_asked_alone_each_with_its_own_seed(server: ScriptedServer) -> None:
    some = [siblings(4)[index] for index in (1, 3)]
    replies = draw(server, some)
    assert sorted(sent(server)) == [(1, 101), (1, 103)]
    alone = draw(server, [dataclasses.replace(request, siblings=1) for request in some])
    assert [reply.text for reply in replies] == [reply.text for reply in alone]


def test_groups_are_told_apart_by_all_but_seed_and_index(server: ScriptedServer) -> None:
    groups = [siblings(2), siblings(2, context=Context(USER, "The")), siblings(2, sampling=Sampling(max_tokens=41)),
              siblings(2, purpose="judge"), siblings(2, purpose="judge", json_schema={"type": "integer"}),
              siblings(2, purpose="judge", json_schema={"type": "boolean"}), siblings(3)]
    draw(server, [request for group in groups for request in group])
    assert sorted(sent(server)) == [(2, 100)] * 6 + [(3, 100)]


def test_two_equal_groups_at_once_are_two_calls(server: ScriptedServer) -> None:
    other = [dataclasses.replace(request, seed=request.seed + 100) for request in siblings(3)]
    replies = draw(server, [*siblings(3), *other])
    assert sorted(sent(server)) == [(3, 100), (3, 200)]
    assert len({reply.text for reply in replies}) == 6


@pytest.mark.parametrize("requests", [
    siblings(1), [dataclasses.replace(request, index=request.index + 1) for request in siblings(2)][1:],
])
def test_a_request_without_siblings_is_sent_as_ever(server: ScriptedServer, requests: list[Request]) -> None:
    draw(server, requests)
    assert "n" not in server.calls[0].body


def test_a_server_that_takes_one_at_a_time_is_asked_one_at_a_time(server: ScriptedServer) -> None:
    draw(server, siblings(3), one_call_for_siblings=False)
    assert sorted(sent(server)) == [(1, 100), (1, 101), (1, 102)]


# What they took ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["policy", "judge"], ids=["with log-probs", "without"])
def test_the_usage_of_siblings_adds_up_to_what_the_server_counted(server: ScriptedServer, purpose: str) -> None:
    requests = siblings(3, sampling=Sampling(max_tokens=500), purpose=purpose)
    replies = draw(server, requests, prices=PRICES)
    counted = sum(len(scripted_write(server.calls[0].body, index).tokens) for index in range(3))
    alone = draw(server, [dataclasses.replace(requests[0], siblings=1)])[0]
    assert [reply.usage.calls for reply in replies] == [1, 0, 0]
    assert [reply.usage.tokens_in for reply in replies] == [alone.usage.tokens_in, 0, 0]
    assert total(replies).tokens_out == counted
    assert total(replies).cost == pytest.approx((alone.usage.tokens_in + 100 * counted) / 1e6)
    if purpose == "policy":
        assert [reply.usage.tokens_out for reply in replies] == [len(reply.logprobs) for reply in replies]


# Misbehaviour --------------------------------------------------------------------------------------------------------


def test_a_missing_choice_is_asked_for_alone_and_the_others_stand(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.misbehave(Fault(missing=(0, 2)))
    replies = draw(server, siblings(4), prices=PRICES)
    assert sent(server)[0] == (4, 100)
    assert sorted(sent(server)[1:]) == [(1, 100), (1, 102)]
    assert [replies[index].text for index in (1, 3)] == [written(server, 0, index) for index in (1, 3)]
    assert total(replies).calls == 3
    assert "2 of 4 texts are missing" in caplog.text


def test_a_server_that_ignores_n_still_gives_every_sibling_its_text(server: ScriptedServer) -> None:
    server.misbehave(Fault(missing=(1, 2, 3)))
    replies = draw(server, siblings(4))
    assert len({reply.text for reply in replies}) == 4
    assert total(replies).calls == 4


@pytest.mark.parametrize(("fault", "finish", "text"), [
    (EMPTY, Finish.LENGTH, ""), (FILTERED, Finish.REFUSED, ""),
])
def test_an_empty_or_filtered_choice_concerns_its_index_only(
    server: ScriptedServer, fault: Fault, finish: Finish, text: str
) -> None:
    server.misbehave(dataclasses.replace(fault, index=1))
    replies = draw(server, siblings(3))
    assert (replies[1].finish, replies[1].text) == (finish, text)
    assert [replies[index].text for index in (0, 2)] == [written(server, 0, index) for index in (0, 2)]
    assert len(server.calls) == 1


@pytest.mark.parametrize("broken", [
    {"finish_reason": "abort"}, {"message": None}, {"message": {"content": 7}}, {"logprobs": {"content": [{}]}},
])
def test_an_unusable_choice_is_an_error_of_its_index_that_says_what_it_took(
    server: ScriptedServer, broken: dict[str, Any]
) -> None:
    server.misbehave(Fault(choice=broken, index=0))
    replies = draw(server, siblings(3))
    assert isinstance(replies[0], RequestRejectedError)
    assert "scripted at" in str(replies[0])
    assert [reply.text for reply in replies[1:]] == [written(server, 0, index) for index in (1, 2)]
    assert replies[0].usage.calls == 1
    assert replies[0].usage.tokens_in > 0
    counted = sum(len(scripted_write(server.calls[0].body, index).tokens) for index in range(3))
    assert total(replies).tokens_out == counted


@pytest.mark.parametrize(("fault", "tried"), [
    (rate_limited(0.3), 2), (RESET, 2), (Fault(status=503), 2), (Fault(body=b'{"choices"'), 2),
])
def test_a_call_for_several_is_tried_again_whole(server: ScriptedServer, fault: Fault, tried: int) -> None:
    undisturbed = draw(server, siblings(4))
    server.misbehave(fault)
    disturbed = draw(server, siblings(4))
    assert [reply.text for reply in disturbed] == [reply.text for reply in undisturbed]
    assert sent(server)[1:] == [(4, 100)] * tried
    assert total(disturbed).calls == 1


@pytest.mark.parametrize("fault", [NO_CHOICES, Fault(status=400, message="n must be 1")])
def test_a_refused_call_is_an_error_of_each_and_is_paid_once(server: ScriptedServer, fault: Fault) -> None:
    server.misbehave(fault)
    replies = draw(server, siblings(3))
    assert all(type(reply) is RequestRejectedError for reply in replies)
    assert len({id(reply) for reply in replies}) == 3
    assert "one_call_for_siblings: false" in str(replies[1])
    assert [(reply.usage or Usage(calls=1)).calls for reply in replies] == [1, 0, 0]
    assert len(server.calls) == 1


def test_one_sibling_that_gives_up_does_not_stop_the_others(server: ScriptedServer) -> None:
    server.latency = 0.2

    async def work(llm: OpenAILLM) -> list[Any]:
        tasks = [asyncio.create_task(llm.generate(request)) for request in siblings(3)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = using(server, work)
    assert isinstance(replies[0], asyncio.CancelledError)
    assert [reply.text for reply in replies[1:]] == [written(server, 0, index) for index in (1, 2)]


def test_when_all_siblings_give_up_the_call_is_dropped(server: ScriptedServer) -> None:
    server.misbehave(Fault(status=503), times=99)

    async def work(llm: OpenAILLM) -> int:
        tasks = [asyncio.create_task(llm.generate(request)) for request in siblings(3)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        made = len(server.calls)
        await asyncio.sleep(0.5)
        return len(server.calls) - made

    assert using(server, work) == 0


def test_a_wrong_key_is_told_to_every_sibling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with ScriptedServer(api_key="another") as server:
        replies = draw(server, siblings(3), api_key_env="MY_KEY")
        assert all(isinstance(reply, BackendError) and "MY_KEY" in str(reply) for reply in replies)
        assert len(server.calls) == 1


# In the journal ------------------------------------------------------------------------------------------------------


def journaled(server: ScriptedServer, path: Path, requests: list[Request],
              look: Callable[[Journal], None] = lambda _journal: None) -> list[Any]:
    async def work(llm: OpenAILLM) -> list[Any]:
        with Journal(path) as journal:
            look(journal)
            model = JournaledLLM(llm, journal)
            return await asyncio.gather(*(model.generate(request) for request in requests), return_exceptions=True)

    return using(server, work)


def test_all_replies_of_a_call_are_committed_in_one_transaction(server: ScriptedServer, tmp_path: Path) -> None:
    statements: list[str] = []
    groups = [siblings(8), siblings(5, context=Context("Once"))]
    journaled(server, tmp_path / "j.sqlite", [request for group in groups for request in group],
              lambda journal: journal._file._connection.set_trace_callback(statements.append))
    inserts = [sum("INSERT" in line and "replies" in line for line in part.split("\n"))
               for part in "\n".join(statements).split("COMMIT")[:-1]]
    assert sorted(count for count in inserts if count) in ([5, 8], [13])


def test_journal_hits_leave_the_other_siblings_alone(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    first = journaled(server, path, siblings(2))
    replies = journaled(server, path, siblings(4))
    assert [reply.usage.cached for reply in replies] == [1, 1, 0, 0]
    assert [reply.text for reply in replies[:2]] == [reply.text for reply in first]
    assert sorted(sent(server)[1:]) == [(1, 102), (1, 103)]


def test_a_refused_sibling_is_asked_again_and_the_stored_ones_are_not(server: ScriptedServer, tmp_path: Path) -> None:
    server.misbehave(dataclasses.replace(FILTERED, index=2))
    first = journaled(server, tmp_path / "j.sqlite", siblings(4))
    second = journaled(server, tmp_path / "j.sqlite", siblings(4))
    assert first[2].finish is Finish.REFUSED
    assert second[2].text
    assert sent(server) == [(4, 100), (1, 102)]


KILLED_CHILD = """
    import asyncio, sys
    sys.path[:0] = [{tests!r}, {llm!r}]
    from pathlib import Path
    from test_siblings import siblings
    from lpo.config import ModelConfig
    from lpo.llm.base import Context
    from lpo.llm.journal import Journal, JournaledLLM
    from lpo.llm.openai import OpenAILLM

    async def group(llm, name):
        for place in range(10**6):
            requests = siblings(6, context=Context(f"{{name}} {{place}}"))
            await asyncio.gather(*(llm.generate(request) for request in requests))
            print(f"{{name}} {{place}}", flush=True)

    async def main():
        config = ModelConfig(backend="openai", base_url={url!r}, model="scripted")
        llm = JournaledLLM(OpenAILLM(config), Journal(Path({path!r})))
        await asyncio.gather(*(group(llm, name) for name in "abc"))

    asyncio.run(main())
"""


def test_kill_9_leaves_no_half_group(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    here = Path(__file__).parent
    program = textwrap.dedent(KILLED_CHILD).format(tests=str(here.parent), llm=str(here), url=server.url,
                                                   path=str(path))
    identity = OpenAILLM(ModelConfig(backend="openai", base_url=server.url, model="scripted")).identity
    for life in range(3):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout
        for reported, _ in enumerate(child.stdout, start=1):
            if reported > 20 + 5 * life:
                break
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.wait()
        stored = stored_keys(path)
        present = [sum(request_key(identity, request) in stored for request in siblings(6, context=Context(text)))
                   for text in (f"{name} {place}" for name in "abc" for place in range(200))]
        assert set(present) == {0, 6}
        assert sum(present) == len(stored)
