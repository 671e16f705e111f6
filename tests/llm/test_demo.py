"""The demo model, for real: converted from its package, loaded, read and written with."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lpo.config import ModelConfig
from lpo.llm.base import Context, Finish, Request, Sampling, ScoreRequest
from lpo.llm.demo import DEMO_MODEL, resolve_model
from lpo.llm.transformers import TransformersLLM
from lpo.records import Message

pytestmark = pytest.mark.demo

RESOLVE = f"from lpo.llm.demo import resolve_model; print(resolve_model({DEMO_MODEL!r}))"


@pytest.fixture(scope="module")
def llm() -> TransformersLLM:
    return TransformersLLM.load(ModelConfig(chat_template="plain", device="cpu"))


def test_two_processes_at_once_convert_once_and_replace_what_is_torn(tmp_path: Path) -> None:
    first = Path(resolve_model(DEMO_MODEL))
    models = tmp_path / "models"
    torn = models / first.name
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    (torn / "COMPLETE.json").write_text(json.dumps({"model.safetensors": 536223056}))
    killed = models / f".{first.name}.killed"
    killed.mkdir()
    environment = {**os.environ, "LPO_CACHE": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", RESOLVE], env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [out.strip() for out, _ in outputs] == [str(torn)] * 2, outputs
    assert sum("converting the demo model" in error for _, error in outputs) == 1
    assert not list(models.glob(".*")), "the work folders are gone, that of the killed process too"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (torn / name).read_bytes() == (first / name).read_bytes(), "conversion repeats to the byte"


def test_the_head_stays_tied(llm: TransformersLLM) -> None:
    model = llm.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    weights = Path(resolve_model(DEMO_MODEL)) / "model.safetensors"
    assert 530e6 < weights.stat().st_size < 540e6


def test_the_tokenizer_is_whole(llm: TransformersLLM) -> None:
    tokenizer = llm.tokenizer
    for text in ("The keeper didn't  answer;\n\n\tnobody saw.", "写一篇关于春天的文章，大约五百字。", "e\u0301 😀"):
        ids = tokenizer(text)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") == 106
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template=llm.template,
                                             tokenize=False)
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_it_writes_and_knows_something(llm: TransformersLLM) -> None:
    capital = Context("Berlin is the capital of Germany. Rome is the capital of Italy. Paris is the capital of")
    async def ask() -> tuple[str, float, float]:
        greedy = Request(capital, Sampling(max_tokens=6, temperature=0, stop=(".",)), seed=0)
        text, values = await asyncio.gather(
            llm.generate(greedy), llm.logprobs(ScoreRequest((capital,), (" France", " Japan"))))
        assert text.finish is Finish.STOP
        return text.text, values.total(0, 0), values.total(0, 1)
    text, france, japan = asyncio.run(ask())
    assert text == " France"
    assert france > -1 and france - japan > 2


def test_branches_of_messages_differ_and_repeat(llm: TransformersLLM) -> None:
    context = Context((Message(role="user", content="Write about a lighthouse."),), prefix="The lighthouse")
    asked = [Request(context, Sampling(max_tokens=8, temperature=0.7), seed=3, index=index) for index in range(3)]

    async def gather() -> list[str]:
        return [answer.text for answer in await asyncio.gather(*(llm.generate(request) for request in asked))]
    texts = asyncio.run(gather())
    assert len(set(texts)) == 3
    assert [asyncio.run(llm.generate(request)).text for request in asked] == texts
