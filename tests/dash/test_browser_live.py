"""The dashboard while things change: a transition, a line that breaks, another server, tokens, bad names."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.control.world import World, deployment, goal
from tests.dash.browser import Line, Served, counts, loaded_anew, shows, until
from tests.dash.client import local
from tests.dash.random_cluster import RandomSource

from partita.dash.access import Access
from partita.dash.model import InstanceState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.dash.browser import Watched

ROW = "document.querySelector('tr[aria-rowindex=\"2\"] td:last-child .value')?.textContent"
"""What the table says of the first GPU's instances."""


def said(source: RandomSource, index: int = 0) -> str:
    """What the table should say of a GPU."""
    words = {
        InstanceState.FOREIGN: "not Partita's",
        InstanceState.CHANGING: "being changed",
    }
    return ", ".join(
        f"{each.profile} {each.job or ', '.join(each.services) or words.get(each.state, each.state.value)}"
        for each in source.gpus[index].instances
    )


def other(source: RandomSource, index: int = 0) -> None:
    """Cut a GPU in another way."""
    before = said(source, index)
    while said(source, index) == before:
        source.change(index)


def test_a_transition_is_seen_while_it_runs(tmp_path: Path, visit: Callable[..., Watched]) -> None:
    world = World(tmp_path)
    world.reach(goal(deployment("7g.40gb@0=search", "7g.40gb@0=search")))
    source = local(tmp_path)
    with Served(source) as served:
        watched = visit(served.port)
        page = watched.page
        until(page, f"{ROW} === '7g.40gb search'")
        ends = threading.Event()

        def looking() -> None:
            while not ends.wait(0.02):
                served.look()

        thread = threading.Thread(target=looking)
        thread.start()
        try:
            world.reach(goal(deployment("4g.20gb@0=search 3g.20gb@4=search", "7g.40gb@0=search")))
        finally:
            ends.set()
            thread.join()
        served.look()
        until(page, f"{ROW} === '4g.20gb search, 3g.20gb search'")
        page.wait_for_selector(".legend li:has-text('serving 3')")
        page.keyboard.press("3")
        page.wait_for_selector("td >> text=create")
        assert watched.faults == [] or all("404" in fault for fault in watched.faults)
    source.close()


def test_a_line_that_breaks_is_taken_up_where_it_broke(visit: Callable[..., Watched]) -> None:
    source = RandomSource(16, ("chat", "ocr"))
    with Served(source) as served, Line(served.port) as line:
        watched = visit(line.port)
        page = watched.page
        until(page, "document.querySelector('.connection')?.textContent === 'live'")
        until(page, f"{ROW} === {said(source)!r}")
        line.cut()
        until(page, "document.querySelector('.connection')?.textContent?.startsWith('connecting')")
        for _ in range(3):
            other(source)
            served.look()
        line.mend()
        until(page, f"{ROW} === {said(source)!r}")
        shows(page, "live", ".connection")
        assert sum(url.endswith("/fleet") for url in watched.requests) == 1  # the events told it all


def test_another_server_is_loaded_anew(visit: Callable[..., Watched]) -> None:
    source, after = RandomSource(16, ("chat", "ocr")), RandomSource(16, ("chat", "ocr", "rank"), seed=2)
    with Served(source) as served, Line(served.port) as line:
        page = visit(line.port).page
        until(page, f"{ROW} === {said(source)!r}")
        with Served(after) as again:
            line.cut()
            line.lead_to(again.port)
            line.mend()
            until(page, f"{ROW} === {said(after)!r}")
            counts(page, "text=Light up >> select >> option", 4)


def test_events_and_figures_come_by_themselves(visit: Callable[..., Watched]) -> None:
    source = RandomSource(8, ("chat",), loading=1.0)
    with Served(source) as served:
        page = visit(served.port, "events").page
        page.wait_for_selector("text=Nothing has happened yet.")
        source.happen("destroy 3g.40gb@0", error="in use by 2 processes")
        served.look()
        page.wait_for_selector("td >> text=destroy 3g.40gb@0")
        page.wait_for_selector("td .bad >> text=in use by 2 processes")
        page.keyboard.press("2")
        page.wait_for_selector("td a >> text=chat")
        before = page.text_content("tbody tr")
        served.look()
        until(page, f"document.querySelector('tbody tr').textContent !== {before!r}")


def test_older_events_stay_when_all_is_loaded_anew(visit: Callable[..., Watched]) -> None:
    source = RandomSource(8, ("chat",))
    for number in range(450):
        source.happen(f"step {number}")
    with Served(source) as served:
        page = visit(served.port, "events").page
        page.click("button >> text=Older")
        page.wait_for_selector("table[aria-rowcount='401']")
        until(page, "document.querySelector('.connection')?.textContent === 'live'")
        source.gpus.append(source.cut(8))
        source.happen("another GPU", 8)
        source.change(8)
        served.look()  # the structure is another one: all is loaded anew
        page.wait_for_selector("table[aria-rowcount='402']")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_selector("td >> text=another GPU")
        page.click("button >> text=Older")
        page.wait_for_selector("table[aria-rowcount='452']")
        counts(page, "button >> text=Older", 0)


def test_who_has_no_token_is_asked_for_it(visit: Callable[..., Watched]) -> None:
    with Served(RandomSource(8, ("chat",)), Access(read="right", write="writing")) as served:
        watched = visit(served.port)
        page = watched.page
        page.wait_for_selector("text=This dashboard asks for a token.")
        counts(page, "canvas", 0)
        page.fill("input[name=token]", "wrong")
        page.click("button >> text=Enter")
        page.wait_for_selector(".way-in .trouble >> text=the token is wrong")
        page.fill("input[name=token]", "right")
        page.click("button >> text=Enter")
        page.wait_for_selector("canvas[data-drawn]")
        until(page, "document.querySelector('.connection')?.textContent === 'live'")
        assert page.evaluate("document.cookie") == ""  # scripts do not see it
        page.reload()
        page.wait_for_selector("canvas[data-drawn]")
        page.context.clear_cookies()
        page.reload()
        page.wait_for_selector("text=This dashboard asks for a token.")
        assert "right" not in "".join(watched.requests)


def test_whoever_may_write_signs_in_where_all_may_look(visit: Callable[..., Watched]) -> None:
    with Served(RandomSource(8, ("chat",)), Access(write="writing")) as served:
        page = visit(served.port).page
        page.wait_for_selector("canvas[data-drawn]")
        page.click("button >> text=Sign in")
        page.fill("input[name=token]", "writing")
        with loaded_anew(page):
            page.click("button >> text=Enter")
        page.wait_for_selector("canvas[data-drawn]")
        counts(page, "button >> text=Sign in", 0)
        with loaded_anew(page):
            page.click("button >> text=Sign out")
        page.wait_for_selector("button >> text=Sign in")
        counts(page, "button >> text=Sign out", 0)
        assert page.context.cookies() == []


def test_a_day_of_24_hours_is_drawn_and_said(visit: Callable[..., Watched]) -> None:
    source = RandomSource(8, ("chat",))
    with Served(source) as served:
        # The demo's day: night falls after two thirds of it, and rates with it.
        for minutes in range(24 * 60, 0, -1):
            rate = 2300.0 if minutes > 8 * 60 else 600.0
            at = source.now - 60 * minutes
            served.api.history.record(at, {"service chat": {"rate": rate, "capacity": 2316.0}})
        page = visit(served.port, "services/chat").page
        page.click("label >> text=Day")
        drawn = page.locator('[role=img][aria-label^="Rate and capacity"]')
        # The chart of an hour is there first, and has the night's rate alone.
        until(page, lambda: "from 600 to 2,300" in str(drawn.get_attribute("aria-label")))
        assert "rate last" in str(drawn.get_attribute("aria-label"))
        figure = page.locator("figure", has=drawn)
        figure.locator("summary").click()
        rows = figure.locator("table").get_attribute("aria-rowcount")
        assert int(str(rows)) > 24 * 12, "a point for every five minutes at least"


BAD = (
    "<img src=x onerror=window.hit=1>",
    "</script><script>window.hit=1</script>",
    '"><svg onload=window.hit=1>',
    "javascript:window.hit=1//",
    "{{constructor.constructor('window.hit=1')()}}",
    "%3Cscript%3E",
    "../../events?x=1#/fleet",
    "\u202eevil",
    "a" * 300,
)


def test_no_name_is_anything_but_text(visit: Callable[..., Watched]) -> None:
    source = RandomSource(16, BAD, BAD, name=lambda node: f"{BAD[node % len(BAD)]}-{node}")
    source.cluster, source.workload = BAD[0], BAD[1]
    for text in BAD:
        source.happen(text, error=text)
    with Served(source) as served:
        watched = visit(served.port)
        page = watched.page
        paths = ["fleet", "events", "services"]
        for path in paths:
            watched.open(path)
            page.wait_for_selector("tbody tr")
        names = page.locator("td:first-child a")
        until(page, lambda: sorted(names.all_text_contents()) == sorted(BAD))
        for name in BAD:
            watched.open("services")
            page.wait_for_selector("tbody tr")
            page.locator("td:first-child a").get_by_text(name, exact=True).click()
            until(page, f"document.querySelector('h1')?.textContent === {name!r}")
        watched.open("fleet")
        gpu = page.text_content("td a >> nth=0")
        page.click("td a >> nth=0")
        until(page, f"document.querySelector('h1')?.textContent === {gpu!r}")
        assert page.evaluate("window.hit") is None
        assert watched.elsewhere() == []
        assert page.locator("main script, main img, main svg").count() == 0
        assert [fault for fault in watched.faults if "404" not in fault] == []


def test_an_address_that_leads_nowhere_says_so_or_leads_home(visit: Callable[..., Watched]) -> None:
    with Served(RandomSource(8, ("chat",))) as served:
        watched = visit(served.port)
        for path, found in {
            "nowhere": "canvas[data-drawn]",
            "services/nobody": ".empty:has-text('called')",
            "gpu/none": ".trouble:has-text('no GPU')",
            "%": "canvas[data-drawn]",
            "services/%E0%A4%A": ".empty:has-text('called')",
        }.items():
            watched.open(path)
            watched.page.wait_for_selector(found)
        assert [fault for fault in watched.faults if "404" not in fault] == []
