"""Pages of what is asked for on demand, in a real browser: what-ifs, changes, jobs, energy and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.dash.answers import ODD, ORIGIN, Answers
from tests.dash.browser import assert_fits, counts, cut_off, shows, until

from partita.dash.model import ActionBar, Fault, Role, TransitionDetail

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page, Route
    from tests.dash.browser import Watched

PAGES = {
    "what-if": "pre",
    "change": ".gantt .action",
    "jobs": "td a",
    "jobs/6": ".log >> text=epoch 1",
    "energy": "td",
}
"""What there is on each page once it is complete."""


@pytest.fixture
def look(watch: Callable[[str], Watched]) -> Callable[..., Watched]:
    """Opens a page that is given answers, such as `look(Answers(), "jobs")`."""

    def look(answers: Answers, path: str) -> Watched:
        watched = watch(ORIGIN)
        answers.attach(watched.page)
        watched.open(path)
        watched.page.wait_for_selector(PAGES[path])
        return watched

    return look


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_all_widths_in_both_schemes_without_a_barrier(
    look: Callable[..., Watched], path: str
) -> None:
    answers = Answers()
    watched = look(answers, path)
    assert_fits(watched, PAGES[path])
    assert watched.faults == []
    assert answers.elsewhere == []
    shows(watched.page, ODD)
    assert "broken" not in watched.page.title()


def test_the_bound_follows_a_slider_first_and_then_the_plan(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    shows(page, "10", ".tile")
    answers.sent.clear()
    slider = page.locator("fieldset >> nth=0 >> input[type=range] >> nth=0")
    slider.focus()
    slider.press("End")
    until(page, "document.querySelector('.tile .figure').textContent === 'do not suffice'")
    shows(page, "28 GPUs are needed", ".answer")
    shows(page, "chat", "section[aria-label='Too little']")
    shows(page, "its latency", "section[aria-label='What binds']")
    page.fill("fieldset >> nth=0 >> input[type=number] >> nth=0", "3000")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.tile .figure').textContent === '14'")
    shows(page, "now 10, +4", ".tile")
    asked = [sent for _, _, sent in answers.sent]
    assert [each["until"] for each in asked][-2:] == ["bound", "plan"]
    assert len({each["client"] for each in asked}) == 1
    assert asked[-1]["services"] == {"chat": {"rate": 3000, "latency_ms": None, "quantile": None}}
    page.click("text=All as it is now")
    until(page, "document.querySelector('.tile .figure').textContent === '10'")


def others_move(page: Page, step: int) -> None:
    """Move another slider than the one in use, and wait until its answer is drawn."""
    page.evaluate(
        """(step) => {
            const slider = document.querySelectorAll("fieldset")[1].querySelector("input[type=range]");
            slider.value = 100 + 40 * step;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        step,
    )
    until(page, lambda: page.locator(".tile .note").first.inner_text() == f"now 10, +{(3, 11)[step - 1]}")
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")


RATE = "fieldset >> nth=0 >> input[type=number] >> nth=0"


@pytest.mark.parametrize(("field", "typed"), [(RATE, ["3", "e", "3"]), ("input[type=search]", list("day"))])
def test_what_somebody_types_stays_while_answers_come(
    look: Callable[..., Watched], field: str, typed: list[str]
) -> None:
    answers = Answers(name="chat")
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    page.fill(field, "")
    for step, letter in enumerate(typed):
        if step:
            others_move(page, step)
        page.keyboard.type(letter)
    until(page, lambda: page.input_value(field) == "".join(typed))
    page.keyboard.press("Tab")
    if field == RATE:
        until(page, lambda: page.input_value(field) == "3000")
        until(page, lambda: answers.sent[-1][2]["services"].get("chat", {}).get("rate") == 3000)
        page.fill(field, "")
        page.keyboard.press("Tab")
        until(page, lambda: page.input_value(field) == "3000")  # nothing is no number


def test_each_step_of_a_slider_is_another_number(look: Callable[..., Watched]) -> None:
    page = look(Answers(name="chat"), "what-if").page
    for nth, values in ((0, ("25", "24", "23")), (1, ("2.55", "2.5", "2.45"))):
        pool = "fieldset:has(legend:has-text('a100-80gb'))"
        field = f"{pool} >> input[type=number] >> nth={nth}"
        page.focus(f"{pool} >> input[type=range] >> nth={nth}")
        for key, value in zip(("ArrowRight", "ArrowLeft", "ArrowLeft"), values, strict=True):
            page.keyboard.press(key)
            until(page, lambda field=field, value=value: page.input_value(field) == value)  # type: ignore[misc]


def test_one_of_several_workloads_is_asked_about(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    answers.workloads = ("shop/day", f"shop/{ODD}")
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    assert {sent["workload"] for _, _, sent in answers.sent} == {"shop/day"}
    answers.sent.clear()
    with page.expect_request(lambda request: request.method == "POST"):
        page.select_option("label:has-text('Workload') select", f"shop/{ODD}")
    until(page, "document.querySelector('.answer')?.ariaBusy === 'false'")
    assert {sent["workload"] for _, _, sent in answers.sent} == {f"shop/{ODD}"}


def questions(answers: Answers) -> list[tuple[float, str]]:
    """Return the rates of chat that were asked about, and whether for the bound or the plan."""
    return [(sent["services"]["chat"]["rate"], sent["until"]) for _, _, sent in answers.sent]


def test_while_a_what_if_is_answered_only_the_last_of_several_is_asked(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    answers.sent.clear()
    page.evaluate(
        """() => {
            const slider = document.querySelectorAll("fieldset input[type=range]")[0];
            for (let at = 101; at <= 140; at += 1) {
                slider.value = at;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
            }
        }"""
    )
    # Where the slider stands now is asked about in the end, also for the plan.
    rate = page.locator("fieldset >> nth=0 >> input[type=number] >> nth=0")
    until(page, lambda: questions(answers)[-1:] == [(float(rate.input_value()), "plan")])
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    rates = [rate for rate, _ in questions(answers)]
    assert len(rates) <= 6
    assert rates[-1] == max(rates)


def test_of_a_thousand_services_those_are_chosen_that_change(look: Callable[..., Watched]) -> None:
    page = look(Answers(1000, name="chat"), "what-if").page
    counts(page, "fieldset", 2)  # the pools
    page.fill("input[type=search]", "service-777")
    page.click("td button >> text=service-777")
    until(page, lambda: page.locator("legend").first.text_content() == "service-777")
    until(page, lambda: page.locator("tbody tr").count() < 150)


def test_a_transition_is_paused_for_the_state_that_is_shown(look: Callable[..., Watched]) -> None:
    answers = Answers()
    watched = look(answers, "change")
    with watched.page.expect_request(lambda sent: sent.method == "POST") as sent:
        watched.page.click("button >> text=Pause")
    assert sent.value.headers["if-match"] == '"t-2.running"'
    until(watched.page, "document.querySelector('.controls').textContent !== ''")
    assert answers.sent == [("POST", "transitions/t-2/pause", None)]
    shows(watched.page, "1\nactions, tried again")
    shows(watched.page, "42 actions on 1 GPU lead there in 81 s, 7 moves.")


def test_whoever_may_only_look_is_offered_no_change(look: Callable[..., Watched]) -> None:
    page = look(Answers(role=Role.READ), "change").page
    counts(page, "button >> text=Pause", 0)
    page.evaluate("location.hash = '#/what-if'")
    until(page, "document.querySelector('.answer')?.ariaBusy === 'false'")
    page.fill("fieldset >> nth=0 >> input[type=number] >> nth=0", "3000")
    page.keyboard.press("Enter")
    shows(page, "To apply it, sign in with a token that may write")
    counts(page, APPLY, 0)
    page.evaluate("location.hash = '#/jobs/7'")
    page.wait_for_selector("h1 >> text=7")
    counts(page, "button >> text=Cancel", 0)
    page.evaluate("location.hash = '#/jobs'")
    page.wait_for_selector("td a")
    counts(page, "text=Submit a job", 0)
    page.click("button >> text=Sign in")
    page.fill("input[name=token]", "secret")
    page.click("button >> text=Enter")
    page.wait_for_selector("text=Submit a job")


def changed(look: Callable[..., Watched], answers: Answers) -> Page:
    """Open the confirmation of a change, by keyboard; return the page."""
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")
    counts(page, APPLY, 0)  # nothing is to be changed yet
    page.fill("fieldset >> nth=0 >> input[type=number] >> nth=0", "3000")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{APPLY}:enabled")
    page.focus(APPLY)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{CONFIRM}:enabled")
    answers.sent.clear()
    return page


APPLY, CONFIRM = "main > .controls .primary", "dialog .primary"
CHANGE = {"chat": {"rate": 3000, "latency_ms": None, "quantile": None}}


def test_a_change_is_shown_and_applied_for_the_state_it_was_shown_for_and_followed(
    look: Callable[..., Watched],
) -> None:
    answers = Answers(name="chat")
    page = changed(look, answers)
    for words in (
        "14",
        "now 10",
        "42 actions on 1 GPU",
        "The workload's file stays",
        "its latency, on 1g.10gb",
    ):
        shows(page, words, "dialog")
    answers.refused = Fault("the cluster has changed since", "If-Match", "look again")
    page.click(CONFIRM)
    shows(page, "the cluster has changed since", "dialog [role=alert]")
    assert page.is_disabled(CONFIRM)
    page.click("dialog button >> text=Look again")
    page.wait_for_selector(f"{CONFIRM}:enabled")
    with page.expect_request(lambda sent: sent.url.endswith("/apply")) as sent:
        page.click(CONFIRM)
    assert sent.value.headers["if-match"] == '"state-1"'
    until(page, "location.hash === '#/change/t-2'")
    shows(page, "transition t-2 has begun", "main [role=status]")
    page.wait_for_selector(PAGES["change"])
    counts(page, "dialog", 0)
    applied = [body for _, path, body in answers.sent if path == "apply"]
    assert applied == 2 * [{"plan": None, "change": {"workload": "", "services": CHANGE, "pools": {}}}]


def test_on_a_cluster_its_controller_plans_the_change(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    answers.workloads = ("shop/day",)
    page = changed(look, answers)
    shows(page, "its controller plans it anew", "dialog")
    page.keyboard.press("Escape")
    counts(page, "dialog", 0)
    assert answers.sent == []
    page.click(APPLY)
    page.wait_for_selector(f"{CONFIRM}:enabled")
    page.click(CONFIRM)
    until(page, "location.hash === '#/change'")
    assert answers.sent[-1][2]["change"]["workload"] == "shop/day"


def test_what_will_be_done_fits_all_widths(look: Callable[..., Watched]) -> None:
    watched: list[Watched] = []

    def kept(*arguments: object) -> Watched:
        watched.append(look(*arguments))
        return watched[-1]

    changed(kept, Answers(name="chat"))
    assert_fits(watched[0], f"{CONFIRM}:enabled")


EMPTY = {
    "change": "No plan was applied yet, so there is nothing to compare with what runs. To try one, open What if",
    "jobs": "No job was submitted yet. Submit one: partita submit",
    "energy": "No energy was measured in this time: choose a longer one, or start what measures",
}


@pytest.mark.parametrize("path", EMPTY)
def test_where_nothing_is_the_page_says_what_that_means_and_what_to_do(
    watch: Callable[[str], Watched], path: str
) -> None:
    answers = Answers()
    answers.nothing = True
    watched = watch(ORIGIN)
    answers.attach(watched.page)
    watched.open(path)
    shows(watched.page, EMPTY[path])
    counts(watched.page, "[role=alert]", 0)
    watched.page.set_viewport_size({"width": 390, "height": 900})
    until(watched.page, lambda: cut_off(watched) == [])


def test_a_job_says_why_and_what_to_do_and_is_submitted_and_cancelled(look: Callable[..., Watched]) -> None:
    answers = Answers()
    page = look(answers, "jobs").page
    shows(page, "no slice of 3g.40gb is free; ask for less memory, or wait")
    page.click("summary >> text=Submit a job")
    page.fill("input[name=command]", """python "my train.py" --name='a b' x""")
    page.fill("input[name=memory]", "2")
    page.click("button >> text=Submit")
    page.wait_for_selector("text=9 submitted")
    sent = {
        "command": ["python", "my train.py", "--name=a b", "x"],
        "memory_bytes": 2**31,
        "directory": None,
        "name": "",
    }
    assert answers.sent == [("POST", "jobs", sent)]
    page.click("td a >> text=7")
    page.click("button >> text=Cancel the job")
    until(page, "document.querySelector('h1').textContent === '7'")
    until(page, lambda: answers.sent[-1] == ("POST", "jobs/7/cancel", None))


def test_the_next_job_is_typed_while_one_is_submitted(look: Callable[..., Watched]) -> None:
    page = look(Answers(), "jobs").page
    page.click("summary >> text=Submit a job")
    page.fill("input[name=command]", "python one.py")
    asked: list[Route] = []
    page.route("**/api/v1/jobs", lambda route: asked.append(route))  # noqa: PLW0108 -- playwright marks it
    page.keyboard.press("Enter")
    until(page, lambda: asked)
    page.fill("input[name=command]", "python two.py")
    asked.pop().fallback()
    page.wait_for_selector("text=9 submitted")
    assert page.input_value("input[name=command]") == "python two.py"
    page.unroute("**/api/v1/jobs")
    page.click("button >> text=Submit")
    until(page, lambda: page.input_value("input[name=command]") == "")


def test_what_is_asked_for_twice_at_once_is_sent_once(look: Callable[..., Watched]) -> None:
    answers = Answers()
    page = look(answers, "jobs").page
    page.click("summary >> text=Submit a job")
    for command in ("one", "two"):  # were the first sent twice, it would have come before the second
        page.fill("input[name=command]", command)
        page.evaluate("[1, 2].forEach(() => document.querySelector('.submit form').requestSubmit())")
        until(page, lambda: page.input_value("input[name=command]") == "")
    assert [sent["command"] for _, _, sent in answers.sent] == [["one"], ["two"]]
    page.click("td a >> text=7")
    cancel = (
        "[...document.querySelectorAll('main button')].find((one) => one.textContent === 'Cancel the job')"
    )
    for count in (3, 4):
        until(page, f"{cancel}?.disabled === false")
        page.evaluate(f"[1, 2].forEach(() => {cancel}.click())")
        until(page, lambda count=count: len(answers.sent) == count)  # type: ignore[misc]
    assert [path for _, path, _ in answers.sent[2:]] == ["jobs/7/cancel", "jobs/7/cancel"]


def test_a_price_of_nothing_is_not_the_price_as_it_is(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    page = look(answers, "what-if").page
    until(page, "document.querySelector('.answer').ariaBusy === 'false'")

    def refuse_free(route: Route) -> None:
        asked: Any = route.request.post_data_json
        if asked["pools"].get("a100-80gb", {}).get("price") == 0:
            fault = '{"error": "must be above 0", "where": "pools.a100-80gb.price", "hint": null}'
            route.fulfill(status=422, body=fault, content_type="application/json")
        else:
            route.fallback()

    page.route("**/api/v1/what-if", refuse_free)
    field = "fieldset:has(legend:has-text('a100-80gb')) >> input[type=number] >> nth=1"
    page.fill(field, "0")
    page.keyboard.press("Tab")
    shows(page, "must be above 0", ".answer")
    assert page.input_value(field) == "0"
    assert page.is_disabled("button >> text=Apply …")
    page.click("button >> text=now 2.5")
    until(page, lambda: page.input_value(field) == "2.5")
    counts(page, ".answer [role=alert]", 0)


def test_a_pool_without_a_price_says_so_and_gets_one(look: Callable[..., Watched]) -> None:
    answers = Answers(name="chat")
    page = look(answers, "what-if").page
    spot = "fieldset:has(legend:has-text('spot'))"
    shows(page, "No price.", spot)
    page.click(f"{spot} >> button >> text=Set")
    until(page, lambda: answers.sent[-1][2]["pools"] == {"spot": {"count": None, "price": 1}})
    page.click(f"{spot} >> button >> text=as it is now")
    until(page, lambda: answers.sent[-1][2]["pools"] == {})


def test_fingers_hit_the_actions_of_a_transition(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    Answers().attach(page)
    page.goto(f"{ORIGIN}/#/change")
    page.wait_for_selector(".gantt .action")
    heights = (
        "[...document.querySelectorAll('.gantt .action')].map((one) => one.getBoundingClientRect().height)"
    )
    assert min(page.evaluate(heights)) >= 44
    page.tap(".gantt .action >> nth=0")
    until(page, "!document.querySelector('.gantt + .chosen').textContent.startsWith('Choose')")
    page.close()


def test_of_very_many_actions_on_few_gpus_those_are_drawn_that_can_be_told_apart(
    look: Callable[..., Watched],
) -> None:
    answers = Answers()
    bars = tuple(
        ActionBar(
            f"{gpu}-{n}", "create_instance", f"node-0/gpu-{gpu}", "1g.10gb@0", "chat", n, n + 1.0, n, n + 1.0,
            "busy" if (gpu, n) == (0, 1234) else None,
        )
        for gpu in range(20)
        for n in range(1500)
    )  # fmt: skip
    summary = answers.transition.transition.replace(actions=len(bars), done=len(bars))
    answers.long = TransitionDetail(summary, bars, (), ())
    page = look(answers, "change").page
    shows(page, "too close to others to be told apart are in the table below alone")
    assert page.evaluate("document.querySelectorAll('.gantt .action').length") < 6000
    counts(page, ".gantt .failed", 1)
    page.click("summary >> text=30,000 actions as a table")
    page.fill("input[type=search] >> nth=0", "gpu-19")
    until(page, "document.querySelectorAll('.gantt .gpu').length === 1")


def test_a_token_is_typed_on_when_the_page_asks_for_it(look: Callable[..., Watched]) -> None:
    page = look(Answers(role=Role.READ), "jobs").page
    page.click("button >> text=Sign in")
    page.fill("input[name=token]", "sec")
    refused = '{"error": "no token was sent"}'
    page.route("**/api/v1/energy*", lambda route: route.fulfill(status=401, body=refused))
    page.evaluate("location.hash = '#/energy'")
    shows(page, "This dashboard asks for a token", ".way-in")
    page.keyboard.type("ret")
    assert page.input_value("input[name=token]") == "secret"


def test_idle_gpus_are_a_row_and_what_is_not_measured_is_not_zero(look: Callable[..., Watched]) -> None:
    page = look(Answers(name="chat"), "energy").page
    first = page.locator("td:first-child .value")
    until(page, lambda: first.all_text_contents()[:3] == ["chat", "service-1", "idle"])
    rows = page.locator("tbody tr").all_inner_texts()
    assert sum("idle" in row for row in rows) == 1
    assert any("not measured" in row for row in rows)
