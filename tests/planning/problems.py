"""Small planning problems for tests, and strategies that draw them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import OperatingPoint
from partita.planning.problem import Pool, Problem, Service, Size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.planning.problem import ObjectiveName

A30 = gpu_model("a30-24gb").restricted(["1g.6gb", "2g.12gb", "4g.24gb"])
A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])


def point(profile: str, throughput: float, power_w: float | None = None) -> OperatingPoint:
    return OperatingPoint(profile, 1, 1, throughput, 10.0, "mean", power_w=power_w)


def service(
    name: str, rate: float, sizes: Sequence[Size], throughput: Mapping[str, float], **more: Any
) -> Service:
    points = tuple(
        point(s.profile, throughput[s.profile]) if s.profile in throughput else None for s in sizes
    )
    return Service(name, name, rate, rate, 100.0, points, **more)


def problem(
    pools: Sequence[Pool], services: Mapping[str, tuple[float, Mapping[str, float]]], **more: object
) -> Problem:
    """Make a problem of services given as name: (rate, {profile: throughput})."""
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = tuple(service(name, rate, sizes, runs) for name, (rate, runs) in services.items())
    return Problem(tuple(pools), made, sizes, **more)  # type: ignore[arg-type]


@st.composite
def small_problems(draw: st.DrawFn, services: int = 3, count: int | None = None) -> Problem:
    """Problems on A30s, small enough to try every way."""
    runs = {}
    for index in range(draw(st.integers(1, services))):
        profiles = draw(st.sets(st.sampled_from([p.name for p in A30.profiles]), min_size=1))
        throughput = {name: float(draw(st.integers(1, 12))) for name in sorted(profiles)}
        runs[f"s{index}"] = (float(draw(st.integers(1, 25))), throughput)
    return problem([Pool("a30", A30, count)], runs)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Problems of a dozen services on one or two pools without counts, with replicas and spreads."""
    pools = [Pool("a100", A100, None, 4, 3.0)] + (
        [Pool("a30", A30, None, 4, 1.0)] if draw(st.booleans()) else []
    )
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(draw(st.integers(1, 12))):
        whole = draw(st.floats(1.0, 1000.0))
        share = {
            p.name: p.compute / 7 * draw(st.floats(0.6, 1.6)) for pool in pools for p in pool.gpu.profiles
        }
        runs = {name: whole * each for name, each in share.items() if draw(st.booleans())}
        runs = runs or {sizes[-1].profile: whole}
        made.append(
            service(
                f"s{index}",
                whole * draw(st.floats(0.01, 6.0)),
                sizes,
                runs,
                min_replicas=draw(st.integers(1, 3)),
                spread=draw(st.sampled_from([1, 1, 2])),
            )
        )
    objective: ObjectiveName = draw(st.sampled_from(["gpus", "cost"]))
    return Problem(tuple(pools), tuple(made), sizes, objective, draw(st.sampled_from([None, None, 1, 2, 3])))


@st.composite
def crowded_problems(draw: st.DrawFn) -> Problem:
    """Problems on a few nodes of A30s, small enough to try every way: pools, spreads, replicas, limits."""
    pools = [
        Pool(
            f"p{index}",
            A30,
            draw(st.sampled_from([1, 2, 3, 4, None])),
            draw(st.integers(1, 3)),
            float(draw(st.sampled_from([1, 1, 2]))),
        )
        for index in range(draw(st.integers(1, 2)))
    ]
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(draw(st.integers(1, 3))):
        profiles = draw(st.sets(st.sampled_from([p.name for p in A30.profiles]), min_size=1))
        throughput = {name: float(draw(st.integers(1, 8))) for name in sorted(profiles)}
        allowed = draw(st.sampled_from([None, None, 0, len(pools) - 1]))
        one = service(
            f"s{index}",
            float(draw(st.integers(1, 10))),
            sizes,
            throughput,
            min_replicas=draw(st.integers(1, 2)),
            spread=draw(st.sampled_from([1, 1, 2, 3])),
        )
        points = tuple(
            point if allowed is None or size.pool == allowed else None
            for point, size in zip(one.points, sizes, strict=True)
        )
        made.append(replace(one, points=points))
    objective: ObjectiveName = draw(st.sampled_from(["gpus", "cost"]))
    return Problem(tuple(pools), tuple(made), sizes, objective, draw(st.sampled_from([None, None, 1, 2])))
