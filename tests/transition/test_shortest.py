from __future__ import annotations

import pickle
import subprocess
import sys
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.errors import InfeasibleError, InputError
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.transition.check import check_transition
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.exchange_compact import ExchangeCompact
from partita.transition.shortest import Shortest, search
from partita.transition.transition import MEASURED, ActionKind, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.transition.transition import Transition

    Make = Callable[..., Request]

SEEDS = st.integers(0, 10**6)
ALGORITHMS = (Shortest(tries=6), ExchangeCompact(), ExchangeCompact(one_per_gpu=False))


def replica(service: str, throughput: float) -> Replica:
    return Replica(service, service, 8, 1, throughput, 10.0)


def gpu(
    number: int, *instances: tuple[str, Replica | None], model: str = "a30-24gb", fixed: str = ""
) -> DeployedGpu:
    return DeployedGpu(
        f"node-0/gpu-{number}",
        model,
        tuple(DeployedInstance(Placement.parse(place), each, place == fixed) for place, each in instances),
    )


def request(
    current: tuple[DeployedGpu, ...],
    target: tuple[DeployedGpu, ...],
    rates: dict[str, float],
    extra: int | None = None,
) -> Request:
    return Request(Deployment(current), Deployment(target), rates, rates, MEASURED, extra)


@given(seed=SEEDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_checker_passes_every_transition(
    random_request: Make, seed: int, algorithm: Shortest | ExchangeCompact
) -> None:
    asked = random_request(seed, gpus=(1, 6))
    assert check_transition(asked, algorithm.transition(asked)) == []


@settings(max_examples=20)
@given(seed=SEEDS)
def test_shortest_is_never_worse_than_exchange_and_compact(random_request: Make, seed: int) -> None:
    asked = random_request(seed % 400, gpus=(3, 7), services=5)
    rival = ExchangeCompact().transition(asked)
    extra = rival.peak_gpus - max(asked.current.used, asked.target.used)
    found = Shortest().transition(replace(asked, extra_gpus=extra))
    assert (found.moved, found.peak_gpus) <= (rival.moved, rival.peak_gpus)
    assert found.makespan <= rival.makespan + 1e-6


@settings(max_examples=20)
@given(seed=SEEDS)
def test_empty_gpus_beyond_those_that_can_be_used_change_nothing(random_request: Make, seed: int) -> None:
    asked = random_request(seed, gpus=(2, 5), services=4)
    model = asked.current.gpus[0].model
    found = []
    for count in (20, 300):
        empty = tuple(DeployedGpu(f"node-1/gpu-{number}", model, ()) for number in range(count))
        more = replace(asked, current=Deployment((*asked.current.gpus, *empty)), extra_gpus=2)
        found.append(Shortest(tries=8).transition(more))
        assert check_transition(more, found[-1]) == []
    assert found[0].actions == found[1].actions


@given(seed=SEEDS)
def test_two_models_of_gpu_and_forbidden_combinations_are_kept_apart(random_request: Make, seed: int) -> None:
    a, b = random_request(seed, gpus=(1, 2)), random_request(seed + 1, gpus=(1, 2), model="a30-24gb")
    renamed = [
        Deployment(tuple(replace(each, id=each.id.replace("node", "rack")) for each in d.gpus))
        for d in (b.current, b.target)
    ]
    both = replace(
        a,
        current=Deployment(a.current.gpus + renamed[0].gpus),
        target=Deployment(a.target.gpus + renamed[1].gpus),
        old_rates={},
        new_rates={},
    )
    assert check_transition(both, Shortest(tries=2).transition(both)) == []


State = tuple[frozenset[tuple[Placement, "Replica | None"]], ...]


def state(deployment: Deployment) -> State:
    return tuple(frozenset((i.placement, i.replica) for i in each.instances) for each in deployment.gpus)


def shape(found: State) -> list[list[tuple[str, str]]]:
    return sorted(sorted((place.profile, str(each)) for place, each in held) for held in found)


def following(asked: Request, now: State) -> Iterator[State]:
    """Yield what one instance more or less makes of a state, legal and within the budget, floors kept."""
    known = {
        (each.placement.profile, each.replica)
        for deployment in (asked.current, asked.target)
        for one in deployment.gpus
        for each in one.instances
    }
    rules = gpu_model(asked.current.gpus[0].model)
    for i, held in enumerate(now):
        there = [place for place, _ in held]
        more = [
            held | {(Placement(start, profile), each)}
            for profile, each in known
            for start in rules.profile(profile).starts
            if not fault(rules, [Placement(start, profile), *there])
        ]
        for changed in [held - {each} for each in held] + more:
            new = (*now[:i], changed, *now[i + 1 :])
            if sum(map(bool, new)) <= asked.gpu_budget and kept(asked, new):
                yield new


def kept(asked: Request, found: State) -> bool:
    return all(
        sum(r.throughput for held in found for _, r in held if r and r.service == name) >= floor - 1e-9
        for name, floor in asked.floors.items()
    )


def reachable(asked: Request) -> bool:
    """Say by breadth-first search over single steps whether the target can be reached, GPUs in any order."""
    goal, seen = shape(state(asked.target)), {state(asked.current)}
    pending = deque(seen)
    while pending:
        now = pending.popleft()
        if shape(now) == goal:
            return True
        new = set(following(asked, now)) - seen
        seen |= new
        pending.extend(new)
    return False


@pytest.mark.parametrize("seed", range(25))
def test_without_extra_gpus_it_finds_a_way_just_when_there_is_one(random_request: Make, seed: int) -> None:
    asked = random_request(seed, gpus=(1, 2), model="a30-24gb", services=2, extra=0, tight=0.95)
    used = max(asked.current.used, asked.target.used)
    asked = replace(
        asked, current=Deployment(asked.current.gpus[:used]), target=Deployment(asked.target.gpus[:used])
    )
    try:
        found: Transition | None = Shortest().transition(asked)
    except InfeasibleError:
        found = None
    assert (found is not None) == reachable(asked)
    assert found is None or check_transition(asked, found) == []


def swap(extra: int | None, spare: int = 1) -> Request:
    """Two full GPUs of which one is to become two halves and the other one whole, every replica needed."""
    a, b, half_a, half_b = (replica(s, t) for s, t in (("a", 10.0), ("b", 10.0), ("a", 5.0), ("b", 5.0)))
    empty = tuple(gpu(2 + i) for i in range(spare))
    now = (gpu(0, ("4g.24gb@0", a)), gpu(1, ("4g.24gb@0", b)), *empty)
    then = (
        gpu(0, ("2g.12gb@0", half_a), ("2g.12gb@2", half_b)),
        gpu(1, ("2g.12gb@0", half_a), ("2g.12gb@2", half_b)),
    )
    return request(now, then, {"a": 10.0, "b": 10.0}, extra)


def test_a_budget_that_cannot_be_met_names_the_smallest_that_can() -> None:
    with pytest.raises(InfeasibleError, match="0 extra GPUs; 1 would do") as caught:
        Shortest().transition(swap(0))
    assert caught.value.hint == "allow 1 extra GPUs"
    asked = swap(1)
    assert check_transition(asked, Shortest().transition(asked)) == []


def test_where_no_budget_would_do_that_is_said() -> None:
    with pytest.raises(InfeasibleError, match="on the 2 GPUs there are"):
        Shortest().transition(swap(None, spare=0))
    with pytest.raises(InfeasibleError, match="finds no transition"):
        ExchangeCompact().transition(swap(None, spare=0))


def test_nothing_to_do_is_no_action() -> None:
    now = (gpu(0, ("4g.24gb@0", replica("a", 10.0))), gpu(1))
    found = Shortest().transition(request(now, (replace(now[0], id="node-0/gpu-7"),), {"a": 10.0}))
    assert found.actions == ()
    assert (found.makespan, found.moved, found.peak_gpus) == (0.0, 0, 1)


def test_a_replica_that_can_be_spared_goes_first_and_needs_no_other_gpu() -> None:
    now = (gpu(0, ("2g.12gb@0", replica("a", 5.0)), ("2g.12gb@2", replica("a", 5.0))),)
    then = (
        gpu(
            0,
            ("2g.12gb@0", replica("a", 5.0)),
            ("1g.6gb@2", replica("b", 1.0)),
            ("1g.6gb@3", replica("b", 1.0)),
        ),
    )
    asked = Request(Deployment(now), Deployment(then), {"a": 10.0}, {"a": 5.0, "b": 2.0}, MEASURED, 0)
    found = Shortest().transition(asked)
    assert check_transition(asked, found) == []
    assert found.actions[0].kind is ActionKind.STOP_REPLICA
    assert found.moved == 1


def test_an_instance_of_the_same_place_gets_another_replica_without_being_cut_anew() -> None:
    now = (gpu(0, ("4g.24gb@0", replica("a", 10.0))),)
    then = (gpu(0, ("4g.24gb@0", replica("b", 10.0))),)
    asked = Request(Deployment(now), Deployment(then), {"a": 10.0}, {"b": 10.0}, MEASURED)
    found = Shortest().transition(asked)
    assert [action.kind for action in found.actions] == [ActionKind.STOP_REPLICA, ActionKind.START_REPLICA]


def test_fixed_instances_stay_and_are_built_around() -> None:
    mine = replica("a", 5.0)
    now = (gpu(0, ("2g.12gb@0", None), fixed="2g.12gb@0"), gpu(1, ("4g.24gb@0", replica("a", 10.0))), gpu(2))
    then = (gpu(0, ("2g.12gb@0", mine)), gpu(1, ("2g.12gb@0", mine), ("2g.12gb@2", mine)))
    asked = request(now, then, {"a": 10.0})
    found = Shortest().transition(asked)
    assert check_transition(asked, found) == []
    kept = next(each for each in found.target.gpus[0].instances if each.fixed)
    assert kept.placement == Placement(0, "2g.12gb")
    rival = ExchangeCompact().transition(asked)
    assert check_transition(asked, rival) == []


def test_fixed_instances_that_leave_no_room_are_named() -> None:
    now = (gpu(0, ("1g.6gb@0", None), fixed="1g.6gb@0"),)
    with pytest.raises(InfeasibleError, match="neither moved nor destroyed"):
        Shortest().transition(request(now, (gpu(0, ("4g.24gb@0", replica("a", 10.0))),), {}))


def test_a_fixed_instance_of_the_target_must_run() -> None:
    then = (gpu(0, ("1g.6gb@0", None), fixed="1g.6gb@0"),)
    with pytest.raises(InputError, match="does not run there"):
        Shortest().transition(request((gpu(0),), then, {}))


def test_a_plan_for_gpus_that_are_not_there_is_refused() -> None:
    then = tuple(gpu(i, ("4g.24gb@0", replica("a", 10.0))) for i in range(3))
    for algorithm in ALGORITHMS:
        with pytest.raises(InfeasibleError, match="needs 3 GPUs of a30-24gb, and there are 2"):
            algorithm.transition(request((gpu(0), gpu(1)), then, {}))


def test_a_forbidden_combination_never_comes_about_on_the_way() -> None:
    a, b = replica("a", 4.0), replica("b", 3.0)
    now = (gpu(0, ("4g.40gb@0", a), model="a100-80gb"), gpu(1, model="a100-80gb"))
    then = (gpu(0, ("3g.40gb@4", b), model="a100-80gb"), gpu(1, model="a100-80gb"))
    asked = Request(Deployment(now), Deployment(then), {"a": 4.0}, {"b": 3.0}, MEASURED, 0)
    free = Shortest().transition(asked)
    asked = replace(asked, forbid=("4g+3g",))
    found = Shortest().transition(asked)
    assert check_transition(asked, found) == []
    assert found.makespan > free.makespan
    assert any("forbidden" in str(each) for each in check_transition(asked, free))


def test_the_same_request_gives_the_same_bytes_in_every_process(random_request: Make) -> None:
    asked = random_request(11, gpus=(3, 5))
    script = (
        "import io, pickle, sys;"
        "from partita.transition.shortest import Shortest;"
        "from partita.transition.document import write_transition;"
        "asked = pickle.loads(sys.stdin.buffer.read());"
        "write_transition(Shortest().transition(asked), sys.stdout)"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            input=pickle.dumps(asked),
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


@given(seed=SEEDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gpus_that_leave_are_emptied_and_get_nothing(
    random_request: Make, seed: int, algorithm: Shortest | ExchangeCompact
) -> None:
    asked = random_request(seed, gpus=(1, 5))
    used = [each for each in asked.target.gpus if each.instances]
    # As many leave as the target can do without, those with the most on them.
    ids = [each.id for each in sorted(asked.current.gpus, key=lambda each: -len(each.instances))]
    leaving = set(ids[: len(asked.current.gpus) - len(used)])
    gpus = tuple(replace(each, leaving=each.id in leaving) for each in asked.current.gpus)
    told = replace(asked, current=Deployment(gpus), extra_gpus=None)
    try:
        found = algorithm.transition(told)
    except InfeasibleError:
        return  # too little room is left to keep the floors
    assert check_transition(told, found) == []
    assert all(not each.instances for each in found.target.gpus if each.id in leaving)
    kinds = {action.kind for action in found.actions if action.gpu in leaving}
    assert kinds <= {ActionKind.STOP_REPLICA, ActionKind.DESTROY_INSTANCE}


def test_what_runs_on_a_gpu_that_leaves_goes_once_it_runs_elsewhere() -> None:
    bert = replica("bert", 10)
    now = (replace(gpu(0, ("4g.24gb@0", bert)), leaving=True), gpu(1))
    then = (gpu(0, ("4g.24gb@0", bert)), gpu(1))
    for algorithm in ALGORITHMS:
        asked = request(now, then, {"bert": 10.0})
        found = algorithm.transition(asked)
        assert check_transition(asked, found) == []
        assert [(each.kind.value, each.gpu) for each in found.actions] == [
            ("create_instance", "node-0/gpu-1"),
            ("start_replica", "node-0/gpu-1"),
            ("stop_replica", "node-0/gpu-0"),
            ("destroy_instance", "node-0/gpu-0"),
        ]


def test_the_gpus_that_stay_are_too_few_is_told() -> None:
    bert = replica("bert", 10)
    now = (replace(gpu(0, ("4g.24gb@0", bert)), leaving=True), replace(gpu(1), leaving=True))
    for algorithm in ALGORITHMS:
        with pytest.raises(InfeasibleError, match="the plan needs 1 GPU of a30-24gb, and there are 0"):
            algorithm.transition(request(now, (gpu(0, ("4g.24gb@0", bert)),), {"bert": 10.0}))


def test_the_search_of_small_cases_empties_gpus_that_leave() -> None:
    bert, resnet = replica("bert", 10), replica("resnet", 10)
    now = (replace(gpu(0, ("2g.12gb@0", bert), ("2g.12gb@2", resnet)), leaving=True), gpu(1), gpu(2))
    asked = request(
        now, (gpu(0, ("2g.12gb@0", bert), ("2g.12gb@2", resnet)),), {"bert": 10.0, "resnet": 10.0}
    )
    steps = search(asked, 10_000)
    assert steps is not None
    assert {step.gpu for step in steps if step.kind is ActionKind.CREATE_INSTANCE} <= {
        "node-0/gpu-1",
        "node-0/gpu-2",
    }
    assert sum(step.kind is ActionKind.STOP_REPLICA for step in steps) == 2
