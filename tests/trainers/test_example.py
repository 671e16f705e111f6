"""The training script of the examples, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_example_trains_on_its_pairs_and_can_be_run_again(tmp_path, tiny_model, tiny_tokenizer):
    tiny_model("qwen2").save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, str(ROOT / "examples" / "train_step_dpo.py"), "--model", str(tmp_path / "model"),
               "--data", str(ROOT / "examples" / "data" / "pairs.jsonl"), "--output", str(tmp_path / "out")]
    adapters = []
    for _ in range(2):
        run = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                             text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        assert "left out" not in run.stdout
        # 8 pairs of 6 documents, two documents a step
        lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3] and all(line["loss"] > 0 for line in lines)
        adapters.append(load_file(tmp_path / "out" / "final" / "adapter_model.safetensors"))
    assert any(value.abs().max() > 0 for name, value in adapters[0].items() if "lora_B" in name)
    assert all(value.equal(adapters[1][name]) for name, value in adapters[0].items())
