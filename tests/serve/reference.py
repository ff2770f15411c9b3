"""The routers again, in plain Python on the event kernel, written from what they promise."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from tests.sim.kernel import Kernel

from partita.serve.fluid import second_prices
from partita.serve.problem import REFUSED, TICK, ServingOutcome
from partita.serve.routers.kairos import LATE, match, relative_speed
from partita.sim.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.problem import ServingProblem
    from partita.sim.traffic import Traffic

    Choose = Callable[[list[float], list[float], list[float]], int | None]

LAST = 1_000_000
"""Rank of arrivals: at one moment queries end first, by number of their instance."""


def sizes_of(counts: np.ndarray) -> list[int]:
    return [size for size, n in enumerate(counts) for _ in range(n)]


def bound_on_arrival(
    problem: ServingProblem,
    counts: np.ndarray,
    traffic: Traffic,
    choose: Choose,
) -> ServingOutcome:
    """Simulate a router that binds at once.

    `choose` sees, per instance, the wait, the latency and the moment of the answer, and names an instance or none.
    """
    sizes, idle_at = sizes_of(counts), [0.0] * int(counts.sum())
    took, by = [], []
    for now, batch in zip(traffic.arrival.tolist(), traffic.batch.tolist(), strict=True):
        latency = [float(problem.latency[size, batch - 1]) for size in sizes]
        ends = [max(now, at) + own for at, own in zip(idle_at, latency, strict=True)]
        chosen = choose([max(0.0, at - now) for at in idle_at], latency, ends)
        if chosen is None:
            took.append(np.inf)
            by.append(REFUSED)
        else:
            idle_at[chosen] = max(now, idle_at[chosen]) + latency[chosen]
            took.append(idle_at[chosen] - now)
            by.append(chosen)
    return ServingOutcome(np.array(took), np.array(by, dtype=np.int16))


def elsa(deadline: float) -> Choose:
    def choose(waits: list[float], latency: list[float], ends: list[float]) -> int | None:
        for instance, (wait, own) in enumerate(zip(waits, latency, strict=True)):
            if wait + own <= deadline + TICK:
                return instance
        return ends.index(min(ends)) if min(ends) < np.inf else None

    return choose


class LateBindingReference:
    """The default router, an object per instance and event."""

    def __init__(self, problem: ServingProblem, counts: np.ndarray) -> None:
        self.problem, self.sizes = problem, sizes_of(counts)
        self.present = sorted(set(self.sizes))
        self.price = second_prices(problem, counts)
        self.deadline = problem.deadline + TICK
        numbers = count()
        self.idle = {size: [next(numbers) for _ in range(n)][::-1] for size, n in enumerate(counts.tolist())}
        self.queues: dict[int, deque[int]] = {}
        self.accounts = dict.fromkeys(problem.classes, 0.0)

    def class_of(self, batch: int) -> int:
        """Return the largest batch size of its class."""
        return min(each for each in self.accounts if each >= batch)

    def lead(self, batch: int) -> float:
        if not self.accounts:
            return 0.0
        return max(self.accounts.values()) - self.accounts[self.class_of(batch)]

    def count(self, batch: int, missed: float) -> None:
        """Count a query that came (minus what may be missed) or was missed (1), unless no size could answer it."""
        if self.accounts and self.quickest(batch) < np.inf:
            own = self.class_of(batch)
            if missed < 0:
                self.accounts = {each: held * (1.0 - 2e-5) for each, held in self.accounts.items()}
            self.accounts[own] = min(max(self.accounts[own] + missed, 0.0), 100.0)

    def latency(self, size: int, batch: int) -> float:
        own = float(self.problem.latency[size, batch - 1])
        return own if own <= self.problem.deadline else np.inf

    def quickest(self, batch: int) -> float:
        return min(self.latency(size, batch) for size in self.present)

    def costlier(self, size: int, batch: int) -> float:
        costs = {k: self.price[k] * self.latency(k, batch) for k in self.present}
        return float(costs[size] / min(costs.values()) - 1.0)

    def run(self, traffic: Traffic) -> ServingOutcome:
        self.traffic, self.clock = traffic, SimulatedClock()
        self.kernel = Kernel(self.clock)
        self.took = np.full(len(traffic), np.inf)
        self.by = np.full(len(traffic), REFUSED, dtype=np.int16)
        for query, now in enumerate(traffic.arrival.tolist()):
            self.kernel.at(now, partial(self.arrives, query), LAST)
        self.kernel.run()
        return ServingOutcome(self.took, self.by)

    def arrives(self, query: int) -> None:
        batch = int(self.traffic.batch[query])
        self.queues.setdefault(batch, deque()).append(query)
        self.count(batch, -(1.0 - self.problem.quantile))
        self.start([batch], [size for size in self.present if self.idle[size]])

    def ends(self, instance: int) -> None:
        size = self.sizes[instance]
        self.idle[size].append(instance)
        self.start(sorted(self.queues), [size])

    def left(self, query: int) -> float:
        return float(self.traffic.arrival[query]) + self.deadline - self.clock.now()

    def start(self, batches: list[int], sizes: list[int]) -> None:
        while any(self.idle.values()):
            if not self.start_one(batches, sizes):
                return
            batches, sizes = sorted(self.queues), self.present

    def start_one(self, batches: list[int], sizes: list[int]) -> bool:
        """Start the best query there is; say whether the oldest of any batch size is now another one."""
        options, dropped = [], False
        for batch in batches:
            queue = self.queues[batch]
            while queue and self.left(queue[0]) < self.quickest(batch):
                queue.popleft()
                dropped = True
                self.count(batch, 1.0)
            if not queue:
                continue
            left, quickest = self.left(queue[0]), self.quickest(batch)
            runs = quickest if self.accounts else 0.0
            weight = 1.0 / (self.deadline - runs)
            for size in sizes:
                extra, lead = self.costlier(size, batch), self.lead(batch)
                if extra > 0 and lead * (1.0 + extra) > 8.0:
                    continue  # other classes need it more
                if self.idle[size] and self.latency(size, batch) <= left:
                    score = extra + (weight * (left - runs) + 0.2 * lead)
                    options.append((score, batch, size))
        if not options:
            return dropped
        _, batch, size = min(options)
        query, instance = self.queues[batch].popleft(), self.idle[size].pop()
        end = self.clock.now() + self.latency(size, batch)
        self.took[query] = end - float(self.traffic.arrival[query])
        self.by[query] = instance
        self.kernel.at(end, lambda: self.ends(instance), instance)
        return True


class KairosReference:
    """Matching, an object per event, the assignment from `match` itself (which has a test of its own)."""

    def __init__(self, problem: ServingProblem, counts: np.ndarray, window: int = 16) -> None:
        self.problem, self.sizes = problem, sizes_of(counts)
        self.window = min(window, len(self.sizes))
        self.speed = relative_speed(problem, counts)
        self.deadline = problem.deadline + TICK
        self.idle_at = [-np.inf] * len(self.sizes)

    def latency(self, instance: int, query: int) -> float:
        own = float(self.problem.latency[self.sizes[instance], self.traffic.batch[query] - 1])
        return own if own <= self.problem.deadline else np.inf

    def run(self, traffic: Traffic) -> ServingOutcome:
        self.traffic, self.clock = traffic, SimulatedClock()
        self.kernel = Kernel(self.clock)
        self.waiting: list[int] = []
        self.took = np.full(len(traffic), np.inf)
        self.by = np.full(len(traffic), REFUSED, dtype=np.int16)
        for query, now in enumerate(traffic.arrival.tolist()):
            self.kernel.at(now, partial(self.arrives, query), LAST)
        self.kernel.run()
        return ServingOutcome(self.took, self.by)

    def arrives(self, query: int) -> None:
        self.waiting.append(query)
        self.ends(None)

    def ends(self, instance: int | None) -> None:
        if instance is not None:
            self.idle_at[instance] = -np.inf
        now = self.clock.now()
        if all(at > now for at in self.idle_at) or any(-np.inf < at <= now for at in self.idle_at):
            return  # nothing is idle, or others end at this moment
        chosen: list[int] = []
        for query in list(self.waiting):
            if len(chosen) == self.window:
                break
            quickest = min(self.latency(p, query) for p in range(len(self.sizes)))
            if float(self.traffic.arrival[query]) + self.deadline - now < quickest:
                self.waiting.remove(query)
            else:
                chosen.append(query)
        if chosen:
            columns = match(np.array([[self.cost(p, q) for p in range(len(self.sizes))] for q in chosen]))
            for query, column in zip(chosen, columns.tolist(), strict=True):
                self.start(query, column)

    def cost(self, instance: int, query: int) -> float:
        now = self.clock.now()
        end = max(now, self.idle_at[instance]) + self.latency(instance, query)
        in_time = end <= float(self.traffic.arrival[query]) + self.deadline
        return float((end - now if in_time else LATE * self.deadline) * self.speed[self.sizes[instance]])

    def start(self, query: int, instance: int) -> None:
        now, arrival = self.clock.now(), float(self.traffic.arrival[query])
        end = now + self.latency(instance, query)
        if self.idle_at[instance] > now or end > arrival + self.deadline:
            return
        self.waiting.remove(query)
        self.idle_at[instance] = end
        self.took[query], self.by[query] = end - arrival, instance
        self.kernel.at(end, partial(self.ends, instance), instance)
