"""Finds the workers of a cluster's services, for gateways: from EndpointSlices and the pods behind them.

Kubernetes makes EndpointSlices for a Service that selects pods with the label `partita.dev/service`; they say which
pods are ready. A pod's annotations say which slice it has and how its replica runs. The Workload gives the models and
SLOs of the services.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from partita.errors import InputError
from partita.kubernetes.claims import placement_said
from partita.kubernetes.objects import ENDPOINT_SLICE
from partita.kubernetes.pods import PLACEMENT, POD, PORT_NAME, SERVICE, WORKLOAD, observed_replica, shortened
from partita.kubernetes.resources import WORKLOADS, read_spec
from partita.serve.gateway.addresses import Served
from partita.serve.served import served_service
from partita.serve.services import ServerSlice, WorkerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.objects import Body, EndpointSlice
    from partita.kubernetes.pods import Pod
    from partita.serve.gateway.route import ServedService

_LOG = logging.getLogger("partita.serve.kubernetes")
_SYNC_S = 30.0
_TOGETHER_S = 0.05
"""Seconds to wait for further changes, since a pod and its endpoint change together."""


def worker_port(found: EndpointSlice) -> int | None:
    """Return the workers' port in an EndpointSlice: the one named `partita`, or else the first; None if none."""
    ports = [each for each in found.ports or () if each.port]
    named = [each for each in ports if each.name == PORT_NAME]
    return (named or ports)[0].port if ports else None


class PodEndpoint(NamedTuple):
    """A ready endpoint of a service, and the pod behind it."""

    service: str
    address: str
    port: int
    pod: Pod


def ready_endpoints(slices: Iterable[EndpointSlice], pods: Mapping[str, Pod]) -> list[PodEndpoint]:
    """Return the endpoints that take queries, without duplicates, sorted by address.

    Args:
        slices: EndpointSlices of one namespace.
        pods: of services, by name.
    """
    found: dict[tuple[str, int], PodEndpoint] = {}
    for each in slices:
        port = worker_port(each)
        for endpoint in each.endpoints or () if port else ():
            target = endpoint.target_ref
            pod = pods.get(target.name) if target is not None and target.kind == "Pod" else None
            if port is None or pod is None or not endpoint.ready or pod.leaving:
                continue
            service = service_of(pod)
            if service is not None:
                for address in endpoint.addresses[:1]:
                    found[address, port] = PodEndpoint(service, address, port, pod)
    return [found[key] for key in sorted(found)]


def service_of(pod: Pod) -> str | None:
    """Return the service of a pod: from the annotation, since a label may be shortened, or else from the label."""
    return pod.metadata.annotations.get(f"{SERVICE}-name") or pod.metadata.labels.get(SERVICE)


def slice_of(pod: Pod) -> ServerSlice | None:
    """Return the slice of a pod and how its replica runs there; None if its annotations do not say."""
    observed = observed_replica(pod)
    placed = placement_said(pod.metadata.annotations.get(PLACEMENT, ""))
    if observed is None or placed is None:
        return None
    gpu, placement = placed
    replica = observed.replica
    return ServerSlice(
        gpu, str(placement), replica.batch, replica.processes, {replica.batch: replica.latency_ms / 1000}
    )


def served_by(spec: Body, name: str) -> list[ServedService]:
    """Return the services of a Workload, for a gateway.

    Args:
        spec: of the Workload.
        name: of the Workload in errors.

    Raises:
        InputError: all faults of the spec.
    """
    workload = read_spec(spec, name)
    return [served_service(each, workload.limits, {}) for each in workload.services]


class ClusterEndpoints:
    """The services and workers of a cluster's Workload (the gateway's `ServiceSource`).

    While the API server is unreachable, its last answer holds: connections show which workers are gone.

    Args:
        api: the cluster's.
        workload: name of the Workload, in the API's namespace.

    Raises:
        KubernetesError: the cluster cannot be read.
        InputError: the Workload does not exist, or has faults.
    """

    def __init__(self, api: KubernetesApi, workload: str) -> None:
        self._workload = workload
        named = f"metadata.name={workload}"
        self._workloads = api.watch(WORKLOADS, api.namespace, fields=named)
        self._slices = api.watch(ENDPOINT_SLICE, api.namespace)
        self._pods = api.watch(POD, api.namespace, labels=f"{SERVICE},{WORKLOAD}={shortened(workload)}")
        self._caches: tuple[Cache[Any], ...] = (self._workloads, self._slices, self._pods)
        for cache in self._caches:
            cache.synced(_SYNC_S)
        if not self._workloads.values():
            raise InputError(
                f"there is no Workload {workload} in namespace {api.namespace}",
                where="--workload",
                hint=f"kubectl get workloads --namespace {api.namespace}",
            )
        self._services = self._read_services()
        self._told = ""

    @property
    def found(self) -> Served:
        """The services and workers now; if the Workload has faults, its last faultless spec holds."""
        try:
            self._services = self._read_services()
            self._told = ""
        except InputError as error:
            if str(error) != self._told:
                self._told = str(error)
                _LOG.warning("%s; its last valid spec is kept", error)
        known = {each.name for each in self._services}
        pods = {each.metadata.name: each for each in self._pods.values()}
        return Served(
            self._services,
            [
                WorkerAddress(each.service, each.address, each.port, slice_of(each.pod))
                for each in ready_endpoints(self._slices.values(), pods)
                if each.service in known
            ],
        )

    def _read_services(self) -> list[ServedService]:
        found = self._workloads.values()
        # A deleted Workload is served until its replicas have drained.
        return served_by(found[0].spec, f"Workload {self._workload}") if found else self._services

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Call `tell` with the services and workers, now and after each change, until cancelled."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def hear(_: object) -> None:
            loop.call_soon_threadsafe(changed.set)

        for cache in self._caches:
            cache.listen(hear)
        told: Served | None = None
        while True:
            changed.clear()
            found = self.found
            if found != told:
                told = found
                tell(found)
            await changed.wait()
            await asyncio.sleep(_TOGETHER_S)

    def close(self) -> None:
        """End the watches."""
        for cache in self._caches:
            cache.close()
