"""Leaving out instances breaks no promise, and leaves none that could go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.planning.problems import A30, service

from partita.planning.problem import GpuConfig, Pool, Problem, Size
from partita.planning.shared_gpus import trim

SIZES = tuple(Size(0, profile.name) for profile in A30.profiles)
RUNS = {"1g.6gb": 1.0, "2g.12gb": 2.0, "4g.24gb": 4.0}


def made(*promises: tuple[float, int, int]) -> Problem:
    """Return a problem of services with these rates, replicas and spreads on A30s."""
    services = tuple(
        service(f"s{i}", rate, SIZES, RUNS, min_replicas=replicas, spread=spread)
        for i, (rate, replicas, spread) in enumerate(promises)
    )
    return Problem((Pool("a30", A30),), services, SIZES)


def standing(configs: Counter[GpuConfig], s: int) -> tuple[float, int, int]:
    """Return what a service has: rate, instances, and GPUs that it stands on."""
    mine = [[k for k, of in config.assignment if of == s] for config in configs.elements()]
    rate = sum(RUNS[SIZES[k].profile] for slots in mine for k in slots)
    return rate, sum(map(len, mine)), sum(1 for slots in mine if slots)


def gpus(*slots: tuple[tuple[int, int], ...]) -> Counter[GpuConfig]:
    return Counter(GpuConfig(0, each) for each in slots)


def test_what_is_beyond_the_rate_goes_and_the_smallest_that_suffices_stays() -> None:
    left = trim(made((2.0, 1, 1)), gpus(((0, 0),), ((1, 0),), ((2, 0),)))
    assert standing(left, 0)[0] >= 2.0
    assert standing(left, 0)[1] == 1


def test_replicas_stay() -> None:
    left = trim(made((1.0, 3, 1)), gpus(((0, 0), (0, 0)), ((0, 0), (0, 0))))
    assert standing(left, 0)[:2] == (3.0, 3)


def test_a_service_stays_on_as_many_gpus_as_it_must_be_spread_over() -> None:
    for spread in (1, 2, 3):
        left = trim(made((1.0, 1, spread)), gpus(((0, 0), (0, 0)), ((0, 0),), ((1, 0),)))
        assert standing(left, 0)[2] == spread
        assert standing(left, 0)[1] == spread  # of two on one GPU one goes all the same


def test_gpus_that_nothing_is_left_on_go() -> None:
    left = trim(made((4.0, 1, 1)), gpus(((2, 0),), ((0, 0),)))
    assert sum(left.values()) == 1


@given(st.data())
def test_every_promise_that_was_kept_is_kept_and_nothing_is_left_to_go(data: st.DataObject) -> None:
    promises = [
        (
            data.draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 5.0])),
            data.draw(st.integers(1, 3)),
            data.draw(st.integers(1, 3)),
        )
        for _ in range(2)
    ]
    slots = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=2).map(tuple)
    before = gpus(*data.draw(st.lists(slots, min_size=1, max_size=5)))
    problem = made(*promises)
    after = trim(problem, before)
    for s, promise in enumerate(promises):
        had, has = standing(before, s), standing(after, s)
        assert all(now >= min(was, asked) for was, now, asked in zip(had, has, promise, strict=True))
        assert all(now <= was for was, now in zip(had, has, strict=True))
        if all(was >= asked for was, asked in zip(had, promise, strict=True)):
            # Whatever instance is taken away now, some promise breaks.
            for config in list(after):
                for slot in {each for each in config.assignment if each[1] == s}:
                    rest = list(config.assignment)
                    rest.remove(slot)
                    fewer = after - Counter([config]) + Counter([GpuConfig(0, tuple(rest))])
                    found = standing(fewer, s)
                    assert any(now < asked for now, asked in zip(found, promise, strict=True))
