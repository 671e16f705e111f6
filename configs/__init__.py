"""Recipes (YAML run configurations) and the project's own writing prompts, shipped inside the wheel."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROMPTS_PATH = FOLDER / "data" / "prompts.jsonl"
"""The project's own set of long-form writing prompts, in English and Chinese."""
DOCUMENTS_PATH = FOLDER / "data" / "documents.jsonl"
"""A few short documents of the project's own, each with a question about it."""


def recipes() -> dict[str, str]:
    """The shipped recipes, in alphabetical order.

    Returns:
        Name -> what it is for: the first comment line of its YAML file, without the `#`.
    """
    return {path.stem: _first_comment(path) for path in sorted(FOLDER.glob("*.yaml"))}


def recipe_path(name: str) -> Path | None:
    """The file of a recipe.

    Args:
        name: As `recipes` lists it, with or without `.yaml`.

    Returns:
        The file, or None when there is no such recipe.
    """
    stem = name.removesuffix(".yaml")
    return FOLDER / f"{stem}.yaml" if stem in recipes() else None


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("#").strip()
    return ""
