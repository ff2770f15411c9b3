"""Workers that are slow or failing: what is expected of each, and when it is trusted again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.fleet import Batch, Fleet, UnreadyReason, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.serve.gateway.query import PendingQuery

_OVERDUE = 4.0  # times its estimate: then a batch is overdue


_LEAST_OVERDUE_S = 0.05  # but never sooner: a host that is out of breath is no failure


_HOPELESS = 4.0  # times as long, and its deadlines past: then nobody waits for it any more


_FAILURES = 3  # failed batches in a row: then a worker rests


_REST_S = (1.0, 30.0)


_TRY_S = (0.25, 30.0)  # between two queries of a size class that is refused: the first time, and at most


_FORGET_S = 0.25  # without a batch: then corrections of a size are forgotten


_EVERY_S = 0.02


class WorkerHealth:
    """Corrects estimates, and judges by batches which workers can be given more.

    Args:
        fleet: the workers.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._resting: set[Worker] = set()
        self._failures: dict[Worker, int] = {}
        self._next = self._next_estimates = 0.0
        self._trials: dict[int, tuple[float, float]] = {}
        self._lessons: list[tuple[Batch, float, float]] = []

    def done(self, batch: Batch, took: float, now: float, *, good: bool) -> bool:
        """Count a batch's end, and let its worker be idle if nothing speaks against it.

        What it teaches waits for the next `tick`: first the worker gets something to do.

        Args:
            batch: that ended, and is no longer among its worker's.
            took: seconds from start to end.
            now: the moment.
            good: whether the worker did not fail any query.

        Returns:
            Whether the worker should rest: it fails all it gets.
        """
        worker = batch.worker
        worker.seen = now
        worker.busy_s += took
        if good:
            self._lessons.append((batch, took, now))
            if self._failures:
                self._failures.pop(worker, None)
        rests = not good and self._fails(worker, now)
        if batch.overdue:
            worker.overdue -= 1
            self._fleet.wake(worker)
        elif worker.takes_work and worker.group is not None:
            self._fleet.free(worker)
        return rests

    def tries(self, query: PendingQuery, now: float) -> bool:
        """Say whether a query is let through, of a size class that is held to be too slow for its deadline.

        Else nothing more would be learned of the class. One is, now and then, if the table says that it is quick
        enough; it is then judged by the table.
        """
        size_class = query.size_class
        if not size_class or query.due - now < self._fleet.quickest[0][query.batch]:
            return False
        least, most = _TRY_S
        after, pause = self._trials.setdefault(size_class, (now + least, least))
        if now < after:
            return False
        pause = min(2.0 * pause, most)
        self._trials[size_class] = now + pause, pause
        query.try_anyhow()
        return True

    def overdue(self, batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches that should have been answered long ago; none if it was asked just now."""
        if now < self._next:
            return []
        self._next = now + _EVERY_S
        return [each for each in batches if not each.overdue and now - each.begun > patience(each)]

    @staticmethod
    def hopeless(batches: Iterable[Batch], now: float) -> list[Batch]:
        """Return the batches of whose queries those that are past their deadline are waited for no longer.

        A worker that is alive may take longer than it should: what it answers late is still an answer. One that
        gives no sign of life is waited for until the deadline alone.
        """
        return [
            each
            for each in batches
            if each.overdue
            and not each.stuck
            and (UnreadyReason.SILENT in each.worker.aside or now - each.begun > _HOPELESS * patience(each))
        ]

    def suspect(self, batch: Batch) -> None:
        """Give a batch's worker nothing new until it has answered."""
        if not batch.overdue:
            batch.overdue = True
            batch.worker.overdue += 1
            self._fleet.rest(batch.worker)

    def left(self, worker: Worker) -> None:
        """Forget a worker that is gone."""
        self._failures.pop(worker, None)
        self._resting.discard(worker)

    def rested(self, now: float) -> list[Worker]:
        """Return the workers that have rested for long enough."""
        found = [worker for worker in self._resting if worker.back_at <= now]
        self._resting.difference_update(found)
        return found

    def tick(self, now: float) -> list[Worker]:
        """Correct the tables and give second chances; return the workers that may be idle again."""
        changed = self._learn()
        if now < self._next_estimates:
            return changed
        self._next_estimates = now + _EVERY_S
        slow = [worker for worker in self._fleet.workers if _probed(worker, now)]
        for worker in slow:
            self._fleet.regroup(worker)
        self._apply(now)
        return changed + slow

    def _learn(self) -> list[Worker]:
        """Correct the estimates; return the workers that now belong into another group."""
        changed: dict[Worker, None] = {}
        for batch, took, now in self._lessons:
            if batch.input_class:
                self._learn_of_inputs(batch, took, now, changed)
                continue
            worker = batch.worker
            size = worker.size
            if worker.slowdown.observe(batch.items, took / size.seconds[batch.items], now):
                changed[worker] = None
            size.observe(batch.items, took, worker.slowdown.factor(batch.items), now)
        self._lessons.clear()
        for worker in changed:
            self._fleet.regroup(worker)
        return list(changed)

    def _learn_of_inputs(self, batch: Batch, took: float, now: float, changed: dict[Worker, None]) -> None:
        """Correct what is known of a size class of inputs, and of the worker if enough was known before."""
        worker, size_class, items = batch.worker, batch.input_class, batch.items
        size = worker.size
        if not batch.trial:
            self._trials.pop(size_class, None)
            ratio = took / size.expected(size_class, items)
            if size.knows(size_class, items) and worker.slowdown.observe(items, ratio, now):
                changed[worker] = None
        size.observe_inputs(size_class, items, took, worker.slowdown.factor(items), now, trial=batch.trial)

    def _fails(self, worker: Worker, now: float) -> bool:
        failures = self._failures[worker] = self._failures.get(worker, 0) + 1
        if failures < _FAILURES or worker in self._resting:
            return False
        least, most = _REST_S
        worker.back_at = now + min(most, least * 2.0 ** (failures - _FAILURES))
        self._resting.add(worker)
        return True

    def _apply(self, now: float) -> None:
        sizes = {id(worker.size): worker.size for worker in self._fleet.workers}.values()
        for size in sizes:
            if now - size.seen > _FORGET_S:
                size.forget()
        if any(size.changed for size in sizes):
            for size in sizes:  # what one has seen of a size class counts for others too
                size.apply()
            self._fleet.refresh()


def _probed(worker: Worker, now: float) -> bool:
    return worker.slowdown.probe(now, (batch.items for batch in worker.running.values()))


def patience(batch: Batch) -> float:
    """Return the seconds after which a batch is overdue."""
    return max(_OVERDUE * batch.expected, _LEAST_OVERDUE_S)
