from __future__ import annotations

from dataclasses import replace

from tests.transition.small import ONE, SECONDS, TWO, WEB, deployed

from partita.transition.deployment import Deployment, restated
from partita.transition.moves import Moves, moves_between, total_moves
from partita.transition.overview import service_changes
from partita.transition.shortest import Shortest
from partita.transition.transition import Request

OTHER = replace(WEB, service="mail")
ELDER = replace(WEB, service="old")


def test_moved_new_and_ended_replicas_are_a_move_each() -> None:
    now = deployed({"1g.6gb@0": WEB, "1g.6gb@1": OTHER, "2g.12gb@2": ELDER}, {})
    then = deployed({"1g.6gb@0": WEB, "2g.12gb@2": OTHER, "1g.6gb@1": OTHER}, {"4g.24gb@0": OTHER})
    found = moves_between(now, then)
    assert found == {"mail": Moves(1, 0, 2), "old": Moves(0, 1, 0), "web": Moves(1, 0, 0)}
    assert total_moves(found) == 3
    request = Request(now, then, {}, {}, SECONDS)
    changes = service_changes(request, Shortest().transition(request))
    assert {each.name: each.moves for each in changes} == {name: each.count for name, each in found.items()}


def test_a_stop_and_a_start_of_one_service_are_one_move() -> None:
    now, then = deployed({"1g.6gb@0": WEB}, {}), deployed({"2g.12gb@0": WEB}, {})
    assert moves_between(now, then) == {"web": Moves(0, 1, 1)}
    assert total_moves(moves_between(now, then)) == 1


def test_a_replica_whose_figures_have_changed_stays_and_counts_with_the_new_ones() -> None:
    now = deployed({"1g.6gb@0": WEB, "2g.12gb@2": OTHER}, {})
    slower = replace(WEB, throughput=8.0, latency_ms=12.0)
    then = deployed({"1g.6gb@0": slower, "2g.12gb@2": replace(OTHER, batch=4)}, {})
    assert moves_between(now, then) == {"mail": Moves(0, 1, 1), "web": Moves(1, 0, 0)}
    known = restated(now, then)
    assert known.capacity() == {"web": 8.0, "mail": 10.0}
    assert [gpu.id for gpu in known.gpus] == [ONE, TWO]


def test_what_must_leave_its_gpu_moves() -> None:
    now = deployed({"1g.6gb@0": WEB}, {})
    leaving = Deployment((replace(now.gpus[0], leaving=True), now.gpus[1]))
    assert moves_between(leaving, deployed({"1g.6gb@0": WEB})) == {"web": Moves(0, 1, 1)}
