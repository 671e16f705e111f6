"""What `lpo eval` is given: a configuration, a run that is there already, or a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lpo.config import RunConfig, raise_issues, read_yaml, suggestion, validate
from lpo.configs import recipe_path, recipes
from lpo.errors import ConfigError
from lpo.eval_config import SuiteName
from lpo.run.directory import RunDirectory
from lpo.run.pipeline import load_config
from lpo.run.serving import default_chat_template

MEASURED = "measured"
"""`kind` in the manifest of a model that was measured alone."""


@dataclass(frozen=True)
class EvalTarget:
    """What is to be measured.

    Args:
        config: The whole configuration; a model's is made from its name.
        alone: A model by itself: no training comes before it, and it is compared with nothing.
    """

    config: RunConfig
    alone: bool


def eval_target(target: str, overrides: Sequence[str], suites: Sequence[str]) -> EvalTarget:
    """Find out what is meant, and put the configuration together.

    Args:
        target: A YAML file or a recipe; a run directory, or its name under runs/; or a model: `demo:...`, a Hugging
            Face name, a folder of weights, or any name together with `policy.backend=openai`.
        overrides: `key.sub=value`.
        suites: `NAME` or `NAME=PATH`. A run's and a configuration's own suites are kept beside them; a model is
            measured on these alone.

    Raises:
        ConfigError: It is none of these, or the configuration is wrong.
    """
    named = [_suite(text) for text in suites]
    paths = [f"eval.{name.value}.path={path}" for name, path in named if path]
    if recipe_path(target) is not None or target.endswith((".yaml", ".yml")):
        config = load_config(target, [*overrides, *paths, *_suite_list(_own_suites(target, overrides), named)])
        return EvalTarget(config, alone=False)
    run = next((path for path in (Path(target), Path("runs") / target) if (path / "config.yaml").is_file()), None)
    if run is not None:
        return _run_target(run, overrides, named, paths)
    return EvalTarget(_model_config(target, [*overrides, *paths, *_suite_list((), named)]), alone=True)


def _run_target(run: Path, overrides: Sequence[str], named: Sequence[tuple[SuiteName, str | None]],
                paths: Sequence[str]) -> EvalTarget:
    """A run by its directory, wherever it stands now."""
    here = [f"runs_dir={run.resolve().parent}", f"name={run.resolve().name}"]
    own = _own_suites(str(run / "config.yaml"), overrides)
    config = load_config(str(run / "config.yaml"), [*overrides, *paths, *here, *_suite_list(own, named)])
    return EvalTarget(config, alone=RunDirectory(run).manifest.get("kind") == MEASURED)


def _suite(text: str) -> tuple[SuiteName, str | None]:
    name, _, path = text.partition("=")
    if name not in tuple(SuiteName):
        raise ConfigError(f"there is no suite {name!r}{suggestion(name, list(SuiteName))}", where="--suite",
                          mend=f"one of: {', '.join(SuiteName)}; with a file: --suite {SuiteName.LONGBENCH_WRITE}=FILE")
    if path and name in (SuiteName.HELD_OUT, SuiteName.GOLDEN_THREAD):
        raise ConfigError(f"suite {name} reads no file", where="--suite", mend=f"--suite {name}")
    return SuiteName(name), path or None


def _own_suites(source: str, overrides: Sequence[str]) -> tuple[str, ...]:
    values = read_yaml(recipe_path(source) or Path(source), overrides).get("eval") or {}
    return tuple(values.get("suites") or ("held_out",)) if isinstance(values, dict) else ("held_out",)


def _suite_list(own: Sequence[str], named: Sequence[tuple[SuiteName, str | None]]) -> list[str]:
    if not named:
        return []
    names = dict.fromkeys([*own, *(name.value for name, _ in named)])
    return [f"eval.suites=[{','.join(names)}]"]


def _model_config(model: str, overrides: Sequence[str]) -> RunConfig:
    """A configuration around a model.

    Raises:
        ConfigError: This cannot be a model, or a setting is wrong.
    """
    given: dict[str, Any] = _values(overrides)
    policy = given.get("policy") or {}
    local = model.startswith("demo:") or "/" in model or (Path(model) / "config.json").is_file()
    if not local and policy.get("backend") != "openai":
        raise ConfigError(f"{model!r} is no configuration, no run and no model{suggestion(model, recipes())}",
                          where="lpo eval", mend="give a YAML file, a recipe, a run directory, a Hugging Face name, a "
                          "folder with config.json, or a server's model with policy.backend=openai policy.base_url=...")
    values: dict[str, Any] = {"name": "eval-" + re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-._"),
                              "policy": {"model": model}}
    if local and policy.get("backend", "transformers") != "openai":
        values["policy"]["chat_template"] = default_chat_template(model)
    merged = OmegaConf.to_container(OmegaConf.merge(values, given), resolve=True)
    assert isinstance(merged, dict)
    judge = merged.get("judge")
    if isinstance(judge, dict) and "model" not in judge:  # how to judge is said, not who: the model itself
        shared = {key: value for key, value in merged["policy"].items() if key != "sampling"}
        merged["judge"] = {**shared, **judge}
    config, issues = validate({str(key): value for key, value in merged.items()})
    raise_issues(issues, "command line")
    assert config is not None
    return config


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} is not of the form key=value", where="command line",
                              mend="for example: eval.max_tokens=2048")
        if "oc.env" in override:
            raise ConfigError("environment variables are not resolved in configurations", where="command line",
                              mend="name the variable instead, for example policy.api_key_env=MY_KEY")
    values = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
