"""The endpoints of what is asked for on demand, and of what changes the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from partita.dash.endpoint import STATE, Call, Endpoint, IfMatch, Page, SearchPage
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
    Role,
    Submit,
    TransitionDetail,
    TransitionPage,
    WhatIf,
    WhatIfAnswer,
    WhatIfInputs,
)
from partita.dash.refusal import RequestFault
from partita.dash.transitions import page_of
from partita.documents.codec import Meta, Value
from partita.errors import DeniedError, InputError, PartitaError, UnknownNameError
from partita.jobs.queue.client import NoDaemonError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.dash.on_demand import OnDemand
    from partita.dash.state import ApiState

T = TypeVar("T")


def _of(api: ApiState) -> OnDemand:
    if api.on_demand is None:
        raise RequestFault(404, "nothing answers this here", hint="`parts` of GET /api/v1 says what does")
    return api.on_demand


def _there(found: T | None, what: str, hint: str) -> T:
    if found is None:
        raise RequestFault(404, what, hint=hint)
    return found


class WorkloadQuery(Value):
    """The query of what there is for each workload."""

    workload: Annotated[
        str,
        Meta(
            max_length=320,
            description="Of which workload, where there are several; by default that of the newest plan.",
        ),
    ] = ""


def _plan(api: ApiState, call: Call) -> PlanSummary:
    return _there(_of(api).plan(_named(call)), "no plan was applied", "apply one: `partita apply plan.json`")


def _difference(api: ApiState, call: Call) -> Difference:
    found = _of(api).difference(_named(call))
    return _there(found, "no plan was applied", "apply one: `partita apply plan.json`")


def _difference_to(api: ApiState, call: Call) -> Difference:
    return _of(api).difference_to(call.body, _named(call))


def _named(call: Call) -> str:
    query: WorkloadQuery = call.query
    return query.workload


def _transitions(api: ApiState, call: Call) -> TransitionPage:
    query: Page = call.query
    return _of(api).transitions(query.after, query.limit)


def _transition(api: ApiState, call: Call) -> TransitionDetail:
    query: Page = call.query
    return page_of(_transition_of(api, call.path), query.after, query.limit)


def _transition_of(api: ApiState, path: Mapping[str, str]) -> TransitionDetail:
    number = path["id"]
    found = _of(api).transition(number)
    return _there(found, f"there is no transition {number[:40]!r}", "GET /api/v1/transitions lists them")


_TRANSITION = IfMatch(
    lambda api, path: _transition_of(api, path).transition.version,
    "the transition's id and state, such as `12.running`",
)


class JobQuery(SearchPage):
    """The query of the list of jobs."""

    state: Annotated[str, Meta(max_length=20, description="Only those in this state, as `waiting`.")] = ""


class LogQuery(Value):
    """The query of a log."""

    after: Annotated[
        int, Meta(ge=0, le=2**53, description="Byte from which on: `next` of the piece before.")
    ] = 0
    attempt: Annotated[int, Meta(ge=1, le=2**53, description="By default the newest.")] | None = None


class EnergyQuery(Value):
    """The query of energy."""

    since: Annotated[
        float,
        Meta(
            ge=0,
            le=1e12,
            description="Seconds since 1970; a number below a million is seconds back from now.",
        ),
    ] = 86_400.0


class InputsQuery(Value):
    """The query of what a what-if may change."""

    workload: Annotated[
        str,
        Meta(max_length=320, description="Of which workload, where there are several; by default the first."),
    ] = ""


def _asking_queue(ask: Callable[[], T]) -> T:
    """Return the queue's answer; what it refuses becomes a fault of the request."""
    try:
        return ask()
    except NoDaemonError:
        raise
    except PartitaError as error:
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 503)
        where = error.where and error.where.removeprefix("--")  # as the command line calls it
        raise RequestFault(status, error.what, where=where, hint=error.hint) from None


_STATUS: Mapping[type[PartitaError], int] = {UnknownNameError: 404, InputError: 422, DeniedError: 403}
"""Statuses by kind of error, the narrowest first."""


def _jobs(api: ApiState, call: Call) -> JobPage:
    query: JobQuery = call.query
    return _asking_queue(lambda: _of(api).jobs(query.after, query.limit, query.state, query.q))


def _job(api: ApiState, call: Call) -> Job:
    return _job_of(api, call.path)


def _job_of(api: ApiState, path: Mapping[str, str]) -> Job:
    return _asking_queue(lambda: _of(api).job(path["id"]))


_JOB = IfMatch(lambda api, path: _job_of(api, path).version, "the job's id and state, such as `12.waiting`")


def _log(api: ApiState, call: Call) -> JobLog:
    query: LogQuery = call.query
    return _asking_queue(lambda: _of(api).log(call.path["id"], query.after, query.attempt))


def _energy(api: ApiState, call: Call) -> Energy:
    query: EnergyQuery = call.query
    since = query.since
    return _of(api).energy(max(0.0, (api.fleet.at or 0.0) - since) if since < 1e6 else since)


def _explain(api: ApiState, call: Call) -> Explanation:
    return _of(api).explain(call.path["name"])


def _inputs(api: ApiState, call: Call) -> WhatIfInputs:
    query: InputsQuery = call.query
    return _of(api).what_if_inputs(query.workload)


def _what_if(api: ApiState, call: Call) -> WhatIfAnswer:
    return _of(api).what_if(call.body)


def _apply(api: ApiState, call: Call) -> Accepted:
    return _of(api).apply(call.body, call.if_match or "")


def _approve(api: ApiState, call: Call) -> Accepted:
    return _of(api).approve(call.path["id"])


def _pause(api: ApiState, call: Call) -> Accepted:
    return _of(api).pause(call.path["id"])


def _resume(api: ApiState, call: Call) -> Accepted:
    return _of(api).resume(call.path["id"])


def _submit(api: ApiState, call: Call) -> Accepted:
    return _asking_queue(lambda: _of(api).submit(call.body))


def _cancel(api: ApiState, call: Call) -> Accepted:
    return _asking_queue(lambda: _of(api).cancel(call.path["id"]))


READ = (
    Endpoint(
        "GET", "/plan", PlanSummary, _plan, "The plan that was applied last.",
        part=Part.PLAN, query=WorkloadQuery, slow=True,
    ),
    Endpoint(
        "GET", "/plan/difference", Difference, _difference, "From what runs to the plan that was applied last.",
        part=Part.PLAN, query=WorkloadQuery, slow=True,
    ),
    Endpoint(
        "POST", "/plan/difference", Difference, _difference_to, "From what runs to a plan; changes nothing.",
        part=Part.PLAN, query=WorkloadQuery, body=Apply, slow=True,
    ),
    Endpoint(
        "GET", "/transitions", TransitionPage, _transitions, "Transitions, newest first, by page.",
        part=Part.TRANSITIONS, query=Page, slow=True,
    ),
    Endpoint(
        "GET", "/transitions/{id}", TransitionDetail, _transition,
        "A transition's actions, by page, and capacities, predicted and actual.",
        part=Part.TRANSITIONS, query=Page, slow=True,
    ),
    Endpoint(
        "GET", "/jobs", JobPage, _jobs, "Jobs by page: those that run, those that wait, those that are over.",
        part=Part.JOBS, query=JobQuery, slow=True,
    ),
    Endpoint("GET", "/jobs/{id}", Job, _job, "A job with its attempts.", part=Part.JOBS, slow=True),
    Endpoint(
        "GET", "/jobs/{id}/log", JobLog, _log, "What an attempt of a job wrote, from a byte on.",
        part=Part.JOBS, query=LogQuery, slow=True,
    ),
    Endpoint(
        "GET", "/energy", Energy, _energy, "Energy and cost by service, job, and idle GPUs.",
        part=Part.ENERGY, query=EnergyQuery, slow=True,
    ),
    Endpoint(
        "GET", "/services/{name:path}/explain", Explanation, _explain,
        "What binds a service, and what a change of it would do; takes some seconds.",
        part=Part.WHAT_IF, slow=True,
    ),
    Endpoint(
        "GET", "/what-if", WhatIfInputs, _inputs, "What a what-if may change, as it is now.",
        part=Part.WHAT_IF, query=InputsQuery, slow=True,
    ),
    Endpoint(
        "POST", "/what-if", WhatIfAnswer, _what_if,
        "What other rates, promises, counts or prices would take; changes nothing.",
        part=Part.WHAT_IF, body=WhatIf, slow=True,
    ),
)  # fmt: skip
"""What changes nothing."""

WRITE = (
    Endpoint(
        "POST", "/apply", Accepted, _apply,
        "Begin to apply a plan or a change, in a process of its own; on Kubernetes, change a Workload.",
        part=Part.PLAN, body=Apply, role=Role.WRITE, if_match=STATE, slow=True, status=202,
    ),
    Endpoint(
        "POST", "/transitions/{id}/approve", Accepted, _approve, "Approve a transition that waits for that.",
        part=Part.TRANSITIONS, role=Role.WRITE, if_match=_TRANSITION, slow=True,
    ),
    Endpoint(
        "POST", "/transitions/{id}/pause", Accepted, _pause,
        "Pause a transition: actions in progress end, and none begins.",
        part=Part.TRANSITIONS, role=Role.WRITE, if_match=_TRANSITION, slow=True,
    ),
    Endpoint(
        "POST", "/transitions/{id}/resume", Accepted, _resume, "End the pause of a transition.",
        part=Part.TRANSITIONS, role=Role.WRITE, if_match=_TRANSITION, slow=True,
    ),
    Endpoint(
        "POST", "/jobs", Accepted, _submit, "Submit a job.",
        part=Part.JOBS, body=Submit, role=Role.WRITE, slow=True, status=202,
    ),
    Endpoint(
        "POST", "/jobs/{id}/cancel", Accepted, _cancel, "Cancel a job.",
        part=Part.JOBS, role=Role.WRITE, if_match=_JOB, slow=True,
    ),
)  # fmt: skip
"""What changes the cluster."""

ASKED = (*READ, *WRITE)
