"""The plan: which GPUs, cut how, with which service on which instance, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from partita.mig.layout import Placement
    from partita.perf.operating_point import OperatingPoint
    from partita.planning.problem import Level, Problem


@dataclass(frozen=True, slots=True)
class Instance:
    """A placed profile with the service that runs on it, and how it is run.

    Where services share it (`point.tenants`), `service` and `model` are those of the first and the number of others,
    as in `search +3`.
    """

    placement: Placement
    service: str
    model: str
    point: OperatingPoint

    @property
    def serves(self) -> tuple[tuple[str, float], ...]:
        """The services that run on it, each with its items/s there."""
        if self.point.tenants:
            return tuple((each.service, each.throughput) for each in self.point.tenants)
        return ((self.service, self.point.throughput),)


@dataclass(frozen=True, slots=True)
class PlannedGpu:
    """One GPU of a deployment: `id` is `node-0/gpu-3`, `model` the catalogue's name, instances by start.

    Attributes:
        pool: name of its pool; empty where the pool is the model's only one and is named after it.
        zone: of its node; empty where the workload does not say it.
        rack: of its node; empty where the workload does not say it.
    """

    id: str
    model: str
    instances: tuple[Instance, ...]
    pool: str = ""
    zone: str = ""
    rack: str = ""


def falls_short(capacity: float, rate: float) -> bool:
    """Return whether a capacity is below a rate by more than rounding; both in items/s."""
    return capacity < rate * (1 - 1e-6)


@dataclass(frozen=True, slots=True)
class WorstLoss:
    """The loss that leaves a service the least.

    Attributes:
        level: what is lost: `gpu`, `node`, `rack` or `zone`.
        least: items/s that must be left, headroom included.
        domain: which one, such as `node-3`.
        left: capacity without it, in items/s.
    """

    level: Level
    least: float
    domain: str
    left: float


@dataclass(frozen=True, slots=True)
class ServiceCapacity:
    """What the plan gives a service: required rate and capacity in items/s, latency SLO in milliseconds.

    `loss` is the worst loss that it must survive, None if it need not survive any.
    """

    name: str
    rate: float
    capacity: float
    latency_slo_ms: float
    loss: WorstLoss | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective: its name, the value reached, and the proven lower bound."""

    name: str
    value: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """Relative distance between value and bound, 0 when the plan is proven optimal."""
        if self.value <= self.lower_bound:
            return 0.0
        return (self.value - self.lower_bound) / abs(self.value)

    @property
    def proven(self) -> bool:
        """Whether nothing better exists."""
        return self.gap <= 1e-7


@dataclass(frozen=True, slots=True)
class Solver:
    """What made the plan: planner, seed, and wall-clock seconds of planning."""

    name: str
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TradePoint:
    """A plan that takes more for fewer moves: its GPUs, its value in units of the objective, and its moves."""

    gpus: int
    value: float
    moves: int


@dataclass(frozen=True, slots=True)
class PlanMoves:
    """How many replicas a plan moves, starts or stops, from what ran when it was made.

    Attributes:
        count: moves, as `partita.transition.moves` counts them.
        least: no plan of at most this value has fewer (proven).
        trade: plans of more value and fewer moves, by value; empty if there are none, or nobody asked.
    """

    count: int
    least: int
    trade: tuple[TradePoint, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether no plan of at most this value has fewer moves."""
        return self.count <= self.least


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment with its bound and gap.

    GPUs that are cut alike share one tuple of instances, so that a plan for a million GPUs fits in memory.

    Attributes:
        moves: from what ran; None for a plan that was made without regard to that.
        without_survival: objective of a plan for the same services that need not survive any loss; None where none
            must, or where it was not computed.
    """

    objective: Objective
    solver: Solver
    services: tuple[ServiceCapacity, ...]
    gpus: tuple[PlannedGpu, ...]
    moves: PlanMoves | None = None
    without_survival: Objective | None = None


class Planner(Protocol):
    """Makes a plan for a problem. All planners share one problem, one plan and one checker."""

    def plan(self, problem: Problem) -> Plan:
        """Return the best plan found.

        Raises:
            InfeasibleError: no plan meets all services with the GPUs there are.
        """
        ...
