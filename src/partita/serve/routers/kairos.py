"""Kairos: waiting queries are matched to instances, busy ones too, at the least weighted time to their answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from partita.serve.problem import REFUSED, TICK, ServingOutcome
from partita.serve.routers.compiling import compiled, drop_first, push

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import Serve, ServingProblem
    from partita.sim.traffic import Traffic

LATE = 1e3
"""Deadlines that an answer counts for which would be late: the last choice of a matching."""


@dataclass(frozen=True, slots=True)
class Kairos:
    """Matches queries to instances whenever a query arrives or ends (Kairos, HPDC'23, section 5).

    The oldest waiting queries are matched to all instances so that the sum of

        (time until the instance is idle + latency) x (how much faster it is than the slowest size)

    is least, `LATE` deadlines taking the time's place where the answer would be late. What is matched to an idle
    instance starts; the rest is matched anew at the next event. What no size can answer in time any more is refused.

    Attributes:
        window: most queries that are matched at a time.
    """

    window: int = 16

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return what serves queries on these instances."""
        latency = np.where((counts > 0)[:, None], problem.feasible, np.inf)
        tables = _MatchingTables(
            latency, relative_speed(problem, counts), latency.min(axis=0), problem.deadline + TICK
        )
        size_of = np.repeat(np.arange(len(counts)), counts)

        run = compiled(_kairos)

        def serve(traffic: Traffic) -> ServingOutcome:
            return ServingOutcome(*run(traffic.arrival, traffic.batch, size_of, tables, self.window))

        return serve


class _MatchingTables(NamedTuple):
    """What decides, of sizes and of batch sizes.

    Seconds of batch b on size k, (K, B); how much faster each size is than the slowest, (K,); least seconds of each
    batch size, (B,); seconds from arrival to the latest answer.
    """

    latency: NDArray[np.float64]
    speed: NDArray[np.float64]
    quickest: NDArray[np.float64]
    deadline: float


def relative_speed(problem: ServingProblem, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much faster each size is than the slowest present, at the largest batch all of them run; (K,)."""
    present = problem.latency[counts > 0]
    shared = np.flatnonzero(np.isfinite(present).all(axis=0))
    if not len(shared):
        return np.ones(len(counts))
    return np.asarray(present[:, shared[-1]].max() / problem.latency[:, shared[-1]])


def _kairos(
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    tables: _MatchingTables,
    window: int,
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    instances, queries = len(size_of), len(arrival)
    window = min(window, instances)
    idle_at = np.full(instances, -np.inf)
    end_at, end_of = np.empty(instances), np.empty(instances, dtype=np.int64)
    took = np.full(queries, np.inf)
    by = np.full(queries, REFUSED, dtype=np.int16)
    following = np.full(
        queries + 1, queries, dtype=np.int64
    )  # the waiting queries as a chain, from `queries`
    last, oldest = queries, np.empty(window, dtype=np.int64)
    running = arrived = 0
    while arrived < queries or running > 0:
        if running > 0 and (arrived == queries or end_at[0] <= arrival[arrived]):
            now = end_at[0]
            while running > 0 and end_at[0] <= now:  # all that ends at this moment is idle together
                running -= 1
                drop_first(end_at, end_of, running)
        else:
            now = arrival[arrived]
            following[last] = arrived
            last = arrived
            arrived += 1
        if running == instances:
            continue
        count, before = 0, queries
        while following[before] < queries and count < window:
            q = following[before]
            if arrival[q] + tables.deadline - now < tables.quickest[batch[q] - 1]:
                following[before] = following[q]
                last = before if last == q else last
                continue
            oldest[count] = q
            count += 1
            before = q
        if count == 0:
            continue
        cost = _cost(now, oldest[:count], arrival, batch, size_of, idle_at, tables)
        chosen = match(cost)
        before = queries
        for row in range(count):
            q, p = oldest[row], chosen[row]
            seconds = tables.latency[size_of[p], batch[q] - 1]
            if idle_at[p] <= now and now + seconds <= arrival[q] + tables.deadline:
                following[before] = following[q]
                last = before if last == q else last
                idle_at[p] = now + seconds
                took[q] = idle_at[p] - arrival[q]
                by[q] = p
                push(end_at, end_of, running, (idle_at[p], p))
                running += 1
            else:
                before = q
    return took, by


def _cost(  # noqa: PLR0917 -- compiled code takes no keywords
    now: float,
    oldest: NDArray[np.int64],
    arrival: NDArray[np.float64],
    batch: NDArray[np.int64],
    size_of: NDArray[np.int64],
    idle_at: NDArray[np.float64],
    tables: _MatchingTables,
) -> NDArray[np.float64]:
    cost = np.empty((len(oldest), len(size_of)))
    for row in range(len(oldest)):
        q = oldest[row]
        for p in range(len(size_of)):
            k = size_of[p]
            end = max(now, idle_at[p]) + tables.latency[k, batch[q] - 1]
            in_time = end <= arrival[q] + tables.deadline
            cost[row, p] = (end - now if in_time else LATE * tables.deadline) * tables.speed[k]
    return cost


def match(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column of each row in the matching of least cost, by shortest augmenting paths (Jonker-Volgenant).

    Args:
        cost: finite, of at most as many rows as columns.
    """
    rows, columns = cost.shape
    up, down = np.zeros(rows), np.zeros(columns + 1)
    row_of = np.full(
        columns + 1, rows, dtype=np.int64
    )  # `rows` stands for no row, column `columns` for the root
    for row in range(rows):
        least, via = np.full(columns, np.inf), np.full(columns, columns, dtype=np.int64)
        done = np.zeros(columns + 1, dtype=np.bool_)
        row_of[columns] = row
        at = columns
        while row_of[at] < rows:
            done[at] = True
            reduced = cost[row_of[at]] - up[row_of[at]]
            nearest, delta = _nearest(at, reduced, down, _Path(least, via, done))
            for j in range(columns + 1):  # numba takes 3 s to compile what assigns to chosen elements
                if done[j]:
                    up[row_of[j]] += delta
                    down[j] -= delta
                elif j < columns:
                    least[j] -= delta
            at = nearest
        while at < columns:
            row_of[at] = row_of[via[at]]
            at = via[at]
    chosen = np.empty(rows, dtype=np.int64)
    for j in range(columns):
        if row_of[j] < rows:
            chosen[row_of[j]] = j
    return chosen


class _Path(NamedTuple):
    """A search for the shortest path: least cost to each column, by way of which, and which are done."""

    least: NDArray[np.float64]
    via: NDArray[np.int64]
    done: NDArray[np.bool_]


def _nearest(
    at: int, reduced: NDArray[np.float64], down: NDArray[np.float64], path: _Path
) -> tuple[int, float]:
    """Go on from a column; return the nearest of those that are not done, and how far it is."""
    nearest, delta = at, np.inf
    for j in range(len(reduced)):
        if not path.done[j]:
            length = reduced[j] - down[j]
            if length < path.least[j]:
                path.least[j], path.via[j] = length, at
            if path.least[j] < delta:
                nearest, delta = j, path.least[j]
    return nearest, delta
