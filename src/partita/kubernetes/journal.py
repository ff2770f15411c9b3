"""The journal in the API: plans and goals as objects, so that the next controller can continue.

A plan is a Plan object. A goal is a Transition object: its spec is the goal, grouped so that 8,000 GPUs fit into one
object, and its status is the progress. Single actions are not written down, since their effects are in the cluster
(claims, pods): a controller that starts after a crash finds there what is half done, and actions are idempotent.

Decisive writes (a plan, a goal, the end of a goal) raise `JournalError` if they fail. Progress and events are written
rarely, and their failures are only logged.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from partita.control.cluster_view import deployed
from partita.control.goal import Goal
from partita.control.journal import JournalError, State
from partita.control.reconciler import Demand, Planned
from partita.documents.codec import to_data
from partita.errors import counted
from partita.kubernetes.objects import (
    EVENT,
    ConflictError,
    ExistsError,
    Kind,
    KubernetesError,
    KubernetesObject,
    timestamp,
)
from partita.kubernetes.pausing import resuming
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
    number_of,
    plan_groups,
    plan_of,
    target_groups,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from partita.control.cluster_view import ClusterView, Key, Snapshot
    from partita.drive.driver import ActionResult
    from partita.kubernetes.action_log import ActionLog, Name
    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.objects import Body, T
    from partita.kubernetes.resources import PlanObject, TransitionObject, WorkloadObject
    from partita.planning.plan import Plan
    from partita.transition.transition import Action, Transition

KEPT = 5
"""Number of older Plans and Transitions of a Workload that are kept."""
PROGRESS_S = 2.0
"""Minimum seconds between two writes of progress."""


def conditions_with(before: Sequence[Condition], changed: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return conditions in which some replace those of the same types.

    A condition's time is that of the last change of its status.
    """
    now, known = timestamp(), {each.type: each for each in before}
    for each in changed:
        was = known.get(each.type)
        at = was.last_transition_time if was is not None and was.status == each.status else now
        known[each.type] = msgspec.structs.replace(each, last_transition_time=at)
    return tuple(known.values())


class WorkloadRecords:
    """A Workload's Plans and Transitions, with a number at the end of each name.

    Args:
        api: guarded by the lease.
        workload: owner of all objects that are created here.
        plans: cache of all Plans.
        transitions: cache of all Transitions.
        tell: called with failures of writes that are not decisive, as a sentence for the log.
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
        self._known: dict[
            str, Any
        ] = {}  # the last written object of each kind, which a cache may not show yet

    def now(self, workload: WorkloadObject) -> None:
        """Take over the current generation of the Workload."""
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
        return sorted(found.values(), key=lambda each: number_of(each.metadata.name))

    def remember(self, kind: Kind[T], written: T) -> T:
        """Remember a written object that the cache may not show yet; return it."""
        self._known[kind.plural] = written
        return written

    def create(self, kind: Kind[T], spec: Body, older: Sequence[KubernetesObject]) -> T:
        """Create the next object of a kind, and delete all but the newest `KEPT` of the older ones.

        Raises:
            JournalError: it could not be written.
        """
        number = number_of(older[-1].metadata.name) + 1 if older else 1
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
                number += 1  # the name is taken by a deleted Workload of the same name
            except KubernetesError as error:
                raise JournalError(error.what, where=error.where, hint=error.hint) from None
        for each in older[: -KEPT or None]:
            self.quietly(lambda each=each: self.api.delete(kind, each.metadata.name, self.namespace))  # type: ignore[misc]
        return made

    @property
    def about(self) -> Body:
        """Reference to the Workload in events."""
        return {"kind": "Workload", "name": self.owner.name, "uid": self.owner.uid}

    def reference(self) -> Body:
        """Return the owner reference to the Workload."""
        return {
            "apiVersion": "partita.dev/v1alpha1",
            "kind": "Workload",
            "name": self.owner.name,
            "uid": self.owner.uid,
            "controller": True,
        }

    def quietly(self, write: Callable[[], object]) -> None:
        """Make a write that is not decisive; its failure is only logged."""
        try:
            write()
        except KubernetesError as error:
            if str(error) != self._told:
                self._tell(f"{error}; going on without this write")
            self._told = str(error)


class EventLog:
    """Writes events, without repetitions within a minute and at most 30 a minute.

    Args:
        records: of the Workload.
        tell: called with each event's message, for the log.
    """

    _A_MINUTE = 30

    def __init__(self, records: WorkloadRecords, tell: Callable[[str], None]) -> None:
        self._records = records
        self._tell = tell
        self._said: dict[tuple[str, str, str], float] = {}

    def say(
        self, about: Body, reason: str, message: str, *, warning: bool = False, told: bool = False
    ) -> None:
        """Write an event.

        Args:
            about: reference to the object.
            reason: one word in camel case.
            message: a sentence.
            warning: whether the event is a warning.
            told: whether the message is in the log already.
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
    """A Workload's Plans, for the reconciler (control's `KeptPlans`).

    Args:
        records: of the Workload.
        events: gets an event for each plan.
        document: fingerprint of the current Workload and its tables.
        manual: whether a person must approve each plan.

    Attributes:
        held: whether the newest plan was not approved when that was asked last.
    """

    def __init__(self, records: WorkloadRecords, events: EventLog, document: str, *, manual: bool) -> None:
        self.held = False
        self._records = records
        self._events = events
        self._document = document
        self._manual = manual

    def newest(self) -> PlanObject | None:
        """Return the newest Plan, None if there is none."""
        plans = self._records.plans()
        return plans[-1] if plans else None

    def last(self) -> tuple[Plan, Planned] | None:
        """Return the newest plan and what it was planned for; None if the Workload has changed since."""
        newest = self.newest()
        if newest is None or newest.spec.document != self._document:
            return None
        spec = newest.spec
        batches = {
            name: {int(size): share for size, share in each.items()} for name, each in spec.batches.items()
        }
        return plan_of(spec), Planned(time.monotonic(), spec.document, Demand(spec.rates, batches))

    def keep(self, plan: Plan, planned: Planned, why: str) -> None:
        """Create a Plan; it supersedes the previous one.

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
        text = f"{made.metadata.name}: {counted(spec.used, 'GPU')}, {said}: {why}"
        self._events.say(records.about, "Planned", text)
        about = {"kind": "Plan", "name": made.metadata.name, "uid": made.metadata.uid}
        self._events.say(about, "Planned", text, told=True)
        if older:
            self._state(older[-1], "Superseded")
        self._state(made, "Waiting" if self._manual else "Current")

    def approved(self) -> bool:
        """Say whether the newest plan may be carried out: if no approval is needed, or a person has approved it.

        An approval names the Plan's uid, so it holds neither for another plan nor for a copy of this one.
        """
        newest = self.newest()
        if newest is None:
            return False
        free = not self._manual or newest.metadata.annotations.get(APPROVED) == newest.metadata.uid
        self._state(newest, "Current" if free else "Waiting")
        self.held = not free
        return free

    def _state(self, plan: PlanObject, state: str) -> None:
        if plan.status.state == state:
            return
        name, uid = plan.metadata.name, plan.metadata.uid
        approved = {
            "Current": ("True", "Approved", "it is being carried out"),
            "Waiting": (
                "False",
                "WaitingForApproval",
                f"approve it: `kubectl partita approve {name}` or `kubectl annotate plan {name} {APPROVED}={uid}`",
            ),
            "Superseded": ("False", "Superseded", "a newer plan has replaced it"),
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
    """A Workload's goals as Transitions (control's `TransitionJournal`); also reports their progress.

    Args:
        records: of the Workload.
        events: gets events on the Transition.
        log: gets all actions.
        paused: returns who paused the Workload, None if nobody did.
        serving: called with the ready items/s of each service and the number of GPUs in use, at each report.
    """

    def __init__(
        self,
        records: WorkloadRecords,
        events: EventLog,
        log: ActionLog,
        paused: Callable[[], str | None],
        serving: Callable[[Mapping[str, float], int], None],
    ) -> None:
        self._records = records
        self._events = events
        self._log = log
        self._paused = paused
        self._workload = records.namespace, records.owner.name
        self._serving = serving
        self._object: TransitionObject | None = None
        self._goal: Goal | None = None
        self._begun = False  # whether the goal has a Transition
        self._seen: Snapshot | None = None
        self._status = TransitionStatus()
        self._order: _Order | None = None
        self._replans = 0
        self._writes = 0  # number of writes before this goal
        self._next = float("-inf")
        self._trouble: Condition | None = None
        self._shown: TransitionStatus | None = (
            None  # as it was written last, whatever number of writes it named
        )

    # The journal

    def begin_goal(self, goal: Goal, command: str, at: float) -> None:
        """Set the goal; it becomes a Transition once there are actions, or the promised rates change."""
        del command
        self._log.recover(self._workload, at)  # no action is in progress now
        self._goal = goal
        self._replans = -1
        self._trouble = None
        self._shown = None
        self._writes = sum(self._records.api.writes.values())
        last = self._last()
        self._begun = last is not None and unfinished(last) and last.spec.source == goal.source
        self._object = last if self._begun else None

    def begin_round(self, goal: Goal, transition: Transition, at: float) -> None:
        """Write the goal with its final GPUs, and the actions' number and floors.

        Raises:
            JournalError: the goal could not be written.
        """
        self._goal = goal
        self._replans += 1
        self._write_goal()
        self._log.begin_round(self._transition, transition, at)
        self._order = _Order(transition)
        self._status = TransitionStatus(
            state="Running" if self._paused() is None else "Paused",
            begun=(self._object.status.begun if self._object else "") or timestamp(),
            actions=len(transition.actions),
            replans=self._replans,
            floors={name: float(floor) for name, floor in transition.floors.items()},
        )
        self._next = float("-inf")
        self._show({}, 0)
        if self._replans == 0:
            self._say(
                "Began", f"{counted(len(transition.actions), 'action')}, about {_words(transition.makespan)}"
            )

    def intend(self, actions: Sequence[Action], at: float) -> None:
        """Log them; nothing is written, since what is half done is read from the cluster."""
        self._log.intend(self._workload, self._transition, actions, at)

    def record(
        self, ended: Sequence[ActionResult], seen: Snapshot, at: float, gpus: Collection[str] | None = None
    ) -> None:
        """Count and log actions that have ended."""
        self._log.record(self._workload, ended, at)
        if gpus is None:
            self._seen = seen
        if self._order is not None:
            for each in ended:
                if each.error is None:
                    self._order.done(each.action.id)

    def note(self, text: str, at: float) -> None:
        """Write an event with a warning, and log it."""
        self._log.note(self._transition if self._object is not None else None, text, at)
        self._say("Noticed", text, warning=True)

    def end_goal(self, state: State, at: float) -> None:
        """Write how the goal ended.

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
            and not unfinished(last)
        ):
            return  # there was nothing to do, and the promised rates are the same
        if not self._begun:
            self._write_goal()
        status = self._status
        if self._order is None:  # nothing was left to do: an earlier controller's counts hold
            status = self._object.status if self._object is not None else TransitionStatus()
            status = msgspec.structs.replace(status, begun=status.begun or timestamp())
        if state is State.REACHED:
            status = msgspec.structs.replace(status, done=status.actions, left="", seconds_left=0)
            self._say("Reached", f"{counted(status.actions, 'action')} done")
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
        """Return no instances: labels show what a killed controller has left half done."""
        del at
        return {}

    def seen(self) -> Snapshot | None:
        """Return this controller's last observation."""
        return self._seen

    def unfinished(self) -> Goal | None:
        """Return the newest goal if it was not reached, else None."""
        last = self._last()
        return _goal(last.spec) if last is not None and unfinished(last) else None

    def paused(self) -> str | None:
        """Return who paused the Workload; None if nobody did."""
        return self._paused()

    def promised(self) -> Mapping[str, float] | None:
        """Return the rates that the current deployment must keep; None if there was never a goal."""
        last = self._last()
        if last is None:
            return None
        goal = _goal(last.spec)
        return goal.guaranteed if unfinished(last) else goal.new_rates

    def hindered(self, trouble: Condition) -> None:
        """Have a Transition say what keeps it from going on, should it stop."""
        self._trouble = trouble

    # The reporter

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Count an action that has ended, and write an event if it failed."""
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
        """Write the progress, at most every `PROGRESS_S`."""
        if time.monotonic() >= self._next or self._stands_otherwise():
            current = deployed(view.observation)
            self._show(current.capacity(), current.used)

    def show_pause(self) -> None:
        """Write that the Transition is paused, or goes on, as soon as that changes, while its actions are awaited."""
        if self._order is not None and self._stands_otherwise():
            self._show({}, 0)

    # Parts

    def _stands_otherwise(self) -> bool:
        return (self._paused() is not None) is not (self._status.state == "Paused")

    @property
    def _transition(self) -> Name:
        """Namespace and name of the Transition that is in progress."""
        if self._object is None:
            raise AssertionError("no Transition was begun")
        return self._object.metadata.namespace, self._object.metadata.name

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
            if older and unfinished(older[-1]):
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
        try:  # with the newest version: others write only the status
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
        text, by = f"{status.done} of {counted(status.actions, 'action')} done", self._paused()
        moving = Condition("Progressing", "True", "Running", text)
        if by is not None:
            text = f"paused by {by}: {text}; `{resuming(self._records.owner.name)}` goes on"
            moving = Condition("Progressing", "False", "Paused", text)
        trouble = self._trouble or Condition("Degraded", "False", "AsExpected", "")
        reached = Condition("Reached", "False", moving.reason, "")
        self._status = msgspec.structs.replace(
            status,
            state="Running" if by is None else "Paused",
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
        same = msgspec.structs.replace(self._status, writes=0)
        if wanted is None or (same == self._shown and not decisive):
            return  # a pause may last for days
        self._shown = None
        sent = sum(records.api.writes.values()) - self._writes
        self._status = msgspec.structs.replace(self._status, writes=sent)
        body = {"status": {**to_data(self._status)}}
        name = wanted.metadata.name
        try:
            written = records.api.patch(TRANSITIONS, name, body, records.namespace, subresource="status")
            self._object = records.remember(TRANSITIONS, written)
            self._shown = same
        except ConflictError:
            return
        except KubernetesError as error:
            if decisive:
                raise JournalError(error.what, where=error.where, hint=error.hint) from None


class _Order:
    """The remaining actions of a transition."""

    def __init__(self, transition: Transition) -> None:
        self._left = {action.id: action for action in transition.actions}

    def done(self, name: str) -> None:
        self._left.pop(name, None)

    def seconds_left(self) -> float:
        """Return the predicted seconds of the longest chain of remaining actions."""
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
    """Return the service with the least capacity relative to what is required of it: `resnet50 330/300`."""
    shares = {name: capacity.get(name, 0.0) / rate for name, rate in required.items() if rate > 0}
    if not shares:
        return ""
    name = min(sorted(shares), key=lambda each: shares[each])
    return f"{name} {capacity.get(name, 0.0):.0f}/{required[name]:.0f}"


def _words(seconds: float) -> str:
    """Return a duration as `kubectl` writes it: `2m10s`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    return (
        f"{rest}s"
        if not minutes
        else f"{minutes}m{rest:02d}s"
        if minutes < 60
        else f"{minutes // 60}h{minutes % 60:02d}m"
    )


def unfinished(transition: TransitionObject) -> bool:
    """Say whether a Transition is neither reached nor replaced."""
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
    why = trouble or Condition("Degraded", "True", "Stopped", "the transition was stopped before its end")
    return [
        Condition("Progressing", "False", "Stopped", why.message),
        why,
        Condition("Reached", "False", "Stopped", why.message),
    ]
