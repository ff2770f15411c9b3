"""The dashboard in a real browser: a server in this process, a line to it that can be cut, and Debian's chromium."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uvicorn

from partita.dash.access import Access, Guard
from partita.dash.server import application, look, look_on
from partita.dash.state import ApiState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, ViewportSize

    from partita.dash.access import PublicUrl
    from partita.dash.source import Source

CHROMIUM = Path("/usr/bin/chromium")
SIZE: ViewportSize = {"width": 1280, "height": 900}
"""Of a page, unless a test wants another."""
PATIENCE_S = 60.0
"""Seconds that anything may take: a browser that shares two cores with much else is slow."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Served:
    """A source, or what is kept of one, served to browsers.

    Attributes:
        api: what the server keeps.
        port: of TCP.
    """

    def __init__(
        self, source: Source | ApiState, access: Access | None = None, every_s: float | None = None
    ) -> None:
        self.api = source if isinstance(source, ApiState) else ApiState(source)
        self._every_s = every_s
        self._bound = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._bound.getsockname()[1]
        self._guard = Guard(access or Access(), self.port)
        self._loop = asyncio.new_event_loop()
        config = uvicorn.Config(
            application(self.api, self._guard),
            lifespan="off",
            log_config=None,
            ws="none",
            http="httptools",
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await look(self.api)
        looking = asyncio.create_task(look_on(self.api, self._every_s)) if self._every_s else None
        await self._server.serve([self._bound])
        if looking:
            looking.cancel()

    def reached_by(self, public: PublicUrl) -> None:
        """Have a proxy in front from now on."""
        self._guard.access = replace(self._guard.access, public=public)

    def look(self) -> None:
        """Look at the source once, and tell all readers."""
        asyncio.run_coroutine_threadsafe(look(self.api), self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.api.stream.close)
        self._server.should_exit = True
        self._thread.join(30)
        self._bound.close()
        self.api.looker.shutdown()


class Line:
    """A TCP proxy before a server, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._bound = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._bound.getsockname()[1]
        self._open: list[socket.socket] = []
        self._whole = True
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def cut(self) -> None:
        """End all connections, and take no others."""
        with self._changing:
            self._whole = False
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._whole = True

    def lead_to(self, port: int) -> None:
        """Lead to another server."""
        self._to = port

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._bound.accept()
            except OSError:
                return
            with self._changing:
                self._lead(near)

    def _lead(self, near: socket.socket) -> None:
        try:
            if not self._whole:
                raise ConnectionError
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            near.close()
            return
        self._open += [near, far]
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with suppress(OSError):
            self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()
        self._thread.join(10)
        for each in self._open:
            each.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Watched:
    """A page of the browser, whose faults and requests are noted."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.faults: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", self._failed)
        page.on("console", self._said)
        page.on("request", self._asked)

    def _failed(self, error: Error) -> None:
        self.faults.append(str(error))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def leave(self) -> None:
        """Leave the page as one that was never used."""
        self.page.evaluate(
            "() => { try { localStorage.clear(); } catch { /* of a page without an origin */ } }"
        )
        self.page.unroute_all()
        self.page.goto("about:blank")
        self.page.context.clear_cookies()
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(SIZE)
        self.page.remove_listener("pageerror", self._failed)
        self.page.remove_listener("console", self._said)
        self.page.remove_listener("request", self._asked)

    def open(self, path: str = "") -> Page:
        """Go to a page of the dashboard, such as `services/chat`."""
        self.page.goto(f"{self.origin}/#/{path}")
        return self.page

    def elsewhere(self) -> list[str]:
        """Return requests that did not go to the server."""
        return [url for url in self.requests if not url.startswith(f"{self.origin}/")]


def cut_off(watched: Watched) -> list[str]:
    """What is wider than the screen."""
    found: list[str] = watched.page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")]
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility())
            .filter((e) => !e.closest(".unseen, thead, .plot"))
            .map((e) => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`)"""
    )
    wide: int = watched.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*found, *([f"the page, by {wide} px"] if wide > 0 else [])]


def violations(page: Page, *rules: str) -> list[object]:
    """Return what axe-core faults in a page as it is shown now, by all of its rules or by some."""
    from axe_playwright_python.base import AXE_SCRIPT  # noqa: PLC0415 -- most tests do without

    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found: list[object] = page.evaluate(
        """(rules) => axe.run({ resultTypes: ["violations"], ...(rules.length ? { runOnly: rules } : {}) })
            .then((found) => found.violations)""",
        list(rules),
    )
    return found


def assert_fits(watched: Watched, ready: str) -> None:
    """Hold a page to four widths and both schemes, with nothing cut off, and to axe-core's rules.

    Args:
        watched: the page.
        ready: selector of what is there once it is complete.
    """
    page = watched.page
    for width in (390, 768, 1280, 2560):
        page.emulate_media(color_scheme="light" if width == 390 else "dark")
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_selector(ready)
        page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        until(page, lambda: cut_off(watched) == [], f"all fits into {width} pixels")
        if width in {390, 1280}:
            assert not violations(page)
        if width == 390:
            page.emulate_media(color_scheme="dark")
            assert not violations(page, "color-contrast")


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser of its own."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- it starts a process

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=1000 * PATIENCE_S,
        )
        yield browser
        browser.close()


def until(page: Page, holds: str | Callable[[], object], what: str = "") -> None:
    """Wait until an expression holds in the page, or a function here returns what is true.

    Playwright's own way to wait for an expression is forbidden by the page's policy. Parts of a page come one after
    the other: whatever a test says of one is to be waited for, also right after another one has come.
    """
    from playwright.sync_api import Error as PageError  # noqa: PLC0415 -- most tests do without

    def looked() -> object:
        try:
            return page.evaluate(holds) if isinstance(holds, str) else holds()
        except PageError as error:
            if "context was destroyed" not in error.message:  # by a page that is loaded anew meanwhile
                raise
            return False

    end = time.monotonic() + PATIENCE_S
    while not looked():
        if time.monotonic() > end:
            told = what or (holds if isinstance(holds, str) else inspect.getsource(holds).strip())
            raise AssertionError(f"in vain waited for: {told}\nThe page says:\n{page.inner_text('body')}")
        page.wait_for_timeout(30)


@contextmanager
def loaded_anew(page: Page) -> Iterator[None]:
    """Wait until what the block does has loaded the page anew."""
    page.evaluate("window.before = true")
    yield
    until(page, "window.before === undefined && document.readyState === 'complete'")


def shows(page: Page, words: str, where: str = "main") -> None:
    """Wait until the first element of a selector shows the words."""
    until(page, lambda: words in page.locator(where).first.inner_text(), f"{words!r} in {where}")


def counts(page: Page, selector: str, number: int) -> None:
    """Wait until there are so many elements of a selector."""
    until(page, lambda: page.locator(selector).count() == number, f"{number} of {selector}")
