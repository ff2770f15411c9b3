"""What a controller's API answers on demand about Jobs, and changes nothing by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.dash.endpoint import RequestFault
from partita.dash.model import Part
from partita.dash.on_demand import OnDemand
from partita.kubernetes.dash_jobs import ControllerJobs

if TYPE_CHECKING:
    from threading import Lock

    from partita.dash.model import Accepted, Job, JobLog, JobPage, Submit
    from partita.kubernetes.controller import ClusterController


class ControllerQuestions(OnDemand):
    """Answers questions about the Jobs of a controller's Workloads.

    Args:
        controller: it may begin to lead, or cease to, at any time.
        lock: held while the source is asked.
    """

    def __init__(self, controller: ClusterController, lock: Lock) -> None:
        super().__init__(lock)
        self._jobs = ControllerJobs(controller)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it answers for."""
        return (Part.JOBS,)

    def jobs(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of the Jobs of all Workloads' queues."""
        return self._jobs.page(after, limit, state, q)

    def job(self, number: str) -> Job:
        """Return a Job with its attempts."""
        return self._jobs.job(number)

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what an attempt of a Job wrote from a byte on, as its node still has it."""
        return self._jobs.log(number, after, attempt)

    def submit(self, asked: Submit) -> Accepted:
        """Refuse: who creates a Job on a cluster is known to its API server."""
        del asked
        raise RequestFault(
            409,
            "on a cluster a job is a Job of Kubernetes",
            hint="create one with the label partita.dev/queue: `kubectl create -f job.yaml`",
        )

    def cancel(self, number: str) -> Accepted:
        """Refuse: as for `submit`."""
        namespace, _, name = self.job(number).id.partition(".")
        hint = f"`kubectl delete job {name} -n {namespace}`"
        raise RequestFault(409, "the controller deletes nobody's Job", hint=hint)
