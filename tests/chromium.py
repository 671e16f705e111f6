"""Debian's Chromium, driven by Playwright over pipes; a fixture for the tests of pages."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; one for this module, as Playwright holds the thread's event loop while it is open."""
    problem = None if CHROMIUM.exists() else f"no {CHROMIUM} (apt-get install chromium)"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        problem = "playwright is not installed (pip install -e '.[dev]')"
    if problem is not None:
        if os.environ.get("LPO_REQUIRE_BROWSER") == "1":
            pytest.fail(f"LPO_REQUIRE_BROWSER=1, but there is {problem}")
        pytest.skip(f"BROWSER TESTS NOT RUN: {problem}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()
