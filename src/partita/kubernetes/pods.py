"""A replica as a pod: how it is made from the service's template, and how it is read back.

A pod gets its slice from a claim; the template requests no GPU. Labels name the pod's Workload, service and instance.
Annotations say how the replica runs, and so do environment variables of its containers.
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from partita.documents.codec import readable
from partita.drive.driver import ObservedReplica
from partita.errors import InputError
from partita.kubernetes.objects import Body, Kind, KubernetesObject, ObjectCondition
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.mig.layout import Placement

WORKLOAD = "partita.dev/workload"
"""Label: the Workload that an object belongs to."""
SERVICE = "partita.dev/service"
"""Label: the service of a replica's pod."""
INSTANCE = "partita.dev/instance"
"""Label: the instance of a claim or a pod, as `instance_name` writes it."""
MANAGER = {"app.kubernetes.io/managed-by": "partita"}
REPLICA = "partita.dev/replica"
"""Annotation of a pod: how its replica runs, as JSON."""
PLACEMENT = "partita.dev/placement"
"""Annotation of a claim and of a pod: the GPU and the placement, as people read them."""
CLAIM = "partita"
"""Name of the slice's claim in a pod's spec; containers that use the slice name it in `resources.claims`."""
PORT_NAME = "partita"
"""Name of the port at which a pod's workers listen, if it has several ports."""
GRACE_S = 30
"""Kubernetes' default of a pod's grace period in seconds."""


class ContainerWaiting(msgspec.Struct, frozen=True, gc=False):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerTerminated(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """How a container ended."""

    reason: str = ""
    exit_code: int = 0
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(msgspec.Struct, frozen=True, gc=False):
    """The state of a container."""

    waiting: ContainerWaiting | None = None
    terminated: ContainerTerminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The state of a container, now and before its last restart."""

    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    restart_count: int = 0


class PodClaim(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A claim that a pod names."""

    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class ReadinessGate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A condition of a pod that must be true before it is ready."""

    condition_type: str


class PodSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What is read of a pod's spec."""

    node_name: str | None = None
    resource_claims: tuple[PodClaim, ...] = ()
    readiness_gates: tuple[ReadinessGate, ...] = ()
    termination_grace_period_seconds: int | None = None


class PodStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a pod."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    start_time: str | None = None
    conditions: tuple[ObjectCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(KubernetesObject, frozen=True, gc=False):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted, and drains."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ready(self) -> bool:
        """Whether it serves, by its readiness probe and gates, as its kubelet last reported.

        The node controller withdraws `Ready` alone from the pods of a node that is not ready; they may still serve.
        """
        true = {each.type for each in self.status.conditions if each.status == "True"}
        gates = {each.condition_type for each in self.spec.readiness_gates}
        return not self.leaving and ("Ready" in true or {"ContainersReady", *gates} <= true)

    @property
    def ended(self) -> bool:
        """Whether it will never run again."""
        return self.status.phase in {"Failed", "Succeeded"}

    @property
    def claim(self) -> str | None:
        """Name of the claim of its slice."""
        return next(
            (each.resource_claim_name for each in self.spec.resource_claims if each.name == CLAIM), None
        )


POD = Kind("Pod", "pods", Pod)


class _RunningAs(msgspec.Struct, frozen=True):
    """A replica in the annotation `REPLICA`."""

    model: str
    batch: int
    processes: int
    throughput: float
    latency_ms: float


def instance_name(gpu: str, placement: Placement) -> str:
    """Return the name of an instance, fit for objects and labels: at most 63 characters.

    Args:
        gpu: `NODE/gpu-N`.
        placement: on the GPU.
    """
    profile = re.sub(r"[^a-z0-9]+", "-", placement.profile.replace(".", "").lower())
    return shortened(f"{gpu.replace('/', '-')}-{profile}-{placement.start}")


def shortened(name: str, most: int = 63) -> str:
    """Return a name that is fit for a label; if it has to be changed, a digest of the whole name ends it."""
    tidy = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".-")
    if len(tidy) <= most and tidy == name:
        return tidy
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{tidy[: most - 9].strip('.-')}-{digest}"


def pod_name(service: str, instance: str) -> str:
    """Return the name of a service's pod on an instance; it is the same at every call."""
    return shortened(f"{service}-{instance}".replace(".", "-"))


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where a replica's pod runs.

    Attributes:
        instance: its name, as `instance_name` writes it.
        words: GPU and placement, as the annotation `PLACEMENT` has them.
        node: of the GPU.
        claim: name of the claim.
    """

    instance: str
    words: str
    node: str
    claim: str


def pod_body(
    template: Mapping[str, Any],
    replica: Replica,
    place: PodPlace,
    workload: str,
    owners: list[Body],
) -> Body:
    """Return the pod of a replica.

    Args:
        template: the service's pod template, with `metadata` and `spec` as in a Deployment.
        replica: to run.
        place: where to run it.
        workload: name of the Workload.
        owners: owner references of the pod.

    Raises:
        InputError: the template sets fields that Partita decides.
    """
    for fault in template_faults(template):
        raise InputError(
            fault.what, where=f"the pod template of {replica.service}: {fault.where}", hint=fault.hint
        )
    metadata, spec = template.get("metadata") or {}, copy.deepcopy(dict(template["spec"]))
    runs = _RunningAs(replica.model, replica.batch, replica.processes, replica.throughput, replica.latency_ms)
    spec["resourceClaims"] = [
        *spec.get("resourceClaims", []),
        {"name": CLAIM, "resourceClaimName": place.claim},
    ]
    for container in _on_slice(spec["containers"]):
        _give_slice(container, replica, place.words)
    _pin(spec, place.node)
    return {
        "metadata": {
            "name": pod_name(replica.service, place.instance),
            "labels": {
                **(metadata.get("labels") or {}),
                **MANAGER,
                WORKLOAD: shortened(workload),
                SERVICE: shortened(replica.service),
                INSTANCE: place.instance,
            },
            "annotations": {
                **(metadata.get("annotations") or {}),
                PLACEMENT: place.words,
                REPLICA: msgspec.json.encode(runs).decode(),
                f"{SERVICE}-name": replica.service,
            },
            "ownerReferences": owners,
        },
        "spec": spec,
    }


def template_faults(template: Mapping[str, Any]) -> Iterator[InputError]:
    """Yield the faults of a service's pod template, each with its field."""
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(containers, list) or not containers:
        yield InputError(
            "the template has no container",
            where="spec.containers",
            hint="write it as a Deployment's template",
        )
        return
    for field in ("nodeName", "schedulingGroup"):
        if spec.get(field):
            yield InputError("the plan decides the node", where=f"spec.{field}", hint="leave it out")
    if any(each.get("name") == CLAIM for each in spec.get("resourceClaims") or []):
        hint = "leave it out: Partita adds it for each replica; containers may name it in resources.claims"
        yield InputError(
            f"the claim {CLAIM!r} is reserved for Partita", where="spec.resourceClaims", hint=hint
        )
    if spec.get("terminationGracePeriodSeconds") == 0:
        hint = "leave it out for 30 s; with 0 s the pod is gone before its instance"
        yield InputError(
            "a replica needs time to drain", where="spec.terminationGracePeriodSeconds", hint=hint
        )
    if spec.get("restartPolicy", "Always") != "Always":
        yield InputError(
            "a replica must be restarted when it ends", where="spec.restartPolicy", hint="leave it out"
        )
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or []):
            resources = container.get("resources") or {}
            asked = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
            for name in asked:
                if name.startswith("nvidia.com/"):
                    field = f"spec.{kind}[{index}].resources"
                    hint = "leave it out: the plan gives the replica its slice"
                    yield InputError(f"the container requests {name} itself", where=field, hint=hint)


def _on_slice(containers: list[Body]) -> list[Body]:
    """Return the containers that get the slice: those that name its claim, or else the first."""
    asking = [
        each
        for each in containers
        if any(c.get("name") == CLAIM for c in (each.get("resources") or {}).get("claims") or [])
    ]
    return asking or containers[:1]


def _give_slice(container: Body, replica: Replica, words: str) -> None:
    resources = container.setdefault("resources", {})
    claims = resources.setdefault("claims", [])
    if not any(each.get("name") == CLAIM for each in claims):
        claims.append({"name": CLAIM})
    gpu, _, placement = words.rpartition(" ")
    told = {  # what `partita worker` reads
        "PARTITA_SERVICE": replica.service,
        "PARTITA_MODEL": replica.model,
        "PARTITA_GPU": gpu,
        "PARTITA_PLACEMENT": placement,
        "PARTITA_BATCH": str(replica.batch),
        "PARTITA_PROCESSES": str(replica.processes),
        "PARTITA_LATENCY_MS": f"{replica.latency_ms:g}",
    }
    kept = [each for each in container.get("env") or [] if each.get("name") not in told]
    container["env"] = [*({"name": name, "value": value} for name, value in told.items()), *kept]


def _pin(spec: Body, node: str) -> None:
    """Restrict a pod to one node.

    Without this, the scheduler removes the claim's allocation to try other nodes when the pod fits nowhere for a
    moment (`PostFilter` in pkg/scheduler/framework/plugins/dynamicresources at 1.37.2).
    """
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    # The terms are alternatives, so each of them needs the restriction.
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [
        {**term, "matchFields": [*term.get("matchFields", []), here]} for term in terms
    ]


def observed_replica(pod: Pod) -> ObservedReplica | None:
    """Return a pod's replica, None if its annotations do not have one."""
    service = pod.metadata.annotations.get(f"{SERVICE}-name")
    try:
        runs = msgspec.json.decode(pod.metadata.annotations.get(REPLICA, ""), type=readable(_RunningAs))
    except msgspec.DecodeError:
        return None
    if service is None:
        return None
    replica = Replica(service, runs.model, runs.batch, runs.processes, runs.throughput, runs.latency_ms)
    return ObservedReplica(replica, ready=pod.ready, draining=pod.leaving)


def why_not_ready(pod: Pod, otherwise: str = "its readiness probe has not succeeded") -> str:
    """Return why a pod is not ready, from its status; `otherwise` if the status gives no reason."""
    reasons = (
        [f"the pod ended: {pod.status.reason or pod.status.phase} {pod.status.message}"] if pod.ended else []
    )
    reasons += [
        f"it is not scheduled: {condition.message or condition.reason}"
        for condition in pod.status.conditions
        if condition.type == "PodScheduled" and condition.status == "False"
    ]
    for each in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        waits = each.state.waiting
        if waits is not None and waits.reason not in {"", "PodInitializing", "ContainerCreating"}:
            reasons.append(f"container {each.name}: {waits.reason} {waits.message}")
        ended = each.state.terminated or each.last_state.terminated
        if ended is not None:
            reasons.append(f"container {each.name} ended with {ended.exit_code} ({ended.reason})")
    return "; ".join(dict.fromkeys(each.strip() for each in reasons)) or otherwise
