"""What every page is made with: templates, the style sheet, the script, and the policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

STYLES = ("report.css", "trees.css", "corrections.css", "answers.css", "suites.css")
SCRIPTS = ("elements.js", "texts.js", "report.js", "node_panel.js", "trees.js", "corrections.js")


def document(template: str, *, styles: Sequence[str] = STYLES, scripts: Sequence[str] = SCRIPTS, **values: Any) -> str:
    """A page as HTML.

    All texts pass through Jinja's escaping or, as JSON, through `tojson`, which also escapes `<`, `>`, `&` and `'`; the
    script sets them as text only. The Content-Security-Policy allows this script and this style sheet and nothing else.

    Args:
        template: Name of the page's template.
        styles: Its style sheets, in their order.
        scripts: Its scripts, likewise.
        **values: What it shows.
    """
    environment = Environment(loader=PackageLoader("lpo.report", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    css = "".join(map(_part, styles))
    script = "".join(map(_part, scripts))
    return environment.get_template(template).render(
        css=css, script=script, policy=content_policy(css, script), **values)


def content_policy(css: str, script: str) -> str:
    """A Content-Security-Policy under which only these very texts apply and nothing is loaded or sent."""
    return (f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return resources.files("lpo.report").joinpath(name).read_text(encoding="utf-8")
