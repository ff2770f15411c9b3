"""The API and the dashboard of a Kubernetes cluster: what the controller's own caches and keepers know, read only.

`ControllerSource` shows the GPUs and services of all Workloads of a controller, `ControllerOnDemand` its Plans and
Transitions. Nothing more is watched for them; what services do now, the gateways of `rates.gateway` say. Only the
controller that leads knows; others say so. A Plan is approved by its annotation, as `kubectl partita approve` does,
and a Workload paused by its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from partita.control.cluster_view import deployed, serving, snapshot
from partita.control.sharing import without
from partita.dash.local import (
    MOST_OF_A_GPU,
    WATCHED_JOBS,
    cuts,
    event_of,
    gpu_state,
    placed,
    shown_instances,
)
from partita.dash.measured import GatewayNow, ServiceNow, load_change, with_measured
from partita.dash.model import Accepted, EventPage, GpuHistory, Part, Service, Transition, TransitionPage
from partita.dash.plans import difference_of, prices_of, summary
from partita.dash.refusal import RequestFault, required_plan
from partita.dash.source import Look, SeenGpu
from partita.drive.driver import Observation
from partita.errors import InfeasibleError, InputError
from partita.kubernetes import dash_changes
from partita.kubernetes.dash_apply import apply_change
from partita.kubernetes.dash_gateways import ControllerGateways
from partita.kubernetes.dash_jobs import ControllerJobs, deleted
from partita.kubernetes.dash_power import PowerHistory
from partita.kubernetes.dash_questions import ControllerQuestions, priced
from partita.kubernetes.dra import DURATIONS
from partita.kubernetes.objects import ConflictError, ForbiddenError, NotFoundError
from partita.kubernetes.pausing import pause, resume
from partita.kubernetes.resources import APPROVED, PLANS, deployment_from, plan_of
from partita.planning.document import parse_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from threading import Lock

    from partita.control.metrics import ClusterFacts
    from partita.dash.model import Apply, Difference, Event, Job, PlanSummary, TransitionDetail
    from partita.dash.source import InstanceKey, InstanceLoad
    from partita.drive.driver import ObservedGpu
    from partita.kubernetes.action_log import ActionLog
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.dash_gateways import WorkloadKey
    from partita.kubernetes.resources import PlanObject, WorkloadObject
    from partita.kubernetes.workload_keeper import WorkloadKeeper
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment

WHO = "the dashboard"
_NOTHING = GatewayNow()


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
        self._gpus: dict[str, ObservedGpu] = {}
        self._log: ActionLog | None = None
        self._goal: tuple[list[tuple[str, int]], Deployment | None] = [], None
        self._seen: dict[str, SeenGpu] = {}
        self._services: dict[str, Service] = {}
        self._bare: dict[str, tuple[WorkloadKey, Service]] = {}
        self._gateways = ControllerGateways(controller)
        self._said: dict[WorkloadKey, GatewayNow] = {}
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
        began, measured = self.power.began, self._gateways.notes()
        if began is None:
            return measured
        since = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            *measured,
            f"watts and energy are estimates by the power model, since {since}: no counter can be read here",
        )

    def look(self) -> Look:
        """Return what has changed since the last call."""
        keepers = dict(self._controller.keepers)
        facts = {key: known for key, keeper in sorted(keepers.items()) if (known := keeper.facts) is not None}
        newest = next(iter(dash_changes.transitions(self._controller)), None)
        transition = newest if newest != self._transition else None
        self._transition = newest
        jobs, before = self._changed_jobs(), self._placed
        events, touched = self._news()
        same = facts.keys() == self._facts.keys() and all(self._facts[key] is facts[key] for key in facts)
        if not same:
            self._facts = facts
            self._gpus = {gpu.id: gpu for each in facts.values() for gpu in each.observation.gpus}
            touched = self._gpus.keys() | self._seen.keys()
        changed, gone = self._look_at(touched)
        load, heard = self._hear()
        now = Look(
            time.time(), changed, gone, load=load, goal=self._wanted(), transition=transition, jobs=jobs,
            events=events, unknown=self._unknown(keepers),
        )  # fmt: skip
        if not same or before != self._placed:
            now = replace(now, watts=self.power.note(now.at, _by_price(facts), self._placed))
        if not same:
            self._bare = {each.name: (key, each) for key, each in _services(facts)}
        elif not heard:
            return now
        services = {
            name: with_measured(each, self._said[key].services.get(name, ServiceNow()))
            if key in self._said
            else each
            for name, (key, each) in self._bare.items()
        }
        new = [each for name, each in services.items() if self._services.get(name) != each]
        lost = [name for name in self._services if name not in services]
        self._services = services
        return replace(now, services=new, gone_services=lost)

    def _unknown(self, keepers: Mapping[WorkloadKey, WorkloadKeeper]) -> bool:
        """Return whether this controller does not lead, or has not seen yet what runs."""
        caches = self._controller.caches
        if not self._controller.leader.leads or not caches or not caches[0].version:
            return True
        seen = [each for each in keepers.values() if each.facts is not None]
        if not seen:
            return bool(keepers or caches[0].values())
        return any(each.loaded is not None and each.facts is None for each in keepers.values())

    def _hear(self) -> tuple[dict[InstanceKey, InstanceLoad], bool]:
        """Return the loads of instances, and whether any gateway said something new."""
        before, self._said = self._said, self._gateways.latest()
        news = [key for key in before | self._said if before.get(key) is not self._said.get(key)]
        load: dict[InstanceKey, InstanceLoad] = {}
        for key in news:
            load |= load_change(before.get(key, _NOTHING), self._said.get(key, _NOTHING))
        return load, bool(news)

    def _wanted(self) -> Deployment | None:
        """Return what the Transitions in progress lead to; None if there are none."""
        found = dash_changes.in_progress(self._controller)
        key = sorted((each.metadata.uid, each.metadata.generation) for each in found)
        if key != self._goal[0]:
            groups = [group for each in found for group in each.spec.target]
            self._goal = key, deployment_from(groups) if found else None
        return self._goal[1]

    def _news(self) -> tuple[list[Event], Collection[str]]:
        """Return new and ended entries of the controller's log, and the GPUs that they or Jobs came to or left."""
        before, self._placed = self._placed, self._jobs.placed()
        touched = {gpu for gpu, _ in dict(before.items() ^ self._placed.items())}
        log = self._controller.log
        records = [] if log is None else log.news()
        first, self._log = self._log is not log, log
        touched |= {each.gpu for each in records if each.gpu is not None}
        return [] if first else [event_of(each) for each in records], touched

    def _look_at(self, names: Collection[str]) -> tuple[list[SeenGpu], list[str]]:
        """Return those of some GPUs that look different now, and the ids of those that are gone."""
        acting = {} if self._log is None else self._log.acting()
        changed, gone = [], []
        for name in names:
            gpu = self._gpus.get(name)
            if gpu is not None:
                shown = shown_instances(gpu, acting.get(name, {}), self._placed)
                node = name.rpartition("/")[0]
                made = SeenGpu(gpu.id, gpu.uuid, gpu.model, node, gpu_state(gpu), shown)
                if self._seen.get(name) != made:
                    self._seen[name] = made
                    changed.append(made)
            elif self._seen.pop(name, None) is not None:
                gone.append(name)
        return changed, gone

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

    def seen_by_services(self, workload: WorkloadKey | None) -> Observation:
        """Return the GPUs of a Workload, or (None) all, as their services' controllers see them.

        Jobs leave when services need their instances, so those are not shown.
        """
        keepers = dict(self._controller.keepers)
        held = {place for each in keepers.values() if each.jobs is not None for place in each.jobs.holds()}
        if workload is None:
            return without(self.observation, held)
        known = self._facts.get(workload)
        return without(Observation(()) if known is None else known.observation, held)

    def state(self) -> str:
        """Return the fingerprint of the whole state: what runs, and what the Workloads ask for."""
        found = self._controller.caches[0].values() if self._controller.caches else ()
        asked = sorted((each.metadata.uid, each.metadata.generation) for each in found)
        text = f"{snapshot(self.observation).fingerprint} {asked}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of what was planned and done, newest first.

        Plans and Transitions are in the API; actions are known since this controller leads.

        Raises:
            InputError: it is no cursor of this source.
        """
        return dash_changes.events(self._controller, after, limit, gpu)

    def history(self, gpu_id: str) -> GpuHistory:
        """Return how a GPU was cut, and what happened on it, since this controller leads."""
        log, gpu = self._controller.log, self._gpus.get(gpu_id)
        if log is None:
            return GpuHistory((), (), ())
        records = log.records(gpu_id)[:MOST_OF_A_GPU]
        now = () if gpu is None else placed(gpu)
        return GpuHistory(cuts(now, records), tuple(map(event_of, records)), (), log.since)

    def close(self) -> None:
        """Read no gateway any more; the caches are the controller's."""
        self._gateways.close()


def _by_price(facts: Mapping[tuple[str, str], ClusterFacts]) -> dict[str, list[ObservedGpu]]:
    """Return the GPUs by what has one price."""
    found: dict[str, list[ObservedGpu]] = defaultdict(list)
    for key, each in facts.items():
        for gpu in each.observation.gpus:
            found[priced(key, gpu.model)].append(gpu)
    return found


def _services(facts: Mapping[WorkloadKey, ClusterFacts]) -> Iterator[tuple[WorkloadKey, Service]]:
    """Yield the services of all Workloads with theirs; of two of one name, that of the later Workload counts."""
    for key, known in facts.items():
        where: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for gpu in known.observation.gpus:
            for each in gpu.instances:
                replica = serving(each)
                for name, _ in replica.serves if replica is not None else ():
                    where[name][f"{gpu.model} {each.placement.profile}"] += 1
        for name, numbers in known.services.items():
            promise = known.promises.get(name)
            yield (
                key,
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

    def plan(self, workload: str) -> PlanSummary:
        """Return the newest Plan of a Workload, or of all."""
        newest = self._newest_plan(workload)
        key, keepers = dash_changes.workload_of(newest), dict(self._controller.keepers)
        loaded = keepers[key].loaded if key in keepers else None
        prices = {} if loaded is None else prices_of(loaded.spec)
        made = summary(plan_of(newest.spec), prices, document=True)
        return made.replace(workload="/".join(key), workloads=tuple(map("/".join, sorted(keepers))))

    def difference(self, workload: str) -> Difference:
        """Return what lies between what runs and that Plan."""
        newest = self._newest_plan(workload)
        return self._difference(plan_of(newest.spec), dash_changes.workload_of(newest))

    def difference_to(self, asked: Apply, workload: str) -> Difference:
        """Return what lies between what runs of a Workload and another plan; it need not name the only one."""
        keys = sorted(self._controller.keepers)
        if not workload and len(keys) > 1:
            names = ", ".join(map("/".join, keys[:5]))
            raise RequestFault(
                422, "there are several Workloads", where="workload", hint=f"name one: {names}"
            )
        key = self._key(workload) if workload else keys[0] if keys else None
        return self._difference(parse_plan(json.dumps(required_plan(asked)), "plan"), key)

    def _difference(self, plan: Plan, key: WorkloadKey | None) -> Difference:
        """Return what lies between what runs and a plan of a Workload, or (None) of all GPUs."""
        with self.lock:
            seen, state = self._source.seen_by_services(key), self._source.state()
        if key is not None and not seen.gpus:
            what = f"the GPUs of Workload {'/'.join(key)} are not seen yet"
            raise RequestFault(409, what, where="workload", hint="ask again in some seconds")
        try:
            found = difference_of(plan, deployed(seen).capacity(), None, seen, DURATIONS)
        except InfeasibleError as error:
            raise RequestFault(409, error.what, where=error.where, hint=error.hint) from None
        return found.replace(state=state, workload="/".join(key or ()))

    def _key(self, workload: str) -> WorkloadKey:
        """Return namespace and name of a Workload.

        Raises:
            RequestFault: there is none of that name.
        """
        namespace, _, name = workload.partition("/")
        if (namespace, name) not in self._controller.keepers:
            hint = "`kubectl get workloads --all-namespaces` lists them"
            raise RequestFault(404, f"there is no Workload {workload!r}", where="workload", hint=hint)
        return namespace, name

    def _newest_plan(self, workload: str) -> PlanObject:
        """Return the newest Plan of a Workload, or of all.

        Raises:
            RequestFault: there is none, or no such Workload.
        """
        found = dash_changes.newest_plan(self._controller, self._key(workload) if workload else None)
        if found is None:
            what = f"Workload {workload} has no Plan yet" if workload else "there is no Plan yet"
            raise RequestFault(404, what, hint="`kubectl get workloads --all-namespaces` says why")
        return found

    def transitions(self, after: str | None, limit: int) -> TransitionPage:
        """Return a page of Transitions, newest first, and before them the Plans that wait for approval."""
        found = dash_changes.transitions(self._controller)
        begin = 0
        if after is not None:
            begin = next((at for at, each in enumerate(found, 1) if each.id == after), len(found))
        page = tuple(found[begin : begin + limit])
        return TransitionPage(page, page[-1].id if len(found) > begin + limit else None)

    def transition(self, number: str) -> TransitionDetail | None:
        """Return a Transition in full, as far as this controller carried it out; None if there is none of that id."""
        return dash_changes.transition(self._controller, number)

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
        """Change a Workload's spec, if the cluster is in a state; its controller plans it as ever."""
        if asked.change is None:
            raise RequestFault(
                409,
                "the controller plans its Workloads itself, and carries out no other plan",
                where="plan",
                hint="send a `change` of the Workload, or change it: `kubectl apply`",
            )

        def current() -> bool:
            with self.lock:
                return self._source.state() == state

        return apply_change(self._controller, asked.change, current)

    def pause(self, number: str) -> Accepted:
        """Have no further action of a Transition's Workload begin, by the annotation that its controller reads."""
        return self._annotated(number, lambda found: pause(self._controller.api, found, WHO))

    def resume(self, number: str) -> Accepted:
        """End the pause of a Transition's Workload."""
        return self._annotated(number, lambda found: resume(self._controller.api, found))

    def _annotated(self, number: str, annotate: Callable[[WorkloadObject], str]) -> Accepted:
        """Pause or resume the Workload of a Transition that is in progress."""
        found = dash_changes.workload_in_progress(self._controller, number)
        if found is None:
            raise RequestFault(409, f"transition {number} is not in progress", hint="look again")
        try:
            return Accepted(number, annotate(found))
        except ForbiddenError as error:
            raise RequestFault(
                403, f"the controller's account may not: {error.what}", hint=error.hint
            ) from None
        except InputError as error:
            raise RequestFault(409, error.what, where=error.where, hint=error.hint) from None
