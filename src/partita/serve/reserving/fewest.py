"""The fewest GPUs of a pool whose cut holds a rate: bisection from the fluid bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, PartitaError
from partita.serve.cut import ServingCut
from partita.serve.cuts.fluid import FluidCut
from partita.serve.cuts.homogeneous import BestHomogeneous
from partita.serve.cuts.paris import Paris
from partita.serve.cuts.search import Search
from partita.serve.fluid import fluid_gpus, fluid_rate
from partita.serve.routers.late_binding import LateBinding
from partita.serve.throughput import enough_queries, throughput, unit_traffic

if TYPE_CHECKING:
    from partita.deadline import Deadline
    from partita.serve.cut import Cutter
    from partita.serve.problem import ServingProblem
    from partita.serve.reserving.asked import CutService, Offer
    from partita.sim.arrivals import Traffic

MOST_GPUS = 500
"""Beyond, a simulation takes too long to search with."""

ROUTER = LateBinding()
"""Who routes the queries: the gateway's default."""

_QUERIES, _SEEDS = 20_000, 5


@dataclass(frozen=True, slots=True)
class Held:
    """A cut, and the queries/s that it holds: the lower end of the 95 % confidence interval over seeds."""

    cut: ServingCut
    rate: float


@dataclass(frozen=True, slots=True)
class Fewest:
    """What was found on one pool.

    Attributes:
        held: the cut with the fewest GPUs, None if all that there are do not hold the rate.
        least: fewest GPUs that any cut and router need in the long run (fluid bound, replicas and nodes).
    """

    held: Held | None
    least: int


def cutter(name: str, watch: Deadline) -> Cutter:
    """Return the cutter that a workload names; a search returns its best when the watch is over."""
    cutters: dict[str, Cutter] = {
        "search": Search(ROUTER, over=lambda: watch.over),
        "fluid": FluidCut(),
        "paris": Paris(),
        "homogeneous": BestHomogeneous(ROUTER),
    }
    return cutters[name]


def fewest(
    service: CutService,
    offer: Offer,
    most: int | None,
    watch: Deadline,
    *,
    seed: int = 0,
    keep: ServingCut | None = None,
) -> Fewest:
    """Return the cut of the fewest GPUs that holds a service's rate.

    From the fluid bound the number is raised by 1, 2, 4, ... until the cut holds the rate, then halved back.

    Args:
        service: what is asked.
        offer: one GPU of the pool.
        most: GPUs there are; None for any number.
        watch: when it is over, the fewest so far is returned.
        seed: of the traffic that a cut is measured with; a search for cuts never sees this traffic.
        keep: cut that runs now, kept where it needs no more GPUs than another and holds the rate.

    Raises:
        InfeasibleError: the chosen cut answers too few queries in time at any rate.
        PartitaError: the time was over before any was found.
    """
    least = least_gpus(service, offer.problem)
    limit = MOST_GPUS if most is None else min(most, MOST_GPUS)
    probe = _Probe(service, offer.problem, watch, seed)
    if keep is not None and len(keep.gpus) <= limit:
        probe.found[len(keep.gpus)] = probe.holds(keep)
    short, enough, step = least - 1, least, 1
    while enough <= limit and not probe.enough(enough):
        _look(watch, None, least)
        short, enough = enough, min(enough + step, limit) if enough < limit else limit + 1
        step *= 2
    if enough > limit:
        _refuse_hopeless(probe, limit)
        if most is None:
            raise _too_many(service, least)
        return Fewest(None, least)
    while enough - short > 1 and not watch.over:
        watch.tell(enough, least)
        middle = (short + enough) // 2
        short, enough = (short, middle) if probe.enough(middle) else (middle, enough)
    return Fewest(probe.found[enough], least)


def most_held(service: CutService, offer: Offer, gpus: int, watch: Deadline, seed: int = 0) -> Held | None:
    """Return what the chosen cut of so many GPUs holds; None if nothing."""
    return _Probe(service, offer.problem, watch, seed).cut(min(gpus, MOST_GPUS))


def least_gpus(service: CutService, problem: ServingProblem) -> int:
    """Return the fewest GPUs that any cut and router need: for the rate, the replicas and the nodes."""
    per_gpu = max(sum(each) for each in problem.multisets)
    spec = service.spec
    fluid = fluid_gpus(problem, service.rate, served=problem.quantile)
    return max(1, fluid, math.ceil(spec.min_replicas / per_gpu), spec.spread)


def _look(watch: Deadline, best: int | None, least: int) -> None:
    watch.tell(best, least)
    if watch.over:
        raise PartitaError("no plan was found in the time there was", hint="raise --time-limit")


def _too_many(service: CutService, least: int) -> InfeasibleError:
    return InfeasibleError(
        f"{service.spec.name} takes {least:,} GPUs at least, more than {MOST_GPUS} by simulation"
        if least > MOST_GPUS
        else f"{service.spec.name}: the cut {service.cut} does not hold the rate on {MOST_GPUS} GPUs",
        where=f"services[{service.index}]",
        hint="split it into services of lower rates, or choose cut: search",
    )


def _refuse_hopeless(probe: _Probe, limit: int) -> None:
    """Pass on why a cutter made no cut that answers anything, if so it was on all numbers of GPUs tried."""
    if probe.error is not None and not any(held and held.rate > 0 for held in probe.found.values()) and limit:
        raise probe.error


class _Probe:
    """What the cutter's cut of each number of GPUs holds, each worked out once."""

    def __init__(self, service: CutService, problem: ServingProblem, watch: Deadline, seed: int) -> None:
        self._service = service
        self._problem = problem
        self._seed = seed
        self._cutter = cutter(service.cut, watch)
        self.found: dict[int, Held | None] = {}
        self.error: InfeasibleError | None = None

    def enough(self, gpus: int) -> bool:
        """Say whether the cut of so many GPUs holds the rate, on enough instances."""
        if gpus not in self.found or not self._holds(self.found[gpus]):
            self.found[gpus] = self.cut(gpus)
        return self._holds(self.found[gpus])

    def _holds(self, held: Held | None) -> bool:
        service = self._service
        return (
            held is not None
            and held.rate >= service.rate
            and held.cut.counts.sum() >= service.spec.min_replicas
            and len(held.cut.gpus) >= service.spec.spread
        )

    def cut(self, gpus: int) -> Held | None:
        """Return what the cutter's cut of so many GPUs holds; None if nothing."""
        try:
            return self.holds(self._cutter.cut(self._problem.with_gpus(gpus)))
        except InfeasibleError as error:
            error.where = f"services[{self._service.index}].cut"
            self.error = error
            return None

    def holds(self, cut: ServingCut) -> Held | None:
        """Return what a cut holds, sizes that answer nothing in time left out; None if it holds nothing."""
        asked = self._problem.feasible[:, self._problem.share > 0]
        used = [k for k, own in enumerate(asked) if np.isfinite(own).any()]
        gpus = [tuple(n if k in used else 0 for k, n in enumerate(each)) for each in cut.gpus]
        cut = ServingCut.of(each for each in gpus if any(each))
        if not cut.gpus:
            return None
        problem = self._problem.with_gpus(len(cut.gpus))
        bound = fluid_rate(problem, cut.counts, served=problem.quantile).rate
        if bound <= 0:
            return None
        found = throughput(problem, cut.counts, ROUTER, fresh_traffic(problem, self._seed), bound)
        return Held(cut, found.rate - found.half_width)


def fresh_traffic(problem: ServingProblem, seed: int, runs: int = _SEEDS) -> list[Traffic]:
    """Return traffic of one query per second that belongs to a plan's seed."""
    queries = enough_queries(problem, _QUERIES)
    return [unit_traffic(problem.share, queries, 1_000 * (seed + 1) + run) for run in range(runs)]
