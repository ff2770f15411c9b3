"""The dashboard in a browser: from the command to the first picture, and what drawing ten thousand GPUs takes."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from benchmarks.dash import GPUS, SHARE, STARTS, change, dash, fill
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
SIZE = 1400, 1290
"""Of the window in CSS pixels, so that the picture has 1,400 x 800."""

SECONDS = 20.0
DRAWS = 8

WATCH = """() => {
    window.draws = [];
    window.tasks = [];
    const canvas = document.querySelector("canvas");
    new MutationObserver(() => window.draws.push(Number(canvas.dataset.drawn)))
        .observe(canvas, { attributes: true, attributeFilter: ["data-drawn"] });
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((each) => each.duration)))
        .observe({ type: "longtask" });
}"""
"""Notes the milliseconds of each drawing, and of each task that holds the page up for more than 50 ms."""


def run(*, quick: bool) -> str:
    """Return the tables."""
    gpus, seconds, starts = (500, 4.0, 2) if quick else (GPUS, SECONDS, STARTS)
    with tempfile.TemporaryDirectory() as named, launched() as browser:
        small, large = Path(named) / "small", Path(named) / "large"
        fill(small, 24, seed=0)
        slices = fill(large, gpus, seed=0)
        began = [first_picture(browser, small) for _ in range(starts)]
        with dash(large) as (_, url):
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            opened = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("canvas[data-drawn]")
            loaded = time.perf_counter() - opened
            first = drawn(page)
            page.evaluate(WATCH)
            rows = [
                ["first", 1, first, first],
                *drawings(page),
                *live(page, large, round(SHARE * slices), seconds),
            ]
            tasks: list[float] = page.evaluate("window.tasks")
            version = browser.version
    return report((gpus, slices), (began, loaded), rows, tasks, version)


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def first_picture(browser: Browser, folder: Path) -> float:
    """Return the seconds from the command to the fleet's picture, in a browser that is open."""
    context = browser.new_context()
    page = context.new_page()
    began = time.perf_counter()
    with dash(folder) as (_, url):
        page.goto(url)
        page.wait_for_selector("canvas[data-drawn]")
        took = time.perf_counter() - began
        context.close()
    return took


def drawn(page: Page) -> float:
    """Return the milliseconds of the last drawing."""
    return float(page.evaluate("document.querySelector('canvas').dataset.drawn"))


def drawings(page: Page) -> list[list[object]]:
    """Return drawings of the whole picture: other colours, a filter, another zoom."""
    rows: list[list[object]] = []
    radios = page.locator("input[name=paint]")
    for name, do in (
        ("all, in another colour", lambda i: radios.nth(i % 2).evaluate("(e) => e.click()")),
        ("all, filtered", lambda i: page.fill("input[type=search]", f"service-{i}")),
        ("zoomed", lambda i: page.locator("canvas[data-drawn]").press("+-"[i % 2])),
    ):
        page.evaluate("window.draws = []")
        for i in range(DRAWS):
            do(i)
            page.wait_for_timeout(300)
        rows.append(row(name, page))
    page.fill("input[type=search]", "")
    page.locator("canvas[data-drawn]").press("0")
    page.wait_for_timeout(300)
    return rows


def live(page: Page, folder: Path, changes: int, seconds: float) -> list[list[object]]:
    """Return drawings of what changes in some seconds."""
    page.evaluate("window.draws = []")
    thread = threading.Thread(target=change, args=(folder, changes, seconds), kwargs={"seed": 1})
    thread.start()
    while thread.is_alive():
        page.wait_for_timeout(200)
    thread.join()
    page.wait_for_timeout(2000)
    return [row(f"{changes:,} changed slices/s", page)]


def row(name: str, page: Page) -> list[object]:
    """Return a row of the drawings that were noted."""
    draws: list[float] = page.evaluate("window.draws")
    return [name, len(draws), median(draws), max(draws)] if draws else [name, 0, "-", "-"]


def report(
    size: tuple[int, int],
    times: tuple[list[float], float],
    rows: list[list[object]],
    tasks: list[float],
    version: str,
) -> str:
    """Return the section."""
    (gpus, slices), (began, loaded) = size, times
    bundle = Path(__file__).resolve().parents[1] / "src/partita/dash/bundle"
    zipped = sum(
        len(subprocess.run(["gzip", "-9c", str(path)], capture_output=True, check=True).stdout)
        for path in bundle.iterdir()
    )
    return (
        "## The dashboard in a browser\n\n"
        f"`partita dash` on a simulated cluster of 24 GPUs, from the command to the picture of all slices, in "
        f"headless Chromium {version.partition('.')[0]} that is open: median of {len(began)} starts "
        f"{median(began):.2f} s, slowest {max(began):.2f} s (asked: 2 s; it moves with whatever "
        f"else runs on the cores). The page and all its code are "
        f"{zipped / 1000:.1f} kB with gzip (asked: 80 kB).\n\n"
        f"{gpus:,} GPUs with {slices:,} slices of seed 0, 1,400 x 800 pixels: {loaded:.2f} s from the "
        "address to the picture. Milliseconds of each drawing (asked: 50):\n\n"
        f"{table(['drawn', 'times', 'median', 'longest'], rows)}\n"
        f"Tasks that held the page up for more than 50 ms while all this was done: {len(tasks)}"
        + (f", the longest {max(tasks):.0f} ms.\n" if tasks else ".\n")
    )
