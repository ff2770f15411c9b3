"""The browser."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.dash.browser import CHROMIUM, PATIENCE_S, SIZE, Watched, launched
from tests.dash.certificates import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page


_open = ExitStack()
"""Closes the browser that is open."""
_browsers: list[Browser] = []


@pytest.fixture(scope="module")
def browser() -> Browser:
    """One for all files of tests that follow each other and use it."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package is chromium")
    if not _browsers:
        _open.callback(_browsers.clear)
        _browsers.append(_open.enter_context(launched()))
    return _browsers[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Close the browser after the last such file: in playwright's event loop no other test may run another."""
    yield
    if nextitem is None or (nextitem.path != item.path and not _uses_browser(nextitem)):
        _open.close()


def _uses_browser(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "browser" in item.fixturenames


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """A page that the tests of a file use one after the other: a new one costs half a second of a core."""
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(1000 * PATIENCE_S)
    yield context.new_page()
    context.close()


@pytest.fixture
def watch(tab: Page) -> Iterator[Callable[..., Watched]]:
    """Takes the file's page, as new; after that further ones beside it."""
    all_watched: list[Watched] = []

    def watch(origin: str) -> Watched:
        page = tab.context.new_page() if all_watched else tab
        all_watched.append(Watched(page, origin))
        return all_watched[-1]

    yield watch
    for each in all_watched[1:]:
        each.page.close()
    for each in all_watched[:1]:
        each.leave()


@pytest.fixture
def visit(watch: Callable[[str], Watched]) -> Callable[..., Watched]:
    """Opens a page of a server at a port, such as `visit(port, "services")`."""

    def visit(port: int, path: str = "") -> Watched:
        watched = watch(f"http://localhost:{port}")
        watched.open(path)
        return watched

    return visit


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost that nobody vouches for, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))
