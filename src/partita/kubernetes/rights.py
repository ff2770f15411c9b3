"""What each part of Partita may do in a cluster, and why: the one place where that is written.

`docs.generate` makes the roles of the chart (deploy/chart/files/rights.yaml) and the tables of docs/kubernetes.md of
it. The controller asks at its start whether it has its rights, and names those that it lacks.
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

    CLUSTER: for all namespaces, and what has none. WORKLOADS: in the namespaces of Workloads. HOME: in the namespace
    of the pod that has it.
    """

    CLUSTER = "cluster"
    WORKLOADS = "workloads"
    HOME = "home"


@dataclass(frozen=True, slots=True)
class Right:
    """Some verbs on one resource.

    Attributes:
        group: of the API; empty for the core's.
        resource: with its subresource: `resourceclaims/status`.
        reason: what would not work without it.
    """

    scope: Scope
    group: str
    resource: str
    verbs: tuple[str, ...]
    reason: str

    @property
    def rule(self) -> dict[str, list[str]]:
        """As a rule of a role."""
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}


def _right(scope: Scope, resource: str, verbs: str, reason: str) -> Right:
    """Return a right of a resource written as `resourceclaims/status.resource.k8s.io`."""
    name, _, group = resource.partition(".")
    return Right(scope, group, name, tuple(verbs.split()), reason)


_C, _W, _H = Scope.CLUSTER, Scope.WORKLOADS, Scope.HOME

CONTROLLER = (
    _right(
        _H, "leases.coordination.k8s.io", "get create update", "one controller acts: the holder of the Lease"
    ),
    _right(_C, "nodes", "list watch", "which nodes there are, ready, cordoned or gone, and their labels"),
    _right(
        _C,
        "resourceslices.resource.k8s.io",
        "list watch",
        "which GPUs there are, and their devices",
    ),
    _right(
        _C,
        "resourceclaims.resource.k8s.io",
        "list watch",
        "who holds a device of a GPU, in any namespace: strangers' claims are respected",
    ),
    _right(
        _C,
        "resourceclaims/binding.resource.k8s.io",
        "update",
        "to allocate its claims; Kubernetes asks for it in all namespaces",
    ),
    _right(
        _C,
        "devicetaintrules.resource.k8s.io",
        "list create delete",
        "to keep strangers' claims off its GPUs; not needed with keepOff: None",
    ),
    _right(
        _W,
        "workloads.partita.dev",
        "list watch patch",
        "what is asked for; a finalizer, so that replicas drain",
    ),
    _right(_W, "workloads/status.partita.dev", "patch", "conditions, state and GPUs in use"),
    _right(_W, "plans.partita.dev", "list watch create delete", "each plan is an object; old ones go"),
    _right(_W, "plans/status.partita.dev", "patch", "whether a plan waits, is current or superseded"),
    _right(
        _W,
        "transitions.partita.dev",
        "get list watch create update delete",
        "the journal: each goal is an object, written anew when it is planned anew; old ones go",
    ),
    _right(_W, "transitions/status.partita.dev", "patch", "progress, and how a transition ended"),
    _right(_W, "configmaps", "get", "performance tables"),
    _right(
        _W,
        "resourceclaims.resource.k8s.io",
        "get create patch delete",
        "an instance is a claim: made, its finalizer taken off, deleted",
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
        "a replica is a pod; which slice a Job's pod has, and how it ended, is written into it",
    ),
    _right(_W, "pods/log", "get", "whether a Job's pod ran out of GPU memory"),
    _right(
        _W,
        "jobs.batch",
        "list watch patch",
        "labelled Jobs are let go and suspended, and bear why they wait",
    ),
    _right(
        _W,
        "resourceclaimtemplates.resource.k8s.io",
        "create patch",
        "of which Kubernetes makes the claims of Jobs' pods; server-side apply, which also creates",
    ),
    _right(
        _W,
        "poddisruptionbudgets.policy",
        "list create patch delete",
        "to keep others' evictions off a service; server-side apply, which also creates; those of no use go",
    ),
    _right(_W, "events", "create list", "to tell what happens; and to say why a pod does not become ready"),
    _right(
        _W,
        "endpointslices.discovery.k8s.io",
        "list",
        "with rates.gateway: where the gateways' metrics are",
    ),
)
"""What `partita controller` does."""

GATEWAY = (
    _right(
        _W,
        "workloads.partita.dev",
        "list watch",
        "of one Workload: which services, and what they promise",
    ),
    _right(_W, "endpointslices.discovery.k8s.io", "list watch", "which replicas answer, and where"),
    _right(_W, "pods", "list watch", "which slice each replica has"),
)
"""What `partita gateway --kubernetes` does."""

ADVICE = (
    _right(_C, "nodes", "list watch", "which nodes there are, and the GPU operator's labels"),
    _right(_C, "resourceslices.resource.k8s.io", "list watch", "which GPUs there are"),
    _right(_C, "resourceclaims.resource.k8s.io", "list watch", "what is in use, by whomever"),
    _right(_W, "pods", "list watch", "which replicas run, for `diff`"),
    _right(_W, "workloads.partita.dev", "get list", "a Workload instead of a file; all of them for `status`"),
    _right(_W, "transitions.partita.dev", "list", "for `status`"),
    _right(_W, "plans.partita.dev", "list", "its newest Plan, for `diff` and `explain`"),
    _right(_W, "configmaps", "get", "its performance tables"),
)
"""What `partita plan --cluster`, `partita diff --cluster` and the plugin's views do: they change nothing."""

APPROVAL = (
    _right(
        _W,
        "plans.partita.dev",
        "get list patch",
        "`approve` writes the Plan's uid into an annotation",
    ),
)
"""What a person needs who lets plans go."""

ROLES = {"controller": CONTROLLER, "gateway": GATEWAY, "advice": ADVICE, "approval": APPROVAL}
"""All of them, by name."""


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
    """Yield the rights that the account lacks, in words, as the API server answers.

    Args:
        api: of the cluster; its namespace is the pod's own.
        rights: those that are needed.
        namespace: of the Workloads; None for all.

    Raises:
        KubernetesError: the server does not answer.
    """
    for right in rights:
        where = {Scope.CLUSTER: None, Scope.WORKLOADS: namespace, Scope.HOME: api.namespace}[right.scope]
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
