"""What the API shows: a source is looked at again and again, and says each time what has changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from partita.dash.model import InstanceDetail
from partita.documents.codec import Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from partita.dash.model import Event, EventPage, GpuHistory, Job, Part, Service, Transition
    from partita.errors import PartitaError
    from partita.transition.deployment import Deployment

USABLE, MIG_OFF, LEAVING, LOST = range(4)
"""States of GPUs, as `GpuColumns.state` has them."""

GPU_STATES = ("usable", "MIG off", "leaving", "lost")
"""Their words."""


class SeenGpu(Value):
    """A GPU as a source sees it; what its instances do now comes apart, as `InstanceLoad`."""

    id: str
    uuid: str
    model: str
    node: str
    state: int
    instances: tuple[InstanceDetail, ...]
    """By start."""
    rack: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """What an instance does now: shares between 0 and 1, None where unknown."""

    busy: float | None = None
    attainment: float | None = None
    slowdown: float | None = None


InstanceKey = tuple[str, int]
"""A GPU's id, and the start of an instance on it."""


@dataclass(frozen=True, slots=True)
class Look:
    """What has changed since the last look; at the first one, everything has.

    Attributes:
        at: the cluster's clock.
        gpus: GPUs that changed, as they are now.
        gone: ids of GPUs that are there no more.
        load: loads that changed, by instance.
        watts: watts that changed, by GPU's id.
        services: services that changed.
        gone_services: names of services that are there no more.
        goal: the deployment that is being reached; None where all of it runs, or nothing is wanted.
        transition: the newest transition, if it changed.
        jobs: jobs that changed.
        events: new or ended entries, oldest first.
        unknown: whether nothing is known yet of what runs, so that nothing of it is kept.
        reset: why all that was known before is worthless; None where it is not.
        fault: why a part cannot be seen, such as the journal; the rest is as it is now. None where all is seen.
    """

    at: float
    gpus: Sequence[SeenGpu] = ()
    gone: Collection[str] = ()
    load: Mapping[InstanceKey, InstanceLoad] = field(default_factory=dict)
    watts: Mapping[str, float | None] = field(default_factory=dict)
    services: Sequence[Service] = ()
    gone_services: Collection[str] = ()
    goal: Deployment | None = None
    transition: Transition | None = None
    jobs: Sequence[Job] = ()
    events: Sequence[Event] = ()
    unknown: bool = False
    reset: str | None = None
    fault: PartitaError | None = None


class Source(Protocol):
    """A cluster that the API shows. All methods may be called from any thread, one at a time."""

    @property
    def cluster(self) -> str:
        """Name of the cluster or host."""
        ...

    @property
    def workload(self) -> str | None:
        """Name of the workload that runs, where it is known."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it has."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, and why."""
        ...

    def look(self) -> Look:
        """Return what has changed since the last call.

        Raises:
            PartitaError: nothing can be seen; a later call goes on.
        """
        ...

    def state(self) -> str:
        """Return the fingerprint of the whole state, as `partita status` shows it.

        Raises:
            PartitaError: nothing can be seen.
        """
        ...

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of what happened, newest first.

        Args:
            after: the cursor of the page before, three numbers between dots; None for the newest.
            limit: most events.
            gpu: id of the GPU that they are of; None for all.

        Raises:
            PartitaError: nothing can be read.
        """
        ...

    def history(self, gpu_id: str) -> GpuHistory:
        """Return how a GPU was cut, and what happened on it, newest first.

        Raises:
            PartitaError: nothing can be read.
        """
        ...

    def close(self) -> None:
        """Release what is open; the cluster goes on as it is."""
        ...
