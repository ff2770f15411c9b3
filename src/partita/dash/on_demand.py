"""What the API answers when it is asked for, and not before: plans, transitions, jobs, energy, what-ifs, changes."""

from __future__ import annotations

# ruff: noqa: ARG002 -- where nothing answers, it does not matter what was asked
from typing import TYPE_CHECKING

from partita.dash.refusal import RequestFault

if TYPE_CHECKING:
    from threading import Lock

    from partita.dash.model import (
        Accepted,
        Apply,
        Difference,
        Energy,
        Explanation,
        Job,
        JobLog,
        JobPage,
        Part,
        PlanSummary,
        Submit,
        TransitionDetail,
        TransitionPage,
        WhatIf,
        WhatIfAnswer,
        WhatIfInputs,
    )


class OnDemand:
    """Answers on demand: what a subclass does not answer is refused.

    All methods may be called from any thread, side by side, and may take seconds. They raise `RequestFault` or a
    `PartitaError` where they cannot answer.

    Args:
        lock: held while the source is asked.

    Attributes:
        lock: likewise.
    """

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it answers for."""
        return ()

    def plan(self, workload: str) -> PlanSummary | None:
        """Return the plan that was applied last, of a workload or (if empty) of all; None if none was."""
        raise _nothing()

    def difference(self, workload: str) -> Difference | None:
        """Return what lies between what runs and that plan; None if none was applied."""
        raise _nothing()

    def difference_to(self, asked: Apply, workload: str) -> Difference:
        """Return what lies between what runs of a workload and another plan; if empty, of the only one."""
        raise _nothing()

    def transitions(self, after: str | None, limit: int) -> TransitionPage:
        """Return a page of transitions, newest first."""
        raise _nothing()

    def transition(self, number: str) -> TransitionDetail | None:
        """Return a transition in full; None if there is none of that id."""
        raise _nothing()

    def jobs(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of jobs."""
        raise _nothing()

    def job(self, number: str) -> Job:
        """Return a job with its attempts."""
        raise _nothing()

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what a job wrote from a byte on."""
        raise _nothing()

    def energy(self, since: float, gpu: str | None = None) -> Energy:
        """Return energy and cost since a time, in seconds since 1970, of a GPU or (None) of all."""
        raise _nothing()

    def explain(self, service: str) -> Explanation:
        """Explain a service of the plan that was applied last."""
        raise _nothing()

    def what_if_inputs(self, workload: str) -> WhatIfInputs:
        """Return what a what-if may change, as it is, of a workload; if empty, of the first."""
        raise _nothing()

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer a what-if."""
        raise _nothing()

    def apply(self, asked: Apply, state: str) -> Accepted:
        """Begin to apply a plan or a change, if the cluster is in a state."""
        raise _nothing()

    def approve(self, number: str) -> Accepted:
        """Approve a transition that waits for that."""
        raise _nothing()

    def pause(self, number: str) -> Accepted:
        """Have no further action of a transition begin."""
        raise _nothing()

    def resume(self, number: str) -> Accepted:
        """End the pause of a transition."""
        raise _nothing()

    def submit(self, asked: Submit) -> Accepted:
        """Submit a job."""
        raise _nothing()

    def cancel(self, number: str) -> Accepted:
        """Cancel a job."""
        raise _nothing()

    def close(self) -> None:
        """End what was begun for answers; what was applied goes on."""


def _nothing() -> RequestFault:
    return RequestFault(404, "nothing answers this here", hint="`parts` of GET /api/v1 says what does")
