"""Steps one after the other become a graph with just the edges that safety needs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transition.small import A30, ONE, SECONDS, THREE, TWO, WEB, at, deployed

from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.transition.check import check_transition
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.relax import relax
from partita.transition.schedule import Step, create, destroy, outcome, start, stop
from partita.transition.transition import ActionKind, Durations, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.transition.transition import Transition


def asked(
    current: Deployment,
    steps: Sequence[Step],
    *,
    extra: int | None = None,
    forbid: tuple[str, ...] = (),
    rate: float = 0.0,
) -> Request:
    rates = {"web": rate}
    return Request(current, outcome(current, steps), rates, rates, SECONDS, extra, forbid)


def edges(transition: Transition) -> list[tuple[str, ...]]:
    return [action.after for action in transition.actions]


def test_an_instance_goes_through_its_steps_in_their_order() -> None:
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@3": WEB}, {})
    steps = [
        stop(ONE, at("1g.6gb@0"), WEB),
        destroy(ONE, at("1g.6gb@0")),
        create(ONE, at("1g.6gb@0")),
        start(ONE, at("1g.6gb@0"), WEB),
        stop(ONE, at("1g.6gb@3"), WEB),
    ]
    request = asked(current, steps)
    found = relax(request, steps, "mine")
    assert edges(found) == [(), ("a1",), ("a2",), ("a3",), ()]
    assert [action.id for action in found.actions] == ["a1", "a2", "a3", "a4", "a5"]
    assert [(a.kind, a.gpu, a.placement, a.replica) for a in found.actions] == [
        (s.kind, s.gpu, s.placement, s.replica) for s in steps
    ]
    assert [action.seconds for action in found.actions] == [8.0, 2.0, 1.0, 4.0, 8.0]
    assert (found.algorithm, found.makespan, found.peak_gpus) == ("mine", 15.0, 1)
    assert found.moved == 1, "the one that was stopped for good"
    assert found.target == request.target
    assert found.floors == {"web": 0.0}
    assert check_transition(request, found) == []


def test_nothing_to_do_takes_no_time() -> None:
    current = deployed({"1g.6gb@0": WEB}, {})
    found = relax(asked(current, []), [], "mine")
    assert (found.actions, found.makespan, found.peak_gpus, found.moved) == ((), 0.0, 1, 0)


def test_a_creation_waits_only_for_what_it_cannot_stand_beside() -> None:
    current = deployed({f"1g.6gb@{n}": None for n in range(4)})
    steps = [*(destroy(ONE, at(f"1g.6gb@{n}")) for n in range(4)), create(ONE, at("2g.12gb@0"))]
    assert edges(relax(asked(current, steps), steps, "x"))[-1] == ("a1", "a2")


@pytest.mark.parametrize(("forbid", "after"), [((), ()), (("1g+1g+2g",), ("a1", "a2"))])
def test_a_rule_on_three_instances_is_kept_though_no_two_of_them_conflict(
    forbid: tuple[str, ...], after: tuple[str, ...]
) -> None:
    current = deployed({"1g.6gb@0": None, "1g.6gb@1": None})
    steps = [destroy(ONE, at("1g.6gb@0")), destroy(ONE, at("1g.6gb@1")), create(ONE, at("2g.12gb@2"))]
    request = asked(current, steps, forbid=forbid)
    found = relax(request, steps, "x")
    assert edges(found) == [(), (), after]
    assert check_transition(request, found) == []


@pytest.mark.parametrize("stays", ["1g.6gb@0", "1g.6gb@1"])
def test_a_rule_on_three_instances_counts_those_that_stay(stays: str) -> None:
    goes = "1g.6gb@1" if stays == "1g.6gb@0" else "1g.6gb@0"
    current = deployed({stays: None, goes: None})
    steps = [destroy(ONE, at(goes)), create(ONE, at("2g.12gb@2"))]
    request = asked(current, steps, forbid=("1g+1g+2g",))
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",)]
    assert check_transition(request, found) == []


def test_what_went_at_two_times_is_all_waited_for() -> None:
    """2g at 0 and 1g at 0 cannot have stood together: the second alone says when both have gone."""
    current = deployed({"2g.12gb@0": None, "1g.6gb@3": None})
    steps = [
        destroy(ONE, at("2g.12gb@0")),
        create(ONE, at("1g.6gb@0")),
        destroy(ONE, at("1g.6gb@0")),
        create(ONE, at("1g.6gb@2")),
        start(ONE, at("1g.6gb@3"), WEB),
    ]
    request = asked(current, steps)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",), ("a2",), ("a3",), ()], "what only starts needs no room"
    assert check_transition(request, found) == []


MOVE = [
    stop(ONE, at("4g.24gb@0"), WEB),
    destroy(ONE, at("4g.24gb@0")),
    create(TWO, at("4g.24gb@0")),
    start(TWO, at("4g.24gb@0"), WEB),
]


def test_a_gpu_comes_into_use_when_another_is_given_up_if_there_is_no_more() -> None:
    request = asked(deployed({"4g.24gb@0": WEB}, {}), MOVE, extra=0)
    found = relax(request, MOVE, "x")
    assert edges(found) == [(), ("a1",), ("a2",), ("a3",)]
    assert (found.makespan, found.peak_gpus, found.moved) == (15.0, 1, 1)
    assert check_transition(request, found) == []


def test_a_gpu_of_the_budget_costs_no_wait() -> None:
    request = asked(deployed({"4g.24gb@0": WEB}, {}), MOVE, extra=1)
    found = relax(request, MOVE, "x")
    assert edges(found) == [(), ("a1",), (), ("a3",)]
    assert (found.makespan, found.peak_gpus) == (10.0, 2)
    assert check_transition(request, found) == []


def test_more_gpus_than_the_budget_are_refused() -> None:
    current = deployed({"4g.24gb@0": WEB}, {})
    steps = [*MOVE[2:], *MOVE[:2]]
    with pytest.raises(ValueError, match="no GPU is left of the budget for node-0/gpu-1"):
        relax(asked(current, steps, extra=0), steps, "x")


def test_a_gpu_that_is_emptied_and_used_again_stays_in_use() -> None:
    current = deployed({"1g.6gb@0": None}, {})
    steps = [destroy(ONE, at("1g.6gb@0")), create(ONE, at("1g.6gb@2"))]
    request = asked(current, steps, extra=0)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ()], "nothing that it must wait for"
    assert found.peak_gpus == 1
    assert check_transition(request, found) == []


def test_a_gpu_that_came_late_into_use_and_stays_keeps_its_entry() -> None:
    """What is made on it later waits for leave to use it, even when the GPU was empty between."""
    current = deployed({"4g.24gb@0": None}, {})
    steps = [
        destroy(ONE, at("4g.24gb@0")),
        create(TWO, at("1g.6gb@0")),
        destroy(TWO, at("1g.6gb@0")),
        create(TWO, at("1g.6gb@2")),
        create(TWO, at("1g.6gb@1")),
    ]
    request = asked(current, steps, extra=0)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",), ("a2",), ("a1",), ("a1",)]
    assert check_transition(request, found) == []


def test_leave_is_taken_of_the_gpu_that_is_free_first() -> None:
    current = deployed({"1g.6gb@0": WEB}, {"1g.6gb@0": None}, {})
    steps = [
        stop(ONE, at("1g.6gb@0"), WEB),
        destroy(ONE, at("1g.6gb@0")),
        destroy(TWO, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@1")),
    ]
    request = asked(current, steps, extra=0)
    found = relax(request, steps, "x")
    assert edges(found)[3:] == [("a3",), ("a3",)]
    assert (found.peak_gpus, found.makespan) == (2, 10.0)
    assert check_transition(request, found) == []


def test_leave_is_rather_taken_of_a_gpu_that_is_not_used_again() -> None:
    current = deployed({"1g.6gb@0": WEB}, {"1g.6gb@0": None}, {})
    steps = [
        stop(ONE, at("1g.6gb@0"), WEB),
        destroy(ONE, at("1g.6gb@0")),
        destroy(TWO, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@0")),
        create(TWO, at("1g.6gb@3")),
    ]
    request = asked(current, steps, extra=0)
    found = relax(request, steps, "x")
    assert edges(found)[3:] == [("a2",), ()]
    assert check_transition(request, found) == []


def test_a_gpu_whose_leave_another_took_comes_back_only_when_one_is_given_up() -> None:
    current = deployed({"1g.6gb@0": None}, {"1g.6gb@0": WEB}, {})
    steps = [
        destroy(ONE, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@0")),
        stop(TWO, at("1g.6gb@0"), WEB),
        destroy(TWO, at("1g.6gb@0")),
        create(ONE, at("1g.6gb@3")),
        destroy(ONE, at("1g.6gb@3")),
        create(ONE, at("1g.6gb@1")),
    ]
    request = asked(current, steps, extra=0)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",), (), ("a3",), ("a1", "a4"), ("a5",), ("a1", "a4")]
    assert found.peak_gpus == 2
    assert check_transition(request, found) == []


def test_one_step_at_a_time_on_each_gpu() -> None:
    current = deployed({}, {})
    steps = [create(ONE, at("1g.6gb@0")), create(TWO, at("1g.6gb@0")), create(ONE, at("1g.6gb@1"))]
    request = asked(current, steps)
    assert edges(relax(request, steps, "x")) == [(), (), ()]
    found = relax(request, steps, "x", one_per_gpu=True)
    assert edges(found) == [(), (), ("a1",)]
    assert found.makespan == 2.0


def test_a_step_waits_for_what_it_is_told_to() -> None:
    current = deployed({}, {})
    steps = [create(ONE, at("1g.6gb@0")), create(TWO, at("1g.6gb@0")), start(TWO, at("1g.6gb@0"), WEB)]
    found = relax(asked(current, steps), steps, "x", after={1: {0}, 2: {0}})
    assert edges(found) == [(), ("a1",), ("a2",)], "what is implied is left out"


def test_a_stop_waits_for_the_start_that_replaces_it() -> None:
    current = deployed({"4g.24gb@0": WEB}, {})
    steps = [*MOVE[2:], *MOVE[:2]]
    request = asked(current, steps, rate=10.0)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",), ("a2",), ("a3",)]
    assert check_transition(request, found) == []
    slack = asked(current, steps, rate=0.0)
    assert edges(relax(slack, steps, "x")) == [(), ("a1",), (), ("a3",)]


def test_a_stop_that_nothing_replaces_is_refused() -> None:
    current = deployed({"4g.24gb@0": WEB}, {})
    with pytest.raises(ValueError, match="less to spare"):
        relax(asked(current, MOVE, rate=10.0), MOVE, "x")


def test_what_is_there_beyond_the_floor_at_first_goes_first_and_once() -> None:
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": WEB, "1g.6gb@2": WEB}, {})
    steps = [
        create(TWO, at("1g.6gb@0")),
        start(TWO, at("1g.6gb@0"), WEB),
        stop(ONE, at("1g.6gb@0"), WEB),
        stop(ONE, at("1g.6gb@1"), WEB),
    ]
    request = asked(current, steps, rate=20.0)
    found = relax(request, steps, "x")
    assert edges(found) == [(), ("a1",), (), ("a2",)]
    assert check_transition(request, found) == []


def test_a_start_that_is_waited_for_anyway_is_what_replaces() -> None:
    """The slack is left for a stop that waits for no start."""
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": WEB, "1g.6gb@2": WEB}, {})
    steps = [
        create(TWO, at("1g.6gb@0")),
        start(TWO, at("1g.6gb@0"), WEB),
        stop(ONE, at("1g.6gb@0"), WEB),
        stop(ONE, at("1g.6gb@1"), WEB),
    ]
    request = asked(current, steps, rate=20.0)
    found = relax(request, steps, "x", after={2: {1}})
    assert edges(found) == [(), ("a1",), ("a2",), ()]
    assert check_transition(request, found) == []


def test_a_service_that_comes_or_goes_has_no_floor() -> None:
    current = deployed({"1g.6gb@0": WEB})
    steps = [stop(ONE, at("1g.6gb@0"), WEB)]
    request = Request(current, outcome(current, steps), {"web": 10.0}, {}, SECONDS)
    assert edges(relax(request, steps, "x")) == [()]


def test_gpus_in_use_are_counted_from_the_first_creation_to_the_last_destruction() -> None:
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": None}, {}, {}, {})
    steps = [
        destroy(ONE, at("1g.6gb@1")),
        stop(ONE, at("1g.6gb@0"), WEB),
        destroy(ONE, at("1g.6gb@0")),
        create(TWO, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@0")),
        create("node-0/gpu-3", at("1g.6gb@0")),
    ]
    request = asked(current, steps)
    assert relax(request, steps, "x").peak_gpus == 4
    two = relax(request, steps[:4], "x", after={3: {0}})
    assert two.peak_gpus == 2, "the second comes when the first has still one instance"
    three = relax(request, steps, "x", after={3: {0}, 4: {2}, 5: {2}})
    assert three.peak_gpus == 3, "the first has gone when the third and the fourth come"
    assert check_transition(request, three) == []


def test_a_gpu_of_which_an_instance_stays_is_in_use_to_the_end() -> None:
    current = deployed({"1g.6gb@0": None, "1g.6gb@1": None}, {})
    steps = [destroy(ONE, at("1g.6gb@1")), create(TWO, at("1g.6gb@0"))]
    assert relax(asked(current, steps), steps, "x", after={1: {0}}).peak_gpus == 2


def test_a_gpu_in_use_at_first_is_so_from_the_first_moment() -> None:
    current = deployed({"1g.6gb@0": None}, {})
    steps = [create(TWO, at("1g.6gb@0")), destroy(TWO, at("1g.6gb@0"))]
    quick = replace(asked(current, steps), durations=Durations(0.1, 0.1, 0.1, 0.1))
    assert relax(quick, steps, "x").peak_gpus == 2


def test_two_times_of_use_of_a_gpu_are_two() -> None:
    """A GPU that is emptied before it is made anew, in every order, is free for another between."""
    current = deployed({"2g.12gb@0": WEB}, {})
    steps = [
        stop(ONE, at("2g.12gb@0"), WEB),
        destroy(ONE, at("2g.12gb@0")),
        create(TWO, at("1g.6gb@0")),
        destroy(TWO, at("1g.6gb@0")),
        create(ONE, at("2g.12gb@2")),
    ]
    request = asked(current, steps)
    found = relax(request, steps, "x", after={2: {1}, 4: {3}})
    assert found.peak_gpus == 1
    assert check_transition(request, found) == []


def test_waits_that_others_imply_are_left_out() -> None:
    current = deployed({"1g.6gb@0": None}, {"1g.6gb@0": None})
    steps = [
        start(ONE, at("1g.6gb@0"), WEB),
        destroy(TWO, at("1g.6gb@0")),
        create(TWO, at("2g.12gb@0")),
        create(ONE, at("1g.6gb@1")),
        create(ONE, at("1g.6gb@2")),
    ]
    found = relax(asked(current, steps), steps, "x", after={3: {1, 2}, 4: {1, 3}})
    assert edges(found) == [(), (), ("a2",), ("a3",), ("a4",)]


def test_a_gpu_with_an_instance_left_is_not_given_up() -> None:
    current = deployed({"1g.6gb@0": None, "1g.6gb@1": None}, {})
    steps = [destroy(ONE, at("1g.6gb@0")), create(TWO, at("1g.6gb@0"))]
    request = replace(asked(current, steps), target=current, extra_gpus=0)
    with pytest.raises(ValueError, match="no GPU is left"):
        relax(request, steps, "x")


def test_leave_that_a_gpu_took_back_is_no_one_else_s() -> None:
    current = deployed({"1g.6gb@0": None}, {})
    steps = [destroy(ONE, at("1g.6gb@0")), create(ONE, at("1g.6gb@2")), create(TWO, at("1g.6gb@0"))]
    request = replace(asked(current, steps), target=current, extra_gpus=0)
    with pytest.raises(ValueError, match="no GPU is left"):
        relax(request, steps, "x")


def test_a_gpu_is_free_when_the_last_of_its_instances_has_gone() -> None:
    """The first GPU loses one instance early and one late; the second is free between."""
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": None}, {"1g.6gb@0": None}, {})
    steps = [
        destroy(ONE, at("1g.6gb@1")),
        stop(ONE, at("1g.6gb@0"), WEB),
        destroy(ONE, at("1g.6gb@0")),
        destroy(TWO, at("1g.6gb@0")),
        create(THREE, at("1g.6gb@0")),
    ]
    found = relax(asked(current, steps, extra=0), steps, "x", after={3: {0}})
    assert edges(found)[4] == ("a4",)


def test_a_start_at_the_very_first_replaces_only_what_nothing_else_does() -> None:
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": WEB, "1g.6gb@2": None})
    steps = [start(ONE, at("1g.6gb@2"), WEB), stop(ONE, at("1g.6gb@0"), WEB)]
    assert edges(relax(asked(current, steps, rate=10.0), steps, "x")) == [(), ()]


def little(throughput: float) -> Replica:
    return replace(WEB, throughput=throughput)


def test_small_floors_are_kept_as_large_ones() -> None:
    current = deployed({"4g.24gb@0": little(0.4)}, {})
    steps = [replace(each, replica=each.replica and little(0.4)) for each in (*MOVE[2:], *MOVE[:2])]
    assert edges(relax(asked(current, steps, rate=0.4), steps, "x"))[2] == ("a2",)


def exchange(first: Replica | None, one: Replica, other: Replica) -> tuple[Deployment, list[Step]]:
    """Start two, stop the one when the other runs, stop what ran at first, stop the other."""
    current = deployed({"1g.6gb@0": first, "1g.6gb@1": None, "1g.6gb@2": None})
    before = [stop(ONE, at("1g.6gb@0"), first)] if first else []
    return current, [
        start(ONE, at("1g.6gb@1"), one),
        start(ONE, at("1g.6gb@2"), other),
        stop(ONE, at("1g.6gb@1"), one),
        *before,
        stop(ONE, at("1g.6gb@2"), other),
    ]


def test_stops_of_a_service_without_a_floor_wait_for_no_start_of_another() -> None:
    current, steps = exchange(WEB, WEB, little(20.0))
    request = Request(current, outcome(current, steps), {"web": 10.0}, {}, SECONDS)
    assert edges(relax(request, steps, "x", after={2: {1}})) == [(), (), ("a1", "a2"), (), ("a2",)]


def test_a_service_that_was_not_there_has_nothing_to_spare_at_first() -> None:
    current, steps = exchange(None, little(0.2), little(0.4))
    request = asked(current, steps)
    assert edges(relax(request, steps, "x", after={2: {1}}))[3] == ("a1", "a2")


def walk(seed: int) -> tuple[Request, list[Step]]:
    """Return random steps that are legal one after the other, and what they were asked for."""
    draw = random.Random(seed)
    forbid = draw.choice(((), ("1g+1g+2g",), ("2g+2g", "1g+1g+1g")))
    rules = gpu_model(A30).restricted(["1g.6gb", "2g.12gb", "4g.24gb"]).forbidding(forbid)
    there: dict[str, dict[Placement, Replica | None]] = {f"node-0/gpu-{n}": {} for n in range(3)}

    def runs(placement: Placement) -> Replica:
        return Replica("web", "net", 8, 1, 3.0 * int(placement.profile[0]), 10.0)

    def capacity() -> float:
        return sum(each.throughput for here in there.values() for each in here.values() if each)

    def one(floor: float) -> Step | None:
        gpu = draw.choice(list(there))
        here = there[gpu]
        profile = draw.choice(rules.profiles)
        placement = draw.choice([*here, Placement(draw.choice(profile.starts), profile.name)])
        if placement not in here:
            if fault(rules, [*here, placement]):
                return None
            here[placement] = None
            return create(gpu, placement)
        running = here[placement]
        if running is None:
            if draw.random() < 0.5:
                del here[placement]
                return destroy(gpu, placement)
            here[placement] = runs(placement)
            return start(gpu, placement, runs(placement))
        if capacity() - running.throughput < floor:
            return None
        here[placement] = None
        return stop(gpu, placement, running)

    while sum(map(bool, there.values())) < 2 or capacity() < 9:
        one(0.0)
    current = Deployment(
        tuple(
            DeployedGpu(gpu, A30, tuple(DeployedInstance(p, r) for p, r in here.items()))
            for gpu, here in there.items()
        )
    )
    floor = draw.choice((0.3, 0.8, 1.0)) * capacity()
    steps: list[Step] = []
    used = sum(map(bool, there.values()))
    for _ in range(60):
        if len(steps) < 16 and (step := one(floor)):
            steps.append(step)
            used = max(used, sum(map(bool, there.values())))
    target = outcome(current, steps)
    extra = used - max(current.used, target.used)
    rates = {"web": floor}
    return Request(current, target, rates, rates, SECONDS, extra, forbid), steps


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6), one_per_gpu=st.booleans())
def test_whatever_is_safe_one_after_the_other_is_safe_in_every_order(seed: int, *, one_per_gpu: bool) -> None:
    request, steps = walk(seed)
    found = relax(request, steps, "x", one_per_gpu=one_per_gpu)
    # A replica that both starts and stops on the way is in neither deployment; that is no matter here.
    assert [
        str(each) for each in check_transition(request, found) if "neither deployment runs" not in each.what
    ] == []
    assert sum(action.kind is ActionKind.CREATE_INSTANCE for action in found.actions) == sum(
        step.kind is ActionKind.CREATE_INSTANCE for step in steps
    )
