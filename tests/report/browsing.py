"""An open report and everything that happens on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Visit:
    """An open page and everything that happened on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))


@contextmanager
def visit(chromium: Any, report: Path, *, width: int = 1400, scheme: str = "light") -> Iterator[Visit]:
    """Open a report; at the end, nothing may have been logged, asked for or popped up."""
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    visited = Visit(page)
    page.goto(report.as_uri())
    yield visited
    page.close()
    assert visited.messages == []
    assert visited.dialogs == []
    assert [url for url in visited.requests if not url.startswith("data:")] == [report.as_uri()]


def boxes(page: Any, *selectors: str) -> list[dict[str, float]]:
    """Where elements stand, all at one moment: the page may still be scrolling."""
    return page.evaluate("""selectors => selectors.map((selector) => {
        const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
        return { x, y, width, height };
    })""", list(selectors))
