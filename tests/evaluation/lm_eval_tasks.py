"""A folder of lm-eval tasks over local files, two tiny models, and what lm-eval found of them.

`lm_eval_results.json` was recorded with lm_eval 0.4.13 and transformers 5.23.0 by running this file:

    python tests/evaluation/lm_eval_tasks.py
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import yaml

RECORDED = Path(__file__).with_name("lm_eval_results.json")
WORDS = ["lighthouse", "pier", "keeper", "stairs", "letters", "brother", "rain", "harbour", "gulls", "fish", "captain",
         "winter", "bridge", "ground", "letter", "evening", "story"]


def write_tasks(folder: Path) -> Path:
    """A group inside a group, a task with two filters, and one whose measures are no means over documents."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for name, count in (("words", 24), ("pier", 10)):
        _choices(folder, name, count, rng)
    texts = [{"text": " ".join(rng.sample(WORDS, 6)), "word": "the"} for _ in range(8)]
    _task(folder, "write", texts, {
        "output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{word}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "filter_list": [{"name": "strict", "filter": [{"function": "take_first"}]},
                        {"name": "loose", "filter": [{"function": "map", "mapping_dict": {}, "default_value": "the"},
                                                     {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]})
    _task(folder, "story", texts, {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}]})
    _write(folder, "harbour", {"group": "harbour", "task": ["harbour_words", "harbour_pier"],
                               "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]})
    _write(folder, "coast", {"group": "coast", "task": ["harbour", "harbour_write"]})
    return folder


def write_models(folder: Path) -> tuple[Path, Path]:
    """A random model, and a random adapter for it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_models import make_model, make_tokenizer

    make_tokenizer().save_pretrained(folder / "model")
    make_model("llama", seed=0).save_pretrained(folder / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted: Any = get_peft_model(make_model("llama", seed=0), LoraConfig(
            r=8, lora_alpha=64, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter"


def recorded() -> dict[str, dict[str, Any]]:
    """What `simple_evaluate` returned for the model alone (`base`) and with its adapter (`trained`)."""
    return json.loads(RECORDED.read_text())


def _choices(folder: Path, name: str, count: int, rng: random.Random) -> None:
    rows = []
    for _ in range(count):
        first, second, third, place = rng.sample(WORDS, 4)
        rows.append({"question": f"The {first} stood at the {place}. What stood there?",
                     "choices": [first, second, third], "answer": rng.randrange(3)})
    _task(folder, name, rows, {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}
                        for metric in ("acc", "acc_norm")]})


def _task(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write(folder, f"harbour_{name}", {
        "task": f"harbour_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", **settings})


def _write(folder: Path, name: str, values: dict[str, Any]) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, "metadata": {"version": 1.0}}, sort_keys=False))


def _record(folder: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model, adapter = write_models(folder)
    manager = TaskManager(include_path=[str(write_tasks(folder / "tasks"))], include_defaults=False)
    found = {}
    for name, peft in (("base", {}), ("trained", {"peft": str(adapter)})):
        results: Any = simple_evaluate(
            model="hf", model_args={"pretrained": str(model), "dtype": "float32", **peft}, batch_size=8, device="cpu",
            tasks=["coast", "harbour_story"], task_manager=manager, log_samples=True)
        kept = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
        found[name] = {key: results[key] for key in kept} | {"samples": {
            task: [{key: sample[key] for key in ("doc_id", "doc_hash", "filter", "metrics", *sample["metrics"])}
                   for sample in samples] for task, samples in results["samples"].items()}}
    RECORDED.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    with tempfile.TemporaryDirectory() as temporary:
        _record(Path(temporary))
