"""Makes a headless Service for each service of a Workload: gateways and other clients find its pods by it.

A Service is the Workload's if it names the Workload as its owner, or if it has the Workload's labels and no owner, as
one that an earlier Workload of that name left. Any other one of that name is somebody else's, and is left alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from partita.documents.codec import to_data
from partita.errors import PartitaError
from partita.kubernetes.leader import LostLeadershipError
from partita.kubernetes.objects import (
    ExistsError,
    Kind,
    KubernetesError,
    KubernetesObject,
    UnreachableError,
)
from partita.kubernetes.pods import MANAGER, PORT_NAME, SERVICE, WORKLOAD, shortened
from partita.kubernetes.resources import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import Body

_LOOK_S = 60.0
_RETRY_S = 10.0
_HEADLESS = "None"


class ServicePort(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A port of a Service, and of the pods behind it. Others' Services may leave out its name."""

    name: str = ""
    port: int = 0
    target_port: int | str = 0
    protocol: str = "TCP"


class ServiceObjectSpec(msgspec.Struct, frozen=True, gc=False):
    """Which pods are behind a Service, at which ports."""

    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(name="clusterIP", default="")


class ServiceObject(KubernetesObject, frozen=True, gc=False):
    """A Service."""

    spec: ServiceObjectSpec = ServiceObjectSpec()


SERVICES = Kind("Service", "services", ServiceObject)


class ExposureError(PartitaError):
    """A Service cannot be made.

    Attributes:
        reason: one word in camel case, for the condition.
    """

    def __init__(self, reason: str, what: str, where: str, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.reason = reason


def service_object_name(workload: str, service: str) -> str:
    """Return the name of a service's Service: a DNS label, which begins with a letter."""
    name = f"{workload}-{service}".replace(".", "-")
    return shortened(name if name[0].isalpha() else f"partita-{name}")


def service_ports(template: Mapping[str, Any]) -> tuple[ServicePort, ...]:
    """Return the ports of a pod template's containers, the one of the name `partita` first."""
    declared = [
        port
        for container in template["spec"]["containers"]
        for port in container.get("ports") or ()
        if isinstance(port.get("containerPort"), int)  # of others the API server says what is wrong
    ]
    declared.sort(key=lambda port: port.get("name") != PORT_NAME)
    found: dict[tuple[int, str], ServicePort] = {}
    names: set[str] = set()
    for port in declared:
        number, protocol = port["containerPort"], port.get("protocol") or "TCP"
        name = port.get("name") or ""
        if not name or name in names:
            name = f"{protocol.lower()}-{number}"
        names.add(name)
        found.setdefault((number, protocol), ServicePort(name, number, number, protocol))
    return tuple(found.values())


class ServiceExposure:
    """The Services of one Workload.

    Args:
        api: guarded by the lease, in the Workload's namespace.
        workload: its name.
        owner: what names it as the owner of an object.
        look_s: seconds between two looks at Services, which somebody may have changed.
    """

    def __init__(self, api: KubernetesApi, workload: str, owner: Body, look_s: float = _LOOK_S) -> None:
        self._api = api
        self._workload = workload
        self._owner = owner
        self._labels = {**MANAGER, WORKLOAD: shortened(workload)}
        self._look_s = look_s
        self._templates: Mapping[str, Mapping[str, Any]] | None = None
        self._due = float("-inf")

    def keep(
        self, templates: Mapping[str, Mapping[str, Any]], running: Callable[[], Collection[str]]
    ) -> Condition | None:
        """Have a Service for each service, and none for those that are no more; return the condition of that.

        Args:
            templates: the pod template of each service.
            running: returns the services that have replicas: their Services stay until those are gone.

        Returns:
            None if nothing is to be done now, or the API server does not answer.

        Raises:
            LostLeadershipError: another controller may act by now.
        """
        if templates == self._templates and time.monotonic() < self._due:
            return None
        try:
            faults = list(self._kept(templates, running))
        except UnreachableError:
            self._due = time.monotonic() + _RETRY_S
            return None
        self._templates = templates
        self._due = time.monotonic() + (min(_RETRY_S, self._look_s) if faults else self._look_s)
        if not faults:
            return Condition("Exposed", "True", "ServicesMade", "each service has a headless Service")
        texts = [each.with_hint for each in faults]
        more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
        return Condition("Exposed", "False", faults[0].reason, "; ".join(texts[:3]) + more)

    def release(self) -> None:
        """Have the Services stay when the Workload goes.

        Raises:
            KubernetesError: they cannot be read or written.
        """
        for each in self._ours():
            self._api.patch(SERVICES, each.metadata.name, {"metadata": {"ownerReferences": None}})

    def _kept(
        self, templates: Mapping[str, Mapping[str, Any]], running: Callable[[], Collection[str]]
    ) -> Iterator[ExposureError]:
        try:
            there = {each.metadata.name: each for each in self._ours()}
        except UnreachableError:
            raise
        except KubernetesError as error:
            yield _fault(error)
            return
        for service, template in templates.items():
            name = service_object_name(self._workload, service)
            try:
                self._make(service, name, template, there.pop(name, None))
            except (UnreachableError, LostLeadershipError):
                raise
            except KubernetesError as error:
                yield _fault(error)
            except ExposureError as error:
                yield error
        if not there:
            return
        kept = {service_object_name(self._workload, service) for service in running()}
        for name in there.keys() - kept:
            try:
                self._api.delete(SERVICES, name, uid=there[name].metadata.uid)
            except (UnreachableError, LostLeadershipError):
                raise
            except KubernetesError as error:
                yield _fault(error)

    def _ours(self) -> list[ServiceObject]:
        labels = ",".join(f"{key}={value}" for key, value in self._labels.items())
        found = self._api.list_objects(SERVICES, self._api.namespace, labels=labels).items
        return [each for each in found if self._is_ours(each)]

    def _is_ours(self, found: ServiceObject) -> bool:
        owners = found.metadata.owner_references
        if not owners:
            return self._labels.items() <= found.metadata.labels.items()
        return any(each.uid == self._owner["uid"] for each in owners)

    def _make(
        self, service: str, name: str, template: Mapping[str, Any], there: ServiceObject | None
    ) -> None:
        """Have the Service of one service.

        Raises:
            ExposureError: it cannot be made.
            KubernetesError: the API server refuses, or does not answer.
        """
        ports = service_ports(template)
        if not ports:
            raise ExposureError(
                "NoPort",
                "its pod template names no port, so that no gateway finds its pods",
                where=f"service {service}",
                hint="for example ports: [{name: partita, containerPort: 9000}]",
            )
        selector = {WORKLOAD: self._labels[WORKLOAD], SERVICE: shortened(service)}
        wanted = ServiceObjectSpec(selector, ports, _HEADLESS)
        labels = {**self._labels, SERVICE: shortened(service)}
        metadata = {"name": name, "labels": labels, "ownerReferences": [self._owner]}
        if there is None:
            try:
                self._api.create(SERVICES, {"metadata": metadata, "spec": to_data(wanted)})
                return
            except ExistsError:
                there = self._taken(service, name)
        kept = {**there.metadata.labels, **labels}
        owned = bool(there.metadata.owner_references)
        if there.spec == wanted and kept == there.metadata.labels and owned:
            return
        changed: list[Body] = [
            {"op": "test", "path": "/metadata/uid", "value": there.metadata.uid},
            {"op": "add", "path": "/metadata/labels", "value": kept},
            {"op": "add", "path": "/metadata/ownerReferences", "value": [self._owner]},
            {"op": "add", "path": "/spec/selector", "value": selector},
            {"op": "add", "path": "/spec/ports", "value": to_data(wanted)["ports"]},
        ]
        self._api.patch(SERVICES, name, changed)

    def _taken(self, service: str, name: str) -> ServiceObject:
        """Return the Service of a name, which is not among those with the Workload's labels.

        Raises:
            ExposureError: it is somebody else's.
            NotFoundError: it has gone meanwhile.
        """
        found = self._api.get(SERVICES, name)
        if not self._is_ours(found) or not found.metadata.owner_references:
            raise ExposureError(
                "NameTaken",
                f"Service {name} is somebody else's, and is left as it is",
                where=f"service {service}",
                hint=f"delete it or give it another name; kubectl get service {name} "
                f"--namespace {self._api.namespace}",
            )
        return found


def _fault(error: KubernetesError) -> ExposureError:
    reason = type(error).__name__.removesuffix("Error")
    return ExposureError(reason, error.what, where=error.where or "services", hint=error.hint)
