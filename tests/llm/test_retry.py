"""Against a real server that misbehaves."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted_server import (
    HTML,
    NOT_JSON,
    RESET,
    UNAVAILABLE,
    Fault,
    ScriptedServer,
    rate_limited,
    rate_limited_until,
)

from lpo.config import ModelConfig
from lpo.errors import BackendError, RequestRejectedError
from lpo.llm import retry
from lpo.llm.base import Completion, Context, Request, Sampling
from lpo.llm.journal import Journal, JournaledLLM
from lpo.llm.journal_file import Outcome
from lpo.llm.openai import OpenAILLM
from lpo.records import Message

SLACK = 5.0
"""Seconds that a busy machine may lose; what is told apart from it takes far longer."""

CANARY = "sk-canary-5f1d0c2ab97e44"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.05)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def ask(seed: int = 0) -> Request:
    return Request(Context((Message(role="user", content="Write."),)), Sampling(max_tokens=8), seed=seed)


def using(url: str, work: Callable[[OpenAILLM], Awaitable[Any]], **config: Any) -> Any:
    """Run `work` with a client of the server."""

    async def run() -> Any:
        llm = OpenAILLM(ModelConfig(backend="openai", base_url=url, **{"model": "scripted", **config}))
        try:
            return await work(llm)
        finally:
            await llm.close()

    return asyncio.run(run())


def gaps(server: ScriptedServer) -> list[float]:
    times = [entry.time for entry in server.calls]
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("fault", [
    UNAVAILABLE, RESET, NOT_JSON, Fault(status=408), Fault(status=409), Fault(status=429), Fault(status=500),
    Fault(body=b'{"no": "choices"}'),
], ids=["503", "reset", "not json", "408", "409", "429", "500", "no choices"])
def test_what_may_pass_is_tried_again(server: ScriptedServer, fault: Fault) -> None:
    undisturbed = using(server.url, lambda llm: llm.generate(ask()))
    server.misbehave(fault, times=2)
    disturbed = using(server.url, lambda llm: llm.generate(ask()))
    assert disturbed.text == undisturbed.text
    assert len(server.calls) == 1 + 3


@pytest.mark.parametrize(("status", "kind"), [
    (400, RequestRejectedError), (413, RequestRejectedError), (422, RequestRejectedError), (401, BackendError),
    (402, BackendError), (403, BackendError), (404, BackendError), (501, BackendError),
])
def test_what_cannot_pass_is_tried_once(server: ScriptedServer, status: int, kind: type[Exception]) -> None:
    server.misbehave(Fault(status=status), times=9)
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        using(server.url, lambda llm: llm.generate(ask()))
    assert type(caught.value) is kind
    assert len(server.calls) == 1
    assert time.monotonic() - started < 1 + SLACK


def test_one_rejected_request_does_not_affect_the_others(server: ScriptedServer) -> None:
    server.misbehave(Fault(status=400, when=lambda body: body["seed"] == 3))

    async def work(llm: OpenAILLM) -> list[Any]:
        return await asyncio.gather(*(llm.generate(ask(seed)) for seed in range(6)), return_exceptions=True)

    replies = using(server.url, work)
    assert [isinstance(reply, RequestRejectedError) for reply in replies] == [seed == 3 for seed in range(6)]


def test_an_exhausted_quota_is_not_tried_again(server: ScriptedServer) -> None:
    server.misbehave(Fault(status=429, code="insufficient_quota", message="You exceeded your current quota"))
    with pytest.raises(BackendError, match="exceeded your current quota"):
        using(server.url, lambda llm: llm.generate(ask()))
    assert len(server.calls) == 1


def test_retry_after_in_seconds_is_honoured(server: ScriptedServer) -> None:
    server.misbehave(rate_limited(1))
    using(server.url, lambda llm: llm.generate(ask()))
    assert 1.0 <= gaps(server)[0] < 1.0 + retry.SPREAD + SLACK


def test_retry_after_as_a_date_is_honoured(server: ScriptedServer) -> None:
    server.misbehave(rate_limited_until(2.5))
    using(server.url, lambda llm: llm.generate(ask()))
    assert 1.4 <= gaps(server)[0] < 2.5 + retry.SPREAD + SLACK  # HTTP dates have whole seconds


def test_a_date_is_read_by_the_servers_own_clock(server: ScriptedServer) -> None:
    now, later = (formatdate(time.time() + ahead, usegmt=True) for ahead in (3600, 3601))
    headers = {"Date": now, "Retry-After": later}
    server.misbehave(Fault(status=503, headers=headers))
    using(server.url, lambda llm: llm.generate(ask()))
    assert 1.0 <= gaps(server)[0] < 1.0 + retry.SPREAD + SLACK


@pytest.mark.parametrize("value", ["soon", "", "-5", "Thu, 99 Foo 2020"])
def test_an_unreadable_retry_after_is_no_reason_to_fail(server: ScriptedServer, value: str) -> None:
    server.misbehave(rate_limited(value))
    using(server.url, lambda llm: llm.generate(ask()))
    assert gaps(server)[0] < 1.5 + SLACK


def test_one_rate_limit_pauses_all_calls_and_they_do_not_come_back_at_once(server: ScriptedServer) -> None:
    server.misbehave(rate_limited(1))

    async def work(llm: OpenAILLM) -> None:
        first = asyncio.create_task(llm.generate(ask(0)))
        await asyncio.sleep(0.2)  # the first call has met the limit
        await asyncio.gather(first, *(llm.generate(ask(seed)) for seed in range(1, 21)))

    using(server.url, work, max_concurrency=32)
    times = [entry.time for entry in server.calls]
    after = times[1:]
    assert len(after) == 21
    assert min(after) - times[0] >= 1.0  # not one call during the pause
    assert max(after) - min(after) > 0.2
    assert max(sum(start <= other < start + 0.05 for other in after) for start in after) <= 12


def test_a_limit_met_by_many_calls_at_once_costs_each_one_attempt(server: ScriptedServer) -> None:
    server.latency = 0.2
    server.misbehave(rate_limited(1), times=16)

    async def work(llm: OpenAILLM) -> None:
        await asyncio.gather(*(llm.generate(ask(seed)) for seed in range(16)))

    using(server.url, work, max_concurrency=16)
    times = sorted(entry.time for entry in server.calls)
    assert len(times) == 32
    assert times[16] - times[15] >= 0.9


def test_a_deadline_ends_a_call_that_keeps_failing_and_says_how_often_it_tried(server: ScriptedServer) -> None:
    server.misbehave(UNAVAILABLE, times=999)
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        using(server.url, lambda llm: llm.generate(ask()), deadline=1.0)
    assert time.monotonic() - started < 2 + SLACK
    told = int(re.search(r"no reply after (\d+) attempts", str(caught.value)).group(1))
    assert len(server.calls) - 1 <= told <= len(server.calls), "the deadline may fall into the last attempt"
    assert told >= 2
    assert "503 overloaded" in str(caught.value)
    assert "finished calls are not made twice" in str(caught.value)


def test_a_pause_longer_than_the_deadline_is_not_begun(server: ScriptedServer) -> None:
    server.misbehave(rate_limited(3600))
    started = time.monotonic()
    with pytest.raises(BackendError, match="asks to wait 3600 s"):
        using(server.url, lambda llm: llm.generate(ask()), deadline=60)
    assert time.monotonic() - started < 1 + SLACK


def test_a_reply_that_trickles_is_given_up_and_asked_for_again(server: ScriptedServer) -> None:
    server.misbehave(Fault(trickle=0.05))  # never silent long enough for a read timeout
    started = time.monotonic()
    assert using(server.url, lambda llm: llm.generate(ask()), timeout=0.5).text
    assert len(server.calls) == 2
    assert time.monotonic() - started < 3 + SLACK


def test_a_deadline_also_ends_a_reply_that_trickles(server: ScriptedServer) -> None:
    server.misbehave(Fault(trickle=0.05), times=99)
    with pytest.raises(BackendError, match=r"no whole reply within 0\.4 s"):
        using(server.url, lambda llm: llm.generate(ask()), timeout=0.4, deadline=1.5)


def test_a_server_that_never_answered_is_given_up_sooner_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_CONTACT", 0.5)
    with ScriptedServer() as gone:
        url = gone.url
    started = time.monotonic()
    with pytest.raises(BackendError, match="check base_url"):
        using(url, lambda llm: llm.generate(ask()), deadline=60)
    assert time.monotonic() - started < 3 + SLACK


def test_calls_outlive_a_restart_of_the_server() -> None:
    with ScriptedServer() as first:
        port, url = first.port, first.url
        undisturbed = using(url, lambda llm: llm.generate(ask(2)))

    async def work(llm: OpenAILLM) -> Completion:
        call = asyncio.create_task(llm.generate(ask(2)))
        await asyncio.sleep(0.3)
        with ScriptedServer(port=port):
            return await call

    assert using(url, work).text == undisturbed.text


def test_attempts_are_logged_as_warnings(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    server.misbehave(UNAVAILABLE)
    using(server.url, lambda llm: llm.generate(ask()))
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "503 overloaded; attempt 2 in" in lines[0]


# The key -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [
    [], [Fault(status=400, message=f"bad {CANARY}")], [Fault(status=503, message=f"down, {CANARY}")] * 50,
    [Fault(status=404, message="x" * 290 + CANARY)], [HTML], [RESET] * 50, [rate_limited(9)],
    [Fault(status=418, message=CANARY)],
], ids=["401", "400", "503", "404", "html", "reset", "429", "418"])
def test_the_key_is_in_no_error_log_or_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, faults: list[Fault],
) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    accepted = CANARY if faults else "another key"  # the 401 of the server repeats the key it was given
    with caplog.at_level(logging.DEBUG), ScriptedServer(api_key=accepted) as server, \
            Journal(tmp_path / "j.sqlite") as journal:
        server.misbehave(*faults)
        with pytest.raises(BackendError) as caught:
            using(server.url, lambda llm: JournaledLLM(llm, journal).generate(ask()), api_key_env="MY_KEY", deadline=1)
        assert server.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    spoken = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert CANARY[:12] not in spoken
    assert CANARY[:12].encode() not in written


def test_a_refused_key_stops_at_once_and_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    with ScriptedServer(api_key="another key") as server:
        started = time.monotonic()
        with pytest.raises(BackendError, match="environment variable MY_KEY"):
            using(server.url, lambda llm: llm.generate(ask()), api_key_env="MY_KEY")
        assert time.monotonic() - started < 1 + SLACK
        assert len(server.calls) == 1


def test_every_attempt_that_failed_for_good_is_counted_once_in_the_journal(
    tmp_path: Path, server: ScriptedServer
) -> None:
    server.misbehave(UNAVAILABLE, UNAVAILABLE, Fault(status=400))
    with Journal(tmp_path / "j.sqlite") as journal:
        with pytest.raises(RequestRejectedError):
            using(server.url, lambda llm: JournaledLLM(llm, journal).generate(ask()))
        using(server.url, lambda llm: JournaledLLM(llm, journal).generate(ask()))
        counts = journal.counts()
    assert counts.ever[Outcome.REJECTED] == counts.ever[Outcome.ANSWER] == 1
