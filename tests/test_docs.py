"""The documentation says what the code does."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_configuration_keys_is_up_to_date():
    page = runpy.run_path(str(ROOT / "docs" / "make_configuration_page.py"))["page"]()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page, \
        "run python docs/make_configuration_page.py"


def test_every_key_is_documented():
    module = runpy.run_path(str(ROOT / "docs" / "make_configuration_page.py"))
    undocumented = [f"{path}.{name}" for path, section in module["SECTIONS"].items()
                    for name, field in section.model_fields.items()
                    if name not in module["field_docs"](section)
                    and f"{path}.{name}".strip(".") not in module["SECTIONS"]]
    assert not undocumented
