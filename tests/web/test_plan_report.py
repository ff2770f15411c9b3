from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.overview import PlanOverview
from partita.planning.plan import (
    Instance,
    Objective,
    Plan,
    PlanMoves,
    PlannedGpu,
    ServiceCapacity,
    Solver,
    TradePoint,
)
from partita.web.fleet import MOST_GPUS
from partita.web.plan_report import MOST_ROWS, plan_report

if TYPE_CHECKING:
    from partita.web.report import Column, FleetPart, Report, Section


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


def report(what: Plan) -> Report:
    return plan_report(PlanOverview(what))


def section(of: Report, title: str) -> Section:
    return next(each for each in of.sections if each.title == title)


def column(of: Report, title: str, name: str) -> Column:
    table = section(of, title).table
    assert table is not None
    return next(each for each in table.columns if each.name == name)


def gpus(of: Report) -> FleetPart:
    found = section(of, "GPUs").gpus
    assert found is not None
    return found


def test_the_figures_at_the_top_are_those_of_the_plan() -> None:
    made = report(plan("resnet50", "bert"))
    assert (made.headline, made.verdict, made.good) == ("3 GPUs", "proven optimal (bound 3)", True)
    figures = {each.name: each.text for each in made.figures}
    assert figures["lower bound"] == "3"
    assert figures["planned in"] == "0.05 s"
    assert figures["instances"] == "6"
    assert figures["compute used"] == "86 %"
    costly = report(replace(plan("a"), objective=Objective("cost", 7.5, 7.0)))
    assert {each.name: each.text for each in costly.figures}["cost per hour"] == "7.50"
    assert not costly.good


def test_the_columns_say_how_each_gpu_is_cut_and_what_runs_there() -> None:
    part = gpus(report(plan("resnet50", "bert")))
    fleet = part.fleet
    assert fleet.gpus.id == ("node-0/gpu-0", "node-0/gpu-1", "node-0/gpu-2")
    assert [node.name for node in fleet.nodes] == ["node-0"]
    told = [
        (
            fleet.gpus.id[fleet.instances.gpu[at]],
            fleet.models[0].profiles[fleet.instances.profile[at]].name,
            fleet.instances.start[at],
            fleet.services[fleet.instances.service[at]],
            part.points[part.point[at]].batch,
        )
        for at in range(len(part.point))
    ]
    assert told == [
        (f"node-0/gpu-{n}", profile, start, service, 8)
        for n in range(3)
        for profile, start, service in (("4g.40gb", 0, "resnet50"), ("2g.20gb", 4, "bert"))
    ]
    assert len(part.points) == 2  # instances that are run alike share one
    assert part.points[0].latency_ms == 25.0


def test_pools_zones_and_racks_are_told_where_the_plan_says_them() -> None:
    cut = (instance(0, "4g.40gb", "a"),)
    own = PlannedGpu("node-0/gpu-0", "a100-80gb", cut, "a100-80gb", zone="east", rack="r1")
    spot = PlannedGpu("node-1/gpu-0", "a100-80gb", cut, "spot", zone="west")
    part = gpus(report(replace(plan("a"), gpus=(own, spot))))
    assert [part.pools[at] for at in part.pool] == ["", "spot"]
    assert [(node.rack, node.zone) for node in part.fleet.nodes] == [("r1", "east"), ("", "west")]
    assert gpus(report(plan("a"))).pools == ()


def test_estimates_are_marked_and_explained() -> None:
    cut = (instance(0, "4g.40gb", "bert", estimated=True),)
    made = report(replace(plan("bert"), gpus=(PlannedGpu("node-0/gpu-0", "a100-80gb", cut),)))
    assert "marks estimates" in section(made, "Services").notes[0]
    assert column(made, "Services", "capacity/s").estimated == (0,)
    assert gpus(made).points[0].estimated
    measured = report(plan("bert"))
    assert section(measured, "Services").notes == ()
    assert column(measured, "Services", "capacity/s").estimated == ()


def test_plans_with_fewer_moves_stand_beside_this_one() -> None:
    moves = PlanMoves(5, 5, (TradePoint(4, 4.0, 2),))
    made = report(replace(plan("a"), moves=moves))
    assert column(made, "More GPUs for fewer moves", "GPUs").values == (3, 4.0)
    assert column(made, "More GPUs for fewer moves", "moves").values == (5, 2)
    assert column(made, "More GPUs for fewer moves", "difference").values[1] == "1 GPU more, 3 moves fewer"


def test_a_very_large_plan_gives_a_report_of_bounded_size_that_says_what_it_leaves_out() -> None:
    rare, common = (instance(0, "4g.40gb", "a"),), (instance(0, "7g.80gb", "b"),)
    many = (
        PlannedGpu("first/gpu-0", "a100-80gb", rare),
        *(PlannedGpu(f"node-{n}/gpu-0", "a100-80gb", common) for n in range(MOST_GPUS + 9)),
    )
    names = tuple(f"service-{n}" for n in range(MOST_ROWS + 5))
    made = report(replace(plan(*names), gpus=many))
    table = section(made, "Services").table
    assert table is not None
    assert (len(table.columns[0].values), table.left) == (MOST_ROWS, 5)
    part = gpus(made)
    assert (len(part.fleet.gpus.id), part.left) == (MOST_GPUS, 10)
    assert "first/gpu-0" not in part.fleet.gpus.id  # the largest groups that are cut alike come first


def test_a_plan_without_gpus_has_a_report() -> None:
    made = report(replace(plan("a"), gpus=(), services=(), objective=Objective("gpus", 0, 0)))
    assert made.headline == "0 GPUs"
    assert gpus(made).fleet.gpus.id == ()
