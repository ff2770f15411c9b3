"""The dashboard in a browser when something goes away under an open page, and comes back or does not."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.dash.answers import ORIGIN, Answers
from tests.dash.browser import Line, Served, Watched, counts, loaded_anew, until
from tests.dash.proxy import proxied
from tests.dash.random_cluster import RandomSource

from partita.dash.access import Access
from partita.dash.model import Role, TransitionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import APIResponse, Route

    from partita.dash.source import Look

LIVE = "document.querySelector('.connection')?.textContent === 'live'"


class Vanishing(RandomSource):
    """A random cluster from which GPUs and services go away."""

    def vanish(self, *, gpu: str = "", service: str = "") -> None:
        """Have something go; the next look tells it."""
        self.gpus = [each for each in self.gpus if each.id != gpu]
        self.names = tuple(name for name in self.names if name != service)
        self._gone = (gpu, service)

    _gone = ("", "")

    def look(self) -> Look:
        """Return what changed."""
        found, (gpu, service) = super().look(), self._gone
        self._gone = ("", "")
        return replace(found, gone=(gpu,) if gpu else (), gone_services=(service,) if service else ())


def sign_in(watched: Watched, token: str) -> None:
    watched.page.fill("input[name=token]", token)
    with loaded_anew(watched.page):
        watched.page.click("button >> text=Enter")


def test_a_server_with_other_tokens_asks_an_open_page_for_one(visit: Callable[..., Watched]) -> None:
    """It was killed and started again at the same port; another dashboard of this host has a session of its own."""
    source = RandomSource(16, ("chat", "ocr"))
    with Served(source, Access(read="old")) as served, Line(served.port) as line:
        watched, beside = visit(line.port), visit(served.port)
        for each in (watched, beside):
            sign_in(each, "old")
            until(each.page, LIVE)
        with Served(RandomSource(16, ("chat", "rank")), Access(read="new")) as again:
            line.cut()
            line.lead_to(again.port)
            line.mend()
            watched.page.wait_for_selector("text=This dashboard asks for a token.")
            sign_in(watched, "new")
            until(watched.page, LIVE)
            watched.page.wait_for_selector("option >> text=rank", state="attached")
            until(beside.page, LIVE)
            beside.page.reload()
            until(beside.page, LIVE)


def test_a_session_that_is_over_leaves_no_buttons(visit: Callable[..., Watched]) -> None:
    with Served(RandomSource(8, ("chat",)), Access(write="writing")) as served:
        watched, other = visit(served.port), visit(served.port)
        watched.page.click("button >> text=Sign in")
        sign_in(watched, "writing")
        until(watched.page, LIVE)
        watched.page.wait_for_selector("button >> text=Sign in", state="detached")
        other.page.reload()
        until(other.page, LIVE)
        other.page.evaluate("fetch('api/v1/session', { method: 'DELETE' })")
        watched.page.wait_for_selector("button >> text=Sign in")


def test_a_browser_that_was_offline_goes_on_where_it_was(visit: Callable[..., Watched]) -> None:
    source = RandomSource(16, ("chat", "ocr"), loading=1.0)
    with Served(source) as served, Line(served.port) as line:
        watched = visit(line.port)
        page = watched.page
        until(page, LIVE)
        page.clock.install()
        page.context.set_offline(True)
        line.cut()
        until(page, "document.querySelector('.connection').textContent.startsWith('connecting')")
        page.keyboard.press("2")  # a page that was not loaded before
        page.wait_for_selector(".trouble")
        for _ in range(6):
            page.clock.fast_forward(10_000)
        source.happen("create 1g.10gb@0")
        served.look()
        line.mend()
        page.context.set_offline(False)  # the next attempt is made at once, and not some seconds later
        page.wait_for_selector("td a >> text=ocr")
        until(page, LIVE)
        counts(page, ".trouble", 0)
        page.keyboard.press("4" if page.locator("nav a").count() > 3 else "3")
        page.wait_for_selector("td >> text=create 1g.10gb@0")


def test_what_goes_away_under_its_open_page_is_said_to_be_gone(visit: Callable[..., Watched]) -> None:
    source = Vanishing(16, ("chat", "ocr"))
    with Served(source) as served:
        service, gpu = visit(served.port, "services/ocr"), visit(served.port, "gpu/node-1%2Fgpu-7")
        service.page.wait_for_selector("h1 >> text=ocr")
        gpu.page.wait_for_selector("h1 >> text=node-1/gpu-7")
        for each in (service, gpu):
            until(each.page, LIVE)
        source.vanish(gpu="node-1/gpu-7", service="ocr")
        served.look()
        service.page.wait_for_selector("text=No service is called ocr now.")
        gpu.page.wait_for_selector(".trouble:has-text('no GPU')")
        gpu.page.keyboard.press("1")
        gpu.page.wait_for_selector("table[aria-rowcount='16']")
        for each in (service, gpu):
            assert [fault for fault in each.faults if "404" not in fault] == []


def test_a_fleet_that_is_made_anew_while_it_is_loaded_is_loaded_once_more(
    watch: Callable[[str], Watched],
) -> None:
    source = RandomSource(16, ("chat", "ocr"))
    with Served(source) as served:
        watched = watch(f"http://localhost:{served.port}")
        page = watched.page
        held: list[tuple[Route, APIResponse]] = []

        def hold(route: Route) -> None:
            if held:
                route.continue_()
            else:
                held.append((route, route.fetch()))

        page.route("**/api/v1/fleet", hold)
        watched.open()
        until(page, LIVE)
        until(page, lambda: held)
        source.gpus.append(source.cut(16))
        source.change(16)
        served.look()
        # The page has heard of it: it asks once more what there is.
        until(page, lambda: sum(url.endswith("/api/v1") for url in watched.requests) == 2)
        route, answer = held[0]
        route.fulfill(response=answer)
        page.wait_for_selector("table[aria-rowcount='18']")


def test_a_job_that_is_forgotten_is_said_to_be_gone_and_its_log_is_asked_for_no_more(
    watch: Callable[[str], Watched],
) -> None:
    answers = Answers(name="chat")
    watched = watch(ORIGIN)
    answers.attach(watched.page)
    watched.page.clock.install()
    answers.log_over = False
    watched.open("jobs/6")
    watched.page.wait_for_selector(".log >> text=epoch 1")
    answers.forgotten = {"6"}
    watched.page.clock.fast_forward(3000)
    watched.page.wait_for_selector("section[aria-label=Log] .trouble:has-text('there is no such job')")
    asked = len(watched.requests)
    watched.page.clock.fast_forward(60_000)
    watched.page.wait_for_timeout(100)
    assert not any("/log" in url for url in watched.requests[asked:])


@pytest.mark.parametrize("path", ["change", "what-if", "services"])
def test_a_thousand_services_are_drawn_in_sight_alone(watch: Callable[[str], Watched], path: str) -> None:
    watched = watch(ORIGIN)
    page = watched.page
    if path == "services":
        with Served(RandomSource(400, tuple(f"service-{n}" for n in range(1000)))) as served:
            page.goto(f"http://localhost:{served.port}/#/services")
            page.wait_for_selector("table[aria-rowcount='1001']")
            until(page, "document.querySelectorAll('*').length < 4000")
            page.fill("input[type=search]", "service-777")
            page.wait_for_selector("table[aria-rowcount='2']")
        return
    Answers(1000, name="chat").attach(page)
    watched.open(path)
    page.wait_for_selector("table[aria-rowcount='1001']")
    until(page, "document.querySelectorAll('*').length < 4000")
    page.fill("input[type=search]", "service-777")
    page.wait_for_selector("td >> text=service-777")


def test_two_tabs_reload_and_back_in_the_middle_of_a_change(watch: Callable[[str], Watched]) -> None:
    answers = Answers(name="chat")
    tabs = [watch(ORIGIN), watch(ORIGIN)]
    for each in tabs:
        answers.attach(each.page)
        each.open("change")
        each.page.wait_for_selector("button >> text=Pause")
    first, second = (each.page for each in tabs)
    first.click("button >> text=Pause")
    first.wait_for_selector("button >> text=Go on")
    assert answers.state is TransitionState.PAUSED
    second.reload()
    second.wait_for_selector("button >> text=Go on")
    second.click("section[aria-label='All transitions'] td a >> nth=-1")  # the one before
    second.wait_for_selector("h2 >> text=reached")
    second.click("nav a >> text=Jobs")
    second.wait_for_selector("td a >> text=7")
    second.go_back()
    second.wait_for_selector("h2 >> text=reached")
    second.go_back()
    second.wait_for_selector("button >> text=Go on")
    answers.role = Role.READ
    first.reload()
    first.wait_for_selector("h2 >> text=paused")
    counts(first, "button >> text=Go on", 0)


HELD = "document.querySelector('.connection')?.textContent === 'no events'"


def test_a_proxy_that_holds_events_back_is_told_and_the_page_asks_instead(
    visit: Callable[..., Watched],
) -> None:
    source, holds = RandomSource(16, ("chat", "ocr"), loading=1.0), threading.Event()
    holds.set()
    with Served(source) as served, proxied(served.port, holds=holds) as port:
        watched = visit(port, "events")
        page = watched.page
        page.clock.install()
        until(page, "document.querySelector('.connection')?.textContent === 'connecting …'")

        def later(holds_then: Callable[[], object]) -> Callable[[], object]:
            def looked() -> object:
                page.clock.fast_forward(16_000)
                return holds_then()

            return looked

        until(page, later(lambda: page.evaluate(HELD)), "it is told")
        page.wait_for_selector(".trouble >> text=its events do not come")
        source.happen("create 1g.10gb@0")
        served.look()
        until(page, later(lambda: page.locator("td >> text=create 1g.10gb@0").count()), "it asks")
        holds.clear()
        until(page, later(lambda: page.evaluate(LIVE)), "events come again")
        counts(page, ".trouble", 0)
        source.happen("create 2g.20gb@0")
        served.look()
        page.wait_for_selector("td >> text=create 2g.20gb@0")


def test_no_event_is_lost_where_a_proxy_takes_the_number_of_the_last_one_away(
    visit: Callable[..., Watched],
) -> None:
    source = RandomSource(16, ("chat", "ocr"), loading=1.0)
    with (
        Served(source) as served,
        Line(served.port) as line,
        proxied(line.port, holds=threading.Event()) as port,
    ):
        page = visit(port, "events").page
        until(page, LIVE)
        line.cut()
        until(page, "document.querySelector('.connection').textContent.startsWith('connecting')")
        source.happen("create 1g.10gb@0")
        served.look()
        line.mend()
        until(page, LIVE)
        page.wait_for_selector("td >> text=create 1g.10gb@0")
        counts(page, "td >> text=create 1g.10gb@0", 1)


def test_a_page_of_something_else_in_the_place_of_the_server_is_told(visit: Callable[..., Watched]) -> None:
    with Served(RandomSource(4, ("chat",))) as served:
        watched = visit(served.port)
        until(watched.page, LIVE)
        watched.page.route("**/api/v1/services*", lambda route: route.fulfill(body="<h1>Sign in</h1>"))
        watched.page.keyboard.press("2")
        watched.page.wait_for_selector(".trouble >> text=Something else answers")
