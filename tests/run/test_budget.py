"""Budgets over all that a run ever paid for, against a real server in this process."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_lpo import lpo, write_config, write_prompts
from scripted_server import FILTERED, Fault, ScriptedServer, content

from lpo.build_config import BudgetConfig
from lpo.config import ModelConfig, Prices, RunConfig
from lpo.errors import (
    BackendError,
    BudgetSpentError,
    ConfigError,
    ExitCode,
    NotCalledError,
    RequestRejectedError,
    StoppedError,
)
from lpo.llm.base import Context, Request, Sampling, ScoreRequest
from lpo.llm.journal import Journal
from lpo.llm.journal_file import Outcome
from lpo.records import Usage
from lpo.run.directory import Stage, identity_hash
from lpo.run.models import Models

PRICES = Prices(input=100.0, output=1000.0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def model(server: ScriptedServer, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"backend": "openai", "base_url": server.url, "model": "scripted", **changes})


def asks(count: int, first: int = 0, **changes: Any) -> list[Request]:
    return [Request(Context("Once upon a time"), Sampling(max_tokens=10), seed=seed, **changes)
            for seed in range(first, first + count)]


def run(path: Path, budget: BudgetConfig | None, work: Callable[[Models], Awaitable[Any]],
        stop: asyncio.Event | None = None) -> Any:
    async def body() -> Any:
        with Journal(path / "journal.sqlite") as journal:
            models = Models(journal, stop or asyncio.Event(), budget)
            try:
                return await work(models)
            finally:
                await models.close()

    return asyncio.run(body())


def ask_all(path: Path, budget: BudgetConfig | None, config: ModelConfig, requests: list[Request]) -> list[Any]:
    """What became of each request, all of them made at once."""
    return run(path, budget, lambda models: asyncio.gather(
        *(models.get(config).generate(request) for request in requests), return_exceptions=True))


def spent(path: Path) -> Usage:
    with Journal(path / "journal.sqlite") as journal:
        return journal.spent()


def refused(replies: list[Any]) -> int:
    return sum(isinstance(reply, BudgetSpentError) for reply in replies)


# How far it goes -----------------------------------------------------------------------------------------------------


def test_calls_are_limited_exactly_and_raising_the_limit_goes_on(server: ScriptedServer, tmp_path: Path) -> None:
    config = model(server, max_concurrency=4)
    first = ask_all(tmp_path, BudgetConfig(calls=10), config, asks(60))
    assert (len(server.calls), refused(first)) == (10, 50)
    second = ask_all(tmp_path, BudgetConfig(calls=25), config, asks(60))
    assert (len(server.calls), refused(second)) == (25, 35)
    assert sum(reply.usage.cached for reply in second if not isinstance(reply, Exception)) == 10
    third = ask_all(tmp_path, BudgetConfig(calls=25), config, asks(60))
    assert (len(server.calls), refused(third)) == (25, 35)  # what is stored is free, also when nothing is left
    last = ask_all(tmp_path, None, config, asks(60))
    assert (len(server.calls), refused(last)) == (60, 0)
    assert spent(tmp_path).calls == 60


@pytest.mark.parametrize(("limit", "measure"), [
    ({"tokens": 150}, lambda usage: usage.tokens_in + usage.tokens_out), ({"cost": 0.1}, lambda usage: usage.cost),
])
def test_tokens_and_money_are_exceeded_by_no_more_than_the_calls_in_flight(
    server: ScriptedServer, tmp_path: Path, limit: dict[str, Any], measure: Callable[[Usage], float]
) -> None:
    replies = ask_all(tmp_path, BudgetConfig(**limit), model(server, max_concurrency=3, prices=PRICES), asks(60))
    most, (amount,) = measure(spent(tmp_path)), limit.values()
    one = max(measure(reply.usage) for reply in replies if not isinstance(reply, Exception))
    assert amount <= most <= amount + 3 * one
    assert refused(replies) == 60 - len(server.calls) > 0
    stored = [reply for reply in replies if not isinstance(reply, Exception)]
    assert len(stored) == len(server.calls), "what was in flight has finished"
    assert measure(sum((reply.usage for reply in stored), Usage())) == pytest.approx(most)


def test_siblings_in_one_call_are_one_call(server: ScriptedServer, tmp_path: Path) -> None:
    groups = [[Request(Context(f"Task {group}"), Sampling(max_tokens=10), seed=index, index=index, siblings=4)
               for index in range(4)] for group in range(5)]
    replies = ask_all(tmp_path, BudgetConfig(calls=3), model(server), [one for group in groups for one in group])
    assert [entry.body["n"] for entry in server.calls] == [4, 4, 4]
    assert refused(replies) == 8
    with Journal(tmp_path / "journal.sqlite") as journal:
        counts = journal.counts()
    assert (counts.entries, counts.ever[Outcome.ANSWER], counts.spent.calls) == (12, 12, 3)


def test_a_score_cut_off_by_the_budget_is_paid_as_far_as_it_went(server: ScriptedServer, tmp_path: Path) -> None:
    request = ScoreRequest((Context("Grade:"),), (" 1", " unheard-of"))  # one call for the list, two more for the echo
    with pytest.raises(BudgetSpentError):
        run(tmp_path, BudgetConfig(calls=2), lambda models: models.get(model(server)).logprobs(request))
    assert len(server.calls) == 2
    assert spent(tmp_path).calls == 2
    assert spent(tmp_path).tokens_in > 0


# What is paid --------------------------------------------------------------------------------------------------------


def test_failed_and_cut_calls_are_paid_and_calls_not_made_are_not(server: ScriptedServer, tmp_path: Path) -> None:
    server.misbehave(Fault(status=400), Fault(choice={"finish_reason": "abort"}), content("cut", "length"), FILTERED)
    config = model(server, max_concurrency=1)
    replies = ask_all(tmp_path, BudgetConfig(calls=4), config, asks(6, purpose="judge"))
    assert [type(reply) for reply in replies[:2]] == [RequestRejectedError] * 2
    assert refused(replies) == 2
    with Journal(tmp_path / "journal.sqlite") as journal:
        counts = journal.counts()
    assert (counts.entries, sum(counts.ever.values())) == (0, 4)
    assert counts.spent.calls == 4
    assert (counts.spent.tokens_in, counts.spent.tokens_out) == (3 * 4, 3 * 10)  # all but the 400


def test_a_run_that_was_stopped_makes_no_call_and_pays_none(server: ScriptedServer, tmp_path: Path) -> None:
    async def work(models: Models) -> list[Any]:
        models.stop.set()
        return await asyncio.gather(*(models.get(model(server)).generate(request) for request in asks(3)),
                                    return_exceptions=True)

    replies = run(tmp_path, None, work)
    assert all(isinstance(reply, StoppedError) for reply in replies)
    with Journal(tmp_path / "journal.sqlite") as journal:
        counts = journal.counts()
    assert (counts.spent, sum(counts.ever.values()), len(server.calls)) == (Usage(), 0, 0)


def test_calls_that_wait_for_their_turn_are_not_made_once_the_run_stops(server: ScriptedServer, tmp_path: Path) -> None:
    server.latency = 0.2

    async def work(models: Models) -> list[Any]:
        tasks = [asyncio.create_task(models.get(model(server, max_concurrency=2)).generate(request))
                 for request in asks(20)]
        await asyncio.sleep(0.1)
        models.stop.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = run(tmp_path, None, work)
    assert len(server.calls) == 2
    assert [isinstance(reply, StoppedError) for reply in replies] == [False] * 2 + [True] * 18


def test_models_tell_what_the_run_spent_and_what_this_start_took(server: ScriptedServer, tmp_path: Path) -> None:
    config = model(server, prices=PRICES)

    async def work(models: Models) -> tuple[Usage, Usage]:
        for request in asks(3):
            await models.get(config).generate(request)
        return models.spent(), models.usage()

    first, this = run(tmp_path, None, work)
    assert first == this
    again, cached = run(tmp_path, None, work)
    assert again == first
    assert cached == Usage(cached=3)


def test_money_needs_prices_and_a_local_model_costs_none(server: ScriptedServer, tmp_path: Path) -> None:
    async def work(models: Models) -> None:
        with pytest.raises(ConfigError, match=r"build\.budget\.cost"):
            models.get(model(server))
        models.get(model(server, prices=PRICES))
        models._budget.require_prices(ModelConfig())

    run(tmp_path, BudgetConfig(cost=1.0), work)
    run(tmp_path, BudgetConfig(tokens=5), lambda models: asyncio.sleep(0, models.get(model(server))))


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_a_server_that_counts_nothing_is_found_out_after_one_call(
    server: ScriptedServer, tmp_path: Path, usage: Any
) -> None:
    server.misbehave(Fault(usage=usage), times=9)

    async def work(models: Models) -> None:
        llm = models.get(model(server))
        await llm.generate(asks(1)[0])
        with pytest.raises(BackendError, match="does not say how many tokens"):
            await llm.generate(asks(1, first=1)[0])

    run(tmp_path, BudgetConfig(tokens=1000), work)
    assert len(server.calls) == 1
    assert spent(tmp_path).calls == 1
    ask_all(tmp_path, BudgetConfig(calls=3), model(server), asks(5))
    assert len(server.calls) == 3


# Over processes ------------------------------------------------------------------------------------------------------

CHILD = """
    import asyncio, sys
    sys.path[:0] = [{tests!r}, {here!r}]
    from pathlib import Path
    from test_budget import asks, run
    from lpo.build_config import BudgetConfig
    from lpo.config import ModelConfig
    from lpo.llm.side_by_side import side_by_side

    config = ModelConfig(backend="openai", base_url={url!r}, model="scripted", max_concurrency=4)

    async def work(models):
        await side_by_side(asks(1000), models.get(config).generate, at_once=16, stop=models.stop)

    run(Path({path!r}), BudgetConfig(calls={calls}), work)
"""


def test_kill_9_forgets_nothing_that_was_paid_but_what_was_in_flight(tmp_path: Path) -> None:
    here = Path(__file__).parent
    with ScriptedServer(latency=0.01) as server:
        program = textwrap.dedent(CHILD).format(tests=str(here.parent), here=str(here), url=server.url,
                                                path=str(tmp_path), calls=150)
        for life in range(1, 3):
            child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
            while len(server.calls) < 50 * life:
                assert child.poll() is None
                time.sleep(0.005)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            made = len(server.calls)
            with Journal(tmp_path / "journal.sqlite") as journal:
                counts = journal.counts()
            assert counts.spent.calls == counts.entries, "replies and what they took are committed together"
            assert made - 4 * life <= counts.spent.calls <= made
        last = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "BudgetSpentError" in last.stderr
        assert 150 <= len(server.calls) <= 150 + 2 * 4
    assert spent(tmp_path).calls == 150


def test_a_budget_can_be_raised_on_a_run_that_began_and_has_an_exit_code_of_its_own() -> None:
    def config(**budget: Any) -> RunConfig:
        return RunConfig.model_validate({"name": "x", "build": {"budget": budget or None}})

    hashes = {identity_hash(one, "prompts", Stage.BUILD)
              for one in (config(), config(calls=5), config(calls=9, tokens=7, cost=1.5))}
    assert len(hashes) == 1
    assert issubclass(BudgetSpentError, NotCalledError)
    assert BudgetSpentError.exit_code is ExitCode.BUDGET
    assert ExitCode.BUDGET == 7


def test_a_build_stops_when_its_budget_is_spent_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 6)
    with ScriptedServer() as server:
        backend = {"backend": "openai", "model": "scripted", "base_url": server.url, "max_concurrency": 4}
        config = write_config(tmp_path / "run.yaml", {
            "name": "limited", "prompts": {"path": "prompts.jsonl"}, "policy": backend,
            "judge": {**backend, "method": "json"},
            "build": {"branching": 3, "depth": 2, "step_tokens": 60, "budget": {"calls": 20}}})
        stopped = lpo("build", config, cwd=tmp_path)
        assert stopped.returncode == 7, stopped.stderr
        assert "the budget is spent: 20 of 20 calls" in stopped.stderr
        assert "build.budget.calls" in stopped.stderr
        assert len(server.calls) == 20
        again = lpo("build", config, cwd=tmp_path)
        assert (again.returncode, len(server.calls)) == (7, 20)
        finished = lpo("build", config, "build.budget.calls=5000", cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        made = len(server.calls)
    assert made > 20
    with Journal(tmp_path / "runs" / "limited" / "journal.sqlite") as journal:
        counts = journal.counts()
    assert counts.spent.calls == made, "not one call was paid twice"
    assert counts.entries == counts.ever[Outcome.ANSWER] == sum(counts.ever.values())
