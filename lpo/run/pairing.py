"""Pairs by other rules from the trees of a finished build, without a call: compared, written beside the run's own, or
made into a run of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from lpo.build_config import PairsConfig
from lpo.config import RunConfig, raise_issues, suggestion, to_yaml, validate
from lpo.errors import ConfigError, DataError, NothingLeftError
from lpo.llm.journal_file import copy_journal
from lpo.pair_builders.mixing import General
from lpo.pair_builders.pairs import RELEASED, Derived, derive_pairs, layers_of, released_pairs
from lpo.prompts import load_prompts
from lpo.records import RejectedRow, SearchTree, Usage, fingerprint
from lpo.run import environment
from lpo.run.build_counts import listed
from lpo.run.build_mixing import Mixed, mixed_in, usable_general
from lpo.run.directory import RunDirectory, Stage, find_run, identity_hash
from lpo.storage import iter_jsonl, json_line, open_atomic, read_json, sync_folder, write_atomic, write_json

OPTIONS = {"rejected": "--rule", "chosen": "--chosen", "min_margin": "--min-margin", "per_layer": "--per-layer",
           "layers": "--layers"}
"""Settings of `build.pairs` and the options they are given by."""

RULES: tuple[str, ...] = get_args(PairsConfig.model_fields["rejected"].annotation)


@dataclass
class RuleCounts:
    """What a rule gives.

    Args:
        rule: Its name.
        layers: Layers of all trees.
        fruitful: Layers that give pairs.
        pairs: These pairs.
        rejected: Layers without a pair, and trees without a layer, by reason.
        margins: Sum of the margins of pairs that have one, and how many these are.
    """

    rule: str
    layers: int = 0
    fruitful: int = 0
    pairs: int = 0
    rejected: Counter[str] = field(default_factory=Counter[str])
    margins: tuple[float, int] = (0.0, 0)

    def add(self, derived: Derived) -> None:
        """Count a tree."""
        margins = [pair.margin for pair in derived.pairs if pair.margin is not None]
        self.layers += len(layers_of(derived.tree))
        self.fruitful += len({pair.provenance["parent"] for pair in derived.pairs})
        self.pairs += len(derived.pairs)
        self.rejected.update(row.reason.value for row in derived.rejected)
        self.margins = self.margins[0] + sum(margins), self.margins[1] + len(margins)

    @property
    def mean_margin(self) -> float | None:
        """Mean margin of the pairs; None when none has one."""
        total, count = self.margins
        return total / count if count else None


def derive(run: str, options: Mapping[str, Any], *, name: str | None = None) -> list[str]:
    """Derive pairs from the trees of a run.

    Args:
        run: A run directory, or its name under runs/; its build is complete.
        options: Settings of `build.pairs` that replace the run's. With `rejected` the pairs are written to
            `pairs.<rule>.jsonl` and `rejected_rows.<rule>.jsonl` in the run; without it all rules are compared.
        name: Make a new run of this name beside it instead, whose build is complete.

    Returns:
        What was found, as lines for a person.

    Raises:
        ConfigError: An option is wrong, or the new run cannot be.
        DataError: There is no such run, its build is not complete, or its trees are broken.
        NothingLeftError: There is no pair by this rule.
    """
    directory = find_run(run)
    directory.require(Stage.BUILD)
    config, issues = validate(directory.stored_values())
    raise_issues(issues, str(directory / "config.yaml"))
    assert config is not None
    rules = _changed(config.build.pairs, options)
    if name is not None:
        config = _renamed(config, directory, name, rules)
        written = _new_run(config, directory)
        return [*written.lines, f"train on them: lpo run {directory.path.parent / name / 'config.yaml'}"]
    if "rejected" in options:
        config = config.model_copy(update={"build": config.build.model_copy(update={"pairs": rules})})
        files = _Files(directory / f"pairs.{rules.rejected}.jsonl", directory / f"rejected_rows.{rules.rejected}.jsonl")
        written = _write(config, directory, files)
        written.check()
        return [*written.lines, f"written: {files.pairs}"]
    return table(compare(directory, config, rules), rules)


def compare(directory: RunDirectory, config: RunConfig, rules: PairsConfig) -> list[RuleCounts]:
    """What every rule gives, all else as configured; and first what the released code takes, for a run of it."""
    counts = {rule: RuleCounts(rule) for rule in RULES}
    released = [RuleCounts("released")] if config.build.method == RELEASED else []
    for tree in read_trees(directory / "trees.jsonl"):
        for rule, count in counts.items():
            changed = rules.model_copy(update={"rejected": rule})
            count.add(derive_pairs(tree, changed, config.build.memory.all_vetoed))
        for count in released:
            count.add(released_pairs(tree))
    return [*released, *counts.values()]


def table(counts: Sequence[RuleCounts], rules: PairsConfig) -> list[str]:
    """The counts as lines for a person."""
    rows = [("rule", "pairs", "of layers", "mean margin", "layers without a pair")]
    for one in counts:
        margin = "-" if one.mean_margin is None else f"{one.mean_margin:.4f}"
        rows.append((one.rule, str(one.pairs), f"{one.fruitful}/{one.layers}", margin, listed(one.rejected) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}"
             for row in rows]
    return [*lines, f"chosen {rules.chosen} (margin: whoever), min_margin {rules.min_margin:g} (vetoed: none), "
            f"per_layer {rules.per_layer}, layers {rules.layers}; from stored trees, no call was made"]


def read_trees(path: Path) -> Iterator[SearchTree]:
    """The trees of a run, one at a time.

    Raises:
        DataError: The file is missing, or a line is no tree.
    """
    for line, row in iter_jsonl(path):
        try:
            yield SearchTree.model_validate(row)
        except ValidationError as error:
            detail = error.errors()[0]
            raise DataError(f"line {line} is not a search tree: {'.'.join(map(str, detail['loc']))}: {detail['msg']}",
                            where=f"{path}:{line}", mend="build the run again: --redo build makes no call twice"
                            ) from None


def _changed(rules: PairsConfig, options: Mapping[str, Any]) -> PairsConfig:
    """The rules with other settings."""
    for key, value in options.items():
        known = get_args(PairsConfig.model_fields[key].annotation)
        if known and value not in known:
            raise ConfigError(f"there is no {value!r}{suggestion(str(value), known)}", where=OPTIONS[key],
                              mend=f"one of: {', '.join(known)}")
    try:
        kept = rules.model_dump(exclude=rules.model_copy(update=dict(options)).meaningless - set(options))
        return PairsConfig.model_validate({**kept, **options})
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:
            raise ConfigError(detail["msg"].removeprefix("Value error, "), where="--rule",
                              mend="leave that option out") from None
        raise ConfigError(f"{detail['msg']}, got {detail['input']!r}", where=OPTIONS[str(detail["loc"][0])],
                          mend="docs/configuration.md says what build.pairs takes") from None


# Writing


@dataclass(frozen=True)
class _Files:
    """Where pairs go; trees, with the roles of these pairs, where that is wanted."""

    pairs: Path
    rejected: Path
    trees: Path | None = None


@dataclass(frozen=True)
class _Written:
    """What was written.

    Args:
        counts: Of the layers.
        mixed: General preference data beside them; None when nothing is mixed in.
        rejected: All rejected rows, by reason.
        rules: By which.
    """

    counts: RuleCounts
    mixed: Mixed | None
    rejected: Counter[str]
    rules: PairsConfig

    @property
    def lines(self) -> list[str]:
        """For a person."""
        return [*table([self.counts], self.rules), *([str(self.mixed)] if self.mixed is not None else [])]

    def check(self) -> None:
        """Refuse to go on without a pair.

        Raises:
            NothingLeftError: There is none.
        """
        if not self.counts.pairs:
            reasons = listed(self.rejected) or "there is no layer"
            raise NothingLeftError(f"the rule {self.counts.rule!r} gives no pair: {reasons}",
                                   mend="`lpo pairs RUN` without --rule compares all rules")


def _write(config: RunConfig, directory: RunDirectory, files: _Files) -> _Written:
    """The files that a build with this configuration would have written, from its trees."""
    rules = config.build.pairs
    counts = RuleCounts(rules.rejected)
    general = usable_general(config, load_prompts(config.prompts).held_out) if config.build.mix else General((), ())
    rejected: Counter[str] = Counter()
    with ExitStack() as stack:
        pairs_file = stack.enter_context(open_atomic(files.pairs))
        rejected_file = stack.enter_context(open_atomic(files.rejected))
        trees_file = stack.enter_context(open_atomic(files.trees)) if files.trees is not None else None

        def reject(rows: Iterator[RejectedRow]) -> None:
            for row in rows:
                rejected[row.reason.value] += 1
                rejected_file.write(json_line(row.to_json()).encode())

        reject(_rejected_prompts(directory))
        for tree in read_trees(directory / "trees.jsonl"):
            derived = derive_pairs(tree, rules, config.build.memory.all_vetoed)
            counts.add(derived)
            pairs_file.writelines(json_line(pair.to_json()).encode() for pair in derived.pairs)
            reject(iter(derived.rejected))
            if trees_file is not None:
                trees_file.write(json_line(derived.tree.to_json()).encode())
        reject(iter(general.rejected))
        mixed = mixed_in(config, general, counts.pairs)
        pairs_file.writelines(json_line(pair.to_json()).encode() for pair in (mixed.pairs if mixed else ()))
    return _Written(counts, mixed.counts if mixed is not None else None, rejected, rules)


def _rejected_prompts(directory: RunDirectory) -> Iterator[RejectedRow]:
    """Prompts that the run could not use: no rule changes that."""
    for _, row in iter_jsonl(directory / "rejected_rows.jsonl"):
        if row.get("stage") == "prompts":
            yield RejectedRow.model_validate(row)


# A run of its own


def _renamed(config: RunConfig, directory: RunDirectory, name: str, rules: PairsConfig) -> RunConfig:
    """The configuration of the new run: another name, other pairs, in the same folder."""
    if config.build.method == RELEASED:
        raise ConfigError(f"the pairs of method {RELEASED} follow no rule", where="--name",
                          mend="leave --name out: --rule alone writes pairs beside the run's own")
    parent = directory.path.resolve().parent
    values = config.model_dump(mode="json")
    values |= {"name": name, "build": {**values["build"], "pairs": rules.model_dump(mode="json")}}
    if Path(config.runs_dir).resolve() != parent:
        values["runs_dir"] = str(parent)
    renamed, issues = validate(values)
    raise_issues(issues, "--name")
    assert renamed is not None
    if (parent / name).exists():
        raise ConfigError("this run is there already", where=str(directory.path.parent / name),
                          mend="choose another --name, or remove it")
    return renamed


def _new_run(config: RunConfig, source: RunDirectory) -> _Written:
    """Make the run under a hidden name and give it its own at the end: it is whole, or it is not there."""
    start = time.monotonic()
    parent = source.path.resolve().parent
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{config.name}."))
    try:
        folder.chmod(0o755)
        directory = RunDirectory(folder)
        written = _write(config, source, _Files(directory / "pairs.jsonl", directory / "rejected_rows.jsonl",
                                                directory / "trees.jsonl"))
        written.check()
        if (source / "journal.sqlite").exists():
            copy_journal(source / "journal.sqlite", directory / "journal.sqlite")
        write_json(directory / "build.json", _summary(source, written))
        write_atomic(directory / "config.yaml", to_yaml(config))
        prompts_hash = source.manifest["prompts_hash"]
        directory.update_manifest(name=config.name, seed=config.seed, prompts_hash=prompts_hash,
                                  config_hash=fingerprint(config.model_dump(mode="json")), **environment.describe())
        directory.mark(Stage.BUILD, status="complete", identity=identity_hash(config, prompts_hash, Stage.BUILD),
                       attempts=0, finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                       seconds=round(time.monotonic() - start, 1), peak_memory_mb=environment.peak_memory_mb(),
                       usage=Usage().to_json(), derived_from=source.path.resolve().name)
        os.rename(folder, parent / config.name)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return written


def _summary(source: RunDirectory, written: _Written) -> dict[str, Any]:
    """build.json: the trees' counts are the source's, its calls are not this run's."""
    nothing = Usage().to_json()
    pairs = written.counts.pairs
    return {**read_json(source / "build.json"), "pairs": pairs,
            "pairs_by_rule": {written.rules.rejected: pairs} if pairs else {}, "rejected": dict(written.rejected),
            "mixed": written.mixed.to_json() if written.mixed is not None else None,
            "usage": nothing, "usage_by_purpose": {}, "spent": nothing}
