"""Workers that are slow, silent or failing: what is expected of each, and when it is trusted again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.serve.gateway.fleet import Fleet
    from partita.serve.gateway.waiting import Batch, Worker

_SILENT = 4.0  # times its estimate: then a batch is overdue
_LEAST_S = 0.05  # but never sooner: a host that is out of breath is no failure
_ABANDONED = 4.0  # times as long: then it is waited for no longer
_FAILURES = 3  # failed batches in a row: then a worker rests
_REST_S = (1.0, 30.0)
_FORGET_S = 0.25  # without a batch: then corrections of a size are forgotten
_EVERY_S = 0.02


class Health:
    """Corrects estimates, and takes workers out of and back into the idle ones.

    Args:
        fleet: the workers.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._resting: dict[Worker, float] = {}
        self._failures: dict[Worker, int] = {}
        self._next = self._next_estimates = 0.0
        self._lessons: list[tuple[Batch, float, float]] = []

    def done(self, batch: Batch, took: float, now: float, *, good: bool) -> None:
        """Count a batch's end, and let its worker be idle if nothing speaks against it.

        What it teaches waits for the next `tick`: first the worker gets something to do.

        Args:
            batch: that ended, and is no longer among its worker's.
            took: seconds from start to end.
            now: the moment.
            good: whether the worker did not fail any query.
        """
        worker = batch.worker
        worker.seen = now
        worker.busy_s += took
        if good:
            self._lessons.append((batch, took, now))
            if self._failures:
                self._failures.pop(worker, None)
        else:
            self._fails(worker, now)
        if batch.suspected:
            worker.suspected -= 1
            self._fleet.wake(worker)
        elif worker.takes_work:
            self._fleet.free(worker)

    def overdue(self, batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches that should have been answered long ago; none if it was asked just now."""
        if now < self._next:
            return []
        self._next = now + _EVERY_S
        return [each for each in batches if not each.suspected and now - each.begun > patience(each)]

    @staticmethod
    def abandoned(batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches that are waited for no longer."""
        return [each for each in batches if each.suspected and now - each.begun > _ABANDONED * patience(each)]

    def suspect(self, batch: Batch) -> None:
        """Give a batch's worker nothing new until it has answered."""
        batch.suspected = True
        batch.worker.suspected += 1
        self._fleet.rest(batch.worker)

    def left(self, worker: Worker) -> None:
        """Forget a worker that is gone."""
        self._failures.pop(worker, None)
        self._resting.pop(worker, None)

    def tick(self, now: float) -> list[Worker]:
        """Correct the tables and give second chances; return the workers that are idle again."""
        changed = self._learn()
        if now < self._next_estimates:
            return changed
        self._next_estimates = now + _EVERY_S
        rested = [worker for worker, until in self._resting.items() if until <= now]
        for worker in rested:
            del self._resting[worker]
            worker.suspected -= 1
            self._fleet.wake(worker)
        slow = [worker for worker in self._fleet.workers if _probed(worker, now)]
        for worker in slow:
            self._fleet.regroup(worker)
        self._apply(now)
        return changed + rested + slow

    def _learn(self) -> list[Worker]:
        """Correct the estimates; return the workers that now belong into another group."""
        changed: dict[Worker, None] = {}
        for batch, took, now in self._lessons:
            worker = batch.worker
            size = worker.size
            if worker.slowdown.observe(batch.items, took / size.seconds[batch.items], now):
                changed[worker] = None
            size.observe(batch.items, took, worker.slowdown.factor(batch.items), now)
        self._lessons.clear()
        for worker in changed:
            self._fleet.regroup(worker)
        return list(changed)

    def _fails(self, worker: Worker, now: float) -> None:
        failures = self._failures[worker] = self._failures.get(worker, 0) + 1
        if failures >= _FAILURES and worker not in self._resting:
            least, most = _REST_S
            self._resting[worker] = now + min(most, least * 2.0 ** (failures - _FAILURES))
            worker.suspected += 1
            self._fleet.rest(worker)

    def _apply(self, now: float) -> None:
        sizes = {id(worker.size): worker.size for worker in self._fleet.workers}.values()
        for size in sizes:
            if now - size.seen > _FORGET_S:
                size.forget()
        changed = [size for size in sizes if size.changed]
        for size in changed:
            size.apply()
        if changed:
            self._fleet.refresh()


def _probed(worker: Worker, now: float) -> bool:
    return worker.slowdown.probe(now, (batch.items for batch in worker.running.values()))


def patience(batch: Batch) -> float:
    """Return the seconds after which a batch is overdue."""
    return max(_SILENT * batch.expected, _LEAST_S)
