from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.transition.check import (
    ActionGraph,
    InstanceHistories,
    check_transition,
    least_capacity,
    most_in_use,
    placement_violations,
)
from partita.transition.shortest import Shortest
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.transition.transition import Action, Request, Transition

    Make = Callable[..., Request]

SEEDS = st.integers(0, 10**6)


def states(graph: ActionGraph) -> Iterator[tuple[set[int], set[int]]]:
    """Yield what has ended and what has begun, in every state; all that may have begun has."""
    seen = {frozenset[int]()}
    pending = [frozenset[int]()]
    while pending:
        ended = pending.pop()
        enabled = {i for i, before in enumerate(graph.direct) if set(before) <= ended}
        yield set(ended), enabled | set(ended)
        for i in enabled - ended:
            more = ended | {i}
            if more not in seen:
                seen.add(more)
                pending.append(more)


def brute_force(request: Request, graph: ActionGraph) -> tuple[dict[str, float], bool, int]:
    """Return the least capacities, whether all layouts are legal, and the most GPUs that have an instance."""
    least = dict(request.current.capacity())
    for action in graph.actions:
        if action.replica:
            least.setdefault(action.replica.service, 0.0)
    legal, most = True, 0
    for ended, begun in states(graph):
        capacity: dict[str, float] = dict.fromkeys(least, 0.0)
        capacity.update(request.current.capacity())
        standing: dict[str, list[Placement]] = {
            gpu.id: [each.placement for each in gpu.instances] for gpu in request.current.gpus
        }
        for i in begun:
            action = graph.actions[i]
            if action.kind is ActionKind.STOP_REPLICA and action.replica:
                capacity[action.replica.service] -= action.replica.throughput
            if action.kind is ActionKind.CREATE_INSTANCE:
                standing[action.gpu].append(action.placement)
        for i in ended:
            action = graph.actions[i]
            if action.kind is ActionKind.START_REPLICA and action.replica:
                capacity[action.replica.service] += action.replica.throughput
            if action.kind is ActionKind.DESTROY_INSTANCE:
                standing[action.gpu].remove(action.placement)
        least = {name: min(value, capacity[name]) for name, value in least.items()}
        models = {gpu.id: gpu.model for gpu in request.current.gpus}
        legal = legal and not any(fault(gpu_model(models[gpu]), there) for gpu, there in standing.items())
        most = max(most, sum(1 for there in standing.values() if there))
    return least, legal, most


def small(random_request: Make, seed: int) -> tuple[Request, Transition]:
    request = random_request(seed, gpus=(1, 2), model="a30-24gb", services=2)
    transition = Shortest(tries=2).transition(request)
    assume(0 < len(transition.actions) <= 14)
    return request, transition


def loosened(transition: Transition, seed: int) -> tuple[Action, ...]:
    """Return the actions with edges between different instances left out at random."""
    draw = random.Random(seed)
    graph = ActionGraph(transition.actions)
    last: dict[tuple[str, Placement], str] = {}
    found: list[Action] = []
    for i in graph.sequence:
        action = transition.actions[i]
        spot = (action.gpu, action.placement)
        after = {last[spot]} if spot in last else set()
        after |= {name for name in action.after if draw.random() < 0.6}
        found.append(replace(action, after=tuple(sorted(after))))
        last[spot] = action.id
    return tuple(found)


@given(seed=SEEDS)
def test_least_capacities_are_those_of_all_orders(random_request: Make, seed: int) -> None:
    request, transition = small(random_request, seed)
    for actions in (transition.actions, loosened(transition, seed)):
        graph = ActionGraph(actions)
        least, _, _ = brute_force(request, graph)
        assert least_capacity(request, graph) == pytest.approx(least, abs=1e-6)


@given(seed=SEEDS)
def test_layouts_are_faulted_just_when_some_order_makes_one_illegal(random_request: Make, seed: int) -> None:
    request, transition = small(random_request, seed)
    for actions in (transition.actions, loosened(transition, seed)):
        graph = ActionGraph(actions)
        stories = InstanceHistories(request, graph)
        assert not stories.violations
        _, legal, _ = brute_force(request, graph)
        assert legal == (not list(placement_violations(request, graph, stories.lifetimes)))


@given(seed=SEEDS)
def test_gpus_in_use_are_bounded_in_all_orders(random_request: Make, seed: int) -> None:
    request, transition = small(random_request, seed)
    for actions in (transition.actions, loosened(transition, seed)):
        graph = ActionGraph(actions)
        _, _, most = brute_force(request, graph)
        assert most <= most_in_use(graph, InstanceHistories(request, graph).lifetimes)


@given(seed=SEEDS)
def test_leaving_out_an_edge_is_noticed_where_it_matters(random_request: Make, seed: int) -> None:
    request, transition = small(random_request, seed)
    graph = ActionGraph(actions := loosened(transition, seed))
    least, legal, most = brute_force(request, graph)
    floors = request.floors
    broken = any(least[name] < floor - 1e-6 * max(1.0, floor) for name, floor in floors.items())
    found = check_transition(request, replace(transition, actions=actions))
    about = {each.where for each in found} - {"makespan", "peak_gpus"}
    if broken or not legal or most > request.gpu_budget:
        assert about
    elif most_in_use(graph, InstanceHistories(request, graph).lifetimes) <= request.gpu_budget:
        assert not about


def change(transition: Transition, index: int, **fields: Any) -> Transition:
    actions = list(transition.actions)
    actions[index] = replace(actions[index], **fields)
    return replace(transition, actions=tuple(actions))


@pytest.fixture(scope="module")
def sample(random_request: Make) -> tuple[Request, Transition]:
    request = random_request(5, gpus=(3, 4), extra=1)
    transition = Shortest().transition(request)
    assert check_transition(request, transition) == []
    return request, transition


def first(transition: Transition, kind: ActionKind) -> int:
    return next(i for i, action in enumerate(transition.actions) if action.kind is kind)


def said(request: Request, transition: Transition) -> str:
    return "\n".join(map(str, check_transition(request, transition)))


def test_a_repeated_id_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    assert "2 actions have this id" in said(request, change(transition, 0, id=transition.actions[1].id))


def test_an_edge_from_nowhere_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    assert "which is not an action" in said(request, change(transition, 0, after=("nothing",)))


def test_a_circle_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    last = next(action for action in reversed(transition.actions) if action.after)
    begin = next(i for i, action in enumerate(transition.actions) if action.id == last.after[0])
    assert "wait for each other" in said(request, change(transition, begin, after=(last.id,)))


def test_a_gpu_that_is_not_there_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    assert "there is no GPU" in said(request, change(transition, 0, gpu="node-99/gpu-0"))


@pytest.mark.parametrize("kind", list(ActionKind))
def test_leaving_out_any_kind_of_action_is_a_fault(
    sample: tuple[Request, Transition], kind: ActionKind
) -> None:
    request, transition = sample
    gone = transition.actions[first(transition, kind)]
    rest = tuple(
        replace(
            action,
            after=tuple({*action.after} - {gone.id} | ({*gone.after} if gone.id in action.after else set())),
        )
        for action in transition.actions
        if action is not gone
    )
    assert check_transition(request, replace(transition, actions=rest))


def test_a_replica_nobody_knows_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    stopped = {(a.gpu, a.placement) for a in transition.actions if a.kind is ActionKind.STOP_REPLICA}
    index = next(
        i
        for i, a in enumerate(transition.actions)
        if a.kind is ActionKind.START_REPLICA and (a.gpu, a.placement) not in stopped
    )
    known = transition.actions[index].replica
    assert known is not None
    stronger = replace(known, throughput=2 * known.throughput)
    assert "neither deployment runs" in said(request, change(transition, index, replica=stronger))


def test_seconds_that_are_made_up_are_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    assert "takes 1 s, not the" in said(request, change(transition, 0, seconds=1.0))


@pytest.mark.parametrize("field", ["makespan", "peak_gpus", "moved"])
def test_a_wrong_prediction_is_a_fault(sample: tuple[Request, Transition], field: str) -> None:
    request, transition = sample
    wrong = replace(transition, **{field: getattr(transition, field) + 1})
    assert f"{field}: " in said(request, wrong)


def test_lower_floors_than_were_asked_for_are_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    lower = {name: floor / 2 for name, floor in transition.floors.items()}
    assert "floors: " in said(request, replace(transition, floors=lower))


def test_another_target_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    assert "not the wanted deployment" in said(replace(request, target=request.current), transition)


def test_a_budget_that_some_order_overdraws_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    free = tuple(
        replace(action, after=()) if action.kind is ActionKind.CREATE_INSTANCE else action
        for action in transition.actions
    )
    most = transition.peak_gpus
    assert most_in_use(ActionGraph(free), InstanceHistories(request, ActionGraph(free)).lifetimes) >= most


def test_actions_on_a_fixed_instance_are_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    stopped = transition.actions[first(transition, ActionKind.STOP_REPLICA)]
    gpus = tuple(
        replace(
            gpu,
            instances=tuple(
                replace(each, fixed=(gpu.id, each.placement) == (stopped.gpu, stopped.placement))
                for each in gpu.instances
            ),
        )
        for gpu in request.current.gpus
    )
    assert "this instance is fixed" in said(
        replace(request, current=replace(request.current, gpus=gpus)), transition
    )


def test_what_comes_to_a_gpu_that_leaves_is_a_fault(sample: tuple[Request, Transition]) -> None:
    request, transition = sample
    made = next(each for each in transition.actions if each.kind is ActionKind.CREATE_INSTANCE)
    gpus = tuple(replace(gpu, leaving=gpu.id == made.gpu) for gpu in request.current.gpus)
    told = replace(request, current=replace(request.current, gpus=gpus))
    found = [each.what for each in check_transition(told, transition)]
    assert f"{made.gpu} must become empty" in found
