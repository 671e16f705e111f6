"""Another model in the same folder is another model: its answers are not taken from the journal."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_tokenizer

from lpo.llm.loading import fingerprint_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_model("llama", vocab_size=20_000).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    assert (path / "model.safetensors").stat().st_size > 2**22, "large enough to be sampled"
    return path


def names(folder) -> list[str]:
    return sorted(load_file(folder / "model.safetensors"))


def test_a_copy_is_the_same_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint_folder(tmp_path / "copy", whole=False) == fingerprint_folder(folder, whole=False)
    assert fingerprint_folder(tmp_path / "copy", whole=True) == fingerprint_folder(folder, whole=True)


def test_training_any_one_tensor_makes_another_model(folder, tmp_path):
    """As adapters do that are merged into a few layers: both ends of the file stay as they were."""
    before = fingerprint_folder(folder, whole=False)
    shutil.copytree(folder, tmp_path / "merged")
    weights = load_file(folder / "model.safetensors")
    seen = {before}
    for name in names(folder):
        changed = {**weights, name: weights[name] + 1e-3 * torch.randn_like(weights[name])}
        save_file(changed, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
        seen.add(fingerprint_folder(tmp_path / "merged", whole=False))
    assert len(seen) == 1 + len(weights)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_other_settings_make_another_model(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / name).write_text((folder / name).read_text() + "\n")
    assert fingerprint_folder(tmp_path / "other", whole=False) != fingerprint_folder(folder, whole=False)
