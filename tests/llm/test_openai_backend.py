"""Against a real server that speaks the protocol."""

import asyncio
import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from scripted_model import echo_logprobs, next_token_logprobs, tokens_of
from scripted_server import EMPTY, FILTERED, HTML, NO_CHOICES, NO_CONTENT, REFUSAL, Fault, ScriptedServer, content

from lpo.config import ModelConfig, Prices
from lpo.errors import BackendError, ConfigError, LpoError, RequestRejectedError
from lpo.llm.base import Completion, Context, Finish, Request, Sampling, ScoreRequest
from lpo.llm.openai import OpenAILLM
from lpo.llm.openai_wire import Echo, continuation_logprobs
from lpo.records import Message

USER = (Message(role="user", content="Write about a river."),)
GRADES = tuple(f" {grade}" for grade in range(1, 6))
SCHEMA = {"type": "object", "properties": {
    "note": {"type": "string"}, "grade": {"type": "integer", "minimum": 1, "maximum": 5},
    "weights": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 5, "maxItems": 5},
}}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def ask(**changes: Any) -> Request:
    return dataclasses.replace(Request(Context(USER), Sampling(max_tokens=40), seed=1), **changes)


def using(server: ScriptedServer, work: Callable[[OpenAILLM], Awaitable[Any]], **config: Any) -> Any:
    async def run() -> Any:
        values = {"backend": "openai", "base_url": server.url, "model": "scripted", **config}
        llm = OpenAILLM(ModelConfig(**values))
        try:
            return await work(llm)
        finally:
            await llm.close()

    return asyncio.run(run())


def write(server: ScriptedServer, request: Request, **config: Any) -> Completion:
    return using(server, lambda llm: llm.generate(request), **config)


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [USER, "Once upon a time"], ids=["messages", "string"])
def test_a_text_comes_back_whole_with_its_logprobs_and_usage(server: ScriptedServer, prompt: Any) -> None:
    reply = write(server, ask(context=Context(prompt)), prices=Prices(input=1.0, output=100.0))
    assert reply.finish is Finish.LENGTH
    assert len(tokens_of(reply.text)) == 40
    before = "user: Write about a river.\nassistant:" if prompt is USER else prompt
    assert reply.logprobs == tuple(echo_logprobs(before, tokens_of(reply.text)))
    assert (reply.usage.calls, reply.usage.tokens_out) == (1, 40)
    assert reply.usage.cost == pytest.approx((reply.usage.tokens_in + 100 * 40) / 1e6)
    assert reply.usage.seconds > 0
    ended = write(server, ask(context=Context(prompt), sampling=Sampling(max_tokens=2000)))
    assert ended.finish is Finish.STOP
    assert ended.text.startswith(reply.text)


def test_the_seed_alone_tells_samples_of_one_context_apart(server: ScriptedServer) -> None:
    texts = [write(server, ask(seed=seed)).text for seed in (1, 2, 3, 1)]
    assert len(set(texts)) == 3
    assert texts[0] == texts[3]


def test_a_prefix_of_messages_is_an_open_final_assistant_message(server: ScriptedServer) -> None:
    write(server, ask(context=Context(USER, "The river")))
    entry = server.calls[0]
    assert entry.path == "/v1/chat/completions"
    assert entry.body["messages"] == [{"role": "user", "content": USER[0].content},
                                      {"role": "assistant", "content": "The river"}]
    assert (entry.body["continue_final_message"], entry.body["add_generation_prompt"]) == (True, False)
    write(server, ask())
    assert "continue_final_message" not in server.calls[1].body


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_string_is_plain_text_whatever_the_interface(server: ScriptedServer, api: str) -> None:
    write(server, ask(context=Context("Once", " upon")), api=api)
    assert server.calls[0].path == "/v1/completions"
    assert server.calls[0].body["prompt"] == "Once upon"


def test_what_is_off_is_not_sent_and_what_is_on_is(server: ScriptedServer) -> None:
    write(server, ask())
    assert server.calls[0].body.keys() == {
        "model", "messages", "max_tokens", "temperature", "top_p", "seed", "logprobs",
    }
    sampling = Sampling(40, temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1, stop=("river",))
    write(server, ask(sampling=sampling))
    sent = server.calls[1].body
    assert {name: sent[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed")} == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1, "stop": ["river"], "seed": 1,
    }


def test_a_stop_string_cuts_the_text_and_ends_it(server: ScriptedServer) -> None:
    whole = write(server, ask()).text
    stop = tokens_of(whole)[10]
    reply = write(server, ask(sampling=Sampling(40, stop=(stop,))))
    assert reply.finish is Finish.STOP
    assert reply.text == whole[: whole.index(stop)]


@pytest.mark.parametrize("prompt", [USER, "Judge: "], ids=["messages", "string"])
def test_a_schema_constrains_the_reply_of_a_judge(server: ScriptedServer, prompt: Any) -> None:
    request = ask(context=Context(prompt), purpose="judge", json_schema=SCHEMA)
    reply = write(server, request)
    value = json.loads(reply.text)
    assert value.keys() == SCHEMA["properties"].keys()
    assert value["grade"] in range(1, 6)
    assert len(value["weights"]) == 5
    sent = server.calls[0].body
    assert sent["response_format"]["json_schema"] == {"name": "reply", "strict": True, "schema": SCHEMA}
    assert "logprobs" not in sent  # vendors refuse them, and nobody reads a judge's
    assert reply.logprobs is None


@pytest.mark.parametrize(("fault", "finish", "text"), [
    (content("cut", "length"), Finish.LENGTH, "cut"), (content("done", "stop"), Finish.STOP, "done"),
    (EMPTY, Finish.LENGTH, ""), (NO_CONTENT, Finish.LENGTH, ""), (FILTERED, Finish.REFUSED, ""),
    (REFUSAL, Finish.REFUSED, "I cannot help with that."),
])
def test_why_a_text_ended_is_told_as_the_server_says(
    server: ScriptedServer, fault: Fault, finish: Finish, text: str
) -> None:
    server.misbehave(fault)
    reply = write(server, ask())
    assert (reply.finish, reply.text) == (finish, text)


@pytest.mark.parametrize(("fault", "kind", "words"), [
    (content("half", "abort"), RequestRejectedError, "ended the reply with 'abort'"),
    (NO_CHOICES, RequestRejectedError, "empty list of choices"), (HTML, BackendError, "usually ends in /v1"),
    (Fault(status=400, message="maximum context length is 4096"), RequestRejectedError, "context length is 4096"),
])
def test_an_unusable_reply_is_an_error_that_says_why(
    server: ScriptedServer, fault: Fault, kind: type[LpoError], words: str
) -> None:
    server.misbehave(fault)
    with pytest.raises(kind) as caught:
        write(server, ask())
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert f"scripted at {server.url}" in str(caught.value)


def test_lone_surrogates_in_a_prompt_are_replaced_before_they_are_sent(server: ScriptedServer) -> None:
    write(server, ask(context=Context("half an emoji \ud83d")))
    assert server.calls[0].body["prompt"] == "half an emoji \ufffd"


@pytest.mark.parametrize("allowed", [3, 20])  # within one group of connections, and over several
def test_as_many_calls_are_in_flight_as_allowed(server: ScriptedServer, allowed: int) -> None:
    server.latency = 0.2

    async def work(llm: OpenAILLM) -> None:
        await asyncio.gather(*(llm.generate(ask(seed=seed)) for seed in range(30)))

    using(server, work, max_concurrency=allowed)
    assert server.most_at_once == allowed


# Scoring -------------------------------------------------------------------------------------------------------------


def score(server: ScriptedServer, contexts: tuple[Context, ...], continuations: tuple[str, ...], **config: Any) -> Any:
    return using(server, lambda llm: llm.logprobs(ScoreRequest(contexts, continuations)), **config)


def test_candidates_after_strings_are_scored_exactly_whether_listed_or_not(server: ScriptedServer) -> None:
    contexts = (Context("Grade (1-5):"), Context("Another", " text:"))
    scores = score(server, contexts, (*GRADES, " unheard-of"))
    for row, before in zip(scores.values, ("Grade (1-5):", "Another text:"), strict=True):
        expected = [*(next_token_logprobs(before)[grade] for grade in GRADES), *echo_logprobs(before, [" unheard-of"])]
        assert [sum(values) for values in row] == pytest.approx(expected)
    assert scores.usage.calls == len(server.calls)


def test_candidates_after_messages_are_read_from_the_list_and_others_are_improbable(server: ScriptedServer) -> None:
    scores = score(server, (Context(USER), Context(USER, "My grade:")), (*GRADES, "unheard-of"))
    assert len(server.calls) == 2
    turns = ["user: Write about a river.\nassistant:", "user: Write about a river.\nassistant: My grade:"]
    for row, before in zip(scores.values, turns, strict=True):
        listed = next_token_logprobs(before)
        top = sorted(listed.values())[-20:]
        assert row[-1] == (-math.inf,)
        for (value,), grade in zip(row, GRADES, strict=False):
            assert value == (listed[grade] if listed[grade] >= top[0] else -math.inf)
    assert any(math.isfinite(value) for row in scores.values for (value,) in row)


def test_a_text_after_a_string_is_scored_token_by_token(server: ScriptedServer) -> None:
    scores = score(server, (Context("The river"),), (" runs under the bridge.",))
    assert scores.values[0][0] == tuple(echo_logprobs("The river", [" runs", " under", " the", " bridge."]))


def test_a_token_that_straddles_the_boundary_belongs_to_the_continuation(server: ScriptedServer) -> None:
    scores = score(server, (Context("The riv"),), ("er runs",))
    assert scores.values[0][0] == tuple(echo_logprobs("The", [" river", " runs"]))


def test_tokens_are_compared_so_that_a_begin_of_text_token_shifts_nothing() -> None:
    context = Echo(("<bos>", "The", " river"), (None, -1.0, -2.0))
    whole = Echo(("<bos>", "The", " river", " runs"), (None, -1.0, -2.0, -3.0))
    assert continuation_logprobs(context, whole) == (-3.0,)
    with pytest.raises(RequestRejectedError, match="first token"):
        continuation_logprobs(Echo((), ()), whole)


@pytest.mark.parametrize(("context", "continuations"), [
    (Context("Text"), (" a", " b")), (Context("Text"), (" some words",)), (Context(USER), ("1", "2")),
])
@pytest.mark.parametrize("fault", [
    Fault(choice={"logprobs": None}), Fault(status=400, message="logprobs is not supported"),
], ids=["silent", "refused"])
def test_a_server_without_logprobs_is_an_error_that_names_the_other_judge(
    server: ScriptedServer, fault: Fault, context: Context, continuations: tuple[str, ...]
) -> None:
    server.misbehave(fault, times=9)
    with pytest.raises(BackendError, match=r"judge\.method: json") as caught:
        score(server, (context,), continuations)
    assert not isinstance(caught.value, RequestRejectedError)


def test_a_server_that_ignores_echo_is_found_out(server: ScriptedServer) -> None:
    logprobs = {"tokens": [" x"], "token_logprobs": [-1.0], "text_offset": [4], "top_logprobs": None}
    server.misbehave(Fault(choice={"text": " x", "logprobs": logprobs}), times=2)
    with pytest.raises(BackendError, match="no log-probabilities of the prompt's tokens"):
        score(server, (Context("Text"),), (" some words",))


def test_a_whole_text_after_messages_cannot_be_scored_by_a_server(server: ScriptedServer) -> None:
    with pytest.raises(BackendError, match="backend: transformers"):
        score(server, (Context(USER),), ("A text.",))
    assert not server.calls


# The model, the address, the key -------------------------------------------------------------------------------------


def test_an_unknown_model_is_named_with_the_known_ones(server: ScriptedServer) -> None:
    with pytest.raises(BackendError, match=r"(?s)does not know the model 'gpt-9'.*use one of: scripted"):
        write(server, ask(), model="gpt-9")


def test_a_wrong_path_is_told_from_a_wrong_model(server: ScriptedServer) -> None:
    with pytest.raises(BackendError, match=r"usually ends in /v1"):
        write(server, ask(), base_url=server.url.removesuffix("/v1"))
    with ScriptedServer(chat_only=True) as chat_only:
        with pytest.raises(BackendError, match=r"(?s)does not offer /completions.*write prompts as messages"):
            write(chat_only, ask(context=Context("Once")))
        assert write(chat_only, ask()).text


def test_messages_need_the_chat_interface(server: ScriptedServer) -> None:
    with pytest.raises(ConfigError, match="api: chat"):
        write(server, ask(), api="completions")
    assert not server.log


@pytest.mark.parametrize("address", [
    "http://me:secret-word@127.0.0.1:1/v1", "http://secret-word@127.0.0.1:1/v1", "127.0.0.1:8000/v1?k=secret-word",
    "ftp://secret-word/v1", "http://127.0.0.1:1/v1?token=secret-word",
])
def test_an_address_with_a_secret_or_without_http_is_refused_unseen(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAILLM(ModelConfig(backend="openai", base_url=address, model="m"))
    assert "base_url" in str(caught.value)
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_is_an_error_that_says_how_to_give_it(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(BackendError, match="export MY_KEY="):
        OpenAILLM(ModelConfig(backend="openai", base_url="http://127.0.0.1:1/v1", model="m", api_key_env="MY_KEY"))


def test_nothing_of_another_account_is_sent_to_the_configured_server(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, f"elsewhere-{name}")
    write(server, ask())
    assert server.calls[0].headers["authorization"] == "Bearer none"
    assert not [value for value in server.calls[0].headers.values() if "elsewhere" in value]


IN_IDENTITY = {"backend": "transformers", "model": "other", "revision": "abc", "endpoint": "box", "api": "completions"}
REFUSED = {"chat_template": "plain", "dtype": "float32", "device": "cpu", "batch_size": 2, "trust_remote_code": True,
           "max_model_len": 64, "max_num_seqs": 2, "kv_cache_gb": 1.0}
NOT_IN_IDENTITY = {
    "base_url": "http://127.0.0.1:2/v1", "api_key_env": "PATH", "max_concurrency": 2, "timeout": 1.0, "deadline": 2.0,
    "prices": Prices(input=1, output=1), "one_call_for_siblings": False,
    "sampling": {"temperature": 0.1},  # drawing is part of each request
}


def test_identity_holds_what_changes_replies_and_neither_address_nor_key() -> None:
    assert {*IN_IDENTITY, *NOT_IN_IDENTITY, *REFUSED} == set(ModelConfig.model_fields), "a new field: is it identity?"
    base = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}

    def identity(**changes: Any) -> dict[str, Any]:
        return OpenAILLM(ModelConfig.model_validate({**base, **changes})).identity

    for name in IN_IDENTITY.keys() - {"backend"}:  # the other back end has an identity of its own
        assert identity(**{name: IN_IDENTITY[name]}) != identity()
    for name, value in NOT_IN_IDENTITY.items():
        assert identity(**{name: value}) == identity(), name
    for name, value in REFUSED.items():
        with pytest.raises(ValueError, match=name):
            identity(**{name: value})


def test_this_back_end_loads_no_torch() -> None:
    program = textwrap.dedent("""
        import sys
        import lpo.llm.openai, lpo.llm.journal
        print(sorted({"torch", "transformers"} & sys.modules.keys()))
    """)
    done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "[]"
