from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.transition.exchange_compact import ExchangeCompact
from partita.transition.overview import timeline
from partita.transition.shortest import Shortest

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.transition.transition import Request

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
