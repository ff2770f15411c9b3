"""Kubernetes Jobs in Partita's queue: their fields, their requests, and the memo in their annotations (pure).

Such a Job has the label `partita.dev/queue: WORKLOAD`, and Kubernetes makes a claim for each of its pods from the
ResourceClaimTemplate `partita`. All that Partita knows of a Job is in the Job's annotations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from partita.errors import InputError
from partita.jobs.queue.endings import ended
from partita.jobs.queue.forecast import family_of
from partita.jobs.queue.record import (
    Attempt,
    AttemptVerdict,
    JobOptions,
    JobRecord,
    JobState,
    StatedMemory,
    Submitter,
)
from partita.kubernetes.claims import DEVICE_CLASS, LENT, REQUEST
from partita.kubernetes.objects import Body, Kind, KubernetesObject, ObjectCondition, bytes_of
from partita.kubernetes.pods import CLAIM, GRACE_S, MANAGER, PodClaim
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from partita.jobs.memory.bounds import Bounds
    from partita.jobs.run.runner import AttemptStatus
    from partita.kubernetes.objects import OwnerReference
    from partita.kubernetes.pods import ContainerStatus, Pod
    from partita.mig.gpu import GpuModel


QUEUE = "partita.dev/queue"
"""Label of a Job: the Workload, in its namespace, from whose GPUs it gets slices."""
MEMORY = "partita.dev/memory"
"""Label or annotation: the most GPU memory that a pod needs (`12Gi`), or both bounds of a forecast (`10Gi-14Gi`)."""
PRIORITY = "partita.dev/priority"
"""Label or annotation: a whole number; larger starts first."""
STATE, REASON = "partita.dev/state", "partita.dev/reason"
"""Annotations: the Job's state in one word, and the reason for it as in `partita queue`."""
START = "partita.dev/expected-start"
"""Annotation: the predicted start of a waiting Job; an estimate begins with `~`."""
ATTEMPTS = "partita.dev/attempts"
"""Annotation: the Job's memo (`JobMemo`) as JSON. A Job without it has had no attempts."""
VERDICT = "partita.dev/verdict"
"""Annotation of a pod that has ended: how its end was judged."""
KUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's label: only Kueue suspends and resumes such a Job."""
JOB_NAME = "batch.kubernetes.io/job-name"
"""Label that Kubernetes gives the pods of all Jobs."""
TEMPLATE = "partita"
"""Name of the ResourceClaimTemplate of all Jobs in a namespace."""

_HOLDS = f"{{name: {CLAIM}, resourceClaimTemplateName: {TEMPLATE}}}"
_POLICY = "the policy in deploy/jobs adds it to every labelled Job"


class JobContainer(msgspec.Struct, frozen=True, gc=False):
    """A container of a Job's pods."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    resources: dict[str, Any] = {}


class JobPodSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The fields that are read of a Job's pod spec."""

    containers: tuple[JobContainer, ...] = ()
    resource_claims: tuple[PodClaim, ...] = ()
    termination_grace_period_seconds: int | None = None


class JobTemplate(msgspec.Struct, frozen=True, gc=False):
    """The template of a Job's pods."""

    spec: JobPodSpec = JobPodSpec()


class JobSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The spec of a Job."""

    suspend: bool = False
    active_deadline_seconds: int | None = None
    template: JobTemplate = JobTemplate()


class JobStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a Job."""

    start_time: str | None = None
    conditions: tuple[ObjectCondition, ...] = ()


class JobObject(KubernetesObject, frozen=True, gc=False):
    """A Job."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def end(self) -> ObjectCondition | None:
        """The condition with which it ended; None while it has not."""
        over = (
            each
            for each in self.status.conditions
            if each.type in {"Complete", "Failed"} and each.status == "True"
        )
        return next(over, None)

    @property
    def of_kueue(self) -> bool:
        """Whether Kueue suspends and resumes it."""
        return KUEUE in self.metadata.labels

    def said(self, key: str) -> str:
        """Return an annotation, or else a label; empty if it has neither."""
        return self.metadata.annotations.get(key) or self.metadata.labels.get(key, "")


class ResourceClaimTemplate(KubernetesObject, frozen=True, gc=False):
    """A template from which Kubernetes makes the claims of pods."""


JOB = Kind("Job", "jobs", JobObject, group="batch")
CLAIM_TEMPLATE = Kind(
    "ResourceClaimTemplate", "resourceclaimtemplates", ResourceClaimTemplate, group="resource.k8s.io"
)

# No device matches, so the scheduler never allocates such a claim; Partita does.
_NONE = [{"cel": {"expression": "false"}}]
CLAIM_SPEC: Body = {
    "devices": {
        "requests": [{"name": REQUEST, "exactly": {"deviceClassName": DEVICE_CLASS, "selectors": _NONE}}]
    }
}


def claim_template_body() -> Body:
    """Return the template of the claims of Jobs' pods."""
    return {
        "metadata": {"name": TEMPLATE, "labels": MANAGER},
        "spec": {"metadata": {"labels": {**MANAGER, LENT: "true"}}, "spec": CLAIM_SPEC},
    }


def job_faults(job: JobObject) -> Iterator[InputError]:
    """Yield why a Job cannot be given slices, each with its field."""
    spec = job.spec.template.spec
    held = [each for each in spec.resource_claims if each.name == CLAIM]
    if not any(each.resource_claim_template_name == TEMPLATE for each in held):
        hint = f"add {_HOLDS} to it; {_POLICY}"
        yield InputError(
            "its pods do not have Partita's claim", where="spec.template.spec.resourceClaims", hint=hint
        )
    where = "spec.template.spec.containers"
    if not any(_names_claim(each) for each in spec.containers):
        hint = f"add {{name: {CLAIM}}} to resources.claims of the one that needs it; {_POLICY}"
        yield InputError("none of its containers uses the slice", where=where, hint=hint)
    for index, each in enumerate(spec.containers):
        asked = {**(each.resources.get("requests") or {}), **(each.resources.get("limits") or {})}
        for name in asked:
            if name.startswith("nvidia.com/"):
                hint = "leave it out: Partita gives the pod its slice"
                what = f"the container requests {name} itself"
                yield InputError(what, where=f"{where}[{index}].resources", hint=hint)
    for read in (stated_memory, _priority):
        try:
            read(job)
        except InputError as error:
            yield error


def container_on_slice(job: JobObject) -> str:
    """Return the name of the container of a Job's pods that uses the slice; of the first one if none does."""
    containers = job.spec.template.spec.containers
    found = (each.name for each in containers if _names_claim(each))
    return next(found, containers[0].name if containers else "")


def _names_claim(container: JobContainer) -> bool:
    return any(each.get("name") == CLAIM for each in container.resources.get("claims") or [])


# Memory and priority


def _bytes(text: str) -> int:
    """Return a Kubernetes quantity in bytes: `12Gi` (2^30), `12G` (10^9).

    Raises:
        InputError: it is no quantity.
    """
    found = bytes_of(text.strip())
    if not found:
        raise InputError(f"{text!r} is no amount of memory", where=MEMORY, hint="write 12Gi, or 10Gi-14Gi")
    return int(found)


def stated_memory(job: JobObject) -> StatedMemory:
    """Return the GPU memory that a Job states.

    Raises:
        InputError: the text is no amount of memory.
    """
    text = job.said(MEMORY)
    if not text:
        return StatedMemory()
    lower, dash, upper = text.rpartition("-")
    if dash:
        least, most = _bytes(lower), _bytes(upper)
        if least > most:
            raise InputError(
                f"{text!r}: the lower bound exceeds the upper", where=MEMORY, hint="write 10Gi-14Gi"
            )
        return StatedMemory("model", float(least), float(most))
    return StatedMemory("declared", 0.0, float(_bytes(text)))


def _priority(job: JobObject) -> int:
    text = job.said(PRIORITY) or "0"
    if re.fullmatch(r"-?\d{1,4}", text) is None:
        raise InputError(f"{text!r} is no priority", where=PRIORITY, hint="write a whole number, such as 10")
    return int(text)


def seconds_of(stamp: str | None) -> float | None:
    """Return an RFC 3339 time in seconds since 1970; None for None or an empty text."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else None


# The memo


class PodEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod's end that counts against the attempts of its Job, with the fields of an `Attempt`.

    Attributes:
        pod: the pod's uid; if its container was restarted, `UID/RESTARTS`.
    """

    pod: str
    gpu: str
    placement: str
    limit_bytes: int
    verdict: AttemptVerdict
    why: str = ""
    began: float | None = None
    ended: float | None = None
    code: int | None = None
    unsure: bool = False
    said: str | None = None

    def attempt(self, number: int) -> Attempt:
        """Return it as an attempt of the queue."""
        return Attempt(
            number,
            self.gpu,
            Placement.parse(self.placement),
            self.limit_bytes,
            self.began or 0.0,
            began=self.began,
            ended=self.ended,
            code=self.code,
            verdict=self.verdict,
            why=self.why,
            unsure=self.unsure,
            said=self.said,
        )


class JobMemo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What Partita remembers of a Job.

    Attributes:
        resumed: whether Partita has resumed it, and not suspended it since.
        over: why it gets no further slice; empty if it may get one.
        why: why it waits again.
        tries: number of its pods' ends that led to a larger slice or were losses.
        at_least_bytes: memory that the next slice must have.
        ends: the newest of those ends, the latest last.
    """

    resumed: bool = False
    over: str = ""
    why: str = ""
    tries: int = 0
    at_least_bytes: int = 0
    ends: tuple[PodEnd, ...] = ()

    def knows(self, pod: str) -> bool:
        """Say whether the end of a pod has been counted."""
        return any(each.pod == pod for each in self.ends)


def read_memo(job: JobObject) -> JobMemo:
    """Return the memo of a Job; an empty one if its annotation is missing or invalid."""
    try:
        return msgspec.json.decode(job.metadata.annotations.get(ATTEMPTS, "{}"), type=JobMemo)
    except msgspec.DecodeError:
        return JobMemo()


def dump_memo(memo: JobMemo) -> str:
    """Return a memo as the text of its annotation."""
    return msgspec.json.encode(memo).decode()


def job_record(job: JobObject, memo: JobMemo, number: int) -> JobRecord:
    """Return a waiting Job, or a waiting pod of it, as a record of the queue.

    Raises:
        InputError: its memory or priority is invalid.
    """
    spec = job.spec.template.spec
    command = tuple(word for each in spec.containers[:1] for word in (each.image, *each.command, *each.args))
    cron = next((each.name for each in job.metadata.owner_references if each.kind == "CronJob"), "")
    limit = job.spec.active_deadline_seconds
    grace = spec.termination_grace_period_seconds
    return JobRecord(
        number,
        Submitter(0, 0, job.metadata.namespace),
        command or (job.metadata.name,),
        "",
        "",
        family_of(0, cron, command or (job.metadata.name,)),
        seconds_of(job.metadata.creation_timestamp) or 0.0,
        JobOptions(
            stated_memory(job),
            grace_s=float(GRACE_S if grace is None else grace),
            limit_s=float(limit) if limit else None,
        ),
        name=cron,
        priority=_priority(job),
        tries=memo.tries,
        at_least_bytes=memo.at_least_bytes,
        why=memo.why or None,
    )


def on_slice(
    record: JobRecord, at: tuple[str, Placement], model: GpuModel | None, began: float, state: JobState
) -> JobRecord:
    """Return a record that holds an instance, or is getting it."""
    gpu, placement = at
    memory = model.profile(placement.profile).memory_mib if model is not None else None
    attempt = Attempt(1, gpu, placement, int((memory or 0) * 2**20), began, device="claim", began=began)
    return replace(record, state=state, attempts=(attempt,))


@dataclass(frozen=True, slots=True)
class PodEnding:
    """How a pod has ended.

    Attributes:
        pod: as in `PodEnd`.
        now: seconds since 1970.
    """

    pod: str
    status: AttemptStatus
    now: float


def after_end(
    memo: JobMemo, record: JobRecord, ending: PodEnding, bounds: Bounds, models: Iterable[GpuModel]
) -> tuple[JobMemo, Attempt]:
    """Return the memo after the end of a pod, and that end as it was judged.

    An end leads to a larger slice, or counts as a loss, by the rules of `partita daemon`. The Job's own
    `backoffLimit` and `podFailurePolicy` decide about all other ends. If several pods run out of memory on equal
    slices at the same time, the next slice is only one size larger.

    Args:
        memo: before the end.
        record: the pod on its slice, as `on_slice` makes it.
        ending: of the pod.
        bounds: of its memory.
        models: of the GPUs that exist.
    """
    before = tuple(each.attempt(number) for number, each in enumerate(memo.ends, 1))
    this = replace(record.attempt, number=len(before) + 1)
    # The rules judge only running jobs, and this pod may never have started.
    again = replace(record, state=JobState.RUNNING, attempts=(*before, this), tries=memo.tries + 1)
    after = ended(again, ending.status, ending.now, bounds, models)
    attempt, verdict = after.attempt, after.attempt.verdict
    counted = {AttemptVerdict.OUT_OF_MEMORY, AttemptVerdict.LOST}
    if (
        verdict not in counted
        or memo.over
        or memo.knows(ending.pod)
        or attempt.limit_bytes < memo.at_least_bytes
    ):
        return memo, attempt
    end = PodEnd(
        ending.pod,
        attempt.gpu,
        str(attempt.placement),
        attempt.limit_bytes,
        verdict,
        attempt.why or "",
        attempt.began,
        attempt.ended,
        attempt.code,
        attempt.unsure,
        attempt.said,
    )
    over = after.why or str(verdict) if after.state is JobState.FAILED else ""
    changed = msgspec.structs.replace(
        memo,
        over=over,
        why=after.why or "",
        tries=again.tries,
        at_least_bytes=after.at_least_bytes,
        ends=(*memo.ends, end)[-again.asked.most_attempts :],
    )
    return changed, attempt


# Pods


def owner_job(pod: Pod) -> OwnerReference | None:
    """Return the owner reference to the Job of a pod; None if it has none."""
    return next(
        (each for each in pod.metadata.owner_references if each.kind == "Job" and each.controller), None
    )


def ended_container(pod: Pod) -> ContainerStatus | None:
    """Return the container whose end decides how a pod ended: the first that failed, or else the first."""
    found = [each for each in pod.status.container_statuses if each.state.terminated is not None]
    failed = (each for each in found if each.state.terminated and each.state.terminated.exit_code)
    return next(failed, found[0] if found else None)


def restarted_container(pod: Pod) -> ContainerStatus | None:
    """Return a container that failed and was started again within its pod, on the same slice."""
    return next(
        (
            each
            for each in pod.status.container_statuses
            if each.restart_count and each.last_state.terminated and each.last_state.terminated.exit_code
        ),
        None,
    )


def shown_changes(job: JobObject, shown: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the annotations that must change for a Job to show these."""
    return {key: value for key, value in shown.items() if job.metadata.annotations.get(key) != value}
