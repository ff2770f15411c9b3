"""What keeps one Workload on Kubernetes as its spec says: plans, transitions, conditions.

A `WorkloadKeeper` reads its Workload and tables, reports faults in conditions, and runs the steps of a
`control.Reconciler` with a driver of the Workload's GPUs.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from partita import registry
from partita.control.cluster_view import changes, deployed
from partita.control.controller import Controller, StopRequestedError, standing_rates
from partita.control.executor import TransitionExecutor
from partita.control.goal import goal_for
from partita.control.journal import JournalError, State
from partita.control.metrics import ClusterFacts, ServiceNumbers, promises
from partita.control.reconciler import Reconciler, TransitionOptions
from partita.control.sharing import SharedDriver
from partita.control.watched import WatchedDriver
from partita.documents.codec import to_data
from partita.drive.driver import DriveError
from partita.errors import SHOWN, InfeasibleError, InputError, PartitaError, counted
from partita.kubernetes.jobs import JobTenant, LendsInstances
from partita.kubernetes.journal import (
    PROGRESS_S,
    ApiJournal,
    ApiPlans,
    EventLog,
    WorkloadRecords,
    conditions_with,
    nearest_service,
)
from partita.kubernetes.leader import LostLeadershipError
from partita.kubernetes.objects import (
    OTHER_DEFINITION,
    ConflictError,
    KubernetesError,
    NotFoundError,
)
from partita.kubernetes.pausing import paused_by, resuming
from partita.kubernetes.rates import KeptRates, rates_from
from partita.kubernetes.resources import (
    FINALIZER,
    WORKLOADS,
    Condition,
    WorkloadStatus,
    lost_fields,
    read_spec,
)
from partita.kubernetes.service_objects import ServiceExposure
from partita.kubernetes.tables import RefusedWorkloadError, WorkloadTables
from partita.mig.catalogue import gpu_model
from partita.planner import prepare
from partita.planning.plan import falls_short
from partita.transition.deployment import Layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from partita.drive.driver import ClosableDriver, Observation
    from partita.kubernetes.resources import WorkloadObject, WorkloadSpec
from partita.kubernetes.workload_session import (
    KeeperContext,
    KnowsClaims,
    LoadedWorkload,
    ReleasesGpus,
    SilenceAwareTenant,
    WorkloadGpus,
    WorkloadSession,
)


class WorkloadKeeper:
    """Plans one Workload and carries out its plans, in a thread of its own, until the Workload is gone.

    Attributes:
        wake: an event to be set for an immediate step.
        status: of the Workload, as it is now.
        facts: about its GPUs and services, as of the last look; None before the first.
    """

    def __init__(self, context: KeeperContext, namespace: str, name: str, ended: Callable[[], None]) -> None:
        self.wake = threading.Event()
        self.status = WorkloadStatus()
        self.facts: ClusterFacts | None = None
        self._context = context
        self._namespace, self._name = namespace, name
        self._ended = ended
        self._api = context.api.within(namespace)
        self._ending = threading.Event()
        self._records: WorkloadRecords | None = None
        self._events: EventLog | None = None
        self._written = WorkloadStatus()
        self._write_at = float("-inf")
        self._session: WorkloadSession | None = None
        self._tables = WorkloadTables(self._api)
        self._lost: list[str] = []
        self._failures = 0
        self._silence = ""  # what was last reported of silent nodes
        self._paused_by: str | None = None
        self._not_before = float("-inf")
        self._generation = 0
        self._look_in_s = context.settings.poll_s
        self._accepted = "", float("-inf")  # resource version and time of the last reading
        self._thread = threading.Thread(target=self._run, name=f"workload {namespace}/{name}", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether its thread has ended."""
        return not self._thread.is_alive()

    @property
    def loaded(self) -> LoadedWorkload | None:
        """The Workload as it was accepted last; None before that."""
        session = self._session
        return None if session is None else session.loaded

    @property
    def jobs(self) -> JobTenant | None:
        """The Jobs of its queue; None before its Workload is accepted."""
        session = self._session
        return None if session is None else session.gpus.jobs

    def ask_to_end(self) -> None:
        """Ask the thread to end; it begins no further action."""
        self._ending.set()
        self.wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self.wake.clear()
                try:
                    if not self._look():
                        return
                except LostLeadershipError:
                    return
                except PartitaError as error:
                    self._trouble("ApiTrouble" if isinstance(error, KubernetesError) else "Stopped", error)
                except Exception as error:  # noqa: BLE001 -- other Workloads must go on
                    self._tell("".join(traceback.format_exception(error)))
                    what = f"{type(error).__name__}: {error}; see the controller's log"
                    text = f"a fault in {registry.culprit(error)}: {what}"
                    self._set(Condition("Degraded", "True", "Fault", text))
                    self._pause()
                self.wake.wait(self._look_in_s)
        finally:
            self._close_session()
            self._ended()

    def _look(self) -> bool:
        """Take a step; return False if the Workload is gone."""
        found = self._context.workloads.get(self._name, self._namespace)
        if found is None or (self._records is not None and self._records.owner.uid != found.metadata.uid):
            return False
        if self._records is None:
            self._records = WorkloadRecords(
                self._api, found, self._context.plans, self._context.transitions, self._tell
            )
            self._events = EventLog(self._records, self._tell)
            self.status = self._written = found.status
        self._records.now(found)
        self._show_pause()
        self._look_in_s = self._context.settings.poll_s
        if found.metadata.deletion_timestamp is not None:
            return self._delete(found)
        if FINALIZER not in found.metadata.finalizers:
            self._finalizers(found, [*found.metadata.finalizers, FINALIZER])
        if self._stale(found):
            self._accept(found)
            self._accepted = found.metadata.resource_version, time.monotonic()
        if self._session is not None:
            self._expose(self._session)
            if not self._silent(self._session.gpus):
                if time.monotonic() >= self._not_before:
                    self._step(self._session)
                self._share(self._session)
        self._flush(force=False)
        return True

    def _share(self, session: WorkloadSession) -> None:
        """Let the Jobs take a step."""
        jobs = session.gpus.jobs
        if jobs is not None:
            now = session.gpus.driver.clock.now()
            self._look_in_s = min(self._look_in_s, max(0.0, jobs.step(now) - now))

    def _paused(self) -> str | None:
        """Return who paused the Workload; None if nobody did."""
        found = self._context.workloads.get(self._name, self._namespace)
        if found is not None:  # else the cache is incomplete for a moment
            self._paused_by = paused_by(found)
        return self._paused_by

    def _show_pause(self) -> None:
        """Have a condition say who paused the Workload, once anybody has."""
        by = self._paused()
        if by is not None:
            text = f"by {by}: no action begins until `{resuming(self._name)}`"
            self._set(Condition("Paused", "True", "Paused", text))
        elif any(each.type == "Paused" for each in self.status.conditions):
            self._set(Condition("Paused", "False", "NotPaused", ""))

    def _listen(self, gpus: WorkloadGpus) -> bool:
        """Report while actions are waited for what people should know; say whether nodes are silent."""
        if self._session is not None:
            self._show_pause()
            self._session.journal.show_pause()
        silent = self._silent(gpus)
        with suppress(LostLeadershipError):
            self._flush(force=False)
        return silent

    def _silent(self, gpus: WorkloadGpus) -> bool:
        """Say whether nodes are silent, so that nothing is to begin, and report it."""
        text = gpus.silence()
        if text is None:
            self._silence = ""
            return False
        trouble = Condition("Degraded", "True", "NodesSilent", text)
        if text != self._silence:
            self._silence = text
            self._say("NodesSilent", text)
            if self._session is not None:
                self._session.journal.hindered(trouble)
                self._session.settled = False
        self._set(trouble, state="Degraded")
        with suppress(LostLeadershipError):
            self._flush(force=False)
        return True

    # Reading

    def _stale(self, found: WorkloadObject) -> bool:
        """Whether a Workload must be read again; Jobs' pods wake its keeper far more often than it changes."""
        version, at = self._accepted
        if self._session is None or version != found.metadata.resource_version:
            return True
        return time.monotonic() >= at + self._context.settings.poll_s

    def _accept(self, found: WorkloadObject) -> None:
        """Open a session for the current spec, or report in a condition why it is refused."""
        self._generation = generation = found.metadata.generation
        try:
            loaded = self._read(found)
        except RefusedWorkloadError as error:
            self._refuse(error, generation)
            return
        before = self._session
        if before is not None and before.loaded.document == loaded.document:
            before.loaded = loaded
            self._set(_accepted(generation))
            return
        self._open(loaded)
        self._failures, self._not_before = 0, float("-inf")
        self._set(_accepted(generation), state="Planning", services=len(loaded.spec.services))

    def _refuse(self, error: RefusedWorkloadError, generation: int) -> None:
        on = "; going on with what was accepted before" if self._session is not None else ""
        text = f"{error.with_hint}{on}"
        self._set(Condition("Accepted", "False", error.reason, text, "", generation))
        if self._session is None:
            self.status = msgspec.structs.replace(self.status, state="Refused")
        self._say(error.reason, text)

    def _read(self, found: WorkloadObject) -> LoadedWorkload:
        """Return a Workload with its tables.

        Raises:
            RefusedWorkloadError: the spec or a table has faults, or another Workload has the GPUs.
        """
        name = f"Workload {self._namespace}/{self._name}"
        self._refuse_pruned(found)
        try:
            spec = read_spec(found.spec, name)
            for at, template in _templates(spec):
                for fault in self._context.drivers.refusals(template):
                    raise InputError(fault.what, where=f"{at}.{fault.where}", hint=fault.hint)
        except InputError as error:
            raise RefusedWorkloadError("InvalidSpec", error) from None
        self._refuse_taken(found, spec)
        table, texts = self._tables.read(spec)
        digest = hashlib.sha256(msgspec.json.encode([found.spec, texts], order="sorted"))
        document = digest.hexdigest()[:16]
        if self._session is not None and self._session.loaded.document == document:
            return self._session.loaded
        try:
            registry.make("transition_algorithms", spec.algorithm)
            prepared = prepare(spec, table)
        except InfeasibleError as error:
            raise RefusedWorkloadError("Infeasible", error) from None
        except InputError as error:
            raise RefusedWorkloadError("InvalidSpec", error) from None
        generation = found.metadata.generation
        return LoadedWorkload(
            document, generation, found.spec, spec, prepared, self._context.settings, self._outdated
        )

    def _refuse_pruned(self, found: WorkloadObject) -> None:
        """Refuse a spec that lacks fields without having been changed: an older definition has dropped them.

        Raises:
            RefusedWorkloadError: fields are missing.
        """
        before = self._session.loaded if self._session is not None else None
        if before is None or before.generation != found.metadata.generation:
            return
        lost = list(lost_fields(dict(before.written), found.spec))
        if lost:
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            error = InputError(
                f"nobody changed it, and the API server has dropped {', '.join(lost[:5])}{more}",
                where="spec",
                hint=f"{OTHER_DEFINITION}, and apply the Workload again",
            )
            raise RefusedWorkloadError("SchemaChanged", error)

    def _refuse_taken(self, found: WorkloadObject, spec: WorkloadSpec) -> None:
        """Check that no other Workload has GPUs of this one.

        Raises:
            RefusedWorkloadError: another one has them already, or is older.
        """
        mine = {pool.model for pool in spec.gpus}
        holding = self._session is not None
        for other in self._context.workloads.values():
            if other.metadata.uid == found.metadata.uid or not _goes_first(other, found, holding=holding):
                continue
            models, nodes = _wanted(other)
            shared = sorted(mine & models)
            if not shared:
                continue
            both = [
                node.metadata.name
                for node in self._context.nodes.values()
                if node.has_labels(spec.nodes) and node.has_labels(nodes)
            ]
            if both or not self._context.nodes.values():
                place = f" on node {min(both)}" if both else ""
                whose = f"{other.metadata.namespace}/{other.metadata.name}"
                error = InputError(
                    f"Workload {whose} has the GPUs of model {shared[0]}{place} already",
                    where="nodes",
                    hint="give each Workload nodes of its own with `nodes`, or put the services into one Workload",
                )
                raise RefusedWorkloadError("PoolTaken", error)

    # Acting

    def _open(self, loaded: LoadedWorkload) -> None:
        """Open a session; it takes over the driver of the previous one if the GPUs are the same."""
        before, context, records, events = self._session, self._context, self._records, self._events
        if records is None or events is None:
            raise AssertionError("the Workload was not read")
        same = before is not None and (
            (before.loaded.models, before.loaded.spec.nodes) == (loaded.models, loaded.spec.nodes)
        )
        if before is not None and same:
            gpus = before.gpus
            self._session = None
        else:
            self._close_session()
            nodes = loaded.spec.nodes

            def chosen(node: str, model: str) -> bool:
                known = context.nodes.get(node)
                return model in loaded.models and known is not None and known.has_labels(nodes)

            driver = context.drivers.open(self._api, self._name, self._template, chosen)
            gpus = self._gpus(driver, EventLog(records, self._tell))
        spec = loaded.spec
        journal = ApiJournal(records, events, context.log, self._paused, self._serving)
        plans = ApiPlans(records, events, loaded.document, manual=spec.approve == "Manual")
        rates = rates_from(spec.rates, self._api, self._namespace, context.settings.gateways)
        reconciler = Reconciler(
            self._controller(gpus.shared, journal, spec.algorithm),
            loaded,
            rates,
            context.settings.hysteresis,
            TransitionOptions(spec.algorithm, spec.extra_gpus),
            plans=plans,
        )
        exposure = ServiceExposure(self._api, self._name, records.reference())
        self._session = WorkloadSession(loaded, gpus, journal, plans, rates, reconciler, exposure)

    def _gpus(self, driver: ClosableDriver, events: EventLog) -> WorkloadGpus:
        """Share a Workload's GPUs with the Jobs of its queue, if the driver supports it."""
        watched = WatchedDriver(driver)
        shared = SharedDriver(watched)
        jobs = None
        if isinstance(driver, LendsInstances):
            jobs = JobTenant(
                self._api, self._name, driver, driver, events, tell=self._tell, wake=self.wake.set
            )
        gpus = WorkloadGpus(driver, watched, shared, jobs)
        shared.share_with(SilenceAwareTenant(jobs, lambda: self._listen(gpus)))
        return gpus

    def _controller(self, driver: SharedDriver, journal: ApiJournal, algorithm: str) -> Controller:
        context = self._context
        executor = TransitionExecutor(
            driver,
            journal,
            _Reporter(journal, self._tell),
            context.settings.backoff,
            random.Random(),
            self._interrupted,
            # Jobs are not asked to leave for what is paused; when it goes on, each action asks for its room.
            ahead=lambda transition: driver.expect(transition if self._paused() is None else None),
        )
        made = registry.make("transition_algorithms", algorithm)
        return Controller(executor, made, context.drivers.durations, f"kubectl get workload {self._name}")

    def _template(self, service: str) -> Mapping[str, Any]:
        """Return a service's current pod template.

        Raises:
            InputError: the service has none.
        """
        session = self._session
        if session is not None:
            spec = session.loaded.spec
            for each in spec.services:
                found = each.pod or spec.pod
                if each.name == service and found is not None:
                    return found
        raise InputError(
            "the service has no pod template", where=f"services.{service}.pod", hint="give it a pod"
        )

    def _interrupted(self) -> bool:
        """Say whether running work must stop: it is outdated, or nodes are silent."""
        session = self._session
        return self._outdated() or (session is not None and session.gpus.silence() is not None)

    def _outdated(self) -> bool:
        """Say whether the thread is to end, or the Workload has changed."""
        if self._ending.is_set():
            return True
        found = self._context.workloads.get(self._name, self._namespace)
        if found is None:
            return False  # as our finalizer keeps a deleted Workload, the cache may just be incomplete
        meta = found.metadata
        draining = self.status.state == "Draining"
        return (meta.deletion_timestamp is not None) is not draining or meta.generation != self._generation

    def _expose(self, session: WorkloadSession) -> None:
        """Have a Service for each service, and a condition that says so."""
        spec = session.loaded.spec
        templates = {each.name: each.pod or spec.pod or {} for each in spec.services}
        condition = session.exposure.keep(
            templates, lambda: deployed(session.gpus.driver.observe()).capacity()
        )
        if condition is None:
            return
        told = next((each.message for each in self.status.conditions if each.type == condition.type), "")
        if condition.status == "False" and condition.message != told:
            self._say(condition.reason, condition.message)
        self._set(condition)

    def _step(self, session: WorkloadSession) -> None:
        """Let the reconciler take a step, and report the result in conditions."""
        seen = changes(session.gpus.shared, session.mark, ())
        session.mark = seen.mark
        quiet = not seen.gpus and not seen.gone
        if quiet and session.settled and session.loaded.spec.rates is None:
            return
        session.settled = False
        try:
            session.reconciler.step(time.monotonic())
        except StopRequestedError:
            self.wake.set()
            return
        except (JournalError, DriveError) as error:
            self._trouble("CannotWrite" if isinstance(error, JournalError) else "CannotObserve", error)
            return
        except InfeasibleError as error:
            planned = session.plans.last() is not None
            trouble = Condition("Degraded", "True", "NoWay", error.with_hint)
            self._set(trouble if planned else Condition("Planned", "False", "Infeasible", error.with_hint))
            self._say("Infeasible", error.with_hint)
            self._pause()
        except PartitaError as error:
            self._set(Condition("Degraded", "True", "Stopped", error.with_hint))
            self._say("Stopped", error.with_hint)
            self._pause()
        else:
            self._failures = 0
            session.settled = (
                not session.plans.held
            )  # as the step found it: an approval may come at any moment
            deleted = _claim_trouble(session.gpus.driver)
            self._set(deleted or Condition("Degraded", "False", "AsExpected", ""))
        self._describe(session, session.gpus.shared.observe())

    def _trouble(self, reason: str, error: PartitaError) -> None:
        """Report an error, and try again after a pause."""
        self._tell(f"{error.with_hint}; trying again")
        self._set(Condition("Degraded", "True", reason, error.with_hint))
        self._pause()
        with suppress(LostLeadershipError):
            self._flush(force=False)

    def _pause(self) -> None:
        self._failures += 1
        backoff = self._context.settings.backoff
        self._not_before = time.monotonic() + backoff.delay(self._failures, random.Random())

    def _delete(self, found: WorkloadObject) -> bool:
        """Drain or orphan the replicas of a deleted Workload; return False once the Workload may go."""
        if FINALIZER not in found.metadata.finalizers:
            return False
        records, events, context = self._records, self._events, self._context
        if records is None or events is None:
            raise AssertionError("the Workload was not read")
        self._generation = found.metadata.generation
        self._close_session()
        self._set(Condition("Accepted", "False", "Deleted", "it is deleted"), state="Draining")
        self._flush(force=True)
        journal = ApiJournal(records, events, context.log, self._paused, self._serving)
        driver = context.drivers.open(self._api, self._name, self._template, lambda _node, _model: True)
        try:
            if found.spec.get("deletionPolicy", "Drain") == "Drain":
                observation = driver.observe()
                old = standing_rates(journal.promised(), deployed(observation))
                goal = goal_for(Layouts(()), old, journal.unfinished(), algorithm="shortest", extra_gpus=None)
                self._controller(SharedDriver(driver), journal, "shortest").reach(goal)
            else:
                ServiceExposure(self._api, self._name, records.reference()).release()
            if isinstance(driver, ReleasesGpus):
                driver.release()
        except PartitaError as error:
            self._set(Condition("Degraded", "True", "Stopped", error.with_hint))
            self._flush(force=True)
            raise
        finally:
            driver.close()
        self._finalizers(found, [each for each in found.metadata.finalizers if each != FINALIZER])
        return False

    def _finalizers(self, found: WorkloadObject, wanted: Sequence[str]) -> None:
        meta = {"resourceVersion": found.metadata.resource_version, "finalizers": list(wanted)}
        with suppress(NotFoundError, ConflictError):  # the next step tries again
            self._api.patch(WORKLOADS, self._name, {"metadata": meta})

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.gpus.close()

    # Reporting

    def _describe(self, session: WorkloadSession, observation: Observation) -> None:
        """Write into the status what is planned and what runs."""
        current = deployed(observation)
        self._serving(current.capacity(), current.used)
        newest = session.plans.newest()
        generation = self._generation
        conditions: list[Condition] = []
        waiting = False
        if newest is not None and newest.spec.document == session.loaded.document:
            short = [each.name for each in newest.spec.services if falls_short(each.capacity, each.rate)]
            text = f"{newest.metadata.name}: {counted(newest.spec.used, 'GPU')}"
            said = f"; the GPUs do not suffice for {', '.join(short)}" if short else ""
            reason = "BestEffort" if short else "Planned"
            conditions.append(Condition("Planned", "True", reason, text + said, "", generation))
            waiting = session.loaded.spec.approve == "Manual" and not session.plans.approved()
            approved = (
                Condition(
                    "Approved",
                    "False",
                    "WaitingForApproval",
                    f"`kubectl partita approve {newest.metadata.name}`",
                )
                if waiting
                else Condition("Approved", "True", "Approved", newest.metadata.name)
            )
            conditions.append(approved)
        rates = newest.spec.rates if newest is not None else session.loaded.demand.rates
        capacity = current.capacity()
        behind = sorted(name for name, rate in rates.items() if falls_short(capacity.get(name, 0.0), rate))
        ready = Condition("Ready", "True", "Serving", "every service has its rate", "", generation)
        if behind:
            what = ", ".join(f"{name} {capacity.get(name, 0.0):.0f}/{rates[name]:.0f}" for name in behind[:5])
            ready = Condition(
                "Ready", "False", "BelowRate", f"ready of required items/s: {what}", "", generation
            )
        conditions.append(ready)
        if session.loaded.spec.rates is not None:
            conditions.append(_measured(session.rates))
        session.settled = session.settled and not waiting
        state = "Waiting" if waiting else "Serving" if not behind else "Degraded"
        self._set(
            *conditions,
            state=state,
            services=len(session.loaded.spec.services),
        )

    def _newest_transition(self) -> str:
        found = self._records.transitions() if self._records is not None else []
        return found[-1].metadata.name if found else ""

    def _serving(self, capacity: Mapping[str, float], used: int) -> None:
        """Write into the status what is ready; called during transitions too."""
        session = self._session
        rates: Mapping[str, float] = {}
        fields: dict[str, Any] = {}
        if session is not None:
            newest = session.plans.newest()
            rates = newest.spec.rates if newest is not None else session.loaded.demand.rates
            fields["plan"] = newest.metadata.name if newest is not None else ""
            fields["transition"] = self._newest_transition()
            self.facts = self._facts(session, capacity, rates)
        fields |= {"gpus": used, "nearest": nearest_service(capacity, rates)}
        if session is not None and not session.settled:
            fields["state"] = "Moving"
        self.status = msgspec.structs.replace(self.status, **fields)
        self._flush(force=False)

    def _facts(
        self, session: WorkloadSession, capacity: Mapping[str, float], rates: Mapping[str, float]
    ) -> ClusterFacts | None:
        """Return what metrics say of the Workload; None before its GPUs were observed."""
        seen, newest = session.gpus.watched.seen, session.plans.newest()
        if seen is None:
            return None
        rows = {each.name: each.capacity for each in newest.spec.services} if newest is not None else {}
        found = self._records.transitions() if self._records is not None else []
        status = found[-1].status if found else None
        moving = status is not None and status.state in {"Running", "Paused"}
        floors = status.floors if status is not None and moving else rates
        numbers = {
            name: ServiceNumbers(
                rates.get(name, 0.0), rows.get(name, 0.0), capacity.get(name, 0.0), floors.get(name, 0.0)
            )
            for name in sorted(rates.keys() | capacity.keys())
        }
        promised = promises(session.loaded.prepared.workload)
        if status is None or not status.state:
            return ClusterFacts(*seen, numbers, promised)
        state = State.RUNNING if status.state == "Paused" else State(status.state.lower())
        return ClusterFacts(*seen, numbers, promised, state, status.done, status.actions, status.replans)

    def _set(self, *conditions: Condition, **fields: Any) -> None:  # noqa: ANN401 -- the status's fields
        merged = conditions_with(self.status.conditions, conditions)
        self.status = msgspec.structs.replace(
            self.status, conditions=merged, observed_generation=self._generation, **fields
        )

    def _flush(self, *, force: bool) -> None:
        """Write the status if it has changed; unless forced, not more often than every `PROGRESS_S`."""
        now = time.monotonic()
        if self.status == self._written or (now < self._write_at and not force):
            return
        self._write_at = now + PROGRESS_S
        try:
            body = {"status": to_data(self.status)}
            kept = self._api.patch(WORKLOADS, self._name, body, subresource="status").status
        except LostLeadershipError:
            raise
        except KubernetesError as error:
            self._tell(f"the status cannot be written: {error}")
        else:
            self._written = self.status
            self._note_lost(kept)

    def _note_lost(self, kept: WorkloadStatus) -> None:
        """Log once which fields of the status the API server does not keep."""
        lost = [name for name in kept.__struct_fields__ if getattr(kept, name) != getattr(self.status, name)]
        if lost and lost != self._lost:
            self._tell(f"the API server does not keep {', '.join(lost)} of the status; {OTHER_DEFINITION}")
        self._lost = lost

    def _say(self, reason: str, text: str) -> None:
        if self._events is not None and self._records is not None:
            self._events.say(self._records.about, reason, text, warning=True)

    def _tell(self, text: str) -> None:
        self._context.tell(f"{self._namespace}/{self._name}: {text}")


@dataclass(frozen=True, slots=True)
class _Reporter:
    """The executor's reporter: writes progress to the journal, notes to the log."""

    journal: ApiJournal
    tell: Callable[[str], None]

    def began(self, action: Any) -> None:  # noqa: ANN401
        """Do nothing: the progress shows it."""

    def ended(self, ended: Any, done: int, total: int) -> None:  # noqa: ANN401
        """Report an action that has ended to the journal."""
        self.journal.ended(ended, done, total)

    def note(self, text: str) -> None:
        """Write a note to the log."""
        self.tell(text)

    def observed(self, view: Any) -> None:  # noqa: ANN401
        """Report an observation to the journal."""
        self.journal.observed(view)


def _templates(spec: WorkloadSpec) -> list[tuple[str, Mapping[str, Any]]]:
    found = [(f"services[{index}].pod", each.pod) for index, each in enumerate(spec.services)]
    return [(at, template) for at, template in [("pod", spec.pod), *found] if template is not None]


def _accepted(generation: int) -> Condition:
    return Condition("Accepted", "True", "Accepted", "", "", generation)


def _claim_trouble(driver: ClosableDriver) -> Condition | None:
    """Return the condition of claims that somebody deleted; None if there are none."""
    found = driver.deleted_claims() if isinstance(driver, KnowsClaims) else ()
    if not found:
        return None
    claims = ", ".join(claim for claim, _ in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    text = (
        f"somebody deleted ResourceClaim {claims}{more}; a finalizer keeps it until its pod has ended, then it is "
        f"created anew; `kubectl delete pod {found[0][1]}` has it created at once"
    )
    return Condition("Degraded", "True", "ClaimDeleted", text)


def _measured(rates: KeptRates) -> Condition:
    if rates.fault is not None:
        return Condition(
            "RatesMeasured", "False", "Unavailable", f"{rates.fault.with_hint}; the last rates hold"
        )
    return Condition("RatesMeasured", "True", "Measured", "")


def _goes_first(other: WorkloadObject, mine: WorkloadObject, *, holding: bool) -> bool:
    """Say whether another Workload comes first for GPUs that both want: if it has them already, or is older.

    Args:
        other: the other Workload.
        mine: this Workload.
        holding: whether this Workload was accepted before.
    """
    accepted = next((each for each in other.status.conditions if each.type == "Accepted"), None)
    held = other.status.gpus > 0 or (accepted is not None and accepted.status == "True")
    if held is not holding:
        return held
    refused = accepted is not None and accepted.observed_generation == other.metadata.generation
    older = _age(other) < _age(mine)
    return older and (held or not refused)


def _age(workload: WorkloadObject) -> tuple[str, str]:
    return workload.metadata.creation_timestamp, workload.metadata.uid


def _wanted(workload: WorkloadObject) -> tuple[set[str], Mapping[str, str]]:
    """Return the models and node labels of another Workload, as far as its spec is valid."""
    models: set[str] = set()
    pools = workload.spec.get("gpus")
    for pool in pools if isinstance(pools, list) else []:
        with suppress(InputError):
            models.add(gpu_model(str(pool.get("model"))).name)
    nodes = workload.spec.get("nodes")
    return models, nodes if isinstance(nodes, dict) else {}
