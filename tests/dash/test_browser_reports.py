"""Reports in a real browser: one file each, at any width, in both schemes, with as much in it as there may be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.dash.browser import SIZE, assert_fits, counts, shows, until, violations
from tests.web.test_plan_report import instance, plan
from tests.web.test_plan_report import report as plan_report
from tests.web.test_transition_report import made, request
from tests.web.test_transition_report import report as transition_report

from partita.cli.demo import DemoStep
from partita.planning.plan import Objective, PlannedGpu
from partita.transition.overview import Bar, timeline
from partita.web.page import fragment, page
from partita.web.report import Chart, Histogram, Line, Report, Section
from partita.web.transition_report import day_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page
    from tests.dash.browser import Watched

NAME = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture
def opened(watch: Callable[[str], Watched], tmp_path: Path) -> Callable[..., Watched]:
    """Opens a report's file."""

    def opened(text: str) -> Watched:
        path = tmp_path / "report.html"
        path.write_text(text)
        watched = watch(path.as_uri())
        watched.page.goto(path.as_uri())
        return watched

    return opened


def day() -> Report:
    """A transition that took half as long again as predicted."""
    asked = request(first=NAME, gpus=2)
    found = made(asked)
    ran = {b.action.id: Bar(b.action, 1.5 * b.begin, 1.5 * b.end) for b in timeline(asked, found).bars}
    act = DemoStep(plan("bert"), asked, found, timeline(asked, found, ran))
    return day_report({"Evening": act, "Morning": act}, {"whole GPUs": 3, "this plan": 2})


def charts() -> Report:
    """A chart over time and a histogram, as series and simulations have them."""
    chart = Chart(
        "GPUs",
        (6.0, 12.0, 24.0),
        ("00:00", "06:00", "12:00"),
        (
            Line("GPUs of the plans", (3, 9, 4), "area"),
            Line("alone", (3, 8, 4), "dashes"),
            Line("bound", (2, 8, 3), "dots"),
            Line("peak", (9, 9, 9), "line"),
        ),
    )
    histogram = Histogram("ms", 125.0, tuple(range(80)), 100.0, "deadline 100 ms")
    sections = (
        Section(title="Over time", chart=chart),
        Section(title="Latency", histogram=histogram),
    )
    return plan_report(plan(NAME)).replace(sections=sections)


REPORTS: dict[str, Callable[[], Report]] = {
    "plan": lambda: plan_report(plan(NAME, "bert")),
    "transition": lambda: transition_report(request(first=NAME)),
    "day": day,
    "charts": charts,
}


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_fits_all_widths_in_both_schemes_without_a_barrier(
    opened: Callable[..., Watched], kind: str
) -> None:
    watched = opened(page(REPORTS[kind](), f"{NAME}.yaml"))
    shown = watched.page
    assert_fits(watched, "footer")
    assert watched.faults == []
    assert set(watched.requests) == {watched.origin}
    assert "broken" not in shown.title().split(" · ")
    shows(shown, f"{NAME}.yaml", ".said")


@pytest.mark.parametrize("kind", REPORTS)
def test_on_paper_a_report_is_light_and_whole_and_has_nothing_to_press(
    opened: Callable[..., Watched], kind: str
) -> None:
    shown = opened(page(REPORTS[kind](), f"{NAME}.yaml")).page
    shown.emulate_media(color_scheme="dark", media="print")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    wider = """() => {
        const paper = 210 / 25.4 * 96 - 12 / 25.4 * 96;  // A4 less one margin, in pixels
        return [...document.querySelectorAll("main *")].filter((one) => one.checkVisibility())
            .filter((one) => one.getBoundingClientRect().right > paper && !one.closest(".unseen, thead"))
            .map((one) => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`);
    }"""
    until(shown, lambda: shown.evaluate(wider) == [], "all fits on a page")
    pressed = shown.locator("main :is(input, select, summary, button:not(.card, .plain, th button)):visible")
    assert pressed.all_inner_texts() == []
    cards = shown.locator(".card").count()
    assert shown.locator(".card:visible").count() == cards
    assert (cards > 0) == (kind != "charts")
    rows = "[...document.querySelectorAll('.rows > .row')].map((one) => getComputedStyle(one).position)"
    assert set(shown.evaluate(rows)) <= {"static"}, "they are put on pages one after the other"
    shown.evaluate("dispatchEvent(new Event('afterprint'))")
    shown.emulate_media(color_scheme="light", media="screen")
    assert shown.evaluate("document.documentElement.style.width") == ""


@pytest.fixture(scope="module")
def large() -> str:
    """A thousand services on ten thousand GPUs, cut in two thousand ways."""
    names = tuple(f"service-{n}" for n in range(1000))
    cuts = [
        (instance(0, "4g.40gb", names[n % 1000]), instance(4, "3g.40gb", names[(7 * n + n // 1000) % 1000]))
        for n in range(2000)
    ]
    gpus = tuple(PlannedGpu(f"node-{n // 8}/gpu-{n % 8}", "a100-80gb", cuts[n % 2000]) for n in range(10_000))
    return page(plan_report(replace(plan(*names), gpus=gpus, objective=Objective("gpus", 10_000, 9_990))))


def nodes(of: Page) -> int:
    found: int = of.evaluate("document.querySelectorAll('*').length")
    return found


def test_a_large_report_is_short_filters_and_draws_only_what_is_in_sight(
    opened: Callable[..., Watched], large: str
) -> None:
    assert len(large) < 2_000_000
    shown = opened(large).page
    shown.wait_for_selector(".card")
    until(shown, lambda: nodes(shown) < 2500)
    until(shown, "document.documentElement.scrollHeight < 3000")
    shows(shown, "10,000 GPUs, cut in 2,000 ways", ".groups .count")
    shown.evaluate(
        "{ const box = document.querySelectorAll('.scroll')[1]; box.scrollTop = box.scrollHeight; }"
    )
    until(
        shown,
        "[...document.querySelectorAll('.card .ids')].some((one) => one.textContent.includes('node-249/gpu-7'))",
    )
    until(shown, lambda: nodes(shown) < 2500)
    shown.keyboard.press("/")
    shown.keyboard.type("service-777")
    until(shown, "document.querySelectorAll('tbody tr').length === 1")
    shows(shown, "match “service-777”", ".groups .count")
    until(shown, lambda: shown.locator(".card .lit").count() == shown.locator(".card").count() > 0)
    shown.set_viewport_size({"width": 390, "height": 900})
    shown.keyboard.press("Escape")
    until(shown, "document.documentElement.scrollHeight < 4000")


def test_a_report_sorts_jumps_and_says_all_of_a_gpu(opened: Callable[..., Watched]) -> None:
    shown = opened(page(plan_report(plan("b", "a", "c")))).page
    shown.click("th >> text=service")
    names = shown.locator("td:first-child .value")
    until(shown, lambda: names.all_text_contents() == ["a", "b", "c"])
    shown.click("nav[aria-label=Sections] a >> text=GPUs")
    until(shown, "location.hash === '#/report/section-2'")
    shown.fill("input[type=search]", "b")
    shown.focus(".card")
    shown.keyboard.press("Enter")
    shows(shown, "4g.40gb@0 b: batch 8, 2 processes, 100/s, 25 ms", "dialog[open]")
    shows(shown, "node-0/gpu-0..2", "dialog[open]")
    shown.emulate_media(color_scheme="dark")
    shown.set_viewport_size({"width": 390, "height": 900})
    assert not violations(shown)  # with the dialog open
    shown.set_viewport_size(SIZE)
    shown.keyboard.press("Escape")
    shown.wait_for_selector("dialog", state="detached")
    assert shown.input_value("input[type=search]") == "b"  # Escape was the dialog's
    shown.keyboard.press("Escape")
    until(shown, "document.querySelector('input[type=search]').value === ''")
    shown.click("nav[aria-label=Pages] a >> text=Fleet")
    shown.wait_for_selector("canvas[data-drawn]")
    shown.click("td a >> text=node-0/gpu-1")
    shown.wait_for_selector("h1 >> text=node-0/gpu-1")
    shows(shown, "25 ms")


def test_a_slider_looks_at_one_moment_of_a_transition(opened: Callable[..., Watched]) -> None:
    shown = opened(page(transition_report(request()))).page
    shown.fill("input[type=range]", "0")
    actions = shown.locator(".gantt .action").count()
    shows(shown, f"0 of {actions}", ".over-time")
    shown.locator("input[type=range]").focus()
    shown.keyboard.press("End")
    shows(shown, f"{actions} of {actions}", ".over-time")
    counts(shown, ".steps .cursor", shown.locator(".capacity").count())
    shown.locator(".gantt .action").first.click()
    shows(shown, " s to ", "p.chosen")


def test_a_notebook_shows_the_summary_and_opens_the_report_in_a_frame(
    opened: Callable[..., Watched],
) -> None:
    watched = opened(f"<!doctype html><title>n</title><main>{fragment(plan_report(plan(NAME)))}</main>")
    shown = watched.page
    shows(shown, "3 GPUs, proven optimal", "h3")
    shown.click("summary")
    inside = shown.frame_locator("iframe")
    inside.locator("h1").wait_for()
    until(shown, lambda: inside.locator("td:first-child .value").first.text_content() == NAME)
    assert watched.faults == []
