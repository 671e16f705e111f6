"""Pairs by other rules from the trees of a finished build, without a call: compared, written beside the run's own, or
made into a run of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from lpo.build_config import BuildConfig, PairsConfig
from lpo.config import RunConfig, raise_issues, suggestion, to_yaml, validate
from lpo.config_base import SectionOfKinds
from lpo.errors import ConfigError, NothingLeftError
from lpo.llm.journal_file import copy_journal
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.mixing import General
from lpo.pair_builders.pairs import RELEASED
from lpo.prompts import load_prompts
from lpo.records import RejectedRow, Usage, fingerprint
from lpo.run import environment
from lpo.run.build_counts import listed
from lpo.run.build_mixing import Mixed, mixed_in, usable_general
from lpo.run.directory import RunDirectory, Stage, find_run, identity_hash
from lpo.run.pair_counts import RuleCounts, table
from lpo.run.trees import read_trees
from lpo.storage import iter_jsonl, json_line, open_atomic, read_json, sync_folder, write_atomic, write_json
from lpo.writing_config import CorrectionConfig

RULE, MODE = "rejected", "mode"
"""The setting that names a rule, or for corrected answers a mode, by which pairs are derived."""

OPTIONS = {RULE: "--rule", "chosen": "--chosen", "min_margin": "--min-margin", "per_layer": "--per-layer",
           "length_penalty": "--length-penalty", "layers": "--layers", MODE: "--mode"}
"""Settings of `build.pairs`, and `build.correction.mode`, by the options they are given by."""

EVERY = "all"
"""What `--per-layer` is told to take every pair that the rule allows."""

RULES: tuple[str, ...] = get_args(PairsConfig.model_fields[RULE].annotation)
MODES: tuple[str, ...] = get_args(CorrectionConfig.model_fields[MODE].annotation)

_RELEASED_RULE = "released"
_NOT_OF_ANSWERS = {
    "chosen": "of whole answers the one with the highest score is chosen",
    "layers": "whole answers are one layer",
}


def derive(run: str, options: Mapping[str, Any], *, name: str | None = None) -> list[str]:
    """Derive pairs from the trees of a run.

    Args:
        run: A run directory, or its name under runs/; its build is complete.
        options: Settings of `build.pairs` that replace the run's (`per_layer` may be `all`), and for a run of method
            iterdpo, where they are about its answers, `mode`. With `rejected` (iterdpo: `mode`) the pairs are written
            to `pairs.<rule>.jsonl` and `rejected_rows.<rule>.jsonl` in the run; without it all rules (or modes) are
            compared.
        name: Make a new run of this name beside it instead, whose build is complete.

    Returns:
        What was found, as lines for a person.

    Raises:
        ConfigError: An option is wrong, or the new run cannot be; or the run's method makes no pairs.
        DataError: There is no such run, its build is not complete, or its trees are broken.
        NothingLeftError: There is no pair by this rule.
    """
    directory = find_run(run)
    directory.require(Stage.BUILD)
    config, issues = validate(directory.stored_values())
    raise_issues(issues, str(directory / "config.yaml"))
    assert config is not None
    build = _changed(config.build, options)
    if name is not None:
        config = _renamed(config, directory, name, build)
        written = _new_run(config, directory)
        return [*written.lines, f"train on them: lpo run {directory.path.parent / name / 'config.yaml'}"]
    if (MODE if build.method == "iterdpo" else RULE) in options:
        rule = _rule(build)
        files = _Files(directory / f"pairs.{rule}.jsonl", directory / f"rejected_rows.{rule}.jsonl")
        written = _write(config.model_copy(update={"build": _by_rule(build, rule)}), directory, files)
        written.check()
        return [*written.lines, f"written: {files.pairs}"]
    return table(compare(directory, build), build)


def compare(directory: RunDirectory, build: BuildConfig) -> list[RuleCounts]:
    """What every rule (or mode) gives, all else as configured; and first what the released code takes, for a run of
    it.
    """
    rules = {rule: _by_rule(build, rule) for rule in rules_for(build.method)}
    if build.method == RELEASED:
        rules = {_RELEASED_RULE: build, **rules}
    counts = {rule: RuleCounts(rule) for rule in rules}
    for tree in read_trees(directory / "trees.jsonl"):
        for rule, count in counts.items():
            count.add(rows_of(tree, rules[rule]))
    return list(counts.values())


def rules_for(method: str) -> tuple[str, ...]:
    """The rules (or modes) by which the trees of a method give pairs.

    Raises:
        ConfigError: They give none.
    """
    match method:
        case "agent_write":
            raise ConfigError("a run of method agent_write has rows for fine-tuning and no pairs", where="RUN",
                              mend="give a run whose build makes pairs")
        case "iterdpo":
            return MODES
        case _:
            return _rules_among_siblings(method)


def _rules_among_siblings(method: str) -> tuple[str, ...]:
    """The rules for siblings; whole answers are not checked against facts, so none of these is vetoed."""
    return tuple(rule for rule in RULES if rule != "vetoed" or method not in ("best_of_n", "iterdpo"))


def _rule(build: BuildConfig) -> str:
    """By which rule (or mode) a build takes its pairs."""
    return build.correction.mode if build.method == "iterdpo" else build.pairs.rejected


def _by_rule(build: BuildConfig, rule: str) -> BuildConfig:
    """A build that takes its pairs by this rule (or mode), whatever else it says of them. The released method's own
    pairs follow no rule.
    """
    if build.method == "iterdpo":
        return build.model_copy(update={"correction": _with(build.correction, {MODE: rule})})
    method = "longdpo" if build.method == RELEASED else build.method
    return build.model_copy(update={"method": method, "pairs": build.pairs.model_copy(update={RULE: rule})})


def _changed(build: BuildConfig, options: Mapping[str, Any]) -> BuildConfig:
    """The build with other settings of its pairs."""
    known = {RULE: _rules_among_siblings(build.method), MODE: rules_for(build.method), **{
        key: get_args(PairsConfig.model_fields[key].annotation) for key in ("chosen", "layers")}}
    for key, value in options.items():
        _check_is_read(build, key)
        if key in known and value not in known[key]:
            raise ConfigError(f"there is no {value!r}{suggestion(str(value), known[key])}", where=OPTIONS[key],
                              mend=f"one of: {', '.join(known[key])}")
    changes = {key: None if (key, value) == ("per_layer", EVERY) else value for key, value in options.items()}
    if MODE in changes:
        build = _by_rule(build, changes.pop(MODE))
    return build.model_copy(update={"pairs": _with(build.pairs, changes)})


def _check_is_read(build: BuildConfig, key: str) -> None:
    """Refuse an option that says nothing of these pairs."""
    if key == MODE and build.method != "iterdpo":
        raise ConfigError(f"a run of method {build.method} has no corrected answers", where=OPTIONS[key],
                          mend="--rule decides which pairs its trees give")
    if key != MODE and build.method == "iterdpo" and build.answers.samples < 2 and build.answers.extension is None:
        raise ConfigError("there is one answer to each prompt, so there are no siblings to choose among",
                          where=OPTIONS[key], mend=f"--mode decides which pairs it gives: {', '.join(MODES)}")
    if key in _NOT_OF_ANSWERS and build.method in ("best_of_n", "iterdpo"):
        raise ConfigError(_NOT_OF_ANSWERS[key], where=OPTIONS[key], mend="leave that option out")


_OfKinds = TypeVar("_OfKinds", bound=SectionOfKinds)


def _with(section: _OfKinds, options: Mapping[str, Any]) -> _OfKinds:
    """A section with other settings; those that mean nothing beside them are dropped, unless they were asked for."""
    try:
        kept = section.model_dump(exclude=section.model_copy(update=dict(options)).meaningless - set(options))
        return type(section).model_validate({**kept, **options})
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:
            raise ConfigError(detail["msg"].removeprefix("Value error, "), where=OPTIONS[RULE],
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
        build: By which settings.
    """

    counts: RuleCounts
    mixed: Mixed | None
    rejected: Counter[str]
    build: BuildConfig

    @property
    def lines(self) -> list[str]:
        """For a person."""
        return [*table([self.counts], self.build), *([str(self.mixed)] if self.mixed is not None else [])]

    def check(self) -> None:
        """Refuse to go on without a pair.

        Raises:
            NothingLeftError: There is none.
        """
        if not self.counts.rows.pairs:
            reasons = listed(self.rejected) or "there is no layer"
            what = "mode" if self.build.method == "iterdpo" else "rule"
            raise NothingLeftError(f"the {what} {self.counts.rule!r} gives no pair: {reasons}",
                                   mend=f"`lpo pairs RUN` without --{what} compares all {what}s")


def _write(config: RunConfig, directory: RunDirectory, files: _Files) -> _Written:
    """The files that a build with this configuration would have written, from its trees."""
    counts = RuleCounts(_rule(config.build))
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
            derived = rows_of(tree, config.build)
            counts.add(derived)
            pairs_file.writelines(json_line(pair.to_json()).encode() for pair in derived.pairs)
            reject(iter(derived.rejected))
            if trees_file is not None:
                trees_file.write(json_line(derived.tree.to_json()).encode())
        reject(iter(general.rejected))
        mixed = mixed_in(config, general, counts.rows.pairs)
        pairs_file.writelines(json_line(pair.to_json()).encode() for pair in (mixed.pairs if mixed else ()))
    return _Written(counts, mixed.counts if mixed is not None else None, rejected, config.build)


def _rejected_prompts(directory: RunDirectory) -> Iterator[RejectedRow]:
    """Prompts that the run could not use: no rule changes that."""
    for _, row in iter_jsonl(directory / "rejected_rows.jsonl"):
        if row.get("stage") == "prompts":
            yield RejectedRow.model_validate(row)


# A run of its own


def _renamed(config: RunConfig, directory: RunDirectory, name: str, build: BuildConfig) -> RunConfig:
    """The configuration of the new run: another name, other pairs, in the same folder."""
    if config.build.method == RELEASED:
        raise ConfigError(f"the pairs of method {RELEASED} follow no rule", where="--name",
                          mend="leave --name out: --rule alone writes pairs beside the run's own")
    parent = directory.path.resolve().parent
    values = config.model_dump(mode="json")
    values |= {"name": name, "build": build.model_dump(mode="json")}
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
    nothing, rows = Usage().to_json(), written.counts.rows.to_json()
    of_pairs = {name: rows[name] for name in ("pairs", "prefix_pairs", "chosen_words", "rejected_words",
                                              "pairs_by_rule")}
    return {**read_json(source / "build.json"), **of_pairs, "rejected": dict(sorted(written.rejected.items())),
            "mixed": written.mixed.to_json() if written.mixed is not None else None,
            "usage": nothing, "usage_by_purpose": {}, "spent": nothing}
