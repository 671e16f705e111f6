"""The process in which lm-eval measures one model: `python -m lpo.run.guard_child SETTINGS`, SETTINGS being JSON.

It writes what it found to the file that the settings name, at once and whole; a problem that a person can mend goes to
the file beside it. Whatever lm-eval prints goes to the log of the process that started it.
"""

from __future__ import annotations

import difflib
import json
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from lpo.errors import BackendError, ConfigError, LpoError
from lpo.evaluation.guard import read_results
from lpo.storage import write_json

_PACKAGES = ("lm_eval", "transformers", "torch", "datasets", "peft")


def main(arguments: list[str]) -> int:
    """Measure the model the settings name.

    Returns:
        The exit code.
    """
    settings = json.loads(arguments[0])
    try:
        _measure(settings)
    except LpoError as error:
        write_json(Path(settings["problem"]), {"cause": error.cause, "where": error.where, "mend": error.mend})
        return int(error.exit_code)
    return 0


def _measure(settings: dict[str, Any]) -> None:
    from lm_eval import simple_evaluate

    manager, tasks = _tasks(settings)
    model = {
        "pretrained": settings["pretrained"], "revision": settings["revision"] or "main", "dtype": settings["dtype"],
        "trust_remote_code": settings["trust_remote_code"], "use_safetensors": True,  # .bin files can run code
    }
    if settings["adapter"] is not None:
        model["peft"] = settings["adapter"]
    try:
        results = simple_evaluate(
            model="hf", model_args=model, tasks=tasks, task_manager=manager, device=settings["device"],
            batch_size=settings["batch_size"], limit=settings["limit"], num_fewshot=settings["num_fewshot"],
            log_samples=True,
        )
    except Exception as error:  # whatever tasks, datasets and models raise: this process is there for them alone
        traceback.print_exc()
        raise BackendError(f"lm-eval failed: {' '.join(str(error).split())[:300] or type(error).__name__}",
                           where=settings["log"], mend="read this log; docs/guard.md names what goes wrong") from None
    versions = {package: metadata.version(package) for package in _PACKAGES}
    write_json(Path(settings["result"]), {"key": settings["key"], "settings": settings["identity"],
                                          "abilities": read_results(results, versions).to_json()})


def _tasks(settings: dict[str, Any]) -> tuple[Any, list[str]]:
    """lm-eval's index of tasks, and the names of those that are measured.

    Raises:
        ConfigError: There is no task of a name, or none in a folder.
    """
    from lm_eval.tasks import TaskManager

    names, folders = settings["tasks"], settings["folders"]
    manager = TaskManager(include_path=folders, include_defaults=bool(names))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"lm-eval has no task {unknown[0]!r}{hint}", where="eval.guard.tasks",
                          mend="`lm-eval ls tasks` lists their names; a folder of tasks is given with a slash: ./tasks")
    return manager, [*names, *(name for folder in folders for name in _tasks_in(folder))]


def _tasks_in(folder: str) -> list[str]:
    """Groups and tasks of a folder that are not inside other groups of it."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[folder], include_defaults=False)
    if not manager.all_groups and not manager.all_subtasks:
        raise ConfigError("there are no tasks in this folder", where=folder,
                          mend="give a folder with lm-eval's YAML files of tasks")
    inside: set[str] = set()
    for group in manager.all_groups:  # one by one: lm-eval refuses a group together with one that it is inside of
        loaded = manager.load([group])
        inside |= {*loaded["tasks"], *(child for children in loaded["group_map"].values() for child in children)}
    return [name for name in (*manager.all_groups, *manager.all_subtasks) if name not in inside]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
