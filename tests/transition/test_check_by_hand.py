"""The checker of transitions, held to transitions made by hand: right ones, and each with one thing wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.transition.small import ONE, SECONDS, THREE, TWO, WEB, at, deployed

from partita.transition.check import (
    ActionGraph,
    GpuUse,
    InstanceHistories,
    check_transition,
    least_capacity,
    most_in_use,
    uses,
)
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.transition import Action, ActionKind, Durations, Request, Transition

CREATE, DESTROY, START, STOP = (
    ActionKind.CREATE_INSTANCE,
    ActionKind.DESTROY_INSTANCE,
    ActionKind.START_REPLICA,
    ActionKind.STOP_REPLICA,
)
WHOLE = "4g.24gb@0"
Line = tuple[ActionKind, str, str, "Replica | None", str]


def actions(*lines: Line) -> tuple[Action, ...]:
    """Make actions of (kind, GPU, placement, replica, those before as `a1 a2`), named a1, a2, ..."""
    return tuple(
        Action(f"a{n}", kind, gpu, at(place), replica, tuple(after.split()), SECONDS.of(kind))
        for n, (kind, gpu, place, replica, after) in enumerate(lines, 1)
    )


def moving(stopped: Replica = WEB, started: Replica = WEB) -> tuple[Action, ...]:
    return actions(
        (CREATE, TWO, WHOLE, None, ""),
        (START, TWO, WHOLE, started, "a1"),
        (STOP, ONE, WHOLE, stopped, "a2"),
        (DESTROY, ONE, WHOLE, None, "a3"),
    )


def asked(rate: float = 10.0, **more: Any) -> Request:
    given: dict[str, Any] = {
        "current": deployed({WHOLE: WEB}, {}),
        "target": deployed({}, {WHOLE: WEB}),
        "old_rates": {"web": rate},
        "new_rates": {"web": rate},
        "durations": SECONDS,
        "extra_gpus": 1,
    }
    return Request(**{**given, **more})


def found(request: Request, done: tuple[Action, ...], **more: Any) -> list[str]:
    """Return what the checker says of the actions, by default with the predictions of the right ones."""
    given: dict[str, Any] = {
        "floors": request.floors,
        "target": deployed({}, {WHOLE: WEB}),
        "makespan": 15.0,
        "peak_gpus": 2,
        "moved": 1,
    }
    return [str(fault) for fault in check_transition(request, Transition("x", done, **{**given, **more}))]


def without(fault: str, told: list[str]) -> list[str]:
    assert fault in told
    return [each for each in told if each != fault]


RIGHT = moving()


def changed(at_: int, **fields: Any) -> tuple[Action, ...]:
    return tuple(replace(each, **fields) if n == at_ else each for n, each in enumerate(RIGHT))


def test_a_right_transition_raises_no_alarm() -> None:
    assert found(asked(), RIGHT) == []
    still = deployed({WHOLE: WEB}, {})
    nothing = {"target": still, "makespan": 0.0, "peak_gpus": 1, "moved": 0}
    assert found(asked(target=still), (), **nothing) == []


# --- the graph


def test_actions_have_ids_of_their_own() -> None:
    assert found(asked(), changed(1, id="a1", after=()))[0] == "a1: 2 actions have this id"


def test_actions_wait_for_actions() -> None:
    assert found(asked(), changed(0, after=("a9",))) == ["a1: comes after a9, which is not an action"]


def test_actions_do_not_wait_for_each_other() -> None:
    assert found(asked(), changed(1, after=("a1", "a3"))) == [
        "a2: this action and 2 more wait for each other forever"
    ]


def test_what_comes_before_what_is_told_through_others_and_twice_named_ones() -> None:
    graph = ActionGraph(changed(2, after=("a2", "a2", "a1")))
    assert graph.sequence == [0, 1, 2, 3]
    assert [[graph.ordered(i, j) for j in range(4)] for i in range(4)] == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, False, True],
        [False, False, False, False],
    ]
    assert graph.begin == [0.0, 1.0, 5.0, 13.0]
    assert [graph.end(i) for i in range(4)] == [1.0, 5.0, 13.0, 15.0]


# --- instances


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (changed(0, gpu="node-9/gpu-0"), "a1: there is no GPU node-9/gpu-0"),
        (changed(0, gpu=ONE), "a1: creates an instance that exists already"),
        (changed(0, kind=DESTROY), "a1: the instance does not exist at that point"),
        (changed(1, kind=STOP), "a2: stops a replica that does not run there"),
        (changed(1, replica=None), "a2: starts no replica"),
        (changed(2, replica=replace(WEB, batch=4)), "a3: stops a replica that does not run there"),
        (changed(2, replica=None), "a3: stops a replica that does not run there"),
        (changed(2, kind=START), "a3: web still runs there"),
        (changed(2, kind=DESTROY, replica=None), "a3: web still runs there"),
        (changed(3, after=()), f"{ONE} 4g.24gb@0: actions a4 and a3 may happen in either order"),
        (changed(3, kind=START, replica=None), "a4: starts no replica"),
        (changed(3, placement=at("1g.6gb@0")), "a4: the instance does not exist at that point"),
    ],
)
def test_an_impossible_story_is_told(wrong: tuple[Action, ...], what: str) -> None:
    assert what in found(asked(), wrong)


def test_a_stop_of_nothing_on_an_empty_instance_is_impossible() -> None:
    empty = asked(current=deployed({WHOLE: None}, {}))
    told = found(empty, actions((STOP, ONE, WHOLE, None, "")))
    assert "a1: stops a replica that does not run there" in told


def test_no_action_is_on_a_fixed_instance() -> None:
    (gpu, *rest) = asked().current.gpus
    fixed = replace(gpu, instances=tuple(replace(each, fixed=True) for each in gpu.instances))
    told = found(asked(current=Deployment((fixed, *rest))), RIGHT)
    assert told == [f"{ONE} 4g.24gb@0: this instance is fixed, but an action changes it"]


def test_a_fixed_instance_that_is_left_alone_is_no_part_of_what_is_wanted() -> None:
    """The other's replica stays where it is, and the wanted deployment does not speak of it."""
    other = DeployedInstance(at("1g.6gb@3"), Replica("other", "net", 1, 1, 1.0, 1.0), fixed=True)
    small = replace(WEB, throughput=9.0)
    current = Deployment(
        (
            replace(
                deployed({"1g.6gb@0": WEB}).gpus[0],
                instances=(DeployedInstance(at("1g.6gb@0"), small), other),
            ),
            *deployed({}, {}).gpus[1:],
        )
    )
    final = Deployment((replace(current.gpus[0], instances=(other,)), current.gpus[1]))
    done = actions((STOP, ONE, "1g.6gb@0", small, ""), (DESTROY, ONE, "1g.6gb@0", None, "a1"))
    given = {"target": final, "makespan": 10.0, "peak_gpus": 1}
    nothing = deployed({})
    assert found(asked(0.0, current=current, target=nothing), done, **given) == []
    assert found(asked(0.0, current=current, target=final), done, **given) == []
    loose = tuple(
        replace(g, instances=tuple(replace(i, fixed=False) for i in g.instances)) for g in current.gpus
    )
    told = found(asked(0.0, current=Deployment(loose), target=nothing), done, **given)
    assert told == ["target: not the wanted deployment, even with its GPUs in another order"]


def quarters(*stand: str) -> Deployment:
    return deployed(dict.fromkeys(stand), {})


def layouts(
    current: Deployment, done: tuple[Action, ...], final: Deployment, forbid: tuple[str, ...]
) -> list[str]:
    request = asked(0.0, current=current, target=final, forbid=forbid)
    told = check_transition(request, Transition("x", done, request.floors, final, 0.0, 1, 0))
    return [str(each) for each in told if each.where not in {"makespan", "peak_gpus", "moved"}]


def test_what_may_stand_together_in_some_order_is_legal() -> None:
    current, final = quarters("1g.6gb@0", "1g.6gb@1"), quarters("2g.12gb@0")
    free = actions(
        (DESTROY, ONE, "1g.6gb@0", None, ""),
        (DESTROY, ONE, "1g.6gb@1", None, ""),
        (CREATE, ONE, "2g.12gb@0", None, "a1"),
    )
    assert layouts(current, free, final, ()) == [
        f"{ONE}: 2g.12gb@0 beside 1g.6gb@1 in some order: 2 instances overlap in memory slice 1"
    ]
    safe = (*free[:2], replace(free[2], after=("a1", "a2")))
    assert layouts(current, safe, final, ()) == []


def test_a_rule_on_three_instances_is_kept_in_every_order() -> None:
    current, final = quarters("1g.6gb@0", "1g.6gb@1"), quarters("2g.12gb@2")
    free = actions(
        (DESTROY, ONE, "1g.6gb@0", None, ""),
        (DESTROY, ONE, "1g.6gb@1", None, ""),
        (CREATE, ONE, "2g.12gb@2", None, ""),
    )
    three = ("1g+1g+2g",)
    assert layouts(current, free, final, three) == [
        f"{ONE}: 1g.6gb@0 1g.6gb@1 2g.12gb@2 in some order: 1g+1g+2g is forbidden"
    ]
    assert layouts(current, free, final, ()) == []
    assert layouts(current, (*free[:2], replace(free[2], after=("a2",))), final, three) == []


def test_a_rule_on_three_of_which_never_all_stand_together_is_kept() -> None:
    """Four instances: two that go before the other two come, each way."""
    current, final = quarters("1g.6gb@0", "1g.6gb@1"), quarters("1g.6gb@2", "1g.6gb@3")
    done = actions(
        (DESTROY, ONE, "1g.6gb@0", None, ""),
        (DESTROY, ONE, "1g.6gb@1", None, ""),
        (CREATE, ONE, "1g.6gb@2", None, "a1"),
        (CREATE, ONE, "1g.6gb@3", None, "a2"),
    )
    told = layouts(current, done, final, ("1g+1g+1g",))
    assert told == [], "each new one waits for an old one: never three"
    loose = (*done[:3], replace(done[3], after=()))
    assert sorted(layouts(current, loose, final, ("1g+1g+1g",))) == [
        f"{ONE}: 1g.6gb@0 1g.6gb@1 1g.6gb@3 in some order: 1g+1g+1g is forbidden",
        f"{ONE}: 1g.6gb@1 1g.6gb@2 1g.6gb@3 in some order: 1g+1g+1g is forbidden",
    ]


def test_an_instance_that_cannot_be_is_told_once() -> None:
    done = actions((CREATE, TWO, "2g.12gb@1", None, ""))
    told = layouts(quarters(), done, deployed({}, {"2g.12gb@1": None}), ())
    assert told == [f"{TWO}: 2g.12gb cannot start at 1"]


def test_a_gpu_that_the_catalogue_lacks_is_told() -> None:
    strange = Deployment(
        (DeployedGpu(ONE, "v100", deployed({WHOLE: WEB}).gpus[0].instances), *deployed({}, {}).gpus[1:])
    )
    told = found(
        asked(current=strange, target=strange), (), target=strange, makespan=0.0, peak_gpus=1, moved=0
    )
    assert len(told) == 1
    assert told[0].startswith(f"{ONE}: ")
    assert "v100" in told[0]
    both = Deployment((strange.gpus[0], deployed({}, {"2g.12gb@1": None}).gpus[1]))
    told = found(asked(0.0, current=both, target=both), (), target=both, makespan=0.0, moved=0)
    assert told[1:] == [f"{TWO}: 2g.12gb cannot start at 1"], "the others are looked at all the same"


# --- floors


def test_a_stop_before_its_start_breaks_the_floor() -> None:
    told = found(asked(), changed(2, after=()), makespan=10.0)
    assert told == ["web: may fall to 0 items/s in some order, under its floor of 10"]


def test_floors_are_those_asked_for() -> None:
    assert found(asked(), RIGHT, floors={"web": 9.0}) == ["floors: not the floors that were asked for"]


@pytest.mark.parametrize(
    ("whole", "missing", "wrong"),
    [
        (1000.0, 0.1, True),
        (1000.0, 0.01, True),
        (1000.0, 5e-4, False),
        (0.5, 1.2e-6, True),
        (0.5, 8e-7, False),
    ],
)
def test_a_floor_may_be_missed_by_rounding_and_by_no_more(
    whole: float, missing: float, *, wrong: bool
) -> None:
    """What replaces a stop is a little less at first; the rest comes in the end."""
    old, most, rest = (replace(WEB, throughput=t) for t in (whole, whole - missing, missing))
    final = deployed({}, {"2g.12gb@0": most, "1g.6gb@2": rest})
    request = asked(whole, current=deployed({WHOLE: old}, {}), target=final)
    done = actions(
        (CREATE, TWO, "2g.12gb@0", None, ""),
        (START, TWO, "2g.12gb@0", most, "a1"),
        (STOP, ONE, WHOLE, old, "a2"),
        (DESTROY, ONE, WHOLE, None, "a3"),
        (CREATE, TWO, "1g.6gb@2", None, ""),
        (START, TWO, "1g.6gb@2", rest, "a5 a3"),
    )
    told = found(request, done, target=final, makespan=17.0)
    assert [each.startswith("web: may fall to") for each in told] == ([True] if wrong else [])


def test_the_least_capacity_of_what_comes_is_none_at_first() -> None:
    new = replace(WEB, service="new")
    assert least_capacity(asked(), ActionGraph(moving(started=new))) == {"web": 0.0, "new": 0.0}
    assert least_capacity(asked(), ActionGraph(RIGHT)) == {"web": 10.0}


# --- what is reached


def test_the_target_is_what_the_actions_lead_to() -> None:
    wanted = asked().target
    (empty, _) = wanted.gpus
    lead = "target: the actions lead to another result on"
    other = "target: not the wanted deployment, even with its GPUs in another order"
    two = deployed({}, {WHOLE: replace(WEB, batch=4)})
    assert found(asked(), RIGHT, target=two) == [f"{lead} {TWO} 4g.24gb@0", other]
    more = deployed({"1g.6gb@3": WEB}, {WHOLE: WEB})
    assert found(asked(), RIGHT, target=more) == [f"{lead} {ONE} 1g.6gb@3", other]
    assert found(asked(), RIGHT, target=deployed({}, {})) == [f"{lead} {TWO} 4g.24gb@0", other]
    assert found(asked(target=Deployment((empty,))), RIGHT) == [other]
    turned = Deployment(wanted.gpus[::-1])
    assert found(asked(), RIGHT, target=turned) == [
        "target: its GPUs are not those of the current deployment"
    ]


def test_only_five_places_of_many_are_named() -> None:
    seven = deployed({f"1g.6gb@{n}": None for n in range(4)}, {f"1g.6gb@{n}": None for n in range(3)})
    told = found(asked(), RIGHT, target=seven)[0]
    assert told.count("@") == 5


def test_the_wanted_deployment_may_have_its_gpus_in_another_order_and_starts_elsewhere() -> None:
    assert found(asked(target=deployed({WHOLE: WEB}, {})), RIGHT) == []
    one, two = deployed({"1g.6gb@0": WEB}, {}, {}), deployed({"1g.6gb@3": WEB})
    still = {"target": one, "makespan": 0.0, "peak_gpus": 1, "moved": 0}
    assert found(asked(current=one, target=two), (), **still) == []


def test_as_many_gpus_alike_as_are_wanted_are_reached() -> None:
    one = deployed({WHOLE: WEB}, {})
    still = {"target": one, "makespan": 0.0, "peak_gpus": 1, "moved": 0}
    told = found(asked(current=one, target=deployed({WHOLE: WEB}, {WHOLE: WEB})), (), **still)
    assert told == ["target: not the wanted deployment, even with its GPUs in another order"]


def test_gpus_alike_are_counted() -> None:
    both = deployed({WHOLE: WEB}, {WHOLE: WEB}, {})
    still = {"target": both, "makespan": 0.0, "peak_gpus": 2, "moved": 0}
    assert found(asked(current=both, target=deployed({}, {WHOLE: WEB}, {WHOLE: WEB})), (), **still) == []
    three = deployed({"1g.6gb@0": WEB}, {WHOLE: WEB}, {})
    still["target"] = three
    assert found(asked(current=three, target=deployed({WHOLE: WEB}, {"1g.6gb@1": WEB})), (), **still) == []


def test_gpus_alike_beside_others_are_not_confused() -> None:
    """Two of the one and one of the other is not one of the one and two of the other."""
    one = deployed({WHOLE: WEB}, {WHOLE: WEB}, {"1g.6gb@0": WEB})
    other = deployed({WHOLE: WEB}, {"1g.6gb@0": WEB}, {"1g.6gb@0": WEB})
    still = {"target": one, "makespan": 0.0, "peak_gpus": 3, "moved": 0}
    told = found(asked(current=one, target=other), (), **still)
    assert told == ["target: not the wanted deployment, even with its GPUs in another order"]


# --- replicas and durations


def test_replicas_run_as_they_are_known_to() -> None:
    fast = replace(WEB, throughput=20.0)
    told = found(asked(), moving(started=fast))
    assert "a2: neither deployment runs web like this on 4g.24gb" in told


def test_actions_on_instances_name_no_replica() -> None:
    for which in (0, 3):
        told = found(asked(), changed(which, replica=WEB))
        assert f"a{which + 1}: an action on an instance names a replica" in told


def test_actions_take_as_long_as_their_kind() -> None:
    told = found(asked(), changed(3, seconds=1.0), makespan=14.0)
    assert told == ["a4: takes 1 s, not the 2 s of its kind"]


# --- predictions


@pytest.mark.parametrize(
    ("makespan", "right"),
    [(15.0, True), (15.00001, True), (14.99999, True), (15.001, False), (14.999, False), (30.0, False)],
)
def test_the_makespan_is_right_but_for_rounding(makespan: float, *, right: bool) -> None:
    told = found(asked(), RIGHT, makespan=makespan)
    assert told == ([] if right else [f"makespan: stated as {makespan:g} s, but it is 15 s"])


@pytest.mark.parametrize(("wrong", "right"), [(8e-7, True), (1.2e-6, False)])
def test_a_short_makespan_may_be_wrong_by_a_microsecond(wrong: float, *, right: bool) -> None:
    quick = replace(SECONDS, create_instance=0.5)
    final = deployed({WHOLE: WEB}, {"1g.6gb@0": None})
    done = (replace(actions((CREATE, TWO, "1g.6gb@0", None, ""))[0], seconds=0.5),)
    request = asked(durations=quick, target=final)
    told = found(request, done, target=final, makespan=0.5 + wrong, moved=0)
    assert [each.startswith("makespan") for each in told] == ([] if right else [True])


@pytest.mark.parametrize("field", ["peak_gpus", "moved"])
@pytest.mark.parametrize("by", [-1, 1])
def test_counts_that_are_promised_are_right(field: str, by: int) -> None:
    right = {"peak_gpus": 2, "moved": 1}[field]
    (told,) = found(asked(), RIGHT, **{field: right + by})
    assert told.startswith(f"{field}: stated as {right + by}")


def test_a_gpu_is_in_use_until_its_last_instance_has_gone() -> None:
    """The second GPU comes between the end of the first's one instance and of its other."""
    current = deployed({"1g.6gb@0": WEB, "1g.6gb@1": None}, {})
    done = actions(
        (DESTROY, ONE, "1g.6gb@1", None, ""),
        (STOP, ONE, "1g.6gb@0", WEB, ""),
        (DESTROY, ONE, "1g.6gb@0", None, "a2"),
        (CREATE, TWO, "1g.6gb@0", None, "a1"),
    )
    final = deployed({}, {"1g.6gb@0": None})
    request = asked(0.0, current=current, target=final)
    given = {"target": final, "makespan": 10.0}
    assert found(request, done, **given) == []
    assert found(request, done, **given, peak_gpus=1) == ["peak_gpus: stated as 1, but it is 2"]


def test_a_gpu_in_use_at_first_is_so_from_the_first_moment() -> None:
    quick = Durations(0.1, 0.1, 0.1, 0.1)
    done = tuple(
        replace(each, seconds=0.1)
        for each in actions((CREATE, TWO, "1g.6gb@0", None, ""), (DESTROY, TWO, "1g.6gb@0", None, "a1"))
    )
    still = deployed({WHOLE: WEB}, {})
    request = asked(durations=quick, target=still)
    assert found(request, done, target=still, makespan=0.2, moved=0) == []


# --- GPUs in use


def test_a_budget_that_some_order_overdraws_is_told() -> None:
    what = "extra_gpus: 2 GPUs may be in use at once in some order, of 1"
    assert found(asked(extra_gpus=0), RIGHT) == [what]
    late = actions(
        (STOP, ONE, WHOLE, WEB, ""),
        (DESTROY, ONE, WHOLE, None, "a1"),
        (CREATE, TWO, WHOLE, None, "a2"),
        (START, TWO, WHOLE, WEB, "a3"),
    )
    assert found(asked(0.0, extra_gpus=0), late, peak_gpus=1) == []
    loose = (*late[:2], replace(late[2], after=("a1",)), late[3])
    assert found(asked(0.0, extra_gpus=0), loose, peak_gpus=2, makespan=13.0) == [what]


def in_use(current: Deployment, done: tuple[Action, ...]) -> tuple[list[GpuUse], int]:
    graph = ActionGraph(done)
    stories = InstanceHistories(asked(0.0, current=current), graph)
    assert stories.violations == []
    return uses(graph, stories.lifetimes), most_in_use(graph, stories.lifetimes)


def test_instances_that_meet_are_one_use_of_their_gpu() -> None:
    current = deployed({"1g.6gb@0": None, "1g.6gb@1": None}, {})
    done = actions(
        (DESTROY, ONE, "1g.6gb@0", None, ""),
        (DESTROY, ONE, "1g.6gb@1", None, "a1"),
        (CREATE, ONE, "1g.6gb@2", None, "a1"),
        (DESTROY, ONE, "1g.6gb@2", None, "a3"),
    )
    (use,), most = in_use(current, done)
    assert (use.opens, sorted(use.closes), most) == ((), [0, 1, 3], 1)


def test_a_gpu_emptied_between_has_two_uses() -> None:
    current = deployed({"1g.6gb@0": None}, {})
    done = actions((DESTROY, ONE, "1g.6gb@0", None, ""), (CREATE, ONE, "1g.6gb@2", None, "a1"))
    found_, most = in_use(current, done)
    assert sorted((use.opens, use.closes) for use in found_) == [((), (0,)), ((1,), ())]
    assert most == 1


def test_a_gpu_follows_another_only_when_all_of_that_has_gone() -> None:
    current = deployed({"1g.6gb@0": None, "1g.6gb@1": None}, {})
    done = actions(
        (DESTROY, ONE, "1g.6gb@0", None, ""),
        (DESTROY, ONE, "1g.6gb@1", None, ""),
        (CREATE, TWO, "1g.6gb@0", None, "a1 a2"),
    )
    assert in_use(current, done)[1] == 1
    early = (*done[:2], replace(done[2], after=("a1",)))
    assert in_use(current, early)[1] == 2
    kept = (done[0], replace(done[2], id="a2", after=("a1",)))
    (old, new), most = in_use(current, kept)
    assert (old.closes, new.opens, most) == ((), (1,), 2), "one of its instances stays"


def test_gpus_given_up_are_matched_with_those_taken_so_that_most_are() -> None:
    """The first new one may follow either old one, the second only one of them: both follow, none is added."""
    four, old = "node-0/gpu-3", "1g.6gb@0"
    current = deployed({old: None}, {old: None}, {}, {})
    done = actions(
        (DESTROY, ONE, old, None, ""),
        (DESTROY, TWO, old, None, ""),
        (CREATE, THREE, old, None, "a1 a2"),
        (CREATE, four, old, None, "a1"),
    )
    for order in ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2)):
        mixed = tuple(done[i] for i in order)
        assert in_use(current, mixed)[1] == 2
    loose = (*done[:3], replace(done[3], after=()))
    assert in_use(current, loose)[1] == 3
    none = tuple(replace(each, after=()) for each in done)
    assert in_use(current, none)[1] == 4


def test_a_long_chain_of_swaps_is_followed_to_its_end() -> None:
    """Each new GPU may follow the old ones up to its number: matched greedily, the first takes all."""
    count, old = 6, "1g.6gb@0"
    current = deployed(*({old: None} for _ in range(count)), *({} for _ in range(count)))
    gone = [(DESTROY, f"node-0/gpu-{n}", old, None, "") for n in range(count)]
    come = [
        (CREATE, f"node-0/gpu-{count + n}", old, None, " ".join(f"a{k + 1}" for k in range(count - n)))
        for n in range(count)
    ]
    lines: list[Any] = [*gone, *come]
    assert in_use(current, actions(*lines))[1] == count
