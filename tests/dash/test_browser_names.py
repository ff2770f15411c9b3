"""Long and odd names in a browser: nothing is cut off, pushed out of its place, or anything but text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.dash.answers import ORIGIN, Answers
from tests.dash.browser import Served, cut_off, until
from tests.dash.random_cluster import RandomSource
from tests.dash.test_browser_on_demand import PAGES as ON_DEMAND
from tests.dash.test_browser_pages import PAGES
from tests.web.test_plan_report import plan
from tests.web.test_plan_report import report as plan_report
from tests.web.test_transition_report import report as transition_report
from tests.web.test_transition_report import request

from partita.web.page import page as html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.dash.browser import Watched

NAMES = {
    "long": "a" * 300,
    "wide": "\ufdfd" * 40,
    "words": "photo-search-" * 20,
    "tall": "Z" + "\u0310\u0323" * 60,
    "emoji": "👩‍👩‍👧‍👦" * 40,
    "backwards": "\u202e\u2067evil" * 12,
}


def assert_all_fits(watched: Watched, ready: str) -> None:
    for width in (390, 1280):
        watched.page.set_viewport_size({"width": width, "height": 900})
        watched.page.wait_for_selector(ready)
        until(watched.page, lambda: cut_off(watched) == [], f"all fits into {width} pixels")


@pytest.mark.parametrize("name", NAMES)
def test_all_pages_of_a_cluster_fit(visit: Callable[..., Watched], name: str) -> None:
    text = NAMES[name]
    source = RandomSource(4, (text, "chat"), (text,), name=lambda node: f"{text}-{node}")
    source.cluster = source.workload = text
    source.happen(text, error=text)
    with Served(source) as served:
        watched = visit(served.port)
        for path in ("fleet", "services", "events"):
            watched.open(path)
            assert_all_fits(watched, PAGES[path])
        watched.open("services")
        watched.page.locator("td:first-child a").get_by_text(text, exact=True).click()
        until(watched.page, f"document.querySelector('h1')?.textContent === {text!r}")
        assert_all_fits(watched, "h1")
        watched.open("fleet")
        watched.page.click("td a >> nth=0")
        assert_all_fits(watched, ".cut")


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_asked_for_fits(watch: Callable[[str], Watched], name: str) -> None:
    watched = watch(ORIGIN)
    Answers(name=NAMES[name]).attach(watched.page)
    for path, ready in ON_DEMAND.items():
        watched.page.goto(f"{ORIGIN}/#/{path}")
        assert_all_fits(watched, ready)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["plan", "transition"])
def test_reports_fit(watch: Callable[[str], Watched], tmp_path: Path, name: str, kind: str) -> None:
    text = NAMES[name]
    found = plan_report(plan(text, "bert")) if kind == "plan" else transition_report(request(first=text))
    path = tmp_path / "report.html"
    path.write_text(html(found, f"{text}.yaml"))
    watched = watch(path.as_uri())
    watched.page.goto(path.as_uri())
    assert_all_fits(watched, "footer")
