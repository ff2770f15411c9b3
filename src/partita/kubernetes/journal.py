"""Plans and transitions kept in the API, so that whichever controller comes next goes on.

A goal is a Transition: its spec the goal, grouped so that 8,000 GPUs fit in one object, its status the progress. What
an action did is read from the cluster itself (claims, pods), so actions are not written down one by one: a controller
that was killed finds what is half done, and actions are idempotent by their effect. A plan is a Plan.

Writes that decide (a plan, a goal, how it ended) raise `JournalError` where they fail. Progress and events are
written seldom, and what fails of them is passed over.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from partita.control.executor import deployed
from partita.control.goal import Goal
from partita.control.journal import JournalError, State
from partita.control.reconciler import Demand, Planned
from partita.documents.codec import to_data
from partita.kubernetes.objects import (
    EVENT,
    ConflictError,
    ExistsError,
    Kind,
    KubernetesError,
    KubernetesObject,
    timestamp,
)
from partita.kubernetes.resources import (
    APPROVED,
    PLANS,
    TRANSITIONS,
    WORKLOAD_LABEL,
    Condition,
    Owner,
    PlanSpec,
    ServiceRow,
    TransitionSpec,
    TransitionStatus,
    deployment_from,
    plan_groups,
    plan_of,
    target_groups,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from partita.control.executor import ClusterView, Key, Snapshot
    from partita.drive.driver import ActionResult
    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.objects import Body, T
    from partita.kubernetes.resources import PlanObject, TransitionObject, WorkloadObject
    from partita.planning.plan import Plan
    from partita.transition.transition import Action, Transition

KEPT = 5
"""Plans and Transitions of a Workload that are kept beside the newest."""
PROGRESS_S = 2.0
"""Least seconds between two writes of progress."""


def conditions_with(before: Sequence[Condition], changed: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return conditions with some in the place of those of the same types.

    A condition's time is that of the last change of its status.
    """
    now, known = timestamp(), {each.type: each for each in before}
    for each in changed:
        was = known.get(each.type)
        at = was.last_transition_time if was is not None and was.status == each.status else now
        known[each.type] = msgspec.structs.replace(each, last_transition_time=at)
    return tuple(known.values())


class WorkloadRecords:
    """A Workload's Plans and Transitions, with the number of each in its name.

    Args:
        api: guarded by the lease.
        workload: the Workload; all that is made here belongs to it and goes with it.
        plans: all of them.
        transitions: likewise.
        tell: is told what could not be written, and is not needed.
    """

    def __init__(
        self,
        api: KubernetesApi,
        workload: WorkloadObject,
        plans: Cache[PlanObject],
        transitions: Cache[TransitionObject],
        tell: Callable[[str], None],
    ) -> None:
        meta = workload.metadata
        self.api = api
        self.owner = Owner(meta.name, meta.uid, meta.generation)
        self.namespace = meta.namespace
        self._plans = plans
        self._transitions = transitions
        self._tell = tell
        self._told = ""
        self._known: dict[str, Any] = {}  # what was written last, which a cache may not show yet

    def now(self, workload: WorkloadObject) -> None:
        """Have the Workload as it is now."""
        self.owner = self.owner.replace(generation=workload.metadata.generation)

    def plans(self) -> list[PlanObject]:
        """Return the Workload's Plans, the oldest first."""
        return self._all(PLANS, self._plans)

    def transitions(self) -> list[TransitionObject]:
        """Return the Workload's Transitions, the oldest first."""
        return self._all(TRANSITIONS, self._transitions)

    def _all(self, kind: Kind[T], cache: Cache[T]) -> list[T]:
        found: dict[str, T] = {
            each.metadata.name: each
            for each in cache.values()
            if each.metadata.namespace == self.namespace
            and any(owner.uid == self.owner.uid for owner in each.metadata.owner_references)
        }
        last = self._known.get(kind.plural)
        if last is not None:
            shown = found.get(last.metadata.name)
            if shown is None or int(shown.metadata.resource_version) < int(last.metadata.resource_version):
                found[last.metadata.name] = last
        return sorted(found.values(), key=lambda each: _number(each.metadata.name))

    def remember(self, kind: Kind[T], written: T) -> T:
        """Have an object known from now on that a cache may not show yet."""
        self._known[kind.plural] = written
        return written

    def create(self, kind: Kind[T], spec: Body, older: Sequence[KubernetesObject]) -> T:
        """Make the next object of a kind, and take away those that are too old to be of interest.

        Raises:
            JournalError: it could not be written.
        """
        number = _number(older[-1].metadata.name) + 1 if older else 1
        meta = {
            "namespace": self.namespace,
            "labels": {WORKLOAD_LABEL: self.owner.name},
            "ownerReferences": [self.reference()],
        }
        while True:
            body = {"metadata": {**meta, "name": f"{self.owner.name}-{number}"}, "spec": spec}
            try:
                made = self.remember(kind, self.api.create(kind, body))
                break
            except ExistsError:
                number += 1  # of a Workload of that name before this one
            except KubernetesError as error:
                raise JournalError(error.what, where=error.where, hint=error.hint) from None
        for each in older[: -KEPT or None]:
            self.quietly(lambda each=each: self.api.delete(kind, each.metadata.name, self.namespace))  # type: ignore[misc]
        return made

    @property
    def about(self) -> Body:
        """What names the Workload in events."""
        return {"kind": "Workload", "name": self.owner.name, "uid": self.owner.uid}

    def reference(self) -> Body:
        """Return what names the Workload as the owner of an object."""
        return {
            "apiVersion": "partita.dev/v1alpha1",
            "kind": "Workload",
            "name": self.owner.name,
            "uid": self.owner.uid,
            "controller": True,
        }

    def quietly(self, write: Callable[[], object]) -> None:
        """Write something without which all goes on; what fails is told."""
        try:
            write()
        except KubernetesError as error:
            if str(error) != self._told:
                self._tell(f"{error}; going on without")
            self._told = str(error)


def _number(name: str) -> int:
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else 0


class EventLog:
    """Events on objects, not the same one again and again, and not too many.

    Args:
        records: of the Workload.
        tell: is told each event too, in words.
    """

    _A_MINUTE = 30

    def __init__(self, records: WorkloadRecords, tell: Callable[[str], None]) -> None:
        self._records = records
        self._tell = tell
        self._said: dict[tuple[str, str, str], float] = {}

    def say(
        self, about: Body, reason: str, message: str, *, warning: bool = False, told: bool = False
    ) -> None:
        """Tell an event.

        Args:
            about: the object, as an event names it.
            reason: one word in camel case.
            message: a sentence.
            warning: whether a person should look.
            told: whether it stands in the log already.
        """
        now = time.monotonic()
        self._said = {key: at for key, at in self._said.items() if now - at < 60}
        key = about["name"], reason, message
        if key in self._said or len(self._said) >= self._A_MINUTE:
            return
        self._said[key] = now
        if not told:
            self._tell(message)
        at, namespace = timestamp(), self._records.namespace
        name = f"{about['name']}.{time.time_ns():x}"
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {"apiVersion": "partita.dev/v1alpha1", **about, "namespace": namespace},
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "partita"},
            "reportingComponent": "partita",
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        self._records.quietly(lambda: self._records.api.create(EVENT, body))


class ApiPlans:
    """A Workload's Plans, as the reconciler keeps them (control's `KeptPlans`).

    Args:
        records: of the Workload.
        events: is told of each plan.
        document: fingerprint of the Workload and its tables as they are now.
        manual: whether a person must let each plan go.
    """

    def __init__(self, records: WorkloadRecords, events: EventLog, document: str, *, manual: bool) -> None:
        self._records = records
        self._events = events
        self._document = document
        self._manual = manual

    def newest(self) -> PlanObject | None:
        """Return the Plan that was made last, None if none was."""
        plans = self._records.plans()
        return plans[-1] if plans else None

    def last(self) -> tuple[Plan, Planned] | None:
        """Return the plan that was made last and what for; None if it was for another state of the Workload."""
        newest = self.newest()
        if newest is None or newest.spec.document != self._document:
            return None
        spec = newest.spec
        batches = {
            name: {int(size): share for size, share in each.items()} for name, each in spec.batches.items()
        }
        return plan_of(spec), Planned(time.monotonic(), spec.document, Demand(spec.rates, batches))

    def keep(self, plan: Plan, planned: Planned, why: str) -> None:
        """Make a Plan; the one before is superseded.

        Raises:
            JournalError: it could not be written.
        """
        records, older = self._records, self._records.plans()
        if older and older[-1].spec.document != planned.document:
            why = "the workload has changed"
        objective = plan.objective
        spec = PlanSpec(
            workload=records.owner,
            document=planned.document,
            why=why,
            rates={name: float(rate) for name, rate in planned.demand.rates.items()},
            objective=objective.name,
            value=float(objective.value),
            bound=float(objective.lower_bound),
            gap=f"{100 * objective.gap:.1f}%",
            proven=bool(objective.proven),
            solver=plan.solver.name,
            seed=int(plan.solver.seed),
            seconds=float(plan.solver.seconds),
            used=len(plan.gpus),
            services=tuple(
                ServiceRow(each.name, float(each.rate), float(each.capacity), float(each.latency_slo_ms))
                for each in plan.services
            ),
            gpus=plan_groups(plan.gpus),
            batches={
                name: {str(size): float(share) for size, share in shares.items()}
                for name, shares in planned.demand.batches.items()
            },
        )
        made = records.create(PLANS, to_data(spec), older)
        said = "proven optimal" if spec.proven else f"at most {spec.gap} from the best"
        text = f"{made.metadata.name}: {spec.used} GPUs, {said}: {why}"
        self._events.say(records.about, "Planned", text)
        about = {"kind": "Plan", "name": made.metadata.name, "uid": made.metadata.uid}
        self._events.say(about, "Planned", text, told=True)
        if older:
            self._state(older[-1], "Superseded")
        self._state(made, "Waiting" if self._manual else "Current")

    def approved(self) -> bool:
        """Say whether the newest plan may be carried out: always, unless a person must say so, or if one did.

        An approval names the Plan's uid, so that it counts for no other plan, and not for a copy of this one.
        """
        newest = self.newest()
        if newest is None:
            return False
        free = not self._manual or newest.metadata.annotations.get(APPROVED) == newest.metadata.uid
        self._state(newest, "Current" if free else "Waiting")
        return free

    def _state(self, plan: PlanObject, state: str) -> None:
        if plan.status.state == state:
            return
        name, uid = plan.metadata.name, plan.metadata.uid
        approved = {
            "Current": ("True", "Approved", "it is carried out"),
            "Waiting": (
                "False",
                "WaitingForApproval",
                f"let it go: `kubectl partita approve {name}` or `kubectl annotate plan {name} {APPROVED}={uid}`",
            ),
            "Superseded": ("False", "Superseded", "a newer plan has taken its place"),
        }[state]
        condition = Condition("Approved", *approved)  # type: ignore[arg-type]
        status = {"state": state, "conditions": to_data(conditions_with(plan.status.conditions, [condition]))}

        def write() -> None:
            records = self._records
            written = records.api.patch(
                PLANS, name, {"status": status}, records.namespace, subresource="status"
            )
            if state != "Superseded":
                records.remember(PLANS, written)

        self._records.quietly(write)


class ApiJournal:
    """A Workload's goals as Transitions (control's `TransitionJournal`), and the reporter that writes their progress.

    Args:
        records: of the Workload.
        events: is told what a person should know.
        serving: is told the items/s that each service has ready, now and then.
    """

    def __init__(
        self,
        records: WorkloadRecords,
        events: EventLog,
        serving: Callable[[Mapping[str, float], int], None],
    ) -> None:
        self._records = records
        self._events = events
        self._serving = serving
        self._object: TransitionObject | None = None
        self._goal: Goal | None = None
        self._begun = False  # whether the goal has an object
        self._seen: Snapshot | None = None
        self._status = TransitionStatus()
        self._order: _Order | None = None
        self._replans = 0
        self._writes = 0  # sent before this goal
        self._next = float("-inf")
        self._trouble: Condition | None = None

    # The journal

    def begin_goal(self, goal: Goal, command: str, at: float) -> None:
        """Have a goal; it becomes a Transition once there is something to do, or more or less is promised."""
        del command, at
        self._goal = goal
        self._replans = -1
        self._trouble = None
        self._writes = sum(self._records.api.writes.values())
        last = self._last()
        self._begun = last is not None and _unfinished(last) and last.spec.source == goal.source
        self._object = last if self._begun else None

    def begin_round(self, goal: Goal, transition: Transition, at: float) -> None:
        """Write down the goal on the GPUs that it leads to, and what is to be done.

        Raises:
            JournalError: it could not be written.
        """
        del at
        self._goal = goal
        self._replans += 1
        self._write_goal()
        self._order = _Order(transition)
        self._status = TransitionStatus(
            state="Running",
            begun=(self._object.status.begun if self._object else "") or timestamp(),
            actions=len(transition.actions),
            replans=self._replans,
            floors={name: float(floor) for name, floor in transition.floors.items()},
        )
        self._next = float("-inf")
        self._show({}, 0)
        if self._replans == 0:
            self._say("Began", f"{len(transition.actions)} actions, about {_words(transition.makespan)}")

    def intend(self, actions: Sequence[Action], at: float) -> None:
        """Write down nothing: what is half done is read from the cluster."""

    def record(
        self, ended: Sequence[ActionResult], seen: Snapshot, at: float, gpus: Collection[str] | None = None
    ) -> None:
        """Count actions that ended."""
        del at
        if gpus is None:
            self._seen = seen
        if self._order is not None:
            for each in ended:
                if each.error is None:
                    self._order.done(each.action.id)

    def note(self, text: str, at: float) -> None:
        """Tell something that a person should know."""
        del at
        self._say("Noticed", text, warning=True)

    def end_goal(self, state: State, at: float) -> None:
        """Write down how it ended.

        Raises:
            JournalError: it could not be written.
        """
        del at
        goal, last = self._goal, self._last()
        if goal is None:
            raise AssertionError("no goal was begun")
        if (
            not self._begun
            and last is not None
            and last.spec.new_rates == goal.new_rates
            and not _unfinished(last)
        ):
            return  # nothing was to be done, and nothing else is promised
        if not self._begun:
            self._write_goal()
        status = self._status
        if self._order is None:  # nothing was left to be done: what an earlier controller counted holds
            status = self._object.status if self._object is not None else TransitionStatus()
            status = msgspec.structs.replace(status, begun=status.begun or timestamp())
        if state is State.REACHED:
            status = msgspec.structs.replace(status, done=status.actions, left="", seconds_left=0)
            self._say("Reached", f"{status.actions} actions done")
        conditions = _ended_conditions(state, self._trouble)
        self._status = msgspec.structs.replace(
            status,
            state="Reached" if state is State.REACHED else "Stopped",
            ended=timestamp(),
            progress=f"{status.done}/{status.actions}",
            conditions=conditions_with(status.conditions, conditions),
        )
        self._order, self._begun = None, False
        self._write_status(decisive=True)

    def recover(self, at: float) -> Mapping[Key, None]:
        """Return no instances: what a killed controller left half done is known by its labels."""
        del at
        return {}

    def seen(self) -> Snapshot | None:
        """Return what this controller saw last."""
        return self._seen

    def unfinished(self) -> Goal | None:
        """Return the goal that was begun last, if it was not reached."""
        last = self._last()
        return _goal(last.spec) if last is not None and _unfinished(last) else None

    def promised(self) -> Mapping[str, float] | None:
        """Return the rates that are required of what runs now, None if nothing was ever begun."""
        last = self._last()
        if last is None:
            return None
        goal = _goal(last.spec)
        return goal.guaranteed if _unfinished(last) else goal.new_rates

    # The reporter

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Tell an action that failed."""
        del total
        self._status = msgspec.structs.replace(self._status, done=done)
        if ended.error is not None:
            action = ended.action
            what = f"{action.kind.value.replace('_', ' ')} on {action.gpu} {action.placement}"
            hint = f" ({ended.error.hint})" if ended.error.hint else ""
            text = f"{what}: {ended.error}{hint}"
            self._trouble = Condition("Degraded", "True", "ActionFailed", text)
            self._say("ActionFailed", text, warning=True)

    def observed(self, view: ClusterView) -> None:
        """Write the progress, if it was not written just now."""
        if time.monotonic() >= self._next:
            current = deployed(view.observation)
            self._show(current.capacity(), current.used)

    # How

    def _last(self) -> TransitionObject | None:
        found = self._records.transitions()
        return found[-1] if found else None

    def _say(self, reason: str, text: str, *, warning: bool = False) -> None:
        about = self._records.about
        if self._object is not None:
            meta = self._object.metadata
            about = {"kind": "Transition", "name": meta.name, "uid": meta.uid}
        self._events.say(about, reason, text, warning=warning)

    def _write_goal(self) -> None:
        goal, records = self._goal, self._records
        if goal is None:
            raise AssertionError("no goal was begun")
        plans = records.plans()
        spec = TransitionSpec(
            workload=records.owner,
            plan=plans[-1].metadata.name if plans else "",
            target=target_groups(goal.target),
            old_rates=dict(goal.old_rates),
            new_rates=dict(goal.new_rates),
            algorithm=goal.algorithm,
            source=goal.source,
            extra_gpus=goal.extra_gpus,
            forbid=goal.forbid,
        )
        if self._object is None:
            older = records.transitions()
            if older and _unfinished(older[-1]):
                name, status = older[-1].metadata.name, {"state": "Replaced", "ended": timestamp()}
                records.quietly(
                    lambda: records.api.patch(
                        TRANSITIONS, name, {"status": status}, records.namespace, subresource="status"
                    )
                )
            self._object = records.create(TRANSITIONS, to_data(spec), older)
            self._begun = True
            return
        if spec == self._object.spec:
            return
        meta = self._object.metadata
        body = {"metadata": {"name": meta.name, "namespace": meta.namespace}, "spec": to_data(spec)}
        try:  # the newest version, since only the status is written beside this
            found = records.api.get(TRANSITIONS, meta.name, meta.namespace).metadata
            body["metadata"] |= {
                "resourceVersion": found.resource_version,
                "labels": found.labels,
                "ownerReferences": [records.reference()],
            }
            self._object = records.remember(TRANSITIONS, records.api.replace(TRANSITIONS, body))
        except KubernetesError as error:
            raise JournalError(error.what, where=error.where, hint=error.hint) from None

    def _show(self, capacity: Mapping[str, float], used: int) -> None:
        status, order = self._status, self._order
        left = order.seconds_left() if order is not None else 0.0
        nearest = nearest_service(capacity, status.floors) if capacity else status.nearest
        moving = Condition(
            "Progressing", "True", "Running", f"{status.done} of {status.actions} actions done"
        )
        trouble = self._trouble or Condition("Degraded", "False", "AsExpected", "")
        reached = Condition("Reached", "False", "Running", "")
        self._status = msgspec.structs.replace(
            status,
            progress=f"{status.done}/{status.actions}",
            seconds_left=round(left),
            left=_words(left),
            nearest=nearest,
            conditions=conditions_with(status.conditions, [moving, trouble, reached]),
        )
        self._write_status(decisive=False)
        if capacity:
            self._serving(capacity, used)

    def _write_status(self, *, decisive: bool) -> None:
        self._next = time.monotonic() + PROGRESS_S
        records, wanted = self._records, self._object
        if wanted is None:
            return
        sent = sum(records.api.writes.values()) - self._writes
        self._status = msgspec.structs.replace(self._status, writes=sent)
        body = {"status": {**to_data(self._status)}}
        name = wanted.metadata.name
        try:
            written = records.api.patch(TRANSITIONS, name, body, records.namespace, subresource="status")
            self._object = records.remember(TRANSITIONS, written)
        except ConflictError:
            return
        except KubernetesError as error:
            if decisive:
                raise JournalError(error.what, where=error.where, hint=error.hint) from None


class _Order:
    """A transition's actions that are still to be done, and how long they take."""

    def __init__(self, transition: Transition) -> None:
        self._left = {action.id: action for action in transition.actions}

    def done(self, name: str) -> None:
        self._left.pop(name, None)

    def seconds_left(self) -> float:
        """Return the longest chain of actions that are left, in predicted seconds."""
        ends: dict[str, float] = {}
        waiting = {
            name: sum(1 for each in set(action.after) if each in self._left)
            for name, action in self._left.items()
        }
        after: dict[str, list[str]] = {}
        for name, action in self._left.items():
            for each in set(action.after):
                if each in self._left:
                    after.setdefault(each, []).append(name)
        ready = [name for name, n in waiting.items() if n == 0]
        while ready:
            name = ready.pop()
            action = self._left[name]
            ends[name] = action.seconds + max(
                (ends[each] for each in action.after if each in ends), default=0.0
            )
            for later in after.get(name, ()):
                waiting[later] -= 1
                if waiting[later] == 0:
                    ready.append(later)
        return max(ends.values(), default=0.0)


def nearest_service(capacity: Mapping[str, float], required: Mapping[str, float]) -> str:
    """Return the service that is nearest to what is required of it, in words: `resnet50 330/300`."""
    shares = {name: capacity.get(name, 0.0) / rate for name, rate in required.items() if rate > 0}
    if not shares:
        return ""
    name = min(sorted(shares), key=lambda each: shares[each])
    return f"{name} {capacity.get(name, 0.0):.0f}/{required[name]:.0f}"


def _words(seconds: float) -> str:
    """Return a span as `kubectl` writes it: `2m10s`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    return (
        f"{rest}s"
        if not minutes
        else f"{minutes}m{rest:02d}s"
        if minutes < 60
        else f"{minutes // 60}h{minutes % 60:02d}m"
    )


def _unfinished(transition: TransitionObject) -> bool:
    return transition.status.state not in {"Reached", "Replaced"}


def _goal(spec: TransitionSpec) -> Goal:
    return Goal(
        deployment_from(spec.target),
        spec.old_rates,
        spec.new_rates,
        spec.algorithm,
        spec.extra_gpus,
        spec.forbid,
        spec.source,
    )


def _ended_conditions(state: State, trouble: Condition | None) -> list[Condition]:
    if state is State.REACHED:
        return [
            Condition("Progressing", "False", "Reached", ""),
            Condition("Degraded", "False", "AsExpected", ""),
            Condition("Reached", "True", "Reached", ""),
        ]
    why = trouble or Condition("Degraded", "True", "Stopped", "it was stopped before it was reached")
    return [
        Condition("Progressing", "False", "Stopped", why.message),
        why,
        Condition("Reached", "False", "Stopped", why.message),
    ]
