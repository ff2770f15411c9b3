from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tests.web.test_plan_report import column, plan, section

from partita.cli.demo import DemoStep
from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.overview import Bar, service_changes, timeline
from partita.transition.shortest import Shortest
from partita.transition.transition import PAPER, Request
from partita.web.transition_report import day_report, transition_report

if TYPE_CHECKING:
    from partita.dash.model import Fleet, InstanceColumns
    from partita.transition.transition import Transition
    from partita.web.report import FleetPart, Report, TransitionPart

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


def report(asked: Request) -> Report:
    return transition_report(asked, made(asked))


def over_time(of: Report, title: str = "Timeline") -> TransitionPart:
    found = section(of, title).transition
    assert found is not None
    return found


def changed(of: Report, title: str = "GPUs that change") -> FleetPart:
    found = section(of, title).gpus
    assert found is not None
    return found


def told(fleet: Fleet, instances: InstanceColumns) -> list[tuple[str, str, int, str]]:
    return [
        (
            fleet.gpus.id[instances.gpu[at]],
            fleet.models[fleet.gpus.model[instances.gpu[at]]].profiles[instances.profile[at]].name,
            instances.start[at],
            fleet.services[instances.service[at]],
        )
        for at in range(len(instances.gpu))
    ]


def spots(of: DeployedGpu) -> list[tuple[str, str, int, str]]:
    return [
        (of.id, each.placement.profile, each.placement.start, each.replica.service)
        for each in of.instances
        if each.replica is not None
    ]


def test_the_figures_at_the_top_are_those_of_the_transition() -> None:
    asked = request()
    found = made(asked)
    shown = transition_report(asked, found)
    assert shown.headline == f"2 to 2 GPUs in {found.makespan:.0f} s"
    assert shown.verdict == "every floor kept"
    figures = {each.name: each.text for each in shown.figures}
    assert figures["actions"] == f"{len(found.actions)}"
    assert figures["most meanwhile"].startswith(f"{found.peak_gpus}")


@given(st.integers(1, 3))
def test_every_action_is_told_where_and_when_it_happens(gpus: int) -> None:
    asked = request(gpus=gpus)
    found = made(asked)
    bars = over_time(transition_report(asked, found)).detail.actions
    assert {bar.id for bar in bars} == {action.id for action in found.actions}
    assert all(0 <= bar.begin < bar.end <= found.makespan + 1e-9 for bar in bars)
    assert all(bar.began is None for bar in bars)
    starts = [bar for bar in bars if bar.kind == "start_replica"]
    assert ("4g.40gb@0", "bert") in {(bar.placement, bar.service) for bar in starts}


def test_each_service_has_its_capacity_over_time_beside_its_floor() -> None:
    asked = request()
    found = made(asked)
    shown = transition_report(asked, found)
    lines = {line.service: line for line in over_time(shown).detail.capacity}
    expected = timeline(asked, found)
    assert lines["bert"].floor == 550
    assert lines["bert"].predicted == tuple((p.second, p.value) for p in expected.capacity["bert"])
    assert lines["bert"].actual == ()
    for change in service_changes(asked, found):
        assert min(value for _, value in lines[change.name].predicted) >= change.least
    assert column(shown, "Services", "over floor").values[0] is not None
    assert over_time(shown).in_use.floor == 2


def test_only_gpus_that_change_are_shown_before_and_after() -> None:
    asked = request()
    found = made(asked)
    part = changed(transition_report(asked, found))
    then = {each.id: each for each in found.target.gpus}
    moved = [each for each in asked.current.gpus if each.instances != then[each.id].instances]
    assert list(part.fleet.gpus.id) == [each.id for each in moved]
    assert "node-0/gpu-1" not in part.fleet.gpus.id
    assert told(part.fleet, part.fleet.instances) == [placed for each in moved for placed in spots(each)]
    assert part.fleet.planned is not None
    after = [placed for each in moved for placed in spots(then[each.id])]
    assert told(part.fleet, part.fleet.planned) == after
    assert [part.points[at].throughput for at in part.planned_point] == [
        THROUGHPUT[name] for _, name, _, _ in after
    ]


def test_instances_of_others_and_idle_ones_are_told_apart() -> None:
    idle = DeployedInstance(Placement(0, "1g.10gb"), None)
    foreign = DeployedInstance(Placement(1, "1g.10gb"), None, fixed=True)
    asked = request()
    first, *rest = asked.current.gpus
    current = Deployment((*rest, replace(first, instances=())))
    spare = gpu(7)
    here = replace(spare, instances=(idle, foreign))
    there = replace(spare, instances=(foreign,))
    part = changed(
        report(
            replace(
                asked,
                current=Deployment((*current.gpus, here)),
                target=Deployment((*asked.target.gpus, there)),
            )
        )
    )
    states = {
        part.fleet.gpus.id[at]: [
            part.fleet.states[state]
            for number, state in zip(part.fleet.instances.gpu, part.fleet.instances.state, strict=True)
            if number == at
        ]
        for at in range(len(part.fleet.gpus.id))
    }
    assert states["node-0/gpu-7"] == ["free", "foreign"]


def test_nothing_to_do_has_a_report() -> None:
    asked = request()
    shown = report(replace(asked, target=asked.current, new_rates=asked.old_rates))
    assert shown.headline == "nothing to do"
    assert [each.title for each in shown.sections] == ["Services"]


def test_a_day_compares_ways_of_planning_and_shows_each_transition_as_it_went() -> None:
    asked = request()
    found = made(asked)
    late = {bar.action.id: Bar(bar.action, 2 * bar.begin, 2 * bar.end) for bar in timeline(asked, found).bars}
    act = DemoStep(plan("bert"), asked, found, timeline(asked, found, late))
    shown = day_report({"Evening": act}, {"whole <GPUs>": 3, "this plan": 2})
    assert shown.headline == "A day on 2 GPUs, a night on 2"
    assert [(bar.name, bar.value) for bar in shown.sections[0].bars] == [
        ("whole <GPUs>", 3),
        ("this plan", 2),
    ]
    assert any(each.title.startswith("Evening: 2 \N{RIGHTWARDS ARROW} 2 GPUs in ") for each in shown.sections)
    part = over_time(shown, "Timeline, evening")
    assert all(bar.ended == 2 * bar.end for bar in part.detail.actions)
    assert part.detail.transition.ended == 2 * found.makespan
    assert all(line.actual for line in part.detail.capacity)
