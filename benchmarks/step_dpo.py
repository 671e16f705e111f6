"""Time and memory of one optimiser step on a document: TRL's DPOTrainer, our rows one pair at a time, our tree.

    python benchmarks/step_dpo.py --dry-run                          limits of all cells; measures nothing
    python benchmarks/step_dpo.py longdpo-2k-8 --models body         one cell
    python benchmarks/step_dpo.py --row-limit-minutes 2              all cells, samples of the long row-wise runs
    python benchmarks/step_dpo.py --report                           what has been measured so far

Run it again after an interruption and it goes on where it was. See README.md beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import results
from cells import CELLS, SMOKE, Cell, Pair, document, sampled
from flops import Mode, work
from subjects import SMOKE_SUBJECTS, SUBJECTS, Subject

from lpo.run.quiet import quiet_libraries
from lpo.storage import read_json, write_json

if TYPE_CHECKING:
    from measure import Measurement

SMALL = Cell("small", 64, 2)
CALIBRATION = Cell("calibration", 256, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.dry_run:
        _print_plans(options)
    elif not options.report:
        _run(options)
    if not options.dry_run:
        records = results.load(options.out)
        print("\n" + results.table(records))
        import plot

        for path in plot.draw(records, options.out):
            print(f"plot: {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="cell", choices=[*CELLS, *SMOKE, []],
                        help=f"{', '.join(CELLS)}; default: all of them")
    parser.add_argument("--models", nargs="+", choices=[*SUBJECTS, *SMOKE_SUBJECTS], default=list(SUBJECTS))
    parser.add_argument("--modes", nargs="+", type=Mode, choices=list(Mode), default=list(Mode))
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way of training")
    parser.add_argument("--row-limit-minutes", type=float, default=20,
                        help="a row-wise run estimated to take longer is timed on a sample of its pairs")
    parser.add_argument("--sample", type=int, help="time this many pairs of every row-wise run, whatever it takes")
    parser.add_argument("--cell-minutes", type=float, help="repeat a cell less often, but once, to stay within this")
    parser.add_argument("--max-minutes", type=float, help="begin no run that is estimated to end later than this")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    parser.add_argument("--redo", action="store_true", help="measure anew what has been measured")
    parser.add_argument("--dry-run", action="store_true", help="print limits and estimated minutes only")
    parser.add_argument("--gigaflops", type=float, default=80, help="speed that --dry-run reckons with")
    parser.add_argument("--report", action="store_true", help="print and plot the results there are")
    options = parser.parse_args(arguments)
    if options.sample is not None and options.sample < 2:
        parser.error("--sample: at least the first and the last pair, so 2")
    return options


def _chosen(options: argparse.Namespace) -> Iterable[tuple[Cell, Subject]]:
    cells = CELLS | SMOKE
    for model in options.models:  # outermost: each model is warmed up once
        for cell in options.cells or CELLS:
            yield cells[cell], (SUBJECTS | SMOKE_SUBJECTS)[model]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a cell is to be measured.

    Args:
        chosen: For each way of training, the numbers of the pairs that are timed.
        seconds: What a run of each is estimated to take.
        repeats: How often each is run.
    """

    chosen: dict[Mode, list[int]]
    seconds: dict[Mode, float]
    repeats: int

    @classmethod
    def of(cls, options: argparse.Namespace, cell: Cell, subject: Subject, pairs: Sequence[Pair], speed: float) -> Plan:
        """Sample what would take too long at a speed in operations a second, and repeat what there is time for."""
        chosen = {mode: list(range(len(pairs))) for mode in options.modes}
        for mode in set(options.modes) - {Mode.TREE}:
            if options.sample is not None:
                chosen[mode] = sampled(len(pairs), options.sample)
            elif work(mode, subject, cell, pairs).flops / speed > 60 * options.row_limit_minutes:
                chosen[mode] = sampled(len(pairs), 4)
        seconds = {mode: work(mode, subject, cell, [pairs[i] for i in numbers]).flops / speed
                   for mode, numbers in chosen.items()}
        repeats = options.repeats
        if options.cell_minutes is not None:
            repeats = min(repeats, max(1, int(60 * options.cell_minutes / sum(seconds.values()))))
        return cls(chosen, seconds, repeats)


def _print_plans(options: argparse.Namespace) -> None:
    """Limits of all cells, and how they would be measured at the speed reckoned with."""
    print(results.WORK_HEAD)
    total = 0.0
    for cell, subject in _chosen(options):
        pairs = document(cell, len(subject.lexicon.words))
        plan = Plan.of(options, cell, subject, pairs, 1e9 * options.gigaflops)
        minutes = {mode: f"{plan.seconds[mode] / 60:.1f}{_sample_note(plan.chosen[mode], pairs)}"
                   for mode in options.modes}
        total += plan.repeats * sum(plan.seconds.values()) / 60
        print(results.work_line(cell.name, subject.name, subject.checkpointing(cell),
                                {mode: work(mode, subject, cell, pairs) for mode in Mode},
                                f"{plan.repeats} x ({' + '.join(minutes.values())})"), flush=True)
    print(f"\nabout {total:.0f} minutes at {options.gigaflops:g} GFLOP/s, run by run: {', '.join(options.modes)}")


def _run(options: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1",
                      TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false",
                      HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    quiet_libraries()
    import torch

    torch.set_num_threads(options.threads)
    session = Session(options)
    for cell, subject in _chosen(options):
        session.measure_cell(cell, subject)


class Session:
    """One process's measurements.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._started = time.monotonic()
        self._speeds: dict[str, float] = {}

    def measure_cell(self, cell: Cell, subject: Subject) -> None:
        """Measure what is missing of a cell; each run is on disk when the next one begins."""
        options = self._options
        path: Path = options.out / f"{cell.name}.{subject.name}.json"
        asked = {"repeats": options.repeats, "modes": [str(mode) for mode in options.modes]}
        pairs = document(cell, len(subject.lexicon.words))
        record = self._begun(path, _header(cell, subject, pairs, options.threads))
        done = {(run["repeat"], run["mode"]) for run in record["runs"]}
        if record["asked"] == asked or done >= {(i, mode) for i in range(options.repeats) for mode in options.modes}:
            print(f"{path.stem}: done before", flush=True)
            return
        speed = self._speed(subject)
        plan = Plan.of(options, cell, subject, pairs, speed)
        for repeat in range(plan.repeats):
            shift = repeat % len(options.modes)  # nobody always goes first
            for mode in options.modes[shift:] + options.modes[:shift]:
                if (repeat, mode) in done:
                    continue
                if self._too_late(plan.seconds[mode]):
                    print(f"{path.stem}: no time left for {mode}, about {plan.seconds[mode] / 60:.1f} min", flush=True)
                    return
                run = self._measure(mode, subject, cell, pairs, plan.chosen[mode])
                record["runs"].append({"repeat": repeat, **run})
                record["summary"] = results.summarise(record)
                write_json(path, record)
                print(f"{path.stem} {mode} #{repeat + 1}: {run['scaled_seconds']:.1f} s"
                      f"{_sample_note(run['pairs'], pairs)}, peak {run['peak_mb']:,.0f} MB", flush=True)
        write_json(path, record | {"asked": asked})

    def _begun(self, path: Path, header: dict[str, Any]) -> dict[str, Any]:
        """The stored record if it was made by the same machine, versions and shape; else a new one."""
        if path.exists() and not self._options.redo:
            record = read_json(path)
            if all(record.get(name) == value for name, value in header.items()):
                return record
            print(f"{path.stem}: measured under other conditions before, measured anew", flush=True)
        return {**header, "asked": None, "runs": [], "summary": {}}

    def _speed(self, subject: Subject) -> float:
        """Operations a second on a small document, after each way of training has run once."""
        if subject.name not in self._speeds:
            from measure import measure

            for mode in self._options.modes:
                measure(mode, subject, SMALL, document(SMALL, len(subject.lexicon.words)))
            pairs = document(CALIBRATION, len(subject.lexicon.words))
            seconds = measure(Mode.ROWS, subject, CALIBRATION, pairs).seconds
            self._speeds[subject.name] = work(Mode.ROWS, subject, CALIBRATION, pairs).flops / seconds
            print(f"{subject.name}: {self._speeds[subject.name] / 1e9:.1f} GFLOP/s on a small document", flush=True)
        return self._speeds[subject.name]

    def _too_late(self, seconds: float) -> bool:
        limit = self._options.max_minutes
        return limit is not None and time.monotonic() + seconds > self._started + 60 * limit

    def _measure(
        self, mode: Mode, subject: Subject, cell: Cell, pairs: Sequence[Pair], chosen: list[int]
    ) -> dict[str, Any]:
        from measure import measure

        when = datetime.now(UTC).isoformat(timespec="seconds")
        seen: Measurement = measure(mode, subject, cell, [pairs[i] for i in chosen])
        scaled = seen.seconds
        if len(chosen) < len(pairs):
            sides = [subject.lexicon.sides(pair) for pair in pairs]
            scaled = results.scaled_seconds(
                seen.seconds, seen.micro_batches, [len(context) + len(side) for context, side, _ in sides],
                [work(mode, subject, cell, [pair]).flops for pair in pairs])
        return {"mode": str(mode), "when": when, "pairs": chosen, "scaled_seconds": scaled, **dataclasses.asdict(seen)}


def _header(cell: Cell, subject: Subject, pairs: Sequence[Pair], threads: int) -> dict[str, Any]:
    """What a result is a result of."""
    config = subject.config
    return {
        "cell": dataclasses.asdict(cell), "family": list(cell.family), "n_pairs": len(pairs),
        "model": subject.name, "lora_rank": subject.lora_rank, "gradient_checkpointing": subject.checkpointing(cell),
        "architecture": {name: getattr(config, name) for name in (
            "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "intermediate_size", "vocab_size", "tie_word_embeddings")},
        "dtype": "float32",
        "work": {str(mode): dataclasses.asdict(work(mode, subject, cell, pairs)) for mode in Mode},
        "machine": {"cpu": _cpu(), "threads": threads, "python": platform.python_version(),
                    **{name: version(name) for name in ("torch", "transformers", "trl", "peft")}},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def _sample_note(chosen: Sequence[int], pairs: Sequence[Pair]) -> str:
    return "" if len(chosen) == len(pairs) else f" (sampled: {len(chosen)} of {len(pairs)})"


if __name__ == "__main__":
    sys.exit(main())
