"""What the API answers when it is asked for, and not before: plans, transitions, jobs, energy, what-ifs, changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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


class OnDemand(Protocol):
    """Answers on demand; all methods may be called from any thread, side by side, and may take seconds.

    Those of a part that `parts` does not have are not called. All raise `RequestFault` or a `PartitaError` where they
    cannot answer.

    Attributes:
        lock: held while the source is asked.
    """

    lock: Lock

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it answers for."""
        ...

    def plan(self) -> PlanSummary | None:
        """Return the plan that was applied last; None if none was."""
        ...

    def difference(self) -> Difference | None:
        """Return what lies between what runs and that plan; None if none was applied."""
        ...

    def difference_to(self, asked: Apply) -> Difference:
        """Return what lies between what runs and another plan."""
        ...

    def transitions(self, after: str | None, limit: int) -> TransitionPage:
        """Return a page of transitions, newest first."""
        ...

    def transition(self, number: str) -> TransitionDetail | None:
        """Return a transition in full; None if there is none of that id."""
        ...

    def jobs(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of jobs."""
        ...

    def job(self, number: str) -> Job:
        """Return a job with its attempts."""
        ...

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what a job wrote from a byte on."""
        ...

    def energy(self, since: float) -> Energy:
        """Return energy and cost since a time, in seconds since 1970."""
        ...

    def explain(self, service: str) -> Explanation:
        """Explain a service of the plan that was applied last."""
        ...

    def what_if_inputs(self) -> WhatIfInputs:
        """Return what a what-if may change, as it is."""
        ...

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer a what-if."""
        ...

    def apply(self, asked: Apply, state: str) -> Accepted:
        """Begin to apply a plan, if the cluster is in a state."""
        ...

    def approve(self, number: str) -> Accepted:
        """Approve a transition that waits for that."""
        ...

    def pause(self, number: str) -> Accepted:
        """Have no further action of a transition begin."""
        ...

    def resume(self, number: str) -> Accepted:
        """End the pause of a transition."""
        ...

    def submit(self, asked: Submit) -> Accepted:
        """Submit a job."""
        ...

    def cancel(self, number: str) -> Accepted:
        """Cancel a job."""
        ...

    def close(self) -> None:
        """End what was begun for answers; what was applied goes on."""
        ...
