"""The prompts this library writes itself, as Jinja files; a folder of the user's may replace any of them by name.

Texts under judgement are values, never templates: rendering is one pass, sandboxed, and an unknown name is an error.
They stand between fences they cannot close (`fence`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import count
from pathlib import Path

from jinja2 import DictLoader, StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lpo.config import suggestion
from lpo.errors import ConfigError
from lpo.records import fingerprint

__all__ = ["Templates", "fence", "load_templates"]


@dataclass(frozen=True)
class Templates:
    """A set of prompts.

    Args:
        sources: Jinja source of each template, by file name.
    """

    sources: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of all sources: another wording is another judge."""
        return fingerprint(self.sources)

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        """Keeps compiled templates: compiling one takes longer than all else that is done for a call."""
        return _environment(self.sources)

    def render(self, name: str, **values: object) -> str:
        """Render a template once; what stands inside the values is never rendered. The end carries no newline.

        Args:
            name: File name.
            values: The template's variables.

        Raises:
            ConfigError: The template fails, for example because it uses a variable that is not given.
        """
        try:
            return self._environment.get_template(name).render(values).rstrip("\n")
        except TemplateError as error:
            raise _broken(name, error) from None


def load_templates(folder: str | None = None) -> Templates:
    """The shipped templates, those of a folder in place of shipped ones of the same name.

    Args:
        folder: Holds `.jinja` files; None for the shipped ones alone.

    Raises:
        ConfigError: There is no such folder; a file in it has no shipped namesake, is no valid template or uses a
            variable that its namesake does not know.
    """
    shipped = {
        file.name: file.read_text(encoding="utf-8")
        for file in resources.files(__name__).iterdir() if file.name.endswith(".jinja")
    }
    if folder is None:
        return Templates(shipped)
    if not Path(folder).is_dir():
        raise ConfigError("no such folder", where=folder, mend="give a folder of .jinja files, or leave it out")
    own: dict[str, str] = {}
    for path in sorted(Path(folder).glob("*.jinja")):
        if path.name not in shipped:
            raise ConfigError(f"no prompt is named {path.name!r}{suggestion(path.name, shipped)}", where=str(path),
                              mend="rename or remove the file")
        own[path.name] = path.read_text(encoding="utf-8")
        unknown = _variables(own, path.name) - _variables(shipped, path.name)
        if unknown:
            raise ConfigError(f"unknown variables: {', '.join(sorted(unknown))}", where=str(path),
                              mend=f"this prompt knows: {', '.join(sorted(_variables(shipped, path.name)))}")
    return Templates(shipped | own)


def fence(seed: str, *texts: str) -> str:
    """A mark to put around texts, which none of them contains: whatever they say, they cannot end before their end.

    Args:
        seed: The mark is a hash of this, so equal prompts render equally (the journal relies on it). Seeded by the
            request alone, prompts for several answers to it begin alike, and a server's prefix cache serves them.
        texts: What will stand inside.
    """
    for attempt in count():
        mark = hashlib.sha256(f"{attempt}:{seed}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
        if not any(mark in text for text in texts):
            return mark
    raise AssertionError("unreachable: a finite text does not hold every mark")


def _environment(sources: dict[str, str]) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=DictLoader(sources), undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )


def _variables(sources: dict[str, str], name: str) -> set[str]:
    try:
        return meta.find_undeclared_variables(_environment(sources).parse(sources[name]))
    except TemplateError as error:
        raise _broken(name, error) from None


def _broken(name: str, error: TemplateError) -> ConfigError:
    return ConfigError(f"the template cannot be rendered: {error}", where=name, mend="compare it with the shipped one")
