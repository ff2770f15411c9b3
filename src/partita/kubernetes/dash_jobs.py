"""The Jobs of Workloads' queues as the API shows them: what their keepers watch, and logs from the API server."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from partita.dash.jobs import advice, has_words, log_piece, require_state
from partita.dash.model import Job, JobAttempt, JobLog, JobPage
from partita.dash.refusal import RequestFault
from partita.errors import InputError
from partita.kubernetes.claims import placement_said
from partita.kubernetes.job_objects import (
    JOB,
    QUEUE,
    REASON,
    START,
    STATE,
    VERDICT,
    container_on_slice,
    ended_container,
    owner_job,
    read_memo,
    seconds_of,
    stated_memory,
)
from partita.kubernetes.objects import ForbiddenError, KubernetesError, NotFoundError
from partita.kubernetes.pods import PLACEMENT, POD
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.control.sharing import Place
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.job_objects import JobObject, PodEnd
    from partita.kubernetes.jobs import JobTenant
    from partita.kubernetes.pods import Pod

_STATES = {
    "Running": "running",
    "Starting": "starting",
    "Stopping": "stopping",
    "Yielding": "stopping",
    "Succeeded": "done",
    "Failed": "failed",
    "Stopped": "failed",
}
"""The API's words for the annotated states; all others wait, and their reason says for what."""

_RANK = {"running": 0, "stopping": 1, "starting": 2, "waiting": 3}
_LAST = len(_RANK)
_CURSOR = re.compile(r"([0-4]):(\d{1,12}|inf):(-?\d{1,12}):([a-z0-9.-]{1,320})", re.ASCII)

_CHUNK = 1 << 18
"""Bytes of a log in one answer."""
_MOST_LOG = 1 << 24
"""Bytes of a log that are read: the API server cannot begin in the middle of it, so each piece takes all before."""

_LISTED_S = 10.0
"""For how long a list of Jobs that nobody watches is used."""

_NEW = "the controller has not looked at it yet"

_ADVICE = (
    (_NEW, "nothing: it does so in a moment"),
    ("larger than any slice", "state less memory in the label partita.dev/memory, or add nodes"),
    ("add it", "apply deploy/jobs, or write the claim into the Job"),
    ("leave it out", "leave nvidia.com/gpu out of the Job"),
    ("Kueue has not admitted it", "nothing: it starts when Kueue admits it"),
    ("somebody suspended it", "resume it: set spec.suspend to false"),
    ("lets it start again", "make it need less memory, then let it start again as the reason says"),
    ("services or others hold all such slices", "add nodes, or plan services on fewer GPUs: see What if"),
    ("free, but not together", "nothing: it starts when Jobs beside the free slices end"),
    ("all busy", "nothing: it starts when a slice is free"),
    ("first", "nothing: it starts after those before it"),
    ("reserved for an earlier job", "nothing: it starts in a moment"),
    ("services need", "nothing: it starts again when a slice is free"),
    ("Kubernetes has not made", "nothing: it starts when Kubernetes has made its pods"),
    ("finding out", "nothing: it is known in a moment"),
    ("did not start", "see why: `kubectl describe pod`"),
    ("out of memory", "state more memory in the label partita.dev/memory, or make it need less"),
    ("DeadlineExceeded", "give it a longer activeDeadlineSeconds"),
    ("deadline", "give it a longer activeDeadlineSeconds"),
    ("backoff limit", "read its log"),
)
"""What to do about a Job, by what its reason says; the first that is found."""

_Order = tuple[int, float, int, str]


@dataclass(frozen=True, slots=True)
class _Try:
    """An attempt, and the pod that has its log; None if that is gone.

    Attributes:
        previous: whether a container that was started again since wrote it.
    """

    shown: JobAttempt
    pod: Pod | None
    previous: bool = False


class ControllerJobs:
    """The Jobs of all queues of a controller's Workloads. Methods may be called from any thread, one at a time.

    Args:
        controller: it may begin to lead, or cease to, at any time.
    """

    def __init__(self, controller: ClusterController) -> None:
        self._controller = controller
        self._known: dict[str, tuple[JobObject, Place | None, Job]] = {}
        self._listed: tuple[list[str], float, list[Job]] | None = None

    def placed(self) -> dict[tuple[str, str], str]:
        """Return the ids of the Jobs on instances, by GPU and placement."""
        return {
            (gpu, str(placement)): f"{pod.metadata.namespace}.{owner.name}"
            for tenant in self._tenants()
            for (gpu, placement), pod in tenant.placed().items()
            if (owner := owner_job(pod)) is not None
        }

    def all(self) -> list[Job]:
        """Return all Jobs: those that run, those that wait by their expected start, and those that are over."""
        found = dict(self._read())
        self._known = found
        return sorted((job for _, _, job in found.values()), key=_order)

    def page(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of them.

        Raises:
            InputError: the cursor or the state is none.
        """
        require_state(state)
        begin = None if after is None else _position(after)
        jobs = sorted([*self.all(), *self._unseen()], key=_order)
        fit = [
            job
            for job in jobs
            if (not state or job.state == state)
            and has_words(job, q)
            and (begin is None or _order(job) > begin)
        ]
        page = tuple(fit[:limit])
        following = ":".join(map(str, _order(page[-1]))) if len(fit) > limit else None
        return JobPage(page, dict(Counter(job.state for job in jobs)), following)

    def job(self, number: str) -> Job:
        """Return a Job with its attempts.

        Raises:
            RequestFault: there is none of that id.
        """
        unseen = next((each for each in self._unseen() if each.id == number), None)
        if unseen is not None:
            return unseen
        found, tenant, at = self._called(number)
        return _job(found, at).replace(attempts=tuple(each.shown for each in self._tries(found, tenant)))

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what an attempt wrote from a byte on, by default the newest.

        Raises:
            RequestFault: there is no such Job or attempt, or its log cannot be read.
        """
        if any(each.id == number for each in self._unseen()):
            return JobLog("", after, over=False)
        job, tenant, _ = self._called(number)
        tries = self._tries(job, tenant)
        if attempt is None and not tries:
            return JobLog("", after, over=False)
        if attempt is not None and attempt > len(tries):
            raise RequestFault(
                404, f"Job {number} has no attempt {attempt}", where="attempt", hint=f"it has {len(tries)}"
            )
        asked = tries[-1 if attempt is None else attempt - 1]
        return self._piece(job, asked, after)

    def _piece(self, job: JobObject, asked: _Try, after: int) -> JobLog:
        pod, number = asked.pod, asked.shown.number
        if pod is None:
            raise RequestFault(
                404,
                f"the pod of attempt {number} is gone, and its log with it",
                hint="a collector of the cluster's logs may have kept it",
            )
        if pod.status.phase == "Pending":
            return JobLog("", after, over=False, attempt=number)
        container = container_on_slice(job)
        command = f"kubectl logs -n {pod.metadata.namespace} {pod.metadata.name} -c {container}"
        command += " --previous" if asked.previous else ""
        if after >= _MOST_LOG:
            raise RequestFault(
                409,
                f"only the first {_MOST_LOG >> 20} MiB of a log are shown here",
                hint=f"read it with `{command}`",
            )
        query = {"container": container, "limitBytes": str(after + _CHUNK)}
        if asked.previous:
            query["previous"] = "true"
        try:
            found = self._controller.api.read_bytes(
                POD, pod.metadata.name, pod.metadata.namespace, subresource="log", query=query
            )
        except ForbiddenError as error:
            what = f"the controller's account may not read logs: {error.what}"
            raise RequestFault(403, what, hint=f"read it with `{command}`") from None
        except NotFoundError:
            what = f"node {pod.spec.node_name} has no log of pod {pod.metadata.name}"
            raise RequestFault(404, what, hint=f"ask again later, or look with `{command}`") from None
        except KubernetesError as error:
            raise RequestFault(503, error.what, where=error.where, hint=f"read it with `{command}`") from None
        ended = asked.shown.ended is not None
        # A log that has become shorter is another file: the node begins a new one where one gets too long.
        begin = 0 if len(found) < after and not ended else after
        return log_piece(found[begin:], begin, number, ended=ended)

    # Reading

    def _tenants(self) -> list[JobTenant]:
        keepers = dict(self._controller.keepers)
        return [tenant for _, keeper in sorted(keepers.items()) if (tenant := keeper.jobs) is not None]

    def _read(self) -> Iterator[tuple[str, tuple[JobObject, Place | None, Job]]]:
        """Yield all Jobs by uid; those that are as before are the same values."""
        for tenant in self._tenants():
            places = _places(tenant)
            for job in tenant.jobs:
                uid = job.metadata.uid
                at = places.get(uid)
                known = self._known.get(uid)
                if known is not None and known[0] is job and known[1] == at:
                    yield uid, known
                else:
                    yield uid, (job, at, _job(job, at))

    def _unseen(self) -> list[Job]:
        """Return the Jobs whose queue is no accepted Workload's, as they were listed some seconds ago at most.

        A queue of that name in another namespace hides them.
        """
        if not self._controller.leader.leads:
            return []
        keepers = dict(self._controller.keepers)
        names = sorted({name for (_, name), keeper in keepers.items() if keeper.jobs is not None})
        if self._listed is None or self._listed[0] != names or time.monotonic() > self._listed[1] + _LISTED_S:
            labels = f"{QUEUE},{QUEUE} notin ({','.join(names)})" if names else QUEUE
            try:
                found = self._controller.api.list_objects(
                    JOB, self._controller.namespace, labels=labels
                ).items
            except KubernetesError:
                found = ()  # what is missing is said by the controller's log and by /readyz
            self._listed = names, time.monotonic(), [_of_nobody(job) for job in found]
        return self._listed[2]

    def _called(self, number: str) -> tuple[JobObject, JobTenant, Place | None]:
        namespace, _, name = number.partition(".")
        for tenant in self._tenants():
            for job in tenant.jobs:
                if (job.metadata.namespace, job.metadata.name) == (namespace, name):
                    return job, tenant, _places(tenant).get(job.metadata.uid)
        raise RequestFault(404, f"there is no Job {number!r}", where="id", hint="GET /api/v1/jobs lists them")

    def _tries(self, job: JobObject, tenant: JobTenant) -> list[_Try]:
        """Return the attempts of a Job, oldest first: its pods on slices, and the ends that its memo remembers."""
        memo = {each.pod: each for each in read_memo(job).ends}
        found: list[_Try] = []
        pods: dict[str, Pod] = {}
        for pod in tenant.pods:
            owner, at = owner_job(pod), placement_said(pod.metadata.annotations.get(PLACEMENT, ""))
            if owner is not None and owner.uid == job.metadata.uid and at is not None:
                pods[pod.metadata.uid] = pod
                end = memo.pop(pod.metadata.uid, None)
                found.append(_Try(_of_pod(pod, at, end, self._memory(at)), pod))
        for key, end in memo.items():
            found.append(_Try(_of_end(end), pods.get(key.partition("/")[0]), previous="/" in key))
        found.sort(key=_age)
        return [replace(each, shown=each.shown.replace(number=at)) for at, each in enumerate(found, 1)]

    def _memory(self, at: Place) -> float:
        """Return the bytes of an instance; 0 where its GPU is not known any more."""
        gpu, placement = at
        for keeper in list(self._controller.keepers.values()):
            seen = None if keeper.facts is None else keeper.facts.observation.gpu(gpu)
            if seen is not None:
                profile = gpu_model(seen.model).profile(placement.profile)
                return float((profile.memory_mib or 0) * 2**20)
        return 0.0


def _places(tenant: JobTenant) -> dict[str, Place]:
    """Return the first instance of each Job that has one, by the Job's uid."""
    found: dict[str, Place] = {}
    for place, pod in sorted(tenant.placed().items()):
        owner = owner_job(pod)
        if owner is not None:
            found.setdefault(owner.uid, place)
    return found


def _age(each: _Try) -> tuple[float, bool, float]:
    """Return an attempt's place; of those that began in the same second, those that have ended come first."""
    shown = each.shown
    return shown.began or shown.decided, shown.ended is None, shown.decided


def _order(job: Job) -> _Order:
    """Return a Job's place in the list; those that are over come last, and of these the newest first."""
    rank = _RANK.get(job.state, _LAST)
    start = inf if job.predicted_start is None else round(job.predicted_start)
    return rank, start, round(-job.submitted if rank == _LAST else job.submitted), job.id


def _position(cursor: str) -> _Order:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InputError(
            f"{cursor!r} is no cursor", where="after", hint="use `next` of the page before, or leave it out"
        )
    return int(match[1]), float(match[2]), int(match[3]), match[4]


def _job(job: JobObject, at: Place | None) -> Job:
    """Return a Job as the API shows it, without its attempts."""
    meta, said = job.metadata, job.metadata.annotations
    state = _STATES.get(said.get(STATE, ""), "waiting")
    reason: str | None = said.get(REASON) or _NEW
    if job.end is not None:
        state = "done" if job.end.type == "Complete" else "failed"
        if said.get(STATE) not in ("Succeeded", "Failed"):  # its keeper has not written it yet
            reason = job.end.message
    if state == "done":
        reason = None
    start = said.get(START) if state == "waiting" else None
    words = [word for each in job.spec.template.spec.containers[:1] for word in (*each.command, *each.args)]
    images = [each.image for each in job.spec.template.spec.containers[:1]]
    return Job(
        f"{meta.namespace}.{meta.name}",
        meta.namespace,
        " ".join(words or images),
        state,
        seconds_of(meta.creation_timestamp) or 0.0,
        reason,
        advice(state, reason, _ADVICE),
        seconds_of(start.lstrip("~")) if start else None,
        None if at is None else at[0],
        None if at is None else str(at[1]),
        _stated(job),
    )


def _of_nobody(job: JobObject) -> Job:
    """Return a Job whose queue is no accepted Workload's."""
    made = _job(job, None)
    if made.state != "waiting":
        return made
    queue, namespace = job.metadata.labels.get(QUEUE, ""), job.metadata.namespace
    return made.replace(
        reason=f"no Workload {queue} is accepted in namespace {namespace}",
        advice=f"see why: `kubectl describe workload {queue} -n {namespace}`; or correct its label {QUEUE}",
    )


def deleted(job: Job) -> Job:
    """Return a Job that is there no more, as the stream tells of it."""
    return job.replace(
        state="cancelled",
        reason="somebody deleted it",
        advice=None,
        predicted_start=None,
        gpu=None,
        placement=None,
    )


def _stated(job: JobObject) -> tuple[float, float | None] | None:
    """Return the least and most memory that a Job needs, as it says and as its attempts have shown."""
    least = float(read_memo(job).at_least_bytes)
    try:
        stated = stated_memory(job)
    except InputError:
        return None  # its reason says what is wrong
    if stated.source == "none":
        return (least, None) if least else None
    return max(least, stated.lower), None if stated.upper is None else max(least, stated.upper)


def _of_pod(pod: Pod, at: Place, end: PodEnd | None, memory: float) -> JobAttempt:
    """Return an attempt of a pod that is still there."""
    container = ended_container(pod) if pod.ended else None
    how = None if container is None else container.state.terminated
    verdict, _, why = pod.metadata.annotations.get(VERDICT, "").partition(": ")
    return JobAttempt(
        0,
        at[0],
        str(at[1]),
        memory if end is None else end.limit_bytes,
        seconds_of(pod.metadata.creation_timestamp) or 0.0,
        seconds_of(pod.status.start_time),
        None if how is None else seconds_of(how.finished_at),
        verdict or (None if end is None else str(end.verdict)),
        why or (None if end is None else end.why) or None,
        None if how is None else how.exit_code,
    )


def _of_end(end: PodEnd) -> JobAttempt:
    """Return an attempt that the memo alone remembers."""
    return JobAttempt(
        0,
        end.gpu,
        end.placement,
        end.limit_bytes,
        end.began or 0.0,
        end.began,
        end.ended,
        str(end.verdict),
        end.why or None,
        end.code,
    )
