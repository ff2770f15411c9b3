"""The types of Kubernetes objects that are read, their kinds, and the errors of the API server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec

from partita.errors import PartitaError

# Objects


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The owner of an object."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The metadata of every object.

    Attributes:
        creation_timestamp: as RFC 3339.
        deletion_timestamp: when its deletion was requested; None if it was not.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class KubernetesObject(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """Base of the types that are read. Fields that a type does not declare are ignored."""

    metadata: ObjectMeta


class ObjectCondition(msgspec.Struct, frozen=True, gc=False):
    """A condition in the status of a pod or a Job."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


T = TypeVar("T", bound=KubernetesObject)
Body = dict[str, Any]
"""An object or a part of one, as JSON data."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of object, and the type that it is read as.

    Attributes:
        name: as in manifests: `ResourceClaim`.
        plural: as in paths and RBAC rules: `resourceclaims`.
        type: of the values that are read.
        group: such as `resource.k8s.io`; empty for the core group.
        strict: whether the API server is to refuse objects with unknown fields, instead of dropping these.
        custom: whether a CustomResourceDefinition defines it.
    """

    name: str
    plural: str
    type: type[T]
    version: str = "v1"
    group: str = ""
    namespaced: bool = True
    strict: bool = False
    custom: bool = False

    @property
    def api_version(self) -> str:
        """As in manifests: `resource.k8s.io/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of an object; without a name of all objects, without a namespace in all namespaces."""
        steps = ["/apis" if self.group else "/api", self.api_version]
        if self.namespaced and namespace:
            steps += ["namespaces", namespace]
        return "/".join([*steps, self.plural, *(step for step in (name, subresource) if step)])

    def called(self, name: str | None, namespace: str | None) -> str:
        """Return an object's name in errors: `ResourceClaim default/resnet50-0`."""
        place = f"{namespace}/" if self.namespaced and namespace else ""
        return f"{self.name} {place}{name}" if name else f"{self.plural}{f' in {namespace}' if place else ''}"


# Kinds that several parts read or write


class ConfigMap(KubernetesObject, frozen=True, gc=False):
    """Texts by key."""

    data: dict[str, str] = {}


class ClusterEvent(KubernetesObject, frozen=True, gc=False):
    """An event that a component reported about an object."""

    type: str = "Normal"
    reason: str = ""
    message: str = ""


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    """Whether an endpoint takes queries. Unknown (None) counts as ready, as the EndpointSlice API says."""

    ready: bool | None = None
    terminating: bool | None = None


class EndpointTarget(msgspec.Struct, frozen=True, gc=False):
    """The object behind an endpoint."""

    kind: str = ""
    name: str = ""


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One endpoint of a Service."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: EndpointTarget | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes new queries."""
        return self.conditions.ready is not False and not self.conditions.terminating


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """A port that all endpoints of an EndpointSlice have."""

    name: str | None = None
    port: int | None = None


class EndpointSlice(KubernetesObject, frozen=True, gc=False):
    """Some endpoints of a Service."""

    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


CONFIG_MAP = Kind("ConfigMap", "configmaps", ConfigMap)
EVENT = Kind("Event", "events", ClusterEvent)
ENDPOINT_SLICE = Kind("EndpointSlice", "endpointslices", EndpointSlice, group="discovery.k8s.io")


_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(?:([kKMGT])(i?)B?|e(\d{1,2}))?")


def bytes_of(quantity: str) -> float | None:
    """Return a quantity of bytes as Kubernetes writes it (`12Gi`, `12G`, `85899345920`); None if it is none."""
    found = _QUANTITY.fullmatch(quantity)
    if found is None:
        return None
    power = " KMGT".index((found[2] or " ").upper())
    return float(found[1]) * float((1024 if found[3] else 1000) ** power) * float(f"1e{found[4] or 0}")


def timestamp() -> str:
    """Return now as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Errors


class KubernetesError(PartitaError):
    """The API server did not do what it was asked."""


class UnreachableError(KubernetesError):
    """The server did not answer, or reported an internal error. A write may have happened all the same."""


class ForbiddenError(KubernetesError):
    """A right is missing, or the server does not accept the credentials."""


class RefusedByClusterError(KubernetesError):
    """A quota or an admission rule refuses the object."""


class NotFoundError(KubernetesError):
    """There is no such object."""


class NoKindError(NotFoundError):
    """The server does not know this kind of object."""


class ConflictError(KubernetesError):
    """Another client has changed the object meanwhile, or owns the field to be changed."""


class ExistsError(ConflictError):
    """An object of that name exists already."""


class InvalidError(KubernetesError):
    """The server does not accept the object; the text names the fields."""


class ExpiredError(KubernetesError):
    """The server no longer has the version from which a watch or a list was to continue."""


class ThrottledError(KubernetesError):
    """The server is too busy, or a disruption budget forbids an eviction now."""


class _Cause(msgspec.Struct, frozen=True):
    field: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    causes: tuple[_Cause, ...] = ()
    retry_after_seconds: int = 0


class ApiStatus(msgspec.Struct, frozen=True):
    """The server's answer to a request that it did not fulfil."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


OTHER_DEFINITION = (
    "its CustomResourceDefinition is of another version; `kubectl apply --server-side -f deploy/crds`"
)
"""Hint where the API server does not know a field of Partita's resources."""


def refusal(status: ApiStatus, verb: str, kind: Kind[Any], resource: str, where: str) -> KubernetesError:
    """Return the error that a server's answer stands for.

    Args:
        status: the answer.
        verb: of the request, as in RBAC rules.
        kind: of the object.
        resource: of the request, as in RBAC rules: `pods/eviction`.
        where: the object's name in errors.
    """
    said = status.message or status.reason or f"HTTP {status.code}"
    low = said.lower()
    if not_accepted(status):
        hint = "renew them; `kubectl auth whoami` with the same kubeconfig and context shows whose they are"
        return ForbiddenError("the API server does not accept the credentials", where=where, hint=hint)
    if status.code == 403 and " cannot " in said:
        # The missing right can differ from the request: apply also needs create, an allocation also needs binding.
        named = _CANNOT.search(said)
        verb, resource = named.groups() if named else (verb, resource)
        group = kind.group or '""'
        right = f"{{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}"
        hint = f"grant it in a Role: {right}"
        return ForbiddenError(f"no right to {verb} {resource}: {said}", where=where, hint=hint)
    if status.code == 403 or (status.code in (400, 422) and "denied" in low and _RULES.search(low)):
        return RefusedByClusterError(
            said, where=where, hint="raise the quota, or change the admission rule that refuses it"
        )
    if status.code == 404 and _NO_KIND.search(low):
        what = f"the API server does not know {resource} of {kind.api_version}"
        ours = kind.group == "partita.dev"
        hint = (
            "`kubectl apply -f deploy/crds`"
            if ours
            else "its Kubernetes is too old, or has that API switched off"
        )
        return NoKindError(what, where=where, hint=hint)
    if status.code in (400, 413, 415, 422):
        causes = status.details.causes if status.details else ()
        fields = "; ".join(f"{each.field}: {each.message}" for each in causes if each.field)
        outdated = kind.group == "partita.dev" and "strict decoding error" in low
        return InvalidError(fields or said, where=where, hint=OTHER_DEFINITION if outdated else None)
    code = min(status.code, 500)
    error, words = _BY_CODE.get((code, status.reason)) or _BY_CODE.get((code, "")) or _OTHER
    return error(words.format(said=said), where=where)


def not_accepted(status: ApiStatus) -> bool:
    """Say whether the server does not accept the credentials, so that newer ones may help."""
    return status.code == 401 or (status.code == 403 and "system:anonymous" in status.message)


_CANNOT = re.compile(r'cannot (\w+) resource "([^"]+)"')
_RULES = re.compile("admission|policy")
_NO_KIND = re.compile("could not find the requested resource|page not found")
_OTHER: tuple[type[KubernetesError], str] = (KubernetesError, "{said}")
_BY_CODE: dict[tuple[int, str], tuple[type[KubernetesError], str]] = {
    (404, ""): (NotFoundError, "{said}"),
    (409, "AlreadyExists"): (ExistsError, "the object exists already"),
    (409, ""): (ConflictError, "another client changed the object: {said}"),
    (410, ""): (ExpiredError, "{said}"),
    (429, ""): (ThrottledError, "{said}"),
    (500, ""): (UnreachableError, "the API server cannot answer now: {said}"),
}
