from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from partita.cli.drawing import ASCII, UNICODE, Marks, mosaic
from partita.cli.plan_view import PlanTable
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, maximal_layouts
from partita.perf.operating_point import OperatingPoint
from partita.planning.overview import PlanOverview
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel

A100 = gpu_model("a100-80gb")


def instance(start: int, profile: str, service: str, *, estimated: bool = False) -> Instance:
    point = OperatingPoint(profile, 8, 1, 100.0, 25.0, "", estimated=estimated)
    return Instance(Placement(start, profile), service, service, point)


def plan(names: tuple[str, ...] = ("resnet50", "bert"), gpus: int = 3) -> Plan:
    cut = (instance(0, "4g.40gb", names[0]), instance(4, "2g.20gb", names[-1]))
    return Plan(
        Objective("gpus", gpus, gpus),
        Solver("exact", 0, 0.05),
        tuple(ServiceCapacity(name, 250.0, 300.0, 50.0) for name in names),
        tuple(PlannedGpu(f"node-0/gpu-{n}", "a100-80gb", cut) for n in range(gpus)),
    )


def shown(what: Plan, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=width, highlight=False).print(PlanTable(PlanOverview(what)))
    stream.flush()
    return raw.getvalue().decode(encoding)


@given(
    st.sampled_from(("a100-80gb", "a30-24gb", "rtx-pro-6000-96gb")).flatmap(
        lambda name: st.tuples(st.just(gpu_model(name)), st.sampled_from(maximal_layouts(gpu_model(name))))
    ),
    st.text(st.characters(exclude_categories=("C", "M", "Z"))),
    st.integers(60, 200),
    st.sampled_from((UNICODE, ASCII)),
)
def test_all_lines_of_a_mosaic_have_one_width_within_the_limit(
    found: tuple[GpuModel, Layout], label: str, width: int, marks: Marks
) -> None:
    gpu, layout = found
    lines = mosaic(gpu, [(placement, label) for placement in layout], width, marks)
    assert len({cell_len(line) for line in lines}) == 1
    assert cell_len(lines[0]) <= width
    assert lines[0].count(marks.border) >= len(layout) + 1
    assert marks is UNICODE or "".join(lines).isascii()


def test_instances_are_as_wide_as_their_memory_slices_and_free_slices_are_dots() -> None:
    items = [(Placement(0, "4g.40gb"), ""), (Placement(4, "2g.20gb"), "")]
    assert mosaic(A100, items, 73) == [f"│4g.40gb{' ' * 28}│2g.20gb{' ' * 10}│   ·    │   ·    │"]


def test_a_narrow_slice_keeps_the_number_of_compute_slices() -> None:
    assert mosaic(A100, [(Placement(0, "1g.10gb"), "")], 41)[0].startswith("│1g  │")


def test_the_summary_says_how_good_the_plan_is() -> None:
    assert "3 GPUs, proven optimal (bound 3)" in shown(plan())
    assert "gap 33 % (bound 2)" in shown(replace(plan(), objective=Objective("gpus", 3, 2)))
    assert "3 GPUs at 7.50 per hour" in shown(replace(plan(), objective=Objective("cost", 7.5, 7.5)))


def test_gpus_cut_alike_are_drawn_once_with_their_ids() -> None:
    text = shown(plan())
    assert f"{UNICODE.times} 3  a100-80gb  node-0/gpu-0..2" in text
    assert text.count("│4g.40gb") == 1


def test_each_service_shows_replicas_and_spare_capacity() -> None:
    line = next(line for line in shown(plan()).splitlines() if line.startswith("bert"))
    assert line.split()[1:] == ["250", "300", "+20", "%", "50", "25.0", f"3{UNICODE.times}2g.20gb"]


def test_estimates_are_marked_and_explained() -> None:
    cut = (instance(0, "4g.40gb", "bert", estimated=True),)
    text = shown(replace(plan(), gpus=(PlannedGpu("node-0/gpu-0", "a100-80gb", cut),)))
    assert "≈25.0" in text
    assert "≈ marks estimates" in text
    assert "≈" not in shown(plan())


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    names = tuple(f"a-service-with-a-long-name-{n}" for n in range(5))
    assert max(cell_len(line) for line in shown(plan(names), width).splitlines()) <= width


def test_an_ascii_terminal_gets_ascii_even_for_foreign_names() -> None:
    assert shown(plan(("моде́ль", "模型")), encoding="ascii").isascii()


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert "[red]x[/]" in shown(plan(("[red]x[/]",)))


def test_a_plan_of_many_services_and_cuts_stays_short_and_says_what_is_left_out() -> None:
    names = tuple(f"s{n}" for n in range(100))
    gpus = tuple(
        PlannedGpu(f"node-{n}/gpu-0", "a100-80gb", (instance(0, "7g.80gb", name),))
        for n, name in enumerate(names)
    )
    text = shown(replace(plan(names), gpus=gpus))
    assert len(text.splitlines()) < 110
    assert "and 60 more services" in text
    assert "and 88 more GPUs" in text


def test_a_plan_without_gpus_is_shown() -> None:
    assert "0 GPUs, proven optimal" in shown(
        replace(plan(), gpus=(), services=(), objective=Objective("gpus", 0, 0))
    )
