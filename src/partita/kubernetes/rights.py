"""The RBAC rights of each part of Partita, with a reason for each: the only place where they are defined.

`docs.generate` makes the chart's roles (deploy/chart/files/rights.yaml) and the tables of docs/kubernetes.md from
them. The controller checks its rights at its start, and logs those that it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import yaml

from partita.kubernetes.objects import Kind, KubernetesObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.kubernetes.api import KubernetesApi


class Scope(StrEnum):
    """Where a right holds.

    CLUSTER: in all namespaces, and for resources without namespace. WORKLOADS: in the namespaces of Workloads. HOME:
    in the namespace of the pod that has the right. OPERATOR: in the namespace of NVIDIA's GPU operator.
    """

    CLUSTER = "cluster"
    WORKLOADS = "workloads"
    HOME = "home"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Right:
    """Some verbs on one resource.

    Attributes:
        group: API group; empty for the core group.
        resource: with its subresource: `resourceclaims/status`.
        reason: what it is needed for.
    """

    scope: Scope
    group: str
    resource: str
    verbs: tuple[str, ...]
    reason: str

    @property
    def rule(self) -> dict[str, list[str]]:
        """The right as a rule of a Role."""
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}


def _right(scope: Scope, resource: str, verbs: str, reason: str) -> Right:
    """Return a right of a resource written as `resourceclaims/status.resource.k8s.io`."""
    name, _, group = resource.partition(".")
    return Right(scope, group, name, tuple(verbs.split()), reason)


_C, _W, _H, _O = Scope.CLUSTER, Scope.WORKLOADS, Scope.HOME, Scope.OPERATOR

CONTROLLER = (
    _right(
        _H,
        "leases.coordination.k8s.io",
        "get create update",
        "leader election: one controller holds the Lease",
    ),
    _right(_C, "nodes", "list watch", "the nodes and their labels, and whether they are ready or cordoned"),
    _right(_C, "resourceslices.resource.k8s.io", "list watch", "the GPUs and their devices"),
    _right(
        _C,
        "resourceclaims.resource.k8s.io",
        "list watch",
        "who holds a device of a GPU, in any namespace: others' claims are respected",
    ),
    _right(
        _C,
        "resourceclaims/binding.resource.k8s.io",
        "update",
        "to allocate its claims; Kubernetes requires it in all namespaces",
    ),
    _right(
        _C,
        "devicetaintrules.resource.k8s.io",
        "list create delete",
        "to keep others' claims off its GPUs; not needed with keepOff: None",
    ),
    _right(
        _W,
        "workloads.partita.dev",
        "list watch patch",
        "the Workloads; to set a finalizer, so that replicas drain; to pause for who may in the dashboard",
    ),
    _right(_W, "workloads/status.partita.dev", "patch", "conditions, state and GPUs in use"),
    _right(
        _W, "plans.partita.dev", "list watch create delete", "each plan is an object; old ones are deleted"
    ),
    _right(_W, "plans/status.partita.dev", "patch", "whether a plan is waiting, current or superseded"),
    _right(
        _W,
        "transitions.partita.dev",
        "get list watch create update delete",
        "the journal: each goal is an object, updated when it is planned again; old ones are deleted",
    ),
    _right(_W, "transitions/status.partita.dev", "patch", "progress and result of a transition"),
    _right(_W, "configmaps", "get", "performance tables"),
    _right(
        _W,
        "resourceclaims.resource.k8s.io",
        "get create patch delete",
        "each instance is a claim; to remove its finalizer before it is deleted",
    ),
    _right(
        _W,
        "resourceclaims/status.resource.k8s.io",
        "update",
        "to allocate a claim on the plan's exact device",
    ),
    _right(
        _W,
        "pods",
        "get list watch create patch delete",
        "each replica is a pod; a Job's pod gets annotations with its slice and how it ended",
    ),
    _right(
        _W,
        "pods/log",
        "get",
        "to see whether a Job's pod ran out of GPU memory; to show a Job's log on the dashboard",
    ),
    _right(
        _W,
        "jobs.batch",
        "list watch patch",
        "to resume and suspend labelled Jobs, and to annotate them with why they wait",
    ),
    _right(
        _W,
        "resourceclaimtemplates.resource.k8s.io",
        "create patch",
        "the template of the claims of Jobs' pods; by server-side apply, which needs create",
    ),
    _right(
        _W,
        "poddisruptionbudgets.policy",
        "list create patch delete",
        "to protect services from others' evictions; by server-side apply, which needs create; to delete old ones",
    ),
    _right(
        _W,
        "services",
        "get list create patch delete",
        "a headless Service for each service, by which gateways find its pods; others' Services are left alone",
    ),
    _right(_W, "events", "create list", "to report what happens; to read why a pod does not become ready"),
    _right(
        _W,
        "endpointslices.discovery.k8s.io",
        "list",
        "with rates.gateway: the addresses of the gateways' metrics pages",
    ),
)
"""What `partita controller` needs."""

DASH = (
    _right(
        _H,
        "pods",
        "list patch",
        "with controller.dash.service: a label on the pod that leads, by which the Service finds it",
    ),
)
"""What `partita controller --mark-leader` needs beside that."""

GATEWAY = (
    _right(
        _W,
        "workloads.partita.dev",
        "list watch",
        "the services of one Workload, and their SLOs",
    ),
    _right(_W, "endpointslices.discovery.k8s.io", "list watch", "the addresses of ready replicas"),
    _right(_W, "pods", "list watch", "the slice of each replica"),
)
"""What `partita gateway --kubernetes` and `partita picker --kubernetes` need."""

MIG_MANAGER = (
    _right(
        _C,
        "nodes",
        "get patch",
        "the GPUs of a node; to cordon it while it is cut, and to set the label that names its config",
    ),
    _right(_C, "resourceslices.resource.k8s.io", "list", "whether NVIDIA's DRA driver has the GPUs"),
    _right(_C, "pods", "list", "whether a pod of any namespace holds one of the GPUs"),
    _right(_O, "configmaps", "get create patch", "the configs that mig-manager reads"),
)
"""What `partita mig-manager` needs."""

ADVICE = (
    _right(_C, "nodes", "list watch", "the nodes and the GPU operator's labels"),
    _right(_C, "resourceslices.resource.k8s.io", "list watch", "the GPUs"),
    _right(_C, "resourceclaims.resource.k8s.io", "list watch", "which GPUs are in use, in any namespace"),
    _right(_W, "pods", "list watch", "the running replicas, for `diff`"),
    _right(
        _W, "workloads.partita.dev", "get list", "a Workload instead of a file; all Workloads for `status`"
    ),
    _right(_W, "transitions.partita.dev", "list", "for `status`"),
    _right(_W, "plans.partita.dev", "list", "a Workload's newest Plan, for `diff` and `explain`"),
    _right(_W, "configmaps", "get", "a Workload's performance tables"),
)
"""What `partita plan --cluster`, `partita diff --cluster` and the plugin's views need: they only read."""

APPROVAL = (
    _right(
        _W,
        "plans.partita.dev",
        "get list patch",
        "`approve` writes the Plan's uid into an annotation",
    ),
)
"""What a person needs to approve plans."""

CHANGES = (
    _right(
        _W,
        "workloads.partita.dev",
        "get update",
        "`apply` of the API replaces a Workload by one with another spec",
    ),
)
"""What the controller's account needs to change Workloads for those who may write in its dashboard."""

ROLES = {
    "controller": CONTROLLER,
    "dash": DASH,
    "gateway": GATEWAY,
    "mig-manager": MIG_MANAGER,
    "advice": ADVICE,
    "approval": APPROVAL,
    "changes": CHANGES,
}
"""The rights by name of the role."""


def roles_document() -> str:
    """Return the rules of each role by scope, as YAML."""
    document = {
        name: {
            scope.value: rules
            for scope in Scope
            if (rules := [each.rule for each in rights if each.scope is scope])
        }
        for name, rights in ROLES.items()
    }
    return yaml.safe_dump(document, sort_keys=False, width=110)


class _ReviewStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(KubernetesObject, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


_REVIEWS = Kind(
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    _Review,
    group="authorization.k8s.io",
    namespaced=False,
)


def missing_rights(api: KubernetesApi, rights: Iterable[Right], namespace: str | None) -> Iterator[str]:
    """Yield a sentence for each right that the account lacks, by SelfSubjectAccessReviews.

    Args:
        api: the cluster's; its namespace is the pod's own.
        rights: to be checked.
        namespace: of the Workloads, or of the GPU operator; None for all namespaces.

    Raises:
        KubernetesError: the server does not answer.
    """
    for right in rights:
        where = {Scope.CLUSTER: None, Scope.HOME: api.namespace}.get(right.scope, namespace)
        name, _, sub = right.resource.partition("/")
        lacking = []
        for verb in right.verbs:
            asked = {
                "group": right.group,
                "resource": name,
                "subresource": sub,
                "verb": verb,
                "namespace": where or "",
            }
            if not api.create(_REVIEWS, {"spec": {"resourceAttributes": asked}}).status.allowed:
                lacking.append(verb)
        if lacking:
            place = f"in namespace {where}" if where else "in all namespaces"
            group = f".{right.group}" if right.group else ""
            yield f"no right to {', '.join(lacking)} {right.resource}{group} {place}: {right.reason}"
