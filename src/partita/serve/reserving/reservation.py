"""Whole GPUs for one service with a cut: the cheapest pool, the fewest GPUs there, how they are cut and run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, PartitaError
from partita.perf.operating_point import OperatingPoint
from partita.planning.exact import TooFewGpusError
from partita.serve.cuts import BestHomogeneous, FluidCut, Paris, Search
from partita.serve.fluid import fluid_gpus, fluid_rate
from partita.serve.problem import TICK, ServingCut, in_words
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import attainment_by_class, enough_queries, throughput, unit_traffic
from partita.transition.deployment import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.planning.problem import Pool, Problem
    from partita.serve.problem import Cutter, ServingProblem
    from partita.serve.reserving.services import CutService, PoolProblem
    from partita.sim.traffic import Traffic
    from partita.transition.deployment import DeployedGpu, Replica


MOST_GPUS = 500
"""Maximum number of GPUs of a reservation, since simulations of more take too long."""
ROUTER = LateBinding
"""Router of the simulated queries: the gateway's default."""
_QUERIES, _SEEDS = 20_000, 5
_NOISE = 1.01
"""Factor by which a figure may exceed a repeated measurement: its accuracy."""
Points = dict[str, OperatingPoint]
"""Operating points by profile."""


@dataclass(frozen=True, eq=False)
class GpuReservation:
    """Whole GPUs for one service.

    Attributes:
        service: that gets the GPUs.
        offer: the pool of the GPUs.
        cut: how each is cut.
        points: operating point of each profile in the cut; throughputs of all instances add up to the capacity.
        least: fewest GPUs of that pool that any cut and router need.
        in_time: share of the queries of each class of batch sizes that is in time in simulation at the capacity.
    """

    service: CutService
    offer: PoolProblem
    cut: ServingCut
    points: Points
    least: int
    in_time: tuple[float, ...]

    @property
    def capacity(self) -> float:
        """Items/s that the cut holds."""
        counts = zip(self.offer.problem.profiles, self.cut.counts.tolist(), strict=True)
        return float(sum(n * self.points[profile].throughput for profile, n in counts if n))


def describe(made: GpuReservation, pools: Sequence[Pool]) -> str:
    """Return a sentence about a reservation for the user."""
    service, gpus = made.service, len(made.cut.gpus)
    slices = ", ".join(
        f"{n} {profile}"
        for profile, n in zip(made.offer.problem.profiles, made.cut.counts.tolist(), strict=True)
        if n
    )
    pool = pools[made.offer.pool].name
    others = [pools[offer.pool].name for offer in service.offers if offer is not made.offer]
    why = f", the best pool of {pool}, {', '.join(others)}" if others else ""
    bound = "as few as any cut needs" if made.least == gpus else f"any cut needs {made.least} at least"
    return (
        f"{service.spec.name}: {gpus} {pool} alone, cut by {service.cut} into {slices}{why}; holds "
        f"{made.capacity / service.items:,.4g} queries/s of {service.items:.3g} items each with "
        f"{made.offer.problem.quantile:.4g} in time{_by_class(made)}, {bound}"
    )


def _by_class(made: GpuReservation) -> str:
    """Return what each class of batch sizes gets in simulation at the capacity, in words; empty without classes."""
    classes = made.offer.problem.classes
    if not classes:
        return ""
    shares = zip(in_words(classes), made.in_time, strict=True)
    return f" of each size ({', '.join(f'{name}: {part:.2%}' for name, part in shares)} in simulation)"


@dataclass(frozen=True, slots=True)
class Reserver:
    """Finds reservations, each once.

    Attributes:
        problem: pools and objective.
        deadline: when it is over, the fewest GPUs found so far are taken.
        seed: of the traffic that cuts are measured with.
        running: the current GPUs of services, which are kept if no cut needs fewer.
    """

    problem: Problem
    deadline: Deadline
    seed: int
    running: Mapping[str, RunningGpus] = field(default_factory=dict)
    _known: dict[tuple[int, int, int | None], GpuReservation | None] = field(default_factory=dict)

    def bound(self, service: CutService) -> float:
        """Return a proven lower bound of what a service adds to the objective, whatever the pool."""
        return min(self._least_cost(service, offer) for offer in service.offers)

    def _least_cost(self, service: CutService, offer: PoolProblem) -> float:
        return least_gpus(service, offer.problem) * self.problem.gpu_cost(offer.pool)

    def options(self, service: CutService, left: Sequence[int | None]) -> list[GpuReservation]:
        """Return the best reservation in each pool, the cheapest first.

        A pool is not searched if its lower bound costs more than a reservation in another pool.

        Args:
            service: what is asked.
            left: GPUs left in each pool; None for any number.

        Raises:
            TooFewGpusError: no pool has enough GPUs.
            InfeasibleError: the chosen cut answers too few queries in time at any rate.
            PartitaError: the time was over before a reservation was found.
        """
        found: list[GpuReservation] = []
        for offer in sorted(service.offers, key=lambda each: self._least_cost(service, each)):
            if found and self._least_cost(service, offer) >= self.cost(found[0]):
                break
            made = self.reservation(service, offer, left[offer.pool])
            if made is not None:
                found = sorted([*found, made], key=self.cost)
        if not found:
            raise self._too_few(service, left)
        return found

    def cost(self, made: GpuReservation) -> float:
        """Return what a reservation adds to the objective."""
        return len(made.cut.gpus) * self.problem.gpu_cost(made.offer.pool)

    def reservation(self, service: CutService, offer: PoolProblem, most: int | None) -> GpuReservation | None:
        """Return the reservation of fewest GPUs in a pool; None if it has too few."""
        key = (service.index, offer.pool, most)
        if key not in self._known:
            self._known[key] = self._find(service, offer, most)
        return self._known[key]

    def _find(self, service: CutService, offer: PoolProblem, most: int | None) -> GpuReservation | None:
        running = self.running.get(service.spec.name)
        keep = (
            running.cut(self.problem.pools[offer.pool].gpu.name, offer.problem.profiles) if running else None
        )
        found = fewest(service, offer, most, self.deadline, seed=self.seed, keep=keep)
        if found.held is None:
            return None
        now = running.points(service, found.held) if running and found.held.cut == keep else None
        points = now or instance_points(service, offer, found.held, self.seed)
        in_time = attainments(offer, found.held, self.seed)
        return GpuReservation(service, offer, found.held.cut, points, found.least, in_time)

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


def instance_points(service: CutService, offer: PoolProblem, held: Held, seed: int) -> Points:
    """Return the operating point of each profile when the cut serves its full capacity.

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


def attainments(offer: PoolProblem, held: Held, seed: int) -> tuple[float, ...]:
    """Return the share of the queries of each class that is in time where the cut serves its full capacity."""
    problem = offer.problem.with_gpus(len(held.cut.gpus))
    traffic = [each.faster(held.rate) for each in fresh_traffic(problem, seed)]
    return tuple(attainment_by_class(problem, ROUTER.on(problem, held.cut.counts), traffic).tolist())


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


def fewest(
    service: CutService,
    offer: PoolProblem,
    most: int | None,
    deadline: Deadline,
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
        deadline: when it is over, the fewest so far is returned.
        seed: of the traffic that a cut is measured with; a search for cuts never sees this traffic.
        keep: cut that runs now, kept where it needs no more GPUs than another and holds the rate.

    Raises:
        InfeasibleError: the chosen cut answers too few queries in time at any rate.
        PartitaError: the time was over before any was found.
    """
    least = least_gpus(service, offer.problem)
    limit = MOST_GPUS if most is None else min(most, MOST_GPUS)
    probe = _Capacities(service, offer.problem, deadline, seed)
    if keep is not None and len(keep.gpus) <= limit:
        probe.found[len(keep.gpus)] = probe.holds(keep)
    short, enough, step = least - 1, least, 1
    while enough <= limit and not probe.enough(enough):
        deadline.tell(None, least)
        if deadline.over:
            raise PartitaError("no plan was found in the time there was", hint="raise --time-limit")
        short, enough = enough, min(enough + step, limit) if enough < limit else limit + 1
        step *= 2
    if enough > limit:
        if (
            probe.error is not None
            and limit
            and not any(held and held.rate > 0 for held in probe.found.values())
        ):
            raise probe.error  # no cut answered anything, on any number of GPUs
        if most is None:
            raise _too_many(service, least)
        return Fewest(None, least)
    while enough - short > 1 and not deadline.over:
        deadline.tell(enough, least)
        middle = (short + enough) // 2
        short, enough = (short, middle) if probe.enough(middle) else (middle, enough)
    return Fewest(probe.found[enough], least)


def cutter(name: str, deadline: Deadline) -> Cutter:
    """Return the cutter that a workload names; a search returns its best when the deadline is over."""
    cutters: dict[str, Cutter] = {
        "search": Search(ROUTER, over=lambda: deadline.over),
        "fluid": FluidCut(),
        "paris": Paris(),
        "homogeneous": BestHomogeneous(ROUTER),
    }
    return cutters[name]


def most_held(
    service: CutService, offer: PoolProblem, gpus: int, deadline: Deadline, seed: int = 0
) -> Held | None:
    """Return what the chosen cut of so many GPUs holds; None if nothing."""
    return _Capacities(service, offer.problem, deadline, seed).cut(min(gpus, MOST_GPUS))


def least_gpus(service: CutService, problem: ServingProblem) -> int:
    """Return the fewest GPUs that any cut and router need: for the rate, the replicas and the nodes."""
    per_gpu = max(sum(each) for each in problem.multisets)
    spec = service.spec
    fluid = fluid_gpus(problem, service.rate, served=problem.quantile)
    return max(1, fluid, math.ceil(spec.min_replicas / per_gpu), spec.spread)


def _too_many(service: CutService, least: int) -> InfeasibleError:
    return InfeasibleError(
        f"{service.spec.name} takes {least:,} GPUs at least, more than {MOST_GPUS} by simulation"
        if least > MOST_GPUS
        else f"{service.spec.name}: the cut {service.cut} does not hold the rate on {MOST_GPUS} GPUs",
        where=f"services[{service.index}]",
        hint="split it into services of lower rates, or choose cut: search",
    )


class _Capacities:
    """What the cutter's cut of each number of GPUs holds, each worked out once."""

    def __init__(self, service: CutService, problem: ServingProblem, deadline: Deadline, seed: int) -> None:
        self._service = service
        self._problem = problem
        self._seed = seed
        self._cutter = cutter(service.cut, deadline)
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
    return [unit_traffic(problem, queries, 1_000 * (seed + 1) + run) for run in range(runs)]


@dataclass(frozen=True, slots=True)
class RunningGpus:
    """GPUs on which nothing but replicas of one service runs."""

    gpus: tuple[DeployedGpu, ...]

    def cut(self, model: str, profiles: Sequence[str]) -> ServingCut | None:
        """Return how they are cut; None where they are of another model or have other profiles."""
        counts = [Counter(each.placement.profile for each in gpu.instances) for gpu in self.gpus]
        if any(gpu.model != model for gpu in self.gpus) or any(
            each.keys() - set(profiles) for each in counts
        ):
            return None
        return ServingCut.of(tuple(each[name] for name in profiles) for each in counts)

    def points(self, service: CutService, held: Held) -> dict[str, OperatingPoint] | None:
        """Return how the instances are run now, if that is right still: so nothing is started anew for a figure.

        None if the instances of one profile are not run alike, or their throughputs do not lie between what is asked
        and what the cut holds now.
        """
        by_profile: dict[str, set[Replica]] = {}
        for replica, profile in self._replicas():
            by_profile.setdefault(profile, set()).add(replica)
        total = sum(replica.throughput for replica, _ in self._replicas()) / service.items
        if (
            any(len(each) > 1 for each in by_profile.values())
            or not service.rate <= total <= held.rate * _NOISE
        ):
            return None
        return {profile: _point(profile, next(iter(each))) for profile, each in by_profile.items()}

    def _replicas(self) -> list[tuple[Replica, str]]:
        return [
            (each.replica, each.placement.profile)
            for gpu in self.gpus
            for each in gpu.instances
            if each.replica is not None
        ]


def _point(profile: str, replica: Replica) -> OperatingPoint:
    return OperatingPoint(
        profile, replica.batch, replica.processes, replica.throughput, replica.latency_ms, quantile=""
    )


def running(current: Deployment, services: Iterable[CutService]) -> dict[str, RunningGpus]:
    """Return the GPUs that each of these services has for itself now; services without any are left out."""
    found: dict[str, list[DeployedGpu]] = {service.spec.name: [] for service in services}
    for gpu in current.gpus:
        if (name := _owner(gpu)) in found:
            found[name].append(gpu)
    return {name: RunningGpus(tuple(gpus)) for name, gpus in found.items() if gpus}


def shared_part(current: Deployment, services: Iterable[CutService]) -> Deployment:
    """Return the deployment without the GPUs that one of these services has for itself."""
    names = {service.spec.name for service in services}
    return Deployment(tuple(gpu for gpu in current.gpus if _owner(gpu) not in names))


def _owner(gpu: DeployedGpu) -> str:
    """Return the one service that a GPU runs, empty if there is no such one."""
    names = {each.replica.service if each.replica else "" for each in gpu.instances}
    return names.pop() if len(names) == 1 else ""
