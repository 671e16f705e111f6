"""The pages and what they call. Handlers read the request; transactions run on threads of their own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lpo.annotate import inspection, views, work
from lpo.annotate.export import export
from lpo.annotate.requests import (
    Body,
    Decision,
    Mark,
    NotJsonError,
    Opened,
    Person,
    SaveBody,
    TooLargeError,
    Version,
    clean_name,
    read_body,
)
from lpo.annotate.security import Guard
from lpo.annotate.store import Store
from lpo.errors import DataError
from lpo.records import fingerprint
from lpo.storage import json_line

ASSETS = {
    "annotate.css": "text/css", "elements.js": "text/javascript", "words.js": "text/javascript",
    "saving.js": "text/javascript", "overview.js": "text/javascript", "annotate.js": "text/javascript",
    "inspect.js": "text/javascript", "keys.js": "text/javascript",
}
PAGES = {"/": "overview", "/annotate": "page", "/inspect": "inspect"}

Kind = TypeVar("Kind", bound=Body)
Act = Callable[[sqlite3.Connection, float, Any], Any]


def make_app(store: Store, *, run: str, key: str, bound: str) -> Starlette:
    """The server of one run.

    Args:
        store: Its annotations.
        run: Its name, as the pages show it.
        key: What callers must have.
        bound: The address it listens on.
    """
    # Names the run's cookie and what its pages keep in the browser, where other runs' servers are neighbours.
    site = fingerprint(str(store.path.resolve()), 12)
    environment = Environment(loader=PackageLoader("lpo.annotate", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    pages = {path: environment.get_template(f"{name}.html.jinja").render(run=run, site=site)
             for path, name in PAGES.items()}
    assets = {name: resources.files("lpo.annotate").joinpath(name).read_text(encoding="utf-8") for name in ASSETS}

    async def page(request: Request) -> Response:
        return HTMLResponse(pages[request.url.path])

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            return JSONResponse({"error": "no such file"}, status_code=404)
        return Response(assets[name], media_type=ASSETS[name])

    async def exported(request: Request) -> Response:
        def made() -> str:
            with store.reading() as db:
                rows = export(db, accepted_only=request.query_params.get("accepted_only") == "1").rows
            return "".join(map(json_line, rows))

        return Response(await run_in_threadpool(made), media_type="application/x-ndjson",
                        headers={"content-disposition": 'attachment; filename="corrections.jsonl"'})

    routes = [
        *(Route(path, page) for path in PAGES),
        Route("/assets/{name}", asset),
        Route("/corrections.jsonl", exported),
        _reading(store, "/api/overview", lambda db, query: views.overview(db, store.clock())),
        _reading(store, "/api/script", lambda db, query: views.script_view(db, _number(query), _annotator(query))),
        _reading(store, "/api/inspection", lambda db, query: {"works": views.inspection(db)}),
        _reading(store, "/api/inspected", lambda db, query: views.inspected_script(
            db, _number(query), _annotator(query))),
        _reading(store, "/api/export", lambda db, query: {"lines": export(db).lines()}),
        _writing(store, "/api/next", Person, lambda db, now, body: {"script": work.next_script(
            db, now, body.annotator)}),
        _writing(store, "/api/open", Opened, _open),
        _writing(store, "/api/save", SaveBody, _save),
        _writing(store, "/api/finish", Version, lambda db, now, body: work.finish(
            db, now, body.script, body.annotator, body.version)),
        _writing(store, "/api/take-back", Version, lambda db, now, body: work.take_back(
            db, now, body.script, body.annotator, body.version)),
        _writing(store, "/api/mark", Mark, lambda db, now, body: inspection.mark(
            db, now, body.inspector, script=body.script, annotator=body.annotator, segment=body.segment,
            version=body.version, reason=body.reason)),
        _writing(store, "/api/decide", Decision, lambda db, now, body: inspection.decide(
            db, now, body.inspector, script=body.script, annotator=body.annotator, version=body.version,
            accept=body.accept, reason=body.reason)),
    ]
    handlers: dict[Any, Any] = {DataError: _bad_request, sqlite3.Error: _not_stored, Exception: _unforeseen}
    guard = Middleware(Guard, key=key, bound=bound, cookie=f"lpo-annotate-{site}")
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _reading(store: Store, path: str, answer: Callable[[sqlite3.Connection, Any], Any]) -> Route:
    async def handle(request: Request) -> Response:
        def read() -> Any:
            with store.reading() as db:
                return answer(db, request.query_params)

        return _json(await run_in_threadpool(read))

    return Route(path, handle)


def _writing(store: Store, path: str, kind: type[Kind], act: Act) -> Route:
    """A change: when the answer leaves, it is on the disk."""
    async def handle(request: Request) -> Response:
        body = await read_body(request, kind)

        def write() -> Any:
            with store.writing() as db:
                return act(db, store.clock(), body)

        answer = await run_in_threadpool(write)
        return answer if isinstance(answer, Response) else _json(answer if answer is not None else {})

    return Route(path, handle, methods=["POST"])


def _open(db: sqlite3.Connection, now: float, body: Opened) -> dict[str, str]:
    return {"state": work.open_work(db, now, body.script, body.annotator).value}


def _save(db: sqlite3.Connection, now: float, body: SaveBody) -> Response:
    outcome = work.save(db, now, work.Edit(**body.model_dump()))
    return _json(asdict(outcome), 409 if isinstance(outcome, work.Conflict) else 200)


def _number(query: Any) -> int:
    digits = query.get("script", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise DataError("the script is named by its number")
    return int(digits)


def _annotator(query: Any) -> str:
    try:
        return clean_name(query.get("annotator", ""))
    except ValueError as error:
        raise DataError(str(error)) from None


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, allow_nan=False), status, media_type="application/json")


_STATUS: dict[type[DataError], int] = {work.OutdatedError: 423, NotJsonError: 415, TooLargeError: 413}


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, DataError)
    return _json({"error": error.cause, "mend": error.mend or ""}, _STATUS.get(type(error), 400))


async def _not_stored(request: Request, error: Exception) -> Response:
    """The disk is full, or the data base is held by something else: the page tries again."""
    return _json({"error": f"not stored: {error}", "mend": "look at the machine the server runs on"}, 503)


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _json({"error": "unforeseen", "mend": "look at what lpo annotate printed"}, 500)
