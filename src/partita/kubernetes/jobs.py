"""Packs Kubernetes Jobs into the slices that the services of a Workload leave free.

How a Job gets its slice (tried on Kubernetes 1.37):

- A claim cannot be added to a Job's pod template later: while a Job is suspended, only its pods' node selectors,
  affinities, tolerations, labels, annotations, scheduling gates and resources may change, never `resourceClaims`. A
  claim by name could serve only one pod. So the template names the ResourceClaimTemplate `partita`, and Kubernetes
  makes a claim for each pod. A MutatingAdmissionPolicy in `deploy/jobs` writes these lines into every labelled Job
  and suspends it; without the policy users write them.
- Such a claim requests a device that does not exist, so the scheduler ignores it. Partita allocates exactly the
  device that the queue's decision names, and compares the written allocation with it. Then the scheduler binds the
  pod.
- A suspended Job is resumed when a slice is free for one of its pods. Its other pods wait for theirs, unscheduled.
- After an out-of-memory the Job's controller makes another pod, whose claim gets the next larger slice.
- A Job that yields is suspended: its pods get SIGTERM and their grace period, and the suspension does not count
  against `backoffLimit`. Their slices are free when Kubernetes has removed their claims. Only Kueue may suspend its
  Jobs; of such a Job the pod on the slice is deleted, which does count.

The queue's scheduler (`jobs.queue.scheduler`) makes the decisions, reasons and predicted starts. All state is in
annotations, from which the next controller continues. Decisions run in the thread of the Workload's keeper, writes in
a pool of threads.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from partita.control.sharing import seen_by_tenant
from partita.drive.driver import DriveError, Observation
from partita.errors import PartitaError
from partita.jobs.disciplines.classes import DEFAULT
from partita.jobs.queue.forecast import Families
from partita.jobs.queue.gpus import RestingGpus, hosts, model_of, models
from partita.jobs.queue.overview import reason, situation
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.jobs.queue.scheduler import Scheduler, SchedulerInput
from partita.jobs.run.runner import AttemptPhase, AttemptStatus
from partita.kubernetes.claims import placement_said
from partita.kubernetes.job_objects import (
    ATTEMPTS,
    CLAIM_SPEC,
    CLAIM_TEMPLATE,
    JOB,
    JOB_NAME,
    QUEUE,
    REASON,
    START,
    STATE,
    VERDICT,
    JobMemo,
    PodEnding,
    after_end,
    claim_template_body,
    dump_memo,
    ended_container,
    job_faults,
    job_record,
    on_slice,
    owner_job,
    read_memo,
    restarted_container,
    seconds_of,
    shown_changes,
)
from partita.kubernetes.leader import LostLeadershipError
from partita.kubernetes.objects import ForbiddenError, NotFoundError, UnreachableError
from partita.kubernetes.pods import PLACEMENT, POD, why_not_ready
from partita.oom import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from partita.control.sharing import Place
    from partita.drive.driver import Driver
    from partita.jobs.queue.record import Attempt, JobRecord
    from partita.jobs.queue.scheduler import Decision, Prediction
    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.claims import ResourceClaim
    from partita.kubernetes.job_objects import JobObject
    from partita.kubernetes.journal import EventLog
    from partita.kubernetes.objects import Body
    from partita.kubernetes.pods import ContainerStatus, ContainerTerminated, Pod
    from partita.mig.layout import Placement

_SOON_S = 0.2
_IDLE_S = 30.0
_AGAIN_S = 5.0
_SHOWN_S = 5.0
"""Seconds between two predictions of starts; reasons are written at most every twice that."""
_RESERVED_S = 60.0
"""Seconds for which a slice is reserved for a resumed Job until its pod exists."""
_LINES = 4000
"""Number of lines that are read from the end of a pod's log."""


@runtime_checkable
class LendsInstances(Protocol):
    """A driver that can allocate the claims of Jobs' pods."""

    @property
    def start_timeout_s(self) -> float:
        """Seconds after which a pod that does not start is given up."""
        ...

    def lent(self) -> Collection[tuple[str, Placement, ResourceClaim]]:
        """Return the GPU, placement and claim of each instance that a Job's pod holds."""
        ...

    def unlent(self) -> Collection[ResourceClaim]:
        """Return the claims of Jobs' pods that are not allocated yet."""
        ...

    def lend(self, claim: ResourceClaim, spec: Body, gpu_id: str, placement: Placement) -> None:
        """Allocate a claim on an exact instance.

        Raises:
            DriveError: the claim cannot be allocated there.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Unit:
    """A pod of a Job, or a suspended Job without pods, as the scheduler sees it."""

    job: JobObject
    record: JobRecord
    pod: Pod | None = None
    claim: ResourceClaim | None = None


@dataclass(slots=True)
class _Snapshot:
    """The Jobs, pods and GPUs at one moment.

    Attributes:
        places: instances that pods hold or are getting, by the pod's uid.
        unlent: claims that are not allocated yet, by the pod's uid.
        pods: by their Job's uid.
        waiting: what could start, by record number.
        active: what holds a slice, or is getting one.
        shown: state and reason of the Jobs whose pods neither wait nor run, by uid.
    """

    now: float
    seen: Observation
    places: Mapping[str, Place]
    unlent: Mapping[str, ResourceClaim]
    pods: defaultdict[str, list[Pod]] = field(default_factory=lambda: defaultdict(list))
    jobs: dict[str, JobObject] = field(default_factory=dict)
    memos: dict[str, JobMemo] = field(default_factory=dict)
    waiting: dict[int, _Unit] = field(default_factory=dict)
    active: list[_Unit] = field(default_factory=list)
    shown: dict[str, tuple[str, str]] = field(default_factory=dict)

    def on_slice(
        self, record: JobRecord, at: Place, state: JobState, began: float | None = None
    ) -> JobRecord:
        """Return a record that holds an instance, or is getting it."""
        return on_slice(record, at, model_of(self.seen, at[0]), self.now if began is None else began, state)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A pod that has ended or whose container was restarted, and how it ended."""

    pod: Pod
    record: JobRecord
    status: AttemptStatus


class JobTenant:
    """Gives the Jobs of a queue slices of a Workload's GPUs (control's `Tenant`).

    Args:
        api: guarded by the lease, in the Workload's namespace.
        queue: the Workload's name.
        driver: of its GPUs.
        lender: the same driver, which allocates claims.
        events: gets events on Jobs.
        tell: called with each failure, as a sentence for the log.
        wake: called when there is something to do.
    """

    def __init__(
        self,
        api: KubernetesApi,
        queue: str,
        driver: Driver,
        lender: LendsInstances,
        events: EventLog,
        *,
        tell: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._api, self._driver, self._lender = api, driver, lender
        self._events, self._tell, self._wake = events, tell, wake
        self._families = Families()
        self._scheduler = Scheduler(DEFAULT, self._families)
        self._resting = RestingGpus()
        self._reserved: Mapping[str, Collection[Placement]] = {}
        self._news = threading.Event()
        self._due = float("-inf")
        self._writers = ThreadPoolExecutor(8, thread_name_prefix="jobs")
        self._lock = threading.Lock()
        self._saying = threading.Lock()
        self._outcomes: deque[tuple[str, str]] = deque()  # of allocations: GPU, and the failure or ""
        self._busy: set[str] = set()  # uids of Jobs and pods with a write under way
        self._making: dict[str, tuple[str, Placement]] = {}  # allocations under way, by the pod's uid
        self._written: dict[str, tuple[int, JobMemo]] = {}  # last written version and memo, by the Job's uid
        self._reserved_for: dict[str, tuple[Place, float]] = {}  # slice of a resumed Job, and until when
        self._numbers: dict[str, int] = {}
        self._records: dict[int, JobRecord] = {}
        self._pending: dict[str, float] = {}  # when a pod with a slice was first seen pending
        self._taught: set[str] = set()  # ends from which the family has learnt
        self._handled: set[str] = set()  # ends whose consequences are written
        self._found: dict[str, _Ended] = {}  # ends whose consequences are not written yet
        self._showed: dict[str, float] = {}
        self._show_at = float("-inf")
        self._template_there = False
        self._trouble = ""
        self._jobs: Cache[JobObject] = api.watch(JOB, api.namespace, labels=f"{QUEUE}={queue}")
        self._pods: Cache[Pod] = api.watch(POD, api.namespace, labels=JOB_NAME)
        for cache in (self._jobs, self._pods):
            cache.listen(self._changed)

    def close(self) -> None:
        """End the watches and writes; running Jobs go on."""
        self._writers.shutdown(wait=True, cancel_futures=True)
        self._jobs.close()
        self._pods.close()

    # What is shown; may be called from any thread

    @property
    def jobs(self) -> Collection[JobObject]:
        """The Jobs of the queue."""
        return self._jobs.values()

    @property
    def pods(self) -> Collection[Pod]:
        """The pods of all Jobs of the namespace."""
        return self._pods.values()

    def placed(self) -> Mapping[Place, Pod]:
        """Return the pods of Jobs that have an instance."""
        pods = {pod.metadata.uid: pod for pod in self._pods.values()}
        return {
            (gpu, placement): pods[_owner(claim)]
            for gpu, placement, claim in self._lender.lent()
            if _owner(claim) in pods
        }

    # The services' tenant

    def holds(self) -> Collection[Place]:
        """Return the instances that pods of Jobs hold or are getting."""
        # First those under way: an allocation that ends meanwhile is then in at least one of the two.
        making = set(dict(self._making).values())
        return making | {(gpu, placement) for gpu, placement, _ in self._lender.lent()}

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        """Set the placements that services will want."""
        self._reserved = wanted
        self._news.set()

    def vacate(self, places: Collection[Place]) -> None:
        """Suspend the Jobs that hold these instances; their pods have their grace period."""
        for gpu, placement, claim in self._lender.lent():
            if (gpu, placement) in places:
                self._yield(claim, f"services need {placement} on {gpu}")

    def step(self, now: float) -> float:
        """Do what is due; return when it wants to be called again."""
        if not self._news.is_set() and now < self._due:
            return self._due
        self._news.clear()
        error = self._jobs.error or self._pods.error
        if not (self._jobs.version and self._pods.version):
            if error is not None and not isinstance(error, UnreachableError):
                self._trouble_is(f"Jobs cannot be read: {error.with_hint}")
            self._due = now + 1.0
            return self._due
        try:
            self._due = self._work(now)
        except PartitaError as failure:
            self._trouble_is(str(failure))
            self._due = now + _AGAIN_S
        return self._due

    # Reading

    def _work(self, now: float) -> float:
        while self._outcomes:
            gpu, why = self._outcomes.popleft()
            if why:
                self._resting.rest(gpu, why, now)
            else:
                self._resting.wake(gpu)
        look = self._look(now)
        if not look.jobs:
            return now + _IDLE_S
        self._have_template()
        self._judge(look)
        self._mind(look)
        self._decide(look)
        if now >= self._show_at:
            self._show_at = now + _SHOWN_S
            self._show(look)
        pressing = (
            any(unit.pod is not None for unit in look.waiting.values()) or self._reserved_for or self._busy
        )
        return now + (_SOON_S if pressing else _SHOWN_S)

    def _look(self, now: float) -> _Snapshot:
        making = dict(self._making)  # first, as in `holds`
        lent = {_owner(claim): (gpu, placement) for gpu, placement, claim in self._lender.lent()}
        unlent = {_owner(claim): claim for claim in self._lender.unlent()}
        look = _Snapshot(now, self._driver.observe(), making | lent, unlent)
        for pod in sorted(self._pods.values(), key=_age):
            owner = owner_job(pod)
            if owner is not None:
                look.pods[owner.uid].append(pod)
        for job in sorted(self._jobs.values(), key=_age):
            look.jobs[job.metadata.uid], look.memos[job.metadata.uid] = job, self._learn(job)
            self._take(look, job)
        self._forget(look)
        return look

    def _take(self, look: _Snapshot, job: JobObject) -> None:
        """Add to the snapshot what of a Job waits and what runs, or why it does neither."""
        uid, memo = job.metadata.uid, look.memos[job.metadata.uid]
        fault = next(iter(job_faults(job)), None)
        if fault is not None:
            look.shown[uid] = ("Refused", fault.with_hint)
            return
        holding = [pod for pod in look.pods[uid] if pod.metadata.uid in look.places]
        look.active += [self._holding(look, job, pod) for pod in holding]
        if self._kept(look, job):
            return
        if job.end is not None:
            why = "; ".join(filter(None, (memo.over or memo.why, job.end.message)))
            look.shown[uid] = ("Succeeded", "") if job.end.type == "Complete" else ("Failed", why)
        elif memo.over:
            again = f"`kubectl annotate job {job.metadata.name} {ATTEMPTS}-` lets it start again"
            look.shown[uid] = ("Stopped", f"{memo.over}; {again}")
        elif not job.spec.suspend:
            self._take_waiting(look, job)
        elif holding:
            look.shown[uid] = ("Yielding", memo.why)
        elif job.of_kueue:
            look.shown[uid] = ("Suspended", "Kueue has not admitted it")
        elif memo.resumed:
            how = "set spec.suspend to false to resume it"
            look.shown[uid] = ("Suspended", f"somebody suspended it; {how}")
        elif not any(pod.leaving for pod in look.pods[uid]):
            record = self._record(job, memo, f"{uid}/0")
            look.waiting[record.number] = _Unit(job, record)

    def _holding(self, look: _Snapshot, job: JobObject, pod: Pod) -> _Unit:
        """Return a pod that holds a slice or is getting one."""
        uid = pod.metadata.uid
        state = JobState.STOPPING if pod.leaving else JobState.RUNNING
        if not pod.leaving and (uid in self._making or pod.status.phase == "Pending"):
            state = JobState.STARTING
        record = self._record(job, look.memos[job.metadata.uid], uid)
        began = seconds_of(pod.status.start_time)
        return _Unit(job, look.on_slice(record, look.places[uid], state, began), pod)

    def _kept(self, look: _Snapshot, job: JobObject) -> bool:
        """Say whether a slice is reserved for a resumed Job whose pod does not exist yet."""
        uid = job.metadata.uid
        kept = self._reserved_for.get(uid)
        if kept is None:
            return False
        there = not job.spec.suspend and any(pod.metadata.uid in look.unlent for pod in look.pods[uid])
        if there or look.now > kept[1] or job.end is not None:
            del self._reserved_for[uid]
            return False
        record = self._record(job, look.memos[uid], f"{uid}/0")
        look.active.append(_Unit(job, look.on_slice(record, kept[0], JobState.STARTING)))
        return True

    def _take_waiting(self, look: _Snapshot, job: JobObject) -> None:
        for pod in look.pods[job.metadata.uid]:
            claim = look.unlent.get(pod.metadata.uid)
            if claim is None or pod.leaving or pod.ended or pod.metadata.uid in look.places:
                continue
            record = self._record(job, look.memos[job.metadata.uid], pod.metadata.uid)
            look.waiting[record.number] = _Unit(job, record, pod, claim)

    def _record(self, job: JobObject, memo: JobMemo, key: str) -> JobRecord:
        number = self._numbers.setdefault(key, max(self._numbers.values(), default=0) + 1)
        record = job_record(job, memo, number)
        known = self._records.get(number)
        if known == record:  # the same object, since the scheduler caches by it
            return known
        self._records[number] = record
        return record

    def _memo(self, job: JobObject) -> JobMemo:
        """Return a Job's memo, from the cache or the last write, whichever is newer."""
        now = self._jobs.get(job.metadata.name) or job
        written = self._written.get(job.metadata.uid)
        if written is not None and int(now.metadata.resource_version) < written[0]:
            return written[1]
        return read_memo(now)

    def _learn(self, job: JobObject) -> JobMemo:
        """Return a Job's memo, after its ends have been added to what is known of its family."""
        memo = self._memo(job)
        for each in memo.ends:
            if each.pod not in self._taught:
                self._taught.add(each.pod)
                self._families.add(job_record(job, memo, 0), each.attempt(1))
        return memo

    def _forget(self, look: _Snapshot) -> None:
        """Drop the state of Jobs and pods that are gone."""
        uids = {pod.metadata.uid for pod in self._pods.values()}
        for key, number in list(self._numbers.items()):
            job, of_job, _ = key.partition("/")
            if job not in (look.jobs if of_job else uids):
                del self._numbers[key]
                record = self._records.pop(number, None)
                if record is not None:
                    self._scheduler.forget(record)
        for known in (self._written, self._reserved_for, self._showed):
            for uid in known.keys() - look.jobs.keys():
                known.pop(uid)
        for uid in self._pending.keys() - uids:
            del self._pending[uid]
        self._handled = {key for key in list(self._handled) if key.partition("/")[0] in uids}
        uids |= {each.pod.partition("/")[0] for memo in look.memos.values() for each in memo.ends}
        self._taught = {key for key in self._taught if key.partition("/")[0] in uids}

    # Pods that end, or do not start

    def _have_template(self) -> None:
        """Create the template from which Kubernetes makes the claims of Jobs' pods."""

        def make() -> None:
            self._api.apply(CLAIM_TEMPLATE, claim_template_body(), force=True)
            self._template_there = True

        if not self._template_there:
            self._task(CLAIM_TEMPLATE.plural, make)

    def _judge(self, look: _Snapshot) -> None:
        """Find out how pods have ended, and write what follows."""
        for pod in self._pods.values():
            owner = owner_job(pod)
            job = look.jobs.get(owner.uid) if owner is not None else None
            at = placement_said(pod.metadata.annotations.get(PLACEMENT, ""))
            if job is None or at is None or pod.leaving:
                continue
            uid, memo = pod.metadata.uid, look.memos[job.metadata.uid]
            container = ended_container(pod) if pod.ended else restarted_container(pod)
            key = uid if pod.ended or container is None else f"{uid}/{container.restart_count}"
            if (
                (container is None and not pod.ended)
                or key in self._handled
                or VERDICT in pod.metadata.annotations
            ):
                continue
            record = look.on_slice(self._record(job, memo, uid), at, JobState.RUNNING)
            self._hold_back(look, job)
            ended = self._found.get(key)
            if ended is None:
                self._task(key, lambda p=pod, r=record, c=container, k=key: self._find(p, r, c, k))  # type: ignore[misc]
            else:
                self._draw(look, job, replace(ended, record=record), key)

    @staticmethod
    def _hold_back(look: _Snapshot, job: JobObject) -> None:
        """Give a Job's pods no slice until it is known how the previous one ended: they may need a larger one."""
        uid = job.metadata.uid
        look.waiting = {number: unit for number, unit in look.waiting.items() if unit.job.metadata.uid != uid}
        look.shown.setdefault(uid, ("Waiting", "Partita is finding out how its last pod ended"))

    def _find(self, pod: Pod, record: JobRecord, container: ContainerStatus | None, key: str) -> None:
        how = None
        if container is not None:
            how = container.state.terminated if pod.ended else container.last_state.terminated
        self._found[key] = _Ended(pod, record, self._status(pod, container, how))

    def _after(
        self, look: _Snapshot, job: JobObject, record: JobRecord, key: str, status: AttemptStatus
    ) -> tuple[JobMemo, Attempt]:
        """Return the memo after an end, and that end as it was judged."""
        memo, bounds = look.memos[job.metadata.uid], self._scheduler.expected(record).bounds
        return after_end(memo, record, PodEnding(key, status, look.now), bounds, models(look.seen))

    def _draw(self, look: _Snapshot, job: JobObject, ended: _Ended, key: str) -> None:
        """Write what follows from an end."""
        pod, record, memo = ended.pod, ended.record, look.memos[job.metadata.uid]
        after, attempt = self._after(look, job, record, key, ended.status)
        others = any(
            each.metadata.uid != pod.metadata.uid for each in look.pods[job.metadata.uid] if not each.ended
        )

        def write() -> None:
            if after != memo:
                # A pod whose container is restarted in place keeps its slice, so it must be replaced: by a suspension
                # of the Job, which counts against nothing, or by its deletion, which spares the Job's other pods.
                replaced = not pod.ended
                stop = bool(after.over) or (replaced and not others)
                self._remember(job, after, suspend=True if stop and not job.of_kueue else None)
                if replaced and (job.of_kueue or not stop):
                    self._api.delete(POD, pod.metadata.name, uid=pod.metadata.uid)
                word = "OutOfMemory" if attempt.verdict is AttemptVerdict.OUT_OF_MEMORY else "Lost"
                text = f"pod {pod.metadata.name}: {after.over or after.why}"
                self._say(job, word, text, warning=bool(after.over))
            if pod.ended:
                said = f"{attempt.verdict}: {attempt.why}" if attempt.why else f"{attempt.verdict}"
                self._annotate(POD, pod.metadata.name, pod.metadata.uid, {VERDICT: said})
            self._handled.add(key)
            self._found.pop(key, None)

        if self._later(job, write) and key not in self._taught:
            self._taught.add(key)
            self._families.add(record, attempt)

    def _status(
        self, pod: Pod, container: ContainerStatus | None, how: ContainerTerminated | None
    ) -> AttemptStatus:
        if container is None or how is None:
            why = f"its pod ended: {pod.status.reason or pod.status.phase} {pod.status.message}".strip()
            return AttemptStatus(AttemptPhase.LOST, why=why)
        told = None
        if how.reason == "OOMKilled":
            told = f"container {container.name} used more of the host's memory than its limit (OOMKilled)"
        ending = classify(how.exit_code, "" if not how.exit_code else self._log(pod, container))
        return AttemptStatus(
            AttemptPhase.ENDED,
            code=how.exit_code,
            ending=ending,
            why=told,
            began=seconds_of(how.started_at),
            ended=seconds_of(how.finished_at),
        )

    def _log(self, pod: Pod, container: ContainerStatus) -> str:
        """Return the end of an ended container's log; empty if its node does not have the log.

        Raises:
            UnreachableError: the API server does not answer.
        """
        query = {"container": container.name, "tailLines": str(_LINES)}
        if not pod.ended:
            query["previous"] = "true"
        try:
            found = self._api.read_bytes(POD, pod.metadata.name, subresource="log", query=query)
            return found.decode(errors="replace")
        except NotFoundError:
            return ""
        except ForbiddenError as error:
            self._trouble_is(error.with_hint)
            return ""
        except UnreachableError as error:
            if "no answer" in error.what:
                raise
            return ""

    def _mind(self, look: _Snapshot) -> None:
        """Take their slices from pods that do not start in time."""
        for unit in look.active:
            pod = unit.pod
            if pod is None or pod.status.phase != "Pending" or pod.leaving:
                if pod is not None:
                    self._pending.pop(pod.metadata.uid, None)
                continue
            since = self._pending.setdefault(pod.metadata.uid, look.now)
            if look.now < since + self._lender.start_timeout_s:
                continue
            told = why_not_ready(pod, "its containers have not begun; `kubectl describe pod` has its events")
            why = f"pod {pod.metadata.name} did not start in {self._lender.start_timeout_s:g} s: {told}"
            status = AttemptStatus(AttemptPhase.LOST, why=why)
            after, _ = self._after(look, unit.job, unit.record, pod.metadata.uid, status)
            self._later(unit.job, lambda j=unit.job, p=pod, a=after, w=why: self._give_up(j, p, a, w))  # type: ignore[misc]

    def _give_up(self, job: JobObject, pod: Pod, memo: JobMemo, why: str) -> None:
        self._remember(job, memo, suspend=not job.of_kueue)
        if job.of_kueue:
            self._api.delete(POD, pod.metadata.name, uid=pod.metadata.uid)
        self._say(job, "NotStarted", why, warning=True)

    def _yield(self, claim: ResourceClaim, why: str) -> None:
        """Suspend the Job of a claim; delete the claim's pod instead if the Job is Kueue's, or gone."""
        pod = next((each for each in self._pods.values() if each.metadata.uid == _owner(claim)), None)
        owner = owner_job(pod) if pod is not None else None
        if pod is None or owner is None or pod.leaving:
            return
        job = self._jobs.get(owner.name)
        if job is not None and job.metadata.uid == owner.uid and not job.of_kueue:
            if not job.spec.suspend:
                self._later(job, lambda: self._suspend(job, why))
            return

        def delete() -> None:
            self._api.delete(POD, pod.metadata.name, uid=pod.metadata.uid)

        self._task(pod.metadata.uid, delete)

    def _suspend(self, job: JobObject, why: str) -> None:
        self._remember(job, msgspec.structs.replace(self._memo(job), why=why), suspend=True)
        self._say(job, "Yielded", f"suspended: {why}")

    # Deciding

    def _decide(self, look: _Snapshot) -> None:
        if not look.waiting:
            return
        for decision in self._scheduler.decide(self._view(look)):
            self._start(look, look.waiting.pop(decision.number), decision)

    def _view(self, look: _Snapshot) -> SchedulerInput:
        """Return the scheduler's input."""
        active = [unit.record for unit in look.active]
        own = {(each.attempt.gpu, each.attempt.placement) for each in active}
        gpus = (seen_by_tenant(gpu, own, self._reserved.get(gpu.id, ())) for gpu in look.seen.gpus)
        resting = self._resting.gpus(look.now)
        found = [host for host in hosts(Observation(tuple(gpus)), active) if host.id not in resting]
        waiting = [look.waiting[number].record for number in sorted(look.waiting)]
        return SchedulerInput(look.now, waiting, active, found, {})

    def _start(self, look: _Snapshot, unit: _Unit, decision: Decision) -> None:
        """Carry out a decision: allocate the pod's claim, or resume the Job."""
        at = decision.gpu, decision.change.placement
        job, pod, claim = unit.job, unit.pod, unit.claim
        if pod is None or claim is None:
            self._reserved_for[job.metadata.uid] = (at, look.now + _RESERVED_S)
            begun = self._later(job, lambda: self._resume(job))
            if not begun:
                del self._reserved_for[job.metadata.uid]
        else:
            self._making[pod.metadata.uid] = at
            begun = self._task(pod.metadata.uid, lambda: self._lend(job, pod, claim, at))
            if not begun:
                del self._making[pod.metadata.uid]
        if begun:
            self._show_at = float("-inf")
            look.active.append(_Unit(job, look.on_slice(unit.record, at, JobState.STARTING), pod))

    def _resume(self, job: JobObject) -> None:
        try:
            self._remember(job, msgspec.structs.replace(self._memo(job), resumed=True), suspend=False)
        except PartitaError:
            self._reserved_for.pop(job.metadata.uid, None)
            raise

    def _lend(self, job: JobObject, pod: Pod, claim: ResourceClaim, at: Place) -> None:
        gpu, placement = at
        where = f"{gpu} {placement}"
        try:
            # First, so that the annotation names the slice of every pod that ever held one, even without its claim.
            self._annotate(POD, pod.metadata.name, pod.metadata.uid, {PLACEMENT: where})
            self._lender.lend(claim, CLAIM_SPEC, gpu, placement)
        except DriveError as error:
            self._outcomes.append((gpu, f"{where}: {error}"))
            raise
        finally:
            self._making.pop(pod.metadata.uid, None)
        self._outcomes.append((gpu, ""))
        self._say(job, "Started", f"pod {pod.metadata.name} on {placement} of {gpu}")

    # Reporting

    def _show(self, look: _Snapshot) -> None:
        """Annotate Jobs with their state, the reason, and the predicted start."""
        view = self._view(look)
        predicted = self._scheduler.predict(view) if view.waiting else {}
        trouble = self._trouble or self._resting.why(look.now)
        common = situation(view, self._scheduler, predicted, trouble)
        waiting: defaultdict[str, list[_Unit]] = defaultdict(list)
        running: defaultdict[str, list[_Unit]] = defaultdict(list)
        for unit in look.waiting.values():
            waiting[unit.job.metadata.uid].append(unit)
        for unit in look.active:
            running[unit.job.metadata.uid].append(unit)
        for uid, job in look.jobs.items():
            start = None
            if uid in look.shown:
                state, why = look.shown[uid]
            elif running[uid]:
                at = running[uid][0].record
                state = str(at.state).capitalize()
                where = f"{at.attempt.placement} on {at.attempt.gpu}"
                why = where if len(running[uid]) == 1 else f"{len(running[uid])} pods: {where}, ..."
                if waiting[uid]:
                    first = waiting[uid][0].record
                    why += f"; {len(waiting[uid])} wait: {reason(first, self._scheduler.expected(first), common)}"
            elif waiting[uid]:
                first = waiting[uid][0].record
                state, why = "Waiting", reason(first, self._scheduler.expected(first), common)
                start = _shown_start(predicted.get(first.number))
            else:
                state, why = "Waiting", "Kubernetes has not made its pods and their claims yet"
            self._write_shown(job, {STATE: state, REASON: why, START: start}, look.now)

    def _write_shown(self, job: JobObject, shown: dict[str, str | None], now: float) -> None:
        changes = shown_changes(job, shown)
        uid = job.metadata.uid
        if not changes or (
            STATE not in changes and now < self._showed.get(uid, float("-inf")) + 2 * _SHOWN_S
        ):
            return
        self._showed[uid] = now
        self._later(job, lambda: self._annotate(JOB, job.metadata.name, uid, changes))
        if STATE in changes and shown[STATE] == "Refused":
            self._task(f"say {uid}", lambda: self._say(job, "Refused", str(shown[REASON]), warning=True))

    def _trouble_is(self, text: str) -> None:
        if text != self._trouble:
            self._tell(text)
        self._trouble = text

    # Writing

    def _remember(self, job: JobObject, memo: JobMemo, *, suspend: bool | None) -> None:
        """Write a Job's memo, and in the same write whether it is suspended; None leaves that unchanged."""
        body: Body = {"metadata": {"uid": job.metadata.uid}}
        if suspend:
            memo = msgspec.structs.replace(memo, resumed=False)
        body["metadata"]["annotations"] = {ATTEMPTS: dump_memo(memo)}
        if suspend is not None:
            body["spec"] = {"suspend": suspend}
        written = self._api.patch(JOB, job.metadata.name, body)
        self._written[job.metadata.uid] = (int(written.metadata.resource_version), memo)

    def _annotate(self, kind: object, name: str, uid: str, annotations: Mapping[str, str | None]) -> None:
        body: Body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        self._api.patch(kind, name, body)  # type: ignore[arg-type]

    def _say(self, job: JobObject, reason_word: str, text: str, *, warning: bool = False) -> None:
        about = {
            "apiVersion": JOB.api_version,
            "kind": JOB.name,
            "name": job.metadata.name,
            "uid": job.metadata.uid,
        }
        with self._saying:
            self._events.say(about, reason_word, text, warning=warning)

    def _later(self, job: JobObject, write: Callable[[], None]) -> bool:
        """Write something about a Job in the pool; return False if another write about it is under way."""
        return self._task(job.metadata.uid, write)

    def _task(self, key: str, write: Callable[[], None]) -> bool:
        with self._lock:
            if key in self._busy:
                return False
            self._busy.add(key)

        def run() -> None:
            try:
                write()
            except (NotFoundError, LostLeadershipError):
                pass  # the object is gone, or another controller leads
            except PartitaError as error:
                self._trouble_is(str(error))
                time.sleep(_SOON_S)  # a write that fails at once must not be repeated in a busy loop
            else:
                self._trouble = ""
            finally:
                with self._lock:
                    self._busy.discard(key)
                self._changed(None)

        try:
            self._writers.submit(run)
        except RuntimeError:  # closed meanwhile
            return False
        return True

    def _changed(self, _: object) -> None:
        self._news.set()
        self._wake()


def _owner(claim: ResourceClaim) -> str:
    """Return the uid of the pod that a claim was made for."""
    return next((each.uid for each in claim.metadata.owner_references if each.kind == "Pod"), "")


def _age(one: Pod | JobObject) -> tuple[str, str]:
    return one.metadata.creation_timestamp, one.metadata.name


def _shown_start(prediction: Prediction | None) -> str | None:
    if prediction is None:
        return None
    at = datetime.fromtimestamp(round(prediction.start / 60) * 60, UTC).strftime("%Y-%m-%dT%H:%MZ")
    return f"~{at}" if prediction.guessed else at
