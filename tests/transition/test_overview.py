"""What a transition is summed up as adds up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.transition.exchange_compact import ExchangeCompact
from partita.transition.overview import service_changes, timeline
from partita.transition.shortest import Shortest
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.transition.deployment import Deployment
    from partita.transition.transition import Request


def replicas(deployment: Deployment) -> Counter[str]:
    return Counter(i.replica.service for gpu in deployment.gpus for i in gpu.instances if i.replica)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_replicas_that_stay_move_come_end_and_stand_in_add_up(
    random_request: Callable[..., Request], seed: int
) -> None:
    request = random_request(seed)
    way = Shortest(tries=4).transition(request)
    now, then = replicas(request.current), replicas(way.target)
    starts = Counter(
        a.replica.service for a in way.actions if a.replica and a.kind is ActionKind.START_REPLICA
    )
    for each in service_changes(request, way):
        assert min(each.replicas.values()) >= 0
        assert each.stay + each.move + each.end == now[each.name]
        assert each.stay + each.move + each.new == then[each.name]
        assert each.move + each.new + each.stand_in == starts[each.name]
        assert each.least >= each.floor - 1e-6


def test_nothing_left_of_a_sum_is_0_without_a_sign(
    random_request: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = random_request(1)
    way = Shortest(tries=1).transition(request)
    left = dict.fromkeys(request.current.capacity(), -1e-13)
    monkeypatch.setattr("partita.transition.overview.least_capacity", lambda *_: left)
    assert left
    assert {f"{each.least:,.6g}" for each in service_changes(request, way)} == {"0"}


if TYPE_CHECKING:
    Make = Callable[..., Request]


@given(seed=st.integers(0, 10**6))
def test_a_timeline_agrees_with_the_transition(random_request: Make, seed: int) -> None:
    request = random_request(seed, gpus=(1, 4))
    for algorithm in (Shortest(tries=2), ExchangeCompact()):
        transition = algorithm.transition(request)
        course = timeline(request, transition)
        assert len(course.bars) == len(transition.actions)
        assert max((bar.end for bar in course.bars), default=0.0) == pytest.approx(transition.makespan)
        assert max(point.value for point in course.gpus) == transition.peak_gpus
        assert course.gpus[0].value >= request.current.used
        assert course.gpus[-1].value == transition.target.used
        ends = transition.target.capacity()
        for service, points in course.capacity.items():
            assert [p.second for p in points] == sorted({p.second for p in points})
            assert points[-1].value == pytest.approx(ends.get(service, 0.0), abs=1e-6)
            floor = request.floors.get(service, 0.0)
            assert min(p.value for p in points) >= floor - 1e-6 * max(1.0, floor)
