"""Loading of models: what is refused, what the errors say, what tells one model from another."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lpo.config import ModelConfig
from lpo.errors import BackendError, ConfigError
from lpo.llm.base import Context, Request, Sampling
from lpo.llm.create import create_llm
from lpo.llm.demo import cache_folder, resolve_model
from lpo.llm.transformers import TransformersLLM

GREEDY = Sampling(max_tokens=12, temperature=0)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    path = tmp_path / "model"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def config(folder: Path, **options: Any) -> ModelConfig:
    return ModelConfig(model=str(folder), device="cpu", **options)


def write(llm: Any, prompt: str = "The lighthouse stood") -> str:
    return asyncio.run(llm.generate(Request(Context(prompt), GREEDY, seed=0))).text


def test_a_saved_model_writes_as_the_one_in_memory(folder: Path, tiny_model: Any, tiny_tokenizer: Any) -> None:
    llm = create_llm(config(folder))
    assert write(llm) == write(TransformersLLM(tiny_model("llama"), tiny_tokenizer))


def test_auto_dtype_is_float32_on_cpu_and_the_choice_is_obeyed(folder: Path) -> None:
    assert TransformersLLM.load(config(folder)).model.dtype is torch.float32
    halved = TransformersLLM.load(config(folder, dtype="bfloat16"))
    assert halved.model.dtype is torch.bfloat16
    assert write(halved)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_the_text_as_peft_does(folder: Path, adapter: Path, dtype: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    llm = TransformersLLM.load(config(folder, dtype=dtype), adapter=adapter)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    ids = llm.tokenizer("The lighthouse stood", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        plain = base(ids).logits.float()
        expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits.float()
        actual = llm.model(ids).logits.float()
    assert (actual - expected).abs().max() < 1e-4
    assert (actual - plain).abs().max() > 0.1
    assert write(llm) != write(TransformersLLM.load(config(folder, dtype=dtype)))


def test_identity_tells_models_apart_and_forgets_where_they_run(folder: Path, adapter: Path, tmp_path: Path) -> None:
    def identity(**options: Any) -> dict[str, Any]:
        chosen = options.pop("adapter", None)
        return TransformersLLM.load(config(folder, **options), adapter=chosen).identity

    plain = identity()
    assert json.loads(json.dumps(plain)) == plain
    assert identity() == plain
    assert identity(batch_size=3) == plain
    assert not any("cpu" in str(value) for value in plain.values())
    others = [identity(dtype="bfloat16"), identity(chat_template="plain"), identity(adapter=adapter)]
    moved = shutil.copytree(adapter, tmp_path / "elsewhere")
    assert identity(adapter=moved) == others[-1]
    weights = moved / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    others.append(identity(adapter=moved))
    assert len({json.dumps(value, sort_keys=True) for value in [plain, *others]}) == 5


def test_other_weights_in_the_same_folder_are_another_model(folder: Path, tiny_model: Any) -> None:
    before = TransformersLLM.load(config(folder)).identity
    tiny_model("llama", seed=1).save_pretrained(folder)
    assert TransformersLLM.load(config(folder)).identity != before


def test_pickled_weights_are_refused_with_the_mend(folder: Path, tiny_model: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BackendError, match=r"\.bin") as caught:
        create_llm(config(folder))
    assert "save_pretrained" in str(caught.value.mend)


def test_a_model_that_is_not_there_is_a_backend_error(tmp_path: Path) -> None:
    for name in ("nobody/no-such-model", str(tmp_path / "nowhere")):
        with pytest.raises(BackendError) as caught:
            create_llm(ModelConfig(model=name))
        assert caught.value.where == name
        assert "local folder" in str(caught.value.mend)


def test_a_model_without_weights_or_of_an_unknown_kind_is_a_backend_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackendError, match="safetensors"):
        create_llm(config(folder))
    (folder / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(BackendError, match="abacus"):
        create_llm(config(folder))


def test_code_that_comes_with_a_model_runs_only_when_the_config_says_so(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values.update(model_type="homemade", auto_map={"AutoConfig": "homemade.HomemadeConfig",
                                                   "AutoModelForCausalLM": "homemade.Homemade"})
    (folder / "config.json").write_text(json.dumps(values))
    ran = tmp_path / "ran"
    (folder / "homemade.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        "class HomemadeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
        "class Homemade(LlamaForCausalLM):\n    config_class = HomemadeConfig\n")
    with pytest.raises(BackendError) as caught:
        create_llm(config(folder))
    assert "trust_remote_code: true" in str(caught.value.mend)
    assert not ran.exists()


def test_missing_adapters_devices_and_templates_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no adapter here"):
        create_llm(config(folder), adapter=tmp_path / "nothing")
    with pytest.raises(BackendError, match="no device"):
        create_llm(ModelConfig(model=str(folder), device="warp"))
    with pytest.raises(ConfigError, match="no chat template"):
        create_llm(config(folder, chat_template="nothing.jinja"))


def test_an_adapter_of_another_model_is_named(folder: Path, adapter: Path, tiny_model: Any) -> None:
    tiny_model("llama", hidden_size=32).save_pretrained(folder)
    with pytest.raises(BackendError, match="does not fit"):
        create_llm(config(folder), adapter=adapter)


def test_an_adapter_on_a_server_is_refused(tmp_path: Path) -> None:
    server = ModelConfig(backend="openai", model="m", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="adapter"):
        create_llm(server, adapter=tmp_path)


def test_demo_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_model("some/model") == "some/model"
    with pytest.raises(ConfigError, match="did you mean 'demo:gemma-3-270m'"):
        resolve_model("demo:gemma3-270m")
    monkeypatch.setenv("LPO_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("LPO_CACHE")
    assert cache_folder() == tmp_path / "b" / "lpo"


def test_a_missing_demo_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LPO_CACHE", str(tmp_path))
    monkeypatch.setattr("lpo.llm.demo._PARTS", ("a-package-that-nobody-has",))
    with pytest.raises(BackendError) as caught:
        resolve_model("demo:gemma-3-270m")
    assert caught.value.mend == "pip install 'longform-lpo[demo]'"
    assert not list((tmp_path / "models").glob(".*")), "nothing half-made is left"


def test_parts_that_are_not_the_pinned_file_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = tmp_path / "x.gguf.part00"
    part.write_bytes(b"something else")
    monkeypatch.setenv("LPO_CACHE", str(tmp_path))
    monkeypatch.setattr("lpo.llm.demo._part", lambda package: part)
    with pytest.raises(BackendError, match="pinned"):
        resolve_model("demo:gemma-3-270m")
