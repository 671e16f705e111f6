"""Builds as the build stage does them (models, journal, search, pairs), over HTTP and without its processes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripted_model import schema_of
from scripted_roles import role_of
from scripted_server import ScriptedServer

from lpo.config import RunConfig, validate
from lpo.llm.journal import Journal
from lpo.pair_builders import create_builder
from lpo.pair_builders.deriving import rows_of
from lpo.pair_builders.pairs import Derived
from lpo.records import Prompt
from lpo.run.build_models import open_models
from lpo.run.models import Models


def run_config(url: str, *, critic: bool = False, deadline: float = 20, **build: Any) -> RunConfig:
    """A policy, a judge and, if wanted, a critic, by different names behind one server."""
    def model(name: str, **more: Any) -> dict[str, Any]:
        return {"backend": "openai", "model": name, "base_url": url, "deadline": deadline, **more}

    config, issues = validate({
        "name": "test", "policy": model("scripted"), "judge": model("scripted-judge", method="json"),
        **({"critic": model("scripted-critic")} if critic else {}), "build": {"stability_check": False, **build},
    })
    assert config is not None, issues
    return config


def build(folder: Path, config: RunConfig, prompts: Sequence[Prompt]) -> list[Derived]:
    """Trees and pairs of prompts, all worked on at once. The journal lies in the folder: one build each, or a build
    that goes on.
    """
    async def work() -> list[Derived]:
        with Journal(folder / "journal.sqlite") as journal:
            models = Models(journal, asyncio.Event())
            try:
                builder = create_builder(config.build, open_models(config, models).builder)
                trees = await asyncio.gather(*(builder.build(prompt, seed=0) for prompt in prompts))
            finally:
                await models.close()
        return [rows_of(tree, config.build) for tree in trees]

    return asyncio.run(work())


def bodies_to(server: ScriptedServer, role: str) -> list[dict[str, Any]]:
    """The requests to one role, in the order they came."""
    return [call.body for call in server.calls if asks(call.body, role)]


def asks(body: dict[str, Any], role: str) -> bool:
    """Does a request address this role?"""
    return role_of(schema_of(body)) == role
