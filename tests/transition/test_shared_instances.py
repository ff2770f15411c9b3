"""Transitions between instances that several services share: every service keeps its floor on the way."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import pytest
from tests.transition.small import SECONDS, deployed

from partita.errors import InfeasibleError, InputError
from partita.perf.operating_point import Tenant
from partita.transition.check import ActionGraph, check_transition, least_capacity
from partita.transition.deployment import Replica
from partita.transition.document import read_transition, write_transition
from partita.transition.exchange_compact import ExchangeCompact
from partita.transition.overview import service_changes, timeline
from partita.transition.shortest import Shortest
from partita.transition.transition import Action, ActionKind, Request, Transition

if TYPE_CHECKING:
    from pathlib import Path

    from partita.transition.deployment import Deployment


def bundle(names: str, throughput: float = 1.0) -> Replica:
    """Return a replica of the services of one letter each."""
    tenants = tuple(Tenant(name, f"m{name}", 1, throughput, 10.0, 500.0) for name in names)
    return Replica(f"{names[0]} +{len(names) - 1}", "m", 1, 1, 100.0, 10.0, tenants)


def between(now: Deployment, then: Deployment, extra: int | None = None) -> Request:
    return Request(now, then, now.capacity(), then.capacity(), SECONDS, extra)


def moved(request: Request) -> Transition:
    found = Shortest().transition(request)
    assert check_transition(request, found) == []
    least = least_capacity(request, ActionGraph(found.actions))
    assert all(least[name] >= floor - 1e-9 for name, floor in request.floors.items())
    return found


def test_a_service_moves_to_another_instance_and_answers_all_the_time() -> None:
    now = deployed({"2g.12gb@0": bundle("abc"), "2g.12gb@2": bundle("de")}, {})
    then = deployed({"2g.12gb@0": bundle("ab"), "2g.12gb@2": bundle("cde")}, {})
    found = moved(between(now, then))
    assert found.moved == 2
    assert {
        change.name: change.move for change in service_changes(between(now, then), found)
    } == dict.fromkeys("abcde", 1)


def test_services_that_stay_together_stay_where_they_are_whatever_they_are_promised() -> None:
    now = deployed({"2g.12gb@0": bundle("abc"), "2g.12gb@2": bundle("de")}, {})
    then = deployed({"2g.12gb@0": bundle("abc", 0.7), "2g.12gb@2": bundle("de", 0.7)}, {})
    assert moved(between(now, then)).actions == ()


def test_a_shared_instance_goes_only_when_all_its_services_run_elsewhere() -> None:
    now = deployed({"4g.24gb@0": bundle("abcd")}, {})
    then = deployed({"2g.12gb@0": bundle("ab"), "2g.12gb@2": bundle("cd")}, {})
    found = moved(between(now, then))
    (stop,) = (each for each in found.actions if each.kind is ActionKind.STOP_REPLICA)
    starts = [each.id for each in found.actions if each.kind is ActionKind.START_REPLICA]
    assert len(starts) == 2
    assert set(starts) <= ancestors(found, stop)


def ancestors(found: Transition, action: Action) -> set[str]:
    known = {each.id: each for each in found.actions}
    seen: set[str] = set()
    waiting = list(action.after)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += known[name].after
    return seen


@pytest.mark.parametrize("seed", range(12))
def test_random_bundles_change_places(seed: int) -> None:
    shuffle = random.Random(seed)

    def random_deployment() -> Deployment:
        names = list("abcdefgh")
        shuffle.shuffle(names)
        cuts = sorted(shuffle.sample(range(1, 8), 3))
        parts = [names[i:j] for i, j in zip([0, *cuts], [*cuts, 8], strict=True)]
        bundles = [bundle("".join(sorted(part))) for part in parts]
        return deployed(
            {"2g.12gb@0": bundles[0], "2g.12gb@2": bundles[1]},
            {"2g.12gb@0": bundles[2], "2g.12gb@2": bundles[3]},
            {},
            {},
        )

    moved(between(random_deployment(), random_deployment()))


def test_without_room_for_a_second_copy_it_is_refused() -> None:
    now = deployed({"4g.24gb@0": bundle("abcd")})
    then = deployed({"2g.12gb@0": bundle("ab"), "2g.12gb@2": bundle("cd")})
    with pytest.raises(InfeasibleError, match="no transition was found that keeps the floors on the 1 GPU "):
        Shortest().transition(between(now, then))


def test_the_checker_sees_each_service_of_a_shared_instance() -> None:
    now = deployed({"2g.12gb@0": bundle("abc")}, {})
    then = deployed({}, {"4g.24gb@0": bundle("abc")})
    request = between(now, then)
    found = moved(request)
    loose = tuple(
        Action(each.id, each.kind, each.gpu, each.placement, each.replica, (), each.seconds)
        if each.kind is ActionKind.STOP_REPLICA
        else each
        for each in found.actions
    )
    wrong = Transition(
        found.algorithm, loose, found.floors, found.target, found.makespan, found.peak_gpus, found.moved
    )
    said = [each.where for each in check_transition(request, wrong) if "under its floor" in each.what]
    assert sorted(said) == ["a", "b", "c"]


def test_a_document_and_a_timeline_have_every_service(tmp_path: Path) -> None:
    now = deployed({"4g.24gb@0": bundle("abcd")}, {})
    then = deployed({"2g.12gb@0": bundle("ab"), "2g.12gb@2": bundle("cd")}, {})
    request = between(now, then)
    found = moved(request)
    text = io.StringIO()
    write_transition(found, text)
    path = tmp_path / "transition.json"
    path.write_text(text.getvalue())
    assert read_transition(path) == found
    assert set(timeline(request, found).capacity) == set("abcd")


def test_exchange_and_compact_refuses_instances_that_services_share() -> None:
    now = deployed({"2g.12gb@0": bundle("ab")}, {})
    with pytest.raises(InputError, match=r"moves one service at a time, and a \+1 share one"):
        ExchangeCompact().transition(between(now, now))
