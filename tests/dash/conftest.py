"""The browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.dash.browser import CHROMIUM, Watched, launched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file: while it runs, playwright's event loop does, in which no test may run another."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package is chromium")
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens a page of a server at a port, such as `visit(port, "services")`."""
    contexts = []

    def visit(port: int, path: str = "", *, width: int = 1280, touch: bool = False) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, has_touch=touch)
        context.set_default_timeout(20_000)
        contexts.append(context)
        watched = Watched(context.new_page(), f"http://localhost:{port}")
        watched.open(path)
        return watched

    yield visit
    for context in contexts:
        context.close()
