"""Which GPUs each service with a cut gets: the pool that costs least, the cut, and what each instance gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from partita.perf.operating_point import OperatingPoint
from partita.planning.exact import TooFewGpusError
from partita.serve.outcome import TICK
from partita.serve.reserving.fewest import ROUTER, fewest, fresh_traffic, least_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.planning.problem import Problem
    from partita.serve.cut import ServingCut
    from partita.serve.problem import ServingProblem
    from partita.serve.reserving.asked import CutService, Offer
    from partita.serve.reserving.fewest import Held
    from partita.serve.reserving.running import Running
    from partita.sim.arrivals import Traffic

Points = dict[str, OperatingPoint]
"""Operating points by profile."""


@dataclass(frozen=True, eq=False)
class Reservation:
    """Whole GPUs for one service.

    Attributes:
        service: for whom.
        offer: the pool they are of.
        cut: how each is cut.
        points: how an instance of each profile in the cut is run; their throughputs add up to the capacity.
        least: fewest GPUs of that pool that any cut and router need.
    """

    service: CutService
    offer: Offer
    cut: ServingCut
    points: Points
    least: int

    @property
    def capacity(self) -> float:
        """Items/s that the cut holds."""
        counts = zip(self.offer.problem.profiles, self.cut.counts.tolist(), strict=True)
        return float(sum(n * self.points[profile].throughput for profile, n in counts if n))


@dataclass(frozen=True, slots=True)
class Reserver:
    """Finds reservations, each once.

    Attributes:
        problem: pools and objective.
        watch: when it is over, the fewest GPUs so far are taken.
        seed: of the traffic that cuts are measured with.
        running: what services run on now, kept where that is as good.
    """

    problem: Problem
    watch: Deadline
    seed: int
    running: Mapping[str, Running] = field(default_factory=dict)
    _known: dict[tuple[int, int, int | None], Reservation | None] = field(default_factory=dict)

    def bound(self, service: CutService) -> float:
        """Return a proven lower bound of what a service adds to the objective, whatever the pool."""
        return min(self._least_cost(service, offer) for offer in service.offers)

    def _least_cost(self, service: CutService, offer: Offer) -> float:
        return least_gpus(service, offer.problem) * self.problem.gpu_cost(offer.pool)

    def options(self, service: CutService, left: Sequence[int | None]) -> list[Reservation]:
        """Return what each pool could give, the cheapest first.

        A pool whose bound already costs more than another's find is not searched.

        Args:
            service: what is asked.
            left: GPUs left in each pool; None for any number.

        Raises:
            TooFewGpusError: no pool has enough GPUs.
            InfeasibleError: the chosen cut answers too few queries in time at any rate.
            PartitaError: the time was over before anything was found.
        """
        found: list[Reservation] = []
        for offer in sorted(service.offers, key=lambda each: self._least_cost(service, each)):
            if found and self._least_cost(service, offer) >= self.cost(found[0]):
                break
            made = self.reservation(service, offer, left[offer.pool])
            if made is not None:
                found = sorted([*found, made], key=self.cost)
        if not found:
            raise self._too_few(service, left)
        return found

    def cost(self, made: Reservation) -> float:
        """Return what a reservation adds to the objective."""
        return len(made.cut.gpus) * self.problem.gpu_cost(made.offer.pool)

    def reservation(self, service: CutService, offer: Offer, most: int | None) -> Reservation | None:
        """Return the reservation of fewest GPUs in a pool; None if it has too few."""
        key = (service.index, offer.pool, most)
        if key not in self._known:
            self._known[key] = self._find(service, offer, most)
        return self._known[key]

    def _find(self, service: CutService, offer: Offer, most: int | None) -> Reservation | None:
        running = self.running.get(service.spec.name)
        keep = (
            running.cut(self.problem.pools[offer.pool].gpu.name, offer.problem.profiles) if running else None
        )
        found = fewest(service, offer, most, self.watch, seed=self.seed, keep=keep)
        if found.held is None:
            return None
        now = running.points(service, found.held) if running and found.held.cut == keep else None
        points = now or instance_points(service, offer, found.held, self.seed)
        return Reservation(service, offer, found.held.cut, points, found.least)

    def _too_few(self, service: CutService, left: Sequence[int | None]) -> TooFewGpusError:
        names = [
            f"{least_gpus(service, offer.problem)} of {self.problem.pools[offer.pool].name} at least, and "
            f"{left[offer.pool]} are left"
            for offer in service.offers
        ]
        return TooFewGpusError(
            f"too few GPUs: {service.spec.name} needs whole ones of its own, {'; or '.join(names)}",
            where=f"services[{service.index}]",
            hint="raise `count`, lower its rate, or allow a longer latency",
        )


def instance_points(service: CutService, offer: Offer, held: Held, seed: int) -> Points:
    """Return how an instance of each profile is run when the cut serves all that it holds.

    The batch is the largest query that it answers in time. The throughput is its share of the items answered in time
    in simulation, instances of one profile having equal shares, so that all together give what the cut holds.
    """
    problem, counts = offer.problem.with_gpus(len(held.cut.gpus)), held.cut.counts
    share = _shares(problem, counts, [each.faster(held.rate) for each in fresh_traffic(problem, seed)])
    return {
        profile: OperatingPoint(
            profile=profile,
            batch=offer.takes[k][0],
            processes=1,
            throughput=float(held.rate * service.items * share[k] / counts[k]),
            latency_ms=offer.takes[k][1] * 1000,
            quantile=offer.quantile,
            estimated=profile in offer.estimated,
        )
        for k, profile in enumerate(problem.profiles)
        if counts[k]
    }


def _shares(
    problem: ServingProblem, counts: NDArray[np.int64], traffic: Sequence[Traffic]
) -> NDArray[np.float64]:
    """Return the share of the items answered in time by each size, adding up to 1; shape (K,)."""
    size_of = np.repeat(np.arange(len(counts)), counts)
    serve = ROUTER.on(problem, counts)
    items = np.zeros(len(counts))
    for each in traffic:
        outcome = serve(each)
        good = outcome.latency <= problem.deadline + TICK
        by = size_of[outcome.instance[good]]
        items += np.bincount(by, weights=each.batch[good], minlength=len(counts))
    return np.asarray(items / items.sum())
