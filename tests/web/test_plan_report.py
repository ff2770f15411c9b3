from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.overview import PlanOverview
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.web.plan_report import MOST_GROUPS, MOST_SERVICES, plan_report


def instance(start: int, profile: str, service: str, *, estimated: bool = False) -> Instance:
    point = OperatingPoint(profile, 8, 2, 100.0, 25.0, "", estimated=estimated)
    return Instance(Placement(start, profile), service, service, point)


def plan(*names: str, gpus: int = 3) -> Plan:
    cut = (instance(0, "4g.40gb", names[0]), instance(4, "2g.20gb", names[-1]))
    return Plan(
        Objective("gpus", gpus, gpus),
        Solver("exact", 7, 0.05),
        tuple(ServiceCapacity(name, 250.0, 300.0, 50.0) for name in names),
        tuple(PlannedGpu(f"node-0/gpu-{n}", "a100-80gb", cut) for n in range(gpus)),
    )


def report(what: Plan) -> str:
    return plan_report(PlanOverview(what))


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_from_elsewhere_and_no_script() -> None:
    html = report(plan("resnet50", "bert"))
    assert not re.search(r"https?://|url\(|@import", html)
    assert not {tag for tag, _ in Page(html).tags} & {"script", "link", "img", "iframe"}


def test_the_figures_at_the_top_are_those_of_the_plan() -> None:
    text = Page(report(plan("resnet50", "bert"))).text
    for words in (
        "3 GPUs, proven optimal (bound 3)",
        "lower bound3",
        "planned in0.05 s",
        "instances6",
        "compute used86 %",
    ):
        assert words in text.replace("\n", "")
    costly = replace(plan("a"), objective=Objective("cost", 7.5, 7.0))
    assert "cost per hour7.5" in Page(report(costly)).text


def test_gpus_cut_alike_are_drawn_once_true_to_their_memory_slices() -> None:
    tags = Page(report(plan("resnet50", "bert"))).tags
    assert sum(attributes.get("class") == "gpu" for _, attributes in tags) == 1
    assert [a["style"] for _, a in tags if (a.get("class") or "").startswith("on ")] == [
        "grid-column:span 4",
        "grid-column:span 2",
    ]
    assert sum(attributes.get("class") == "free" for _, attributes in tags) == 2
    assert [a["style"] for tag, a in tags if tag == "u"] == ["--c:4", "--c:2"]


def test_services_are_told_apart_by_number_and_hatch_beside_colour() -> None:
    looks = re.findall(r'class="key ([^"]+)">(\d+)<', report(plan(*"abcdefghi")))
    assert [number for _, number in looks] == [str(n) for n in range(1, 10)]
    assert len({look for look, _ in looks}) == 9


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_names_are_escaped_wherever_they_stand(name: str) -> None:
    odd = "<script>alert('1')</script>\"&" + name
    page = Page(report(plan(odd)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(odd) == 3
    assert all(odd in str(a["title"]) for _, a in page.tags if "title" in a)


def test_estimates_are_marked_and_explained() -> None:
    cut = (instance(0, "4g.40gb", "bert", estimated=True),)
    text = Page(report(replace(plan("bert"), gpus=(PlannedGpu("node-0/gpu-0", "a100-80gb", cut),)))).text
    assert "≈ marks estimates" in text
    assert "≈100/s" in text
    assert "≈" not in Page(report(plan("bert"))).text


def test_a_very_large_plan_gives_a_page_of_bounded_size_that_says_what_it_leaves_out() -> None:
    names = tuple(f"service-{n}" for n in range(3000))
    gpus = tuple(
        PlannedGpu(f"node-{n}/gpu-{k}", "a100-80gb", cut)
        for n, name in enumerate(names)
        for cut in [tuple(instance(start, "1g.10gb", name) for start in range(7))]
        for k in range(2)
    )
    html = report(replace(plan(*names), gpus=gpus))
    assert len(html) < 4_000_000
    assert f"{3000 - MOST_SERVICES:,} more services are not listed" in html
    assert f"{2 * (3000 - MOST_GROUPS):,} more GPUs, cut in 2,500 ways, are not drawn" in html


def test_a_plan_without_gpus_has_a_page() -> None:
    assert "0 GPUs" in report(replace(plan("a"), gpus=(), services=(), objective=Objective("gpus", 0, 0)))
