"""Who may talk to the server: a key in a cookie, this very host, this very page. Everything else is refused."""

from __future__ import annotations

import html
import ipaddress
import os
import re
import secrets
import socket
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lpo.errors import ConfigError

KEY_PARAMETER = "key"
MIN_KEY_CHARACTERS = 16
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Only the server's own files apply, no text can become markup, and nothing is kept by the browser."""


def new_key() -> str:
    """A random key, for one start of the server."""
    return secrets.token_urlsafe(32)


def key_from(variable: str) -> str:
    """The key in an environment variable.

    Raises:
        ConfigError: It is not set, too short, or does not fit into an address.
    """
    key = os.environ.get(variable, "")
    if len(key) < MIN_KEY_CHARACTERS or _KEY.fullmatch(key) is None:
        raise ConfigError(f"the variable {variable} holds no key of {MIN_KEY_CHARACTERS} or more letters, digits, - "
                          "and _", where="--token-env", mend=f"export {variable}=\"$(openssl rand -hex 24)\"")
    return key


def is_loopback(host: str) -> bool:
    """Is this an address that only this machine reaches?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_is_known(header: str, bound: str) -> bool:
    """May a browser call us by this name? A page elsewhere that points its own name at this machine may not.

    Ports are not compared: a tunnel (`ssh -L`) has another one. An address in digits cannot be pointed elsewhere, so
    beyond loopback those are known as well, and the names this machine has.

    Args:
        header: The `Host` header.
        bound: The address the server listens on.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    shown = f"[{name}]" if ":" in name else name
    if shown in _LOCAL_NAMES or name == bound.lower():
        return True
    if is_loopback(bound):
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        own = socket.gethostname().lower()
        return name in {own, f"{own}.local", socket.getfqdn().lower()}


class Guard:
    """Lets nothing through without the key.

    `GET /?key=...` with the right key sets the cookie and leads to the same page without the key.

    Args:
        app: What it guards.
        key: The key.
        bound: The address the server listens on.
        cookie: Name of the cookie; of another run's server on this machine it is another one.
    """

    def __init__(self, app: ASGIApp, *, key: str, bound: str, cookie: str) -> None:
        self._app, self._key, self._bound, self._cookie = app, key, bound, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal if refusal is not None else self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not host_is_known(host, self._bound):
            return _refused(headers, "this address is not one of this server's")
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin", "")
            if origin not in (f"http://{host}", f"https://{host}"):
                return _refused(headers, "this request comes from another page")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == KEY_PARAMETER]
        if given and scope["method"] == "GET":
            return self._entered(scope["path"], query) if self._is_key(given[0]) else _refused(headers, _NO_KEY)
        # Cookies of all servers on this machine come along; odd ones among them must not hide ours.
        cookie = HTTPConnection(scope).cookies.get(self._cookie, "")
        return None if self._is_key(cookie) else _refused(headers, _NO_KEY)

    def _entered(self, path: str, query: list[tuple[str, str]]) -> Response:
        rest = urlencode([(name, value) for name, value in query if name != KEY_PARAMETER])
        # One slash only: "//elsewhere" would lead to another server.
        response = RedirectResponse("/" + path.lstrip("/\\") + (f"?{rest}" if rest else ""), status_code=303)
        response.set_cookie(self._cookie, self._key, httponly=True, samesite="strict", path="/")
        return response

    def _is_key(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), self._key.encode())


_NO_KEY = "the key is missing, or the server was started again with another one"
_MEND = "open the address that lpo annotate printed"


def _refused(headers: Headers, cause: str) -> Response:
    """403, as a page for people who open one."""
    if "text/html" not in headers.get("accept", ""):
        return JSONResponse({"error": cause, "mend": _MEND}, status_code=403)
    # Cookies of the strict kind do not come along when a link on another site was followed; they do when the page
    # then opens itself again.
    again = '<meta http-equiv="refresh" content="0">' if headers.get("sec-fetch-site") == "cross-site" else ""
    return HTMLResponse(f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
                        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
                        'content="light dark"><title>No entry – lpo annotate</title></head>'
                        f"<body><h1>No entry</h1><p>{html.escape(cause.capitalize())}.</p>"
                        f"<p>Please {html.escape(_MEND)}.</p></body></html>", status_code=403)
