"""What a controller's API answers on demand about Jobs, energy, what-ifs and reasons, and changes nothing by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.dash.energy import energy
from partita.dash.model import Part
from partita.dash.on_demand import OnDemand
from partita.dash.plans import prices_of
from partita.dash.refusal import RequestFault
from partita.kubernetes.dash_jobs import ControllerJobs
from partita.kubernetes.dash_searches import ControllerSearches

if TYPE_CHECKING:
    from threading import Lock

    from partita.dash.model import (
        Accepted,
        Energy,
        Explanation,
        Job,
        JobLog,
        JobPage,
        Submit,
        WhatIf,
        WhatIfAnswer,
        WhatIfInputs,
    )
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.dash_power import PowerHistory


_RECENT_S = 180.0
"""Over how long the watts now are taken."""


def priced(key: tuple[str, str], model: str) -> str:
    """Return what has one price: the GPUs of a model that a Workload has."""
    return f"{'/'.join(key)} {model}"


class ControllerQuestions(OnDemand):
    """Answers questions about a controller's Workloads, their Jobs and their energy.

    Args:
        controller: it may begin to lead, or cease to, at any time.
        lock: held while the source is asked.
        power: of the GPUs.
    """

    def __init__(self, controller: ClusterController, lock: Lock, power: PowerHistory) -> None:
        super().__init__(lock)
        self._workloads = controller
        self._power = power
        self._jobs = ControllerJobs(controller)
        self._searches = ControllerSearches(controller)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it answers for."""
        return (Part.JOBS, Part.ENERGY, Part.WHAT_IF)

    def jobs(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of the Jobs of all Workloads' queues."""
        return self._jobs.page(after, limit, state, q)

    def job(self, number: str) -> Job:
        """Return a Job with its attempts."""
        return self._jobs.job(number)

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what an attempt of a Job wrote from a byte on, as its node still has it."""
        return self._jobs.log(number, after, attempt)

    def energy(self, since: float, gpu: str | None = None) -> Energy:
        """Return energy and cost by the power model since a time, or since this controller began to lead."""
        now, began = time.time(), self._power.began
        since = min(now, max(since, now if began is None else began))
        prices = {
            priced(key, model): price
            for key, keeper in list(self._workloads.keepers.items())
            if (loaded := keeper.loaded) is not None
            for model, price in prices_of(loaded.spec).items()
        }
        found = energy(
            self._power.between(since, now, gpu),
            self._power.between(now - _RECENT_S, now, gpu),
            self._power.kinds(),
            prices,
            since,
        )
        return found.replace(estimated=True)

    def explain(self, service: str) -> Explanation:
        """Explain a service by the newest Plan of its Workload."""
        return self._searches.explain(service)

    def what_if_inputs(self, workload: str) -> WhatIfInputs:
        """Return what a what-if may change of a Workload, as it is; if empty, of the first."""
        return self._searches.inputs(workload)

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer a what-if about a Workload."""
        return self._searches.what_if(asked)

    def close(self) -> None:
        """End the process that searches."""
        self._searches.close()

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
