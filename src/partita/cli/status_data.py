"""A cluster, who acts on it and how far that is, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from partita.control.observed import deployed, serving
from partita.control.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.control.journal import Entry, Progress
    from partita.control.lock import Controller
    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster, the goal that its controller is at, who that is, and the newest entries of the journal.

    Attributes:
        jobs: ids of those that run, or are about to, by GPU and placement.
    """

    observation: Observation
    progress: Progress | None
    controller: Controller | None
    tail: tuple[Entry, ...]
    jobs: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def job(self, gpu: ObservedGpu, instance: ObservedInstance) -> str | None:
        """Return the id of the job on an instance; None if there is none, or nobody knows."""
        return self.jobs.get((gpu.id, str(instance.placement)))


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Capacity that is ready, the floor that is kept now and the rate that is wanted, in items/s."""

    name: str
    capacity: float
    floor: float
    required: float


def services(status: Status) -> list[ServiceStatus]:
    """Return all services that run or are wanted."""
    capacity = deployed(status.observation).capacity()
    goal = status.progress.goal if status.progress else None
    wanted = dict(goal.new_rates) if goal else {}
    reached = status.progress is not None and status.progress.state == "reached"
    floor = wanted if reached else goal.guaranteed if goal else {}
    return [
        ServiceStatus(name, capacity.get(name, 0.0), floor.get(name, 0.0), wanted.get(name, 0.0))
        for name in sorted(capacity.keys() | wanted.keys())
    ]


def status_data(status: Status) -> dict[str, Any]:
    """Return a status as plain data."""
    progress = status.progress
    return {
        "state": snapshot(status.observation).fingerprint,
        "controller": asdict(status.controller) if status.controller else None,
        "goal": None
        if progress is None
        else {
            "state": progress.state.value,
            "command": progress.command,
            "actions_done": progress.done,
            "actions": progress.actions,
            "replans": progress.replans,
        },
        "services": [asdict(each) for each in services(status)],
        "gpus": [_gpu_data(status, gpu) for gpu in status.observation.gpus],
        "journal": [asdict(entry) for entry in status.tail],
    }


def _gpu_data(status: Status, gpu: ObservedGpu) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "uuid": gpu.uuid,
        "model": gpu.model,
        "mig": gpu.mig,
        "lost": gpu.lost,
        "instances": [
            {
                "profile": each.placement.profile,
                "start": each.placement.start,
                "mig_uuid": each.identity.mig_uuid,
                "ours": each.ours,
                "busy": each.busy,
                "service": each.replica.replica.service if each.replica else None,
                "job": (job := status.job(gpu, each)),
                "state": state_of(each, job),
            }
            for each in gpu.instances
        ],
    }


def state_of(instance: ObservedInstance, job: str | None = None) -> str:
    """Return the state of an instance and of what runs on it, in a word."""
    if instance.replica is None:
        return "busy" if job or instance.busy else "idle" if instance.complete else "incomplete"
    return "draining" if instance.replica.draining else "ready" if serving(instance) else "starting"
