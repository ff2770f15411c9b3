"""The API and the dashboard of a Kubernetes cluster: what the controller's own caches and keepers know, read only.

`ControllerSource` shows the GPUs and services of all Workloads of a controller, `ControllerOnDemand` its Plans and
Transitions. Nothing more is watched for them. Only the controller that leads knows; others say so. A Plan is approved
by its annotation, as `kubectl partita approve` does.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from partita.control.executor import deployed, serving, snapshot
from partita.dash.endpoint import RequestFault
from partita.dash.local import WATCHED_JOBS, gpu_state, instance_detail
from partita.dash.model import (
    Accepted,
    CapacityLine,
    Event,
    EventPage,
    GpuHistory,
    Part,
    Service,
    Transition,
    TransitionDetail,
    TransitionPage,
    TransitionState,
)
from partita.dash.plans import difference_of, plan_data, summary
from partita.dash.source import Look, SeenGpu
from partita.drive.driver import Observation
from partita.errors import InfeasibleError, InputError
from partita.kubernetes.dash_jobs import ControllerJobs, deleted
from partita.kubernetes.dash_power import PowerHistory
from partita.kubernetes.dash_questions import ControllerQuestions, priced
from partita.kubernetes.dra import DURATIONS
from partita.kubernetes.objects import ConflictError, ForbiddenError, NotFoundError
from partita.kubernetes.resources import APPROVED, PLANS, plan_of
from partita.planning.document import parse_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from threading import Lock

    from partita.control.metrics import ClusterFacts
    from partita.dash.model import Apply, Difference, Job, PlanSummary
    from partita.drive.driver import ObservedGpu
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.resources import PlanObject, TransitionObject

_STATES = {
    "Running": TransitionState.RUNNING,
    "Reached": TransitionState.REACHED,
    "Stopped": TransitionState.STOPPED,
    "Replaced": TransitionState.REPLACED,
}


class ControllerSource:
    """The GPUs and services of a controller's Workloads.

    Args:
        controller: it may begin to lead, or cease to, at any time.

    Attributes:
        power: of the GPUs, as far back as they were looked at.
    """

    def __init__(self, controller: ClusterController) -> None:
        self.power = PowerHistory()
        self._controller = controller
        self._facts: dict[tuple[str, str], ClusterFacts] = {}
        self._seen: dict[str, SeenGpu] = {}
        self._services: dict[str, Service] = {}
        self._transition: Transition | None = None
        self._jobs = ControllerJobs(controller)
        self._placed: dict[tuple[str, str], str] = {}
        self._first_jobs: dict[str, Job] | None = None

    @property
    def cluster(self) -> str:
        """What it is; an API server does not say its cluster's name."""
        return "kubernetes"

    @property
    def workload(self) -> str | None:
        """The only Workload; None where there are several, or none."""
        names = [f"{namespace}/{name}" for namespace, name in self._controller.keepers]
        return names[0] if len(names) == 1 else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that there are."""
        return (Part.FLEET, Part.SERVICES)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, and why."""
        if not self._controller.leader.leads:
            return ("this controller does not lead: the holder of its Lease knows what runs",)
        began = self.power.began
        if began is None:
            return ()
        since = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            f"watts and energy are estimates by the power model, since {since}: no counter can be read here",
        )

    def look(self) -> Look:
        """Return what has changed since the last call."""
        keepers = dict(self._controller.keepers)
        facts = {key: known for key, keeper in sorted(keepers.items()) if (known := keeper.facts) is not None}
        newest = _newest(self._controller)
        transition = newest if newest != self._transition else None
        self._transition = newest
        placed, jobs = self._jobs.placed(), self._changed_jobs()
        now = time.time()
        same = facts.keys() == self._facts.keys() and all(self._facts[key] is facts[key] for key in facts)
        if same and placed == self._placed:
            return Look(now, transition=transition, jobs=jobs)
        self._facts, self._placed = facts, placed
        gpus = {gpu.id: gpu for each in facts.values() for gpu in each.observation.gpus}
        watts = self.power.note(now, _by_price(facts), placed)
        made = {name: _seen(gpu, placed) for name, gpu in gpus.items()}
        services = dict(_services(facts))
        changed = [each for name, each in made.items() if self._seen.get(name) != each]
        gone = [name for name in self._seen if name not in made]
        new = [each for name, each in services.items() if self._services.get(name) != each]
        lost = [name for name in self._services if name not in services]
        self._seen, self._services = made, services
        return Look(
            now,
            changed,
            gone,
            watts=watts,
            services=new,
            gone_services=lost,
            transition=transition,
            jobs=jobs,
        )

    def _changed_jobs(self) -> list[Job]:
        """Return those of the first Jobs that changed since the last look; at the first look their page has them."""
        found = {each.id: each for each in self._jobs.all()}
        now = dict(islice(found.items(), WATCHED_JOBS))
        before, self._first_jobs = self._first_jobs, now
        if before is None:
            return []
        return [
            *(each for number, each in now.items() if before.get(number) != each),
            *(deleted(each) for number, each in before.items() if number not in found),
        ]

    @property
    def observation(self) -> Observation:
        """All GPUs as of the last look."""
        return Observation(tuple(gpu for each in self._facts.values() for gpu in each.observation.gpus))

    def state(self) -> str:
        """Return the fingerprint of the whole state."""
        return snapshot(self.observation).fingerprint

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of what was planned and done, newest first; the cluster's own events say more.

        Raises:
            InputError: it is no cursor of this source.
        """
        found = [] if gpu is not None else sorted(_events(self._controller), key=lambda each: -each.at)
        if after is not None and not (after.isascii() and after.isdecimal() and len(after) < 10):
            raise InputError(f"{after!r} is no cursor", where="after", hint="use `next` of the page before")
        begin = 0 if after is None else int(after)
        page = found[begin : begin + limit]
        return EventPage(tuple(page), str(begin + limit) if len(found) > begin + limit else None)

    def history(self, gpu_id: str) -> GpuHistory:
        """Return nothing: the API of a cluster does not keep how a GPU was cut."""
        del gpu_id
        return GpuHistory((), (), ())

    def close(self) -> None:
        """Do nothing: the caches are the controller's."""


def _by_price(facts: Mapping[tuple[str, str], ClusterFacts]) -> dict[str, list[ObservedGpu]]:
    """Return the GPUs by what has one price."""
    found: dict[str, list[ObservedGpu]] = defaultdict(list)
    for key, each in facts.items():
        for gpu in each.observation.gpus:
            found[priced(key, gpu.model)].append(gpu)
    return found


def _seen(gpu: ObservedGpu, placed: Mapping[tuple[str, str], str]) -> SeenGpu:
    details = (
        instance_detail(gpu, each, placed.get((gpu.id, str(each.placement)))) for each in gpu.instances
    )
    return SeenGpu(
        gpu.id,
        gpu.uuid,
        gpu.model,
        gpu.id.rpartition("/")[0],
        gpu_state(gpu),
        tuple(sorted(details, key=lambda each: each.start)),
    )


def _services(facts: Mapping[tuple[str, str], ClusterFacts]) -> Iterator[tuple[str, Service]]:
    """Yield the services of all Workloads by name; of two with one name, that of the later Workload's name counts."""
    for known in facts.values():
        where: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for gpu in known.observation.gpus:
            for each in gpu.instances:
                replica = serving(each)
                for name, _ in replica.serves if replica is not None else ():
                    where[name][f"{gpu.model} {each.placement.profile}"] += 1
        for name, numbers in known.services.items():
            promise = known.promises.get(name)
            yield (
                name,
                Service(
                    name,
                    numbers.required,
                    numbers.floor,
                    numbers.ready,
                    numbers.planned,
                    sum(where[name].values()),
                    None if promise is None else promise.slo_s * 1000,
                    None if promise is None else promise.quantile,
                    where=dict(sorted(where[name].items())),
                ),
            )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _id(each: PlanObject | TransitionObject) -> str:
    """Return an id for paths: no namespace has a dot in its name."""
    return f"{each.metadata.namespace}.{each.metadata.name}"


def _transitions(controller: ClusterController) -> list[Transition]:
    """Return all transitions, newest first, and before them the Plans that wait for approval."""
    if len(controller.caches) < 3:
        return []
    _, plans, transitions, *_ = controller.caches
    waiting = [_waiting(each) for each in plans.values() if each.status.state == "Waiting"]
    begun = [_transition(each) for each in transitions.values()]
    return sorted([*waiting, *begun], key=lambda each: (-each.at, each.id))


def _newest(controller: ClusterController) -> Transition | None:
    return next(iter(_transitions(controller)), None)


def _waiting(plan: PlanObject) -> Transition:
    return Transition(
        _id(plan),
        _seconds(plan.metadata.creation_timestamp),
        f"kubectl partita approve {plan.metadata.name}",
        TransitionState.WAITING,
        0,
        0,
        0.0,
    )


def _transition(found: TransitionObject) -> Transition:
    status = found.status
    begun, ended = _seconds(status.begun), _seconds(status.ended)
    predicted = (time.time() - begun + status.seconds_left) if begun and not ended else ended - begun
    return Transition(
        _id(found),
        begun or _seconds(found.metadata.creation_timestamp),
        f"kubectl get workload {found.spec.workload.name}",
        _STATES.get(status.state, TransitionState.RUNNING),
        status.done,
        status.actions,
        round(max(0.0, predicted)),
        ended or None,
        max(0, status.replans),
    )


def _events(controller: ClusterController) -> Iterator[Event]:
    if len(controller.caches) < 3:
        return
    _, plans, transitions, *_ = controller.caches
    number = 0
    for plan in plans.values():
        number += 1
        text = f"{plan.metadata.name}: {plan.spec.used} GPUs: {plan.spec.why}"
        yield Event(number, _seconds(plan.metadata.creation_timestamp), "goal", text)
    for each in transitions.values():
        number += 1
        status = each.status
        text = f"{each.metadata.name}: {status.state or 'begins'}, {status.progress or 'no actions yet'}"
        at = _seconds(status.begun or each.metadata.creation_timestamp)
        yield Event(number, at, "state", text, ended=_seconds(status.ended) or None)


class ControllerOnDemand(ControllerQuestions):
    """Answers for the Workloads of a controller, and changes what it may.

    Args:
        source: what is seen.
        controller: as for it.
        lock: held while the source is asked.
    """

    def __init__(self, source: ControllerSource, controller: ClusterController, lock: Lock) -> None:
        super().__init__(controller, lock, source.power)
        self._source = source
        self._controller = controller

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that it answers for."""
        return (Part.PLAN, Part.TRANSITIONS, *super().parts)

    def plan(self) -> PlanSummary | None:
        """Return the newest Plan of all Workloads; None if there is none."""
        newest = self._newest_plan()
        if newest is None:
            return None
        made = plan_of(newest.spec)
        return summary(made, {}).replace(document=plan_data(made))

    def difference(self) -> Difference | None:
        """Return what lies between what runs and that Plan; None if there is none."""
        newest = self._newest_plan()
        if newest is None:
            return None
        return self._difference(plan_of(newest.spec))

    def difference_to(self, asked: Apply) -> Difference:
        """Return what lies between what runs and another plan."""
        return self._difference(parse_plan(json.dumps(asked.plan), "plan"))

    def _difference(self, plan: Any) -> Difference:  # noqa: ANN401 -- a Plan
        with self.lock:
            seen = self._source.observation
        try:
            return difference_of(plan, deployed(seen).capacity(), None, seen, DURATIONS)
        except InfeasibleError as error:
            raise RequestFault(409, error.what, where=error.where, hint=error.hint) from None

    def _newest_plan(self) -> PlanObject | None:
        if len(self._controller.caches) < 3:
            return None
        plans = self._controller.caches[1].values()
        return max(
            plans, key=lambda each: (each.metadata.creation_timestamp, each.metadata.name), default=None
        )

    def transitions(self, after: str | None, limit: int) -> TransitionPage:
        """Return a page of Transitions, newest first, and before them the Plans that wait for approval."""
        found = _transitions(self._controller)
        begin = 0
        if after is not None:
            begin = next((at for at, each in enumerate(found, 1) if each.id == after), len(found))
        page = tuple(found[begin : begin + limit])
        return TransitionPage(page, page[-1].id if len(found) > begin + limit else None)

    def transition(self, number: str) -> TransitionDetail | None:
        """Return a Transition with its floors; the API of a cluster keeps no single actions."""
        found = next((each for each in _transitions(self._controller) if each.id == number), None)
        if found is None:
            return None
        lines: list[CapacityLine] = []
        for each in self._controller.caches[2].values():
            if _id(each) == number:
                lines += (
                    CapacityLine(name, floor, (), (), each.spec.old_rates.get(name, 0.0))
                    for name, floor in sorted(each.status.floors.items())
                )
        return TransitionDetail(found, (), tuple(lines), ())

    def approve(self, number: str) -> Accepted:
        """Approve a Plan that waits, by the annotation that its controller reads."""
        namespace, _, name = number.partition(".")
        plan = self._controller.caches[1].get(name, namespace) if self._controller.caches else None
        if plan is None or plan.status.state != "Waiting":
            raise RequestFault(409, f"{number} waits for no approval", hint="look again")
        meta = plan.metadata
        body = {"metadata": {"uid": meta.uid, "annotations": {APPROVED: meta.uid}}}
        try:
            self._controller.api.patch(PLANS, name, body, namespace)
        except ForbiddenError as error:
            hint = f"bind the role for approval to it, or approve with `kubectl partita approve {name}`"
            raise RequestFault(403, f"the controller's account may not: {error.what}", hint=hint) from None
        except (ConflictError, NotFoundError):
            raise RequestFault(409, "another Plan has its name by now", hint="look again") from None
        return Accepted(number, f"{name} is approved")

    def apply(self, asked: Apply, state: str) -> Accepted:
        """Refuse: on a cluster the controller plans."""
        del asked, state
        raise RequestFault(
            409, "the controller plans its Workloads itself", hint="change the Workload: `kubectl apply`"
        )

    def pause(self, number: str) -> Accepted:
        """Refuse: a Transition of a cluster is held back before it begins."""
        raise RequestFault(
            409, f"{number} cannot be paused", hint="write `approve: Manual` into the Workload's spec"
        )

    def resume(self, number: str) -> Accepted:
        """Refuse: nothing is paused."""
        raise RequestFault(409, f"{number} is not paused", hint="look again")
