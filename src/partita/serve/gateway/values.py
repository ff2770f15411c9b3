"""What the gateway's users see of it: services, models, refusals, what ended, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from partita.errors import PartitaError
from partita.serve.tensors import APART

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.serve.tensors import Batching, TensorSpec

Size = tuple[str, str, int]
"""Model of GPU, profile, processes."""


_MICROSECONDS = (1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
DECISION_EDGES_S = tuple(each / 1e6 for each in _MICROSECONDS)
"""Up to how many seconds a routing decision took, in the gateway's histogram."""


class Reason(StrEnum):
    """Why a query is refused."""

    LATE = "late"
    """Its deadline cannot be met, or the queue in front of it says so."""
    NO_WORKER = "no_worker"
    """No worker takes queries of its service and batch size."""
    DRAINING = "draining"
    """The gateway is about to end."""
    FULL = "full"
    """Too many queries wait."""
    WORKER_LOST = "worker_lost"
    """Its worker is gone or does not answer, and there is no second try, or no time for one."""


class State(StrEnum):
    """What a worker is doing."""

    IDLE = "idle"
    BUSY = "busy"
    SLOW = "slow"
    """It has not answered for several times what it should have taken, and gets nothing new until it does."""
    SUSPECTED = "suspected"
    """It cannot answer: it gives no sign of life, says so itself, fails all it gets, or runs what nobody awaits."""
    DRAINING = "draining"


class Outcome(StrEnum):
    """How a query ended."""

    ANSWERED = "answered"
    INVALID = "invalid"
    """A worker answered that the query itself is at fault."""
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class RefusedError(PartitaError):
    """A query that the gateway does not take, or no longer.

    Args:
        reason: one of `Reason`; it compares equal to its text.
        retry_after_s: seconds after which another try may be of use.
    """

    def __init__(self, reason: Reason, retry_after_s: float) -> None:
        super().__init__(_REFUSALS[reason])
        self.reason = reason
        self.retry_after_s = retry_after_s


_REFUSALS = {
    Reason.LATE: "the deadline cannot be met",
    Reason.NO_WORKER: "no worker is ready for it",
    Reason.DRAINING: "the gateway is draining",
    Reason.FULL: "too many queries wait",
    Reason.WORKER_LOST: "its worker is gone or does not answer",
}


class FailedError(PartitaError):
    """A query that a worker answered with an error of its own, again on the second try if there was time."""


@dataclass(frozen=True, slots=True)
class ServedService:
    """A service as the workload has it.

    Attributes:
        name: of the service.
        model: that it serves.
        deadline_s: seconds from a query's arrival to its latest answer, where the query has none of its own.
        quantile: share of the queries that must be answered by then.
        table: by size, seconds of a batch of each measured batch size; for workers that do not bring their own.
    """

    name: str
    model: str
    deadline_s: float
    quantile: float = 0.95
    table: Mapping[Size, Mapping[int, float]] = field(default_factory=dict)


class Starts(Protocol):
    """Tells when workers are started anew."""

    def __call__(self, service: str, now: float, hung_s: float) -> Sequence[tuple[float, int]]:
        """Return when each worker of a service that is not ready was or will be started, and its largest batch.

        Args:
            service: its name.
            now: the moment, on the monotonic clock.
            hung_s: seconds until workers that run but hang will have been ended.
        """
        ...


def no_starts(service: str, now: float, hung_s: float) -> tuple[tuple[float, int], ...]:
    """Return nothing: it is not known who starts workers."""
    del service, now, hung_s
    return ()


@dataclass(frozen=True, slots=True)
class Model:
    """What a service takes and gives.

    Attributes:
        service: its name.
        model: that it serves.
        inputs: what it takes; where none are listed, as its server names none, queries are not checked against them.
        outputs: what it gives.
        max_batch: rows that a query may have; 0 where the first size is no batch.
        deadline_s: seconds from a query's arrival to its latest answer.
        quantile: share of the queries that must be answered by then.
        batching: whether its queries may be joined and split.
        known: whether a worker has been there to tell.
    """

    service: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    deadline_s: float
    quantile: float
    batching: Batching = APART
    known: bool = True


class Ended(NamedTuple):
    """A query that came to its end.

    Attributes:
        service: that was asked.
        worker: that answered, as `node-0/gpu-3/3g.40gb@4`; empty if none did.
        latency_s: seconds from arrival to end.
        in_time: whether it was answered within its deadline.
        outcome: how it ended.
        reason: why it was refused.
        batch: its batch size.
        queue_s: seconds it waited before it last started; all of its latency if it never did.
    """

    service: str
    worker: str
    latency_s: float
    in_time: bool
    outcome: Outcome
    reason: Reason | None
    batch: int
    queue_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """How often something happened, and the seconds of all of it together."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """What one service has done since the gateway started, as Triton's statistics extension counts.

    Attributes:
        items: inferences: the batch sizes of all answered queries added up.
        executions: batches that workers ran.
        last_at: when a query was last answered, in seconds since 1970; 0 if never.
        success: answered queries, with the seconds from arrival to answer.
        fail: failed and refused queries, alike.
        queue: answered queries, with the seconds they waited in the gateway.
        compute: answered queries, with the seconds that their batches took in the worker.
        batches: by batch size, executions and their seconds in the worker.
        refused: by reason.
        in_time: queries answered within their deadline.
        cancelled: queries whose client left.
        retried: queries that were started a second time.
    """

    items: int
    executions: int
    last_at: float
    success: Counted
    fail: Counted
    queue: Counted
    compute: Counted
    batches: Mapping[int, Counted]
    refused: Mapping[Reason, int]
    in_time: int
    cancelled: int
    retried: int


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker now.

    Attributes:
        service: that it answers for.
        name: as `node-0/gpu-3/3g.40gb@4`.
        profile: of its instance.
        pid: of its first process.
        state: what it is doing.
        running: batches under way.
        processes: batches it runs side by side.
        busy_s: seconds of work so far, over all its processes.
        answered: queries.
        slowdown: what its batches take by what batches take on its size.
    """

    service: str
    name: str
    profile: str
    pid: int
    state: State
    running: int
    processes: int
    busy_s: float
    answered: int
    slowdown: float


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service now.

    Attributes:
        name: of the service.
        waiting: queries in the queue.
        in_flight: queries that workers are running.
        decisions: how many decisions took up to each of `DECISION_EDGES_S`; the last are those that took longer.
        statistics: since the start.
        hung: workers that were ended because they hung.
    """

    name: str
    waiting: int
    in_flight: int
    decisions: tuple[int, ...]
    statistics: ServiceStatistics
    hung: int = 0

    @property
    def attainment(self) -> float:
        """Share of the ended queries, other than cancelled ones, that were answered in time; 1 before the first."""
        ended = self.statistics.success.count + self.statistics.fail.count
        return self.statistics.in_time / ended if ended else 1.0


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """The gateway now."""

    services: tuple[ServiceView, ...]
    workers: tuple[WorkerView, ...]
    draining: bool
