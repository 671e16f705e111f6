"""What measuring costs beside writing: `lpo eval` on the demo model, its time outside the model's own work.

    python benchmarks/evaluation.py                      32 prompts, 256 tokens each, three rounds (about ten minutes)
    python benchmarks/evaluation.py --prompts 8 --tokens 64 --rounds 1 --threads 1

In one process and in turn: the whole of `lpo eval MODEL` without a judge (prompts read, journal, scores with intervals,
quality along the text, files; the page is timed by itself), and plain `model.generate` of transformers on the same
prompts in the same batches with the same number of tokens. Texts never end by themselves, so both write the same
number of tokens. "Writing" is the time inside the function that grows a batch of texts, sampling included; the rest of
the wall time, but for loading the model, is ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats  # noqa: F401  (the intervals need it: loaded before the clock runs)
import torch

import lpo.llm.transformers as backend
from lpo.chat import load_chat_template, render_context
from lpo.config import RunConfig
from lpo.llm.demo import DEMO_MODEL
from lpo.prompts import load_prompts
from lpo.run import pipeline
from lpo.run.directory import RunDirectory
from lpo.run.progress import Reporter

TARGET = 0.05
BATCH = 16


@dataclass
class Clock:
    """Adds up what a function takes.

    Args:
        function: What is timed.
        seconds: So far.
    """

    function: Callable[..., Any]
    seconds: float = 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As the function."""
        start = time.monotonic()
        try:
            return self.function(*arguments, **options)
        finally:
            self.seconds += time.monotonic() - start


def settings(folder: Path, prompts: int, tokens: int, number: int) -> RunConfig:
    """One evaluation of the demo model on tasks of its own."""
    path = folder / f"prompts-{number}.jsonl"
    subjects = ("harbour", "orchard", "library", "railway", "bakery", "mountain hut", "theatre", "garden")
    path.write_text("".join(json.dumps({
        "prompt": f"Write about day {index} of round {number} at the {subjects[index % 8]}.",
        "target_words": 60 + 20 * (index % 8)}) + "\n" for index in range(prompts)))
    return RunConfig.model_validate({
        "name": f"round-{number}", "runs_dir": str(folder / "runs"), "seed": number,
        "prompts": {"held_out_path": str(path)},
        "policy": {"model": DEMO_MODEL, "chat_template": "plain", "batch_size": BATCH},
        "eval": {"judge": False, "max_tokens": tokens, "along": {"parts": 2},
                 "sampling": {"temperature": 0.7, "top_p": 0.95}},
    })


def evaluate(config: RunConfig) -> tuple[float, float, float, float]:
    """Seconds of the whole evaluation without loading and page; of writing; of loading; of the page."""
    writing, loading = Clock(backend.write), Clock(backend.load_model)
    page = Clock(pipeline.write_report)
    endless = Clock(lambda *arguments, **options: writing(
        *(arguments[:2]), [_endless(text) for text in arguments[2]], *arguments[3:], **options))
    backend.write, backend.load_model, pipeline.write_report = endless, loading, page
    try:
        start = time.monotonic()
        with Path("/dev/null").open("w") as quiet:
            pipeline.measure_model(config, Reporter(quiet))
        whole = time.monotonic() - start - loading.seconds - page.seconds
    finally:
        backend.write, backend.load_model, pipeline.write_report = writing.function, loading.function, page.function
    return whole, writing.seconds, loading.seconds, page.seconds


def _endless(writing: Any) -> Any:
    """The same text, which no token ends."""
    from dataclasses import replace

    return replace(writing, end_ids=frozenset())


def plain(config: RunConfig, model: Any, tokenizer: Any) -> float:
    """Seconds of `model.generate` on the same prompts in the same batches."""
    template = load_chat_template("plain")
    texts = [render_context(tokenizer, prompt.dialogue, "", template)
             for prompt in load_prompts(config.prompts).held_out]
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    start = time.monotonic()
    for first in range(0, len(texts), BATCH):
        batch = tokenizer(texts[first:first + BATCH], return_tensors="pt", padding=True)
        with torch.no_grad():
            written = model.generate(
                **batch, do_sample=True, temperature=0.7, top_p=0.95, top_k=0, max_new_tokens=config.eval.max_tokens,
                min_new_tokens=config.eval.max_tokens, pad_token_id=tokenizer.pad_token_id)
        tokenizer.batch_decode(written)
    return time.monotonic() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shares: list[float] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = None, None
        for number in range(options.rounds):
            config = settings(folder, options.prompts, options.tokens, number)
            whole, writing, loading, page = evaluate(config)
            if model is None:
                from lpo.llm.loading import pick_dtype, read_weights

                model, tokenizer = read_weights(config.policy, pick_dtype("auto", torch.device("cpu")))
                model.eval()
            bare = plain(config, model, tokenizer)
            shares.append((whole - writing) / writing)
            ratios.append(whole / bare)
            answers = (RunDirectory(config.run_dir) / "eval" / "answers.model.jsonl").read_text().count("\n")
            print(f"round {number}: {answers} answers, whole {whole:.2f} s, of it writing {writing:.2f} s; ours "
                  f"{whole - writing:.2f} s = {shares[-1]:.1%} of writing; page {page:.2f} s, loading {loading:.2f} s; "
                  f"model.generate {bare:.2f} s, whole / generate {ratios[-1]:.2f}", flush=True)
    median = statistics.median(shares)
    print(f"median: {median:.1%} of writing (target {TARGET:.0%}: {'met' if median <= TARGET else 'missed'}); whole "
          f"evaluation / model.generate {statistics.median(ratios):.2f}; {options.prompts} prompts x {options.tokens} "
          f"tokens, batch {BATCH}, {options.threads} threads")


if __name__ == "__main__":
    main()
