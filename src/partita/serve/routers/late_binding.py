"""Late binding: a query waits in a shared queue until a slice that suits it is idle. The default router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from partita.serve.fluid import second_prices
from partita.serve.problem import REFUSED, TICK, ServingOutcome
from partita.serve.routers.heap import drop_first, push

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import Serve, ServingProblem
    from partita.sim.traffic import Traffic


@dataclass(frozen=True, slots=True)
class LateBinding:
    """Gives each query to a slice only when it starts.

    A query that arrives while slices are idle starts on the cheapest of them (price x latency, the prices being the
    fluid model's) that meets its deadline; otherwise it waits. A slice that becomes idle takes, of the oldest
    waiting query of each batch size that it can answer in time, the one of least

        (what it costs here / what it costs on its cheapest size) - 1 + urgency x (its slack / its slack on arrival),

    slack being the time it can still wait for its quickest size. All queries of one batch size have one deadline
    after arrival, so the oldest is the one with the earliest deadline; no slice that could answer it in time is left
    idle when a query arrives or ends. What no size can answer in time any more is refused, and takes nobody's time.

    Attributes:
        urgency: weight of the earliest deadline against prices.
    """

    urgency: float = 1.0

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances."""
        latency = np.where((counts > 0)[:, None], problem.feasible, np.inf)
        extra = relative_cost(second_prices(problem, counts), latency)
        quickest, deadline = latency.min(axis=0), problem.deadline + TICK
        rules = _Rules(latency, extra, quickest, self.urgency / (deadline - quickest), deadline)

        def serve(traffic: Traffic) -> ServingOutcome:
            queues = _queues(traffic.batch, latency.shape[1])
            return ServingOutcome(*_late_binding(traffic.arrival, traffic.batch, counts, rules, queues))

        return serve


def relative_cost(price: NDArray[np.float64], latency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much a query of batch b costs more on size k than on its cheapest, 0 there; shape (K, B)."""
    cost = price[:, None] * latency
    least = cost.min(axis=0)
    least[~np.isfinite(least)] = 1.0  # no size can answer it
    return np.asarray(cost / least - 1.0)


class _Rules(NamedTuple):
    """What decides.

    Seconds and relative extra cost of batch b on size k, shape (K, B); of each batch size the least seconds and the
    weight of a second of slack, shape (B,); seconds from arrival to the latest answer.
    """

    latency: NDArray[np.float64]
    extra: NDArray[np.float64]
    quickest: NDArray[np.float64]
    weight: NDArray[np.float64]
    deadline: float


class _Queues(NamedTuple):
    """The queries that wait with batch size b are by_batch[head[b]:tail[b]].

    The first is the oldest; oldest[b] is when it arrived, inf if there is none.
    """

    by_batch: NDArray[np.int64]
    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    oldest: NDArray[np.float64]


def _queues(batch: NDArray[np.int64], largest: int) -> _Queues:
    by_batch = np.argsort(batch.astype(np.int16), kind="stable")  # a radix sort: linear time
    first = np.searchsorted(batch[by_batch], np.arange(1, largest + 1))
    return _Queues(by_batch, first, first.copy(), np.full(largest, np.inf))


@njit(cache=True, nogil=True, error_model="numpy")
def _late_binding(
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    counts: NDArray[np.int64],
    rules: _Rules,
    queues: _Queues,
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Simulate, from one arrival or end of a query to the next."""
    size_of, idle = _instances(counts)
    idling = counts.copy()
    idlers = len(size_of)
    end_at, end_of = np.empty(len(size_of) + 1), np.empty(len(size_of) + 1, dtype=np.int64)
    took = np.full(len(arrival), np.inf)
    by = np.full(len(arrival), REFUSED, dtype=np.int16)
    sizes, batches = rules.latency.shape
    running = waiting = arrived = 0
    while arrived < len(arrival) or (running > 0 and waiting > 0):
        if running > 0 and (arrived == len(arrival) or end_at[0] <= arrival[arrived]):
            now, p = end_at[0], end_of[0]
            running -= 1
            drop_first(end_at, end_of, running)
            k = size_of[p]
            idle[k, idling[k]] = p
            idling[k] += 1
            idlers += 1
            choice = (k, k + 1, 0, batches)
        else:
            now, b = arrival[arrived], batch[arrived] - 1
            if queues.head[b] == queues.tail[b]:
                queues.oldest[b] = now
            queues.tail[b] += 1
            waiting += 1
            arrived += 1
            choice = (0, sizes, b, b + 1)
        while waiting > 0 and idlers > 0:
            size, b, dropped = _choose(now, arrival, rules, queues, idling, choice)
            waiting -= dropped
            if size >= 0:
                q = queues.by_batch[queues.head[b]]
                _pop(queues, b, arrival)
                waiting -= 1
                idling[size] -= 1
                idlers -= 1
                by[q] = idle[size, idling[size]]
                end = now + rules.latency[size, b]
                took[q] = end - arrival[q]
                push(end_at, end_of, running, (end, by[q]))
                running += 1
            elif dropped == 0:
                break
            choice = (0, sizes, 0, batches)  # another query is now the oldest of its batch size
    return took, by


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(  # noqa: PLR0917 -- compiled code takes no keywords
    now: float,
    arrival: NDArray[np.float64],
    rules: _Rules,
    queues: _Queues,
    idling: NDArray[np.int64],
    choice: tuple[int, int, int, int],
) -> tuple[int, int, int]:
    """Return the size and the queue that fit best, size -1 if none does, and how many queries came too late.

    Args:
        now: seconds.
        arrival: of all queries.
        rules: what decides.
        queues: what waits; queries that no size can answer in time are dropped from the heads.
        idling: idle instances of each size.
        choice: sizes from, to, and batch sizes from, to, the ends excluded.
    """
    from_size, to_size, from_batch, to_batch = choice
    best, size, queue, dropped = np.inf, -1, -1, 0
    for b in range(from_batch, to_batch):
        quickest = rules.quickest[b]
        while queues.oldest[b] + rules.deadline - now < quickest:
            _pop(queues, b, arrival)
            dropped += 1
        if queues.oldest[b] == np.inf:
            continue
        left = queues.oldest[b] + rules.deadline - now
        hurry = rules.weight[b] * (left - quickest)
        for k in range(from_size, to_size):
            score = rules.extra[k, b] + hurry
            if idling[k] > 0 and rules.latency[k, b] <= left and score < best:
                best, size, queue = score, k, b
    return size, queue, dropped


@njit(cache=True, nogil=True)
def _pop(queues: _Queues, b: int, arrival: NDArray[np.float64]) -> None:
    """Take the oldest query of batch size b from its queue."""
    queues.head[b] += 1
    there = queues.head[b] < queues.tail[b]
    queues.oldest[b] = arrival[queues.by_batch[queues.head[b]]] if there else np.inf


@njit(cache=True, nogil=True)
def _instances(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the size of each instance, and a stack per size with all its instances, the first on top."""
    total = counts.sum()
    size_of = np.empty(total, dtype=np.int64)
    idle = np.empty((len(counts), max(1, total)), dtype=np.int64)
    base = 0
    for k in range(len(counts)):
        for i in range(counts[k]):
            size_of[base + i] = k
            idle[k, counts[k] - 1 - i] = base + i
        base += counts[k]
    return size_of, idle
