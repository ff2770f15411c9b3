from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tests.web.test_plan_report import Page, plan

from partita.cli.demo import DemoStep
from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.overview import timeline
from partita.transition.shortest import Shortest
from partita.transition.transition import PAPER, Request
from partita.web.page import Scale, axis
from partita.web.transition_report import MOST_GPUS, day_report, transition_report

if TYPE_CHECKING:
    from partita.transition.transition import Transition

THROUGHPUT = {"1g.10gb": 100.0, "3g.40gb": 320.0, "4g.40gb": 400.0, "7g.80gb": 700.0}


def gpu(n: int, *cut: tuple[int, str, str]) -> DeployedGpu:
    """Return a GPU from starts, profiles and services."""
    return DeployedGpu(
        f"node-{n // 8}/gpu-{n % 8}",
        "a100-80gb",
        tuple(
            DeployedInstance(
                Placement(start, profile), Replica(service, "net", 8, 1, THROUGHPUT[profile], 20.0)
            )
            for start, profile, service in cut
        ),
    )


def request(first: str = "bert", second: str = "gpt", gpus: int = 1) -> Request:
    """Two services change their slices on some GPUs while one GPU stays as it is and one is free."""
    now = [gpu(n, (0, "7g.80gb", first)) for n in range(gpus)]
    then = [gpu(n, (0, "4g.40gb", first), (4, "3g.40gb", second)) for n in range(gpus)]
    same = gpu(gpus, (0, "4g.40gb", first), (4, "3g.40gb", second))
    current = Deployment((*now, same, gpu(gpus + 1)))
    target = Deployment((*then, same))
    rates = current.capacity()
    return Request(
        current, target, {name: rate / 2 for name, rate in rates.items()}, target.capacity(), PAPER
    )


def made(asked: Request) -> Transition:
    return Shortest(tries=2).transition(asked)


def page(asked: Request) -> str:
    return transition_report(asked, made(asked))


def classes(html: str, word: str) -> list[dict[str, str | None]]:
    return [a for _, a in Page(html).tags if word in (a.get("class") or "").split()]


def test_the_page_needs_nothing_from_elsewhere_and_no_script() -> None:
    html = page(request())
    assert not re.search(r"https?://|url\(|@import", html)
    assert not {tag for tag, _ in Page(html).tags} & {"script", "link", "img", "iframe"}
    assert "prefers-color-scheme: dark" in html


def test_the_figures_at_the_top_are_those_of_the_transition() -> None:
    asked = request()
    found = made(asked)
    text = Page(transition_report(asked, found)).text.replace("\n", "")
    assert f"2 to 2 GPUs in {found.makespan:.0f} s" in text
    assert f"actions{len(found.actions)}" in text
    assert f"most meanwhile{found.peak_gpus}" in text
    assert "every floor kept" in text


def test_every_action_is_a_bar_where_and_when_it_happens_told_in_words() -> None:
    asked = request()
    found = made(asked)
    html = transition_report(asked, found)
    bars = [a for a in classes(html, "bar") if "title" in a]
    assert len(bars) == len(found.actions)
    said = [str(a["title"]) for a in bars]
    assert any(re.fullmatch(r"start replica bert on 4g\.40gb@0, [\d.]+ to [\d.]+ s", each) for each in said)
    for bar in bars:
        left, width = (float(x) for x in re.findall(r"(?:left|width):([\d.]+)%", str(bar["style"])))
        assert 0 <= left <= left + width <= 100.01


def test_bars_of_one_lane_never_overlap() -> None:
    for row in page(request(gpus=3)).split("<div class=track")[1:]:
        seen: dict[str, list[tuple[float, float]]] = {}
        for lane, left, width in re.findall(r"--lane:(\d+);left:([\d.]+)%;width:([\d.]+)%", row):
            seen.setdefault(lane, []).append((float(left), float(left) + float(width)))
        for spans in seen.values():
            assert all(a[1] <= b[0] + 0.01 for a, b in pairwise(spans))


def test_each_service_has_its_capacity_over_time_beside_its_floor() -> None:
    text = Page(page(request())).text
    assert "bert 1,100 → 800/s, least " in text
    assert "floor 550" in text
    assert "GPUs in use 2 → 2, most " in text


def test_only_gpus_that_change_are_drawn_before_and_after_with_signs() -> None:
    html = page(request())
    assert len(classes(html, "gpu")) * 2 == html.count("<div class=cut")
    text = Page(html).text
    assert re.search(r"\N{MINUS SIGN} \d bert", text)
    assert re.search(r"\+ \d gpt", text)


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_names_are_escaped_wherever_they_stand(name: str) -> None:
    odd = "<script>alert('1')</script>\"&" + name
    tags = Page(page(request(first=odd))).tags
    assert "script" not in {tag for tag, _ in tags}
    assert any(odd in str(a["title"]) for _, a in tags if "title" in a)


def test_nothing_to_do_has_a_page() -> None:
    asked = request()
    same = replace(asked, target=asked.current, new_rates=asked.old_rates)
    assert "nothing to do" in page(same)


def test_a_large_transition_gives_a_page_of_bounded_size_that_says_what_it_leaves_out() -> None:
    html = page(request(gpus=MOST_GPUS + 20))
    assert len(html) < 4_000_000
    assert re.search(r"\d+ more GPUs change and are not drawn", html)


@given(st.floats(1e-3, 1e6))
def test_an_axis_has_a_handful_of_round_moments(seconds: float) -> None:
    ticks = Scale.with_lead(seconds).ticks()
    assert ticks[0] == 0.0
    assert 2 <= len(ticks) <= 8
    assert ticks[-1] <= seconds * (1 + 1e-9)


def test_a_day_compares_ways_of_planning_and_shows_each_transition_as_it_went() -> None:
    asked = request()
    found = made(asked)
    act = DemoStep(plan("bert"), asked, found, timeline(asked, found))
    text = Page(day_report({"Evening": act}, {"whole <GPUs>": 3, "this plan": 2})).text
    assert "A day on 2 GPUs, a night on 2" in text
    assert "whole <GPUs>3" in text.replace("\n", "")
    assert "Evening: 2 → 2 GPUs in " in text


def test_the_last_label_of_a_time_axis_ends_at_its_moment_where_it_would_be_cut_off() -> None:
    near = axis(Scale.with_lead(152))
    assert near.count("class=end") == 1
    assert near.endswith(">150 s</i></div>")
    assert "class=end" not in axis(Scale.with_lead(70))
