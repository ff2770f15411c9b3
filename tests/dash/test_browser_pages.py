"""Each page of the dashboard in a real browser: widths, schemes, keyboard, filter, and whoever cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.dash.browser import PATIENCE_S, Served, assert_fits, shows, until, violations
from tests.dash.random_cluster import RandomSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page
    from tests.dash.browser import Watched

    from partita.dash.model import Service

SERVICES = ("photo-search", "chat", "embeddings", "ocr", "ranking")
PAGES = {
    "fleet": "canvas[data-drawn]",
    "services": "td a",
    "services/chat": "h1",
    "gpu/node-0%2Fgpu-1": ".cut",
    "events": "td",
}
"""What there is on each page once it is complete."""

NOT_THERE_YET = "404"
"""Series and explanations, which this source does not have."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    source = RandomSource(16, SERVICES, ("j-17", "j-18"))  # axe-core looks at every cell of every row
    for number in range(10):
        source.happen(f"create 1g.10gb@{number % 7}", number, "GPU is busy" if number == 5 else None)
    with Served(source) as served:
        yield served


@pytest.fixture(scope="module")
def large() -> Iterator[Served]:
    with Served(RandomSource(3000, SERVICES)) as served:
        yield served


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_all_widths_in_both_schemes_without_a_barrier(
    served: Served, visit: Callable[..., Watched], path: str
) -> None:
    watched = visit(served.port, path)
    assert_fits(watched, PAGES[path])
    assert [fault for fault in watched.faults if NOT_THERE_YET not in fault] == []
    assert watched.elsewhere() == []


def test_the_picture_is_walked_and_opened_by_keyboard(served: Served, visit: Callable[..., Watched]) -> None:
    page = visit(served.port).page
    page.wait_for_selector("canvas[data-drawn]")
    page.focus("canvas")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    until(page, lambda: page.text_content(".selected h2 a") == "node-1/gpu-1")
    page.keyboard.press("+")
    until(page, "document.querySelector('canvas').classList.contains('zoomed')")
    page.keyboard.press("0")
    until(page, "!document.querySelector('canvas').classList.contains('zoomed')")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 >> text=node-1/gpu-1")
    page.keyboard.press("2")
    page.wait_for_selector("nav a[aria-current] >> text=Services")


def test_a_click_on_the_picture_chooses_a_gpu(served: Served, visit: Callable[..., Watched]) -> None:
    page = visit(served.port).page
    page.wait_for_selector("canvas[data-drawn]")
    page.click("canvas", position={"x": 60, "y": 60})
    shows(page, "node-0/gpu-0", ".selected h2 a")
    page.mouse.wheel(0, -400)  # it has the focus now: the wheel zooms
    until(page, "document.querySelector('canvas').classList.contains('zoomed')")


def test_fingers_choose_and_zoom(served: Served, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900}, has_touch=True)
    page.set_default_timeout(1000 * PATIENCE_S)
    page.goto(f"http://localhost:{served.port}")
    page.wait_for_selector("canvas[data-drawn]")
    page.tap("canvas", position={"x": 40, "y": 60})
    shows(page, "node-0/gpu-0", ".selected h2 a")
    page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas");
            const { left, top } = canvas.getBoundingClientRect();
            const point = (type, id, x) => canvas.dispatchEvent(new PointerEvent(type, {
                pointerId: id, pointerType: "touch", isPrimary: id === 7, bubbles: true,
                clientX: left + x, clientY: top + 100,
            }));
            canvas.setPointerCapture = () => undefined;
            point("pointerdown", 7, 100); point("pointerdown", 8, 140);
            point("pointermove", 8, 220); point("pointerup", 7, 100); point("pointerup", 8, 220);
        }"""
    )
    until(page, "document.querySelector('canvas').classList.contains('zoomed')")
    page.close()


def small(page: Page) -> list[str]:
    """Return what is touched and lower than a finger needs."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("a, button, select, summary, .choice span, input[type=search]")]
            .filter((one) => one.checkVisibility() && !one.closest(".unseen, thead, .skip, p"))
            .map((one) => [one.textContent, one.getBoundingClientRect()])
            .filter(([, { width, height }]) => width < 40 || height < 43.5)
            .map(([text, { width, height }]) => `${text} ${width} x ${height}`)"""
    )
    return found


def test_on_a_phone_the_head_is_low_and_fingers_hit_what_they_touch(served: Served, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for path, ready in PAGES.items():
        page.goto(f"http://localhost:{served.port}/#/{path}")
        page.wait_for_selector(ready)
        until(page, lambda: small(page) == [], f"all of {path} is large enough")
        until(page, "document.querySelector('header').offsetHeight <= 112")
    assert not page.locator("select[aria-label=Colours]").is_visible()
    page.tap("header .more")
    page.tap("button[aria-label=Keys]")
    page.wait_for_selector(".keys")
    page.emulate_media(color_scheme="dark")
    assert not violations(page)
    page.close()


class _Missing(RandomSource):
    """One service is asked for more than was planned, one was, one has less than its floor, and one is well."""

    def _service(self, name: str) -> Service:
        well = super()._service(name).replace(
            required=900.0, floor=900.0, capacity=1000.0, rate=800.0, attainment=0.995, refused={},
            slo_ms=100.0, p99_ms=90.0,
        )  # fmt: skip
        refused = {"full": 5000, "late": 20}
        return {
            "chat": well.replace(attainment=0.97, rate=1200.0, refused=refused),
            "embeddings": well.replace(attainment=0.98, refused={"full": 5000}),
            "ocr": well.replace(capacity=700.0),
        }.get(name, well)


def test_a_service_that_misses_what_it_promises_says_why(visit: Callable[..., Watched]) -> None:
    with Served(_Missing(2, SERVICES)) as served:
        page = visit(served.port, "services").page
        page.wait_for_selector(".misses li")
        asked_more, recovers, low = page.locator(".misses li").all_text_contents()
    assert asked_more == (
        "chat: 97.0 % in time, 99 % in 100 ms promised. 5,020 queries were refused in the last 5 minutes "
        "(full 5,000, late 20). 1,200 items/s come, more than the 900 that were planned for: raise its rate."
    )
    assert recovers == (
        "embeddings: 98.0 % in time, 99 % in 100 ms promised. 5,000 queries were refused in the last 5 "
        "minutes (full). What comes now is within its capacity, and in time: the share recovers within 5 minutes."
    )
    assert low == "ocr: 700 items/s are ready, less than its floor of 900."


def test_slash_filters_and_headers_sort(served: Served, visit: Callable[..., Watched]) -> None:
    page = visit(served.port, "services").page
    page.wait_for_selector("td a")
    page.keyboard.press("/")
    page.keyboard.type("ch")
    until(page, lambda: page.locator("td a").all_text_contents() == ["chat", "photo-search"])
    shows(page, "2 rows of 5 match", ".count")
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('tbody tr').length === 5")
    page.click("th >> text=Required")
    page.wait_for_selector("th[aria-sort=ascending] >> text=Required")
    sizes = [
        float(text.replace(",", "")) for text in page.locator("td:nth-child(7) .value").all_text_contents()
    ]
    assert len(sizes) == 5
    assert sizes == sorted(sizes)
    page.click("th >> text=Required")
    page.wait_for_selector("th[aria-sort=descending] >> text=Required")


def test_light_and_dark_are_chosen_and_kept(served: Served, visit: Callable[..., Watched]) -> None:
    page = visit(served.port, "events").page
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.select_option("select[aria-label=Colours]", "dark")
    until(page, f"{ground} !== {light!r}")
    dark = page.evaluate(ground)
    page.reload()
    page.wait_for_selector("td")
    until(page, f"{ground} === {dark!r}")


def test_of_a_large_fleet_only_the_rows_in_sight_are_drawn(
    large: Served, visit: Callable[..., Watched]
) -> None:
    page = visit(large.port).page
    page.wait_for_selector("table[aria-rowcount='3001']")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    shows(page, "node-374/gpu-7", "tr[aria-rowindex='3001'] td a")
    until(page, "document.querySelectorAll('tbody tr').length < 150")


def test_the_picture_of_a_large_fleet_lights_up_what_is_looked_for(
    large: Served, visit: Callable[..., Watched]
) -> None:
    page = visit(large.port).page
    page.wait_for_selector("canvas[data-drawn]")
    colours = """() => {
        const canvas = document.querySelector("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4) {
            if (data[i] === 0x1a && data[i + 1] === 0x6d && data[i + 2] === 0xc1) count += 1;
        }
        return count;
    }"""
    everything = page.evaluate(colours)
    page.select_option("text=Light up >> select", "chat")
    until(page, lambda: 0.1 * everything < page.evaluate(colours) < 0.35 * everything)  # one service of five
    page.fill("input[type=search]", "node-3/")
    until(page, lambda: 0 < page.evaluate(colours) < 0.02 * everything)
