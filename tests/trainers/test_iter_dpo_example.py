"""The example of IterDPO, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_example_trains_on_its_scripts(tmp_path, tiny_model, tiny_tokenizer):
    tiny_model("qwen2").save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, str(ROOT / "examples" / "train_iter_dpo.py"), "--model", str(tmp_path / "model"),
               "--data", str(ROOT / "examples" / "data" / "scripts.jsonl"), "--output", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                         timeout=300)
    assert run.returncode == 0, run.stderr
    left_out = [line for line in run.stdout.splitlines() if line.startswith("left out")]
    assert left_out == ["left out bread/1: equal_texts (nothing was changed here)"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines and all(line["loss"] > 0 for line in lines)
    adapter = load_file(tmp_path / "out" / "final" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
