"""What jobs hold of a host's cluster, for whoever looks at its services, or changes them, beside the queue."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from partita.control.cluster_view import changes
from partita.control.sharing import without
from partita.drive.driver import Observation, PassingDriver
from partita.errors import counted
from partita.jobs.queue.client import FILE as SOCKET
from partita.jobs.queue.client import NoDaemonError, QueueClient
from partita.jobs.queue.folders import ATTEMPTS, jobs_folder
from partita.jobs.queue.job_store import FILE, JobStore
from partita.jobs.run.folder import EXIT
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from partita.control.sharing import Place
    from partita.drive.driver import Changes, Driver

PATIENCE_S = 5.0
"""How long the queue may take to answer."""

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class HeldByJobs:
    """What the queue of a host holds.

    Attributes:
        jobs: ids of the jobs, by the instance on which each runs, or is about to.
        idle: other instances that the queue keeps.
        yields: whether jobs leave when services need the room, as they do under `partita run --jobs`.
    """

    jobs: Mapping[Place, str]
    idle: frozenset[Place] = frozenset()
    yields: bool = False

    def seen_by_services(self, observation: Observation) -> Observation:
        """Return a cluster as those who change its services see it.

        What the queue keeps is not shown, and neither are jobs that yield: they make room by themselves. Other jobs'
        instances are in use by someone else, so that nothing moves or destroys them.
        """
        seen = without(observation, {*self.idle, *(self.jobs if self.yields else ())})
        if self.yields or not self.jobs:
            return seen
        return Observation(
            tuple(
                replace(
                    gpu,
                    instances=tuple(
                        replace(each, busy=True) if (gpu.id, each.placement) in self.jobs else each
                        for each in gpu.instances
                    ),
                )
                for gpu in seen.gpus
            )
        )

    def told(self) -> str:
        """Return which jobs stay where they are, as text; empty if none do."""
        if self.yields or not self.jobs:
            return ""
        ids = sorted(self.jobs.values(), key=lambda each: [int(part) for part in each.split("_")])
        gpus = {gpu for gpu, _ in self.jobs}
        return (
            f"{counted(len(ids), 'job')} ({', '.join(ids[:_SHOWN])}{', ...' * (len(ids) > _SHOWN)}) on "
            f"{counted(len(gpus), 'GPU')}: their slices stay as they are"
        )


NOTHING_HELD = HeldByJobs({})


def held_by_jobs(state: Path) -> HeldByJobs:
    """Return what jobs hold, as the queue's process says; where none runs, as its store has it.

    Jobs outlive that process.

    Args:
        state: the state folder.

    Raises:
        PartitaError: the store cannot be read, or the queue refuses to answer.
    """
    if (jobs_folder(state) / SOCKET).exists():
        try:
            with QueueClient(jobs_folder(state), PATIENCE_S) as queue:
                return held_as_told(queue.ask("instances"))
        except NoDaemonError:
            pass  # it was killed, or is too busy to answer
    return held_as_stored(state)


def held_as_told(answer: Mapping[str, Any]) -> HeldByJobs:
    """Return what the queue holds by its answer to `instances`; a daemon of an earlier version says less."""
    return HeldByJobs(
        {(job["gpu"], Placement.parse(job["instance"])): job["id"] for job in answer["jobs"]},
        frozenset((gpu, Placement.parse(place)) for gpu, place in answer.get("idle", ())),
        answer.get("yields", False),
    )


def held_as_stored(state: Path) -> HeldByJobs:
    """Return what jobs hold by the queue's store; those that have ended since it was written hold nothing.

    Raises:
        StoreError: the store cannot be read.
    """
    folder = jobs_folder(state)
    if not (folder / FILE).exists():
        return NOTHING_HELD
    with closing(JobStore(folder / FILE, read_only=True)) as store:
        found = store.holding()
    return HeldByJobs(
        {
            (job.attempt.gpu, job.attempt.placement): job.id
            for job in found
            if not (folder / ATTEMPTS / job.id / str(job.attempt.number) / EXIT).exists()
        }
    )


class DriverBesideJobs(PassingDriver):
    """A cluster's driver as those use it who change services, or ask what a change would do, beside jobs.

    Args:
        inner: drives the cluster.
        state: the state folder.
        tell: told which jobs stay where they are.
    """

    def __init__(self, inner: Driver, state: Path, tell: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._state = state
        self._tell = tell
        self._read: HeldByJobs | None = None

    @property
    def _held(self) -> HeldByJobs:
        """What jobs hold, as it was when it was first asked for: without a queue no job begins."""
        if self._read is None:
            self._read = held_by_jobs(self._state)
            if told := self._read.told():
                self._tell(told)
        return self._read

    def observe(self) -> Observation:
        """Return the cluster as it is now."""
        return self._held.seen_by_services(self._inner.observe())

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return what has changed, as `changes` does."""
        found = changes(self._inner, mark, touched)
        return replace(found, gpus=self._held.seen_by_services(Observation(found.gpus)).gpus)
