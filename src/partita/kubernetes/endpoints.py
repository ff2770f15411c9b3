"""Where the workers of a cluster's services are: from EndpointSlices, and the pods behind them.

A Service that selects the pods of a service (`partita.dev/service`) makes EndpointSlices, which say who is ready. The
pod says which slice it has and how it runs there: the labels and annotations that it was given with its claim. What a
Workload says of its services says what the gateway promises.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from partita.errors import InputError
from partita.kubernetes.claims import placement_said
from partita.kubernetes.objects import ENDPOINT_SLICE
from partita.kubernetes.pods import PLACEMENT, POD, SERVICE, WORKLOAD, observed_replica, shortened
from partita.kubernetes.resources import WORKLOADS, read_spec
from partita.serve.gateway.addresses import Served
from partita.serve.gateway.route import QUANTILE, ServedService
from partita.serve.services import ServerSlice, WorkerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.objects import Body, EndpointSlice
    from partita.kubernetes.pods import Pod

_LOG = logging.getLogger("partita.serve.kubernetes")
PORT_NAME = "partita"
"""Name of the port at which pods' workers listen, where a Service has several."""
_SYNC_S = 30.0
_TOGETHER_S = 0.05
"""Seconds in which changes are waited for that belong together: a pod, its slice, and its endpoint."""


def worker_port(found: EndpointSlice) -> int | None:
    """Return the port of a slice's workers: that of the name `partita`, or else the first; None without any."""
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
    """Return the endpoints that take queries, in order of their addresses, each once.

    Args:
        slices: of one namespace.
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
    """Return the service that a pod belongs to; a label may have had to be shortened."""
    return pod.metadata.annotations.get(f"{SERVICE}-name") or pod.metadata.labels.get(SERVICE)


def slice_of(pod: Pod) -> ServerSlice | None:
    """Return the slice of a pod and how its replica runs there; None if its annotations do not tell."""
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
    """Return the services of a Workload as a gateway knows them.

    Args:
        spec: of the Workload.
        name: what errors call it.

    Raises:
        InputError: all that is wrong in it.
    """
    return [
        ServedService(each.name, each.model, each.slo.latency_ms / 1000, each.slo.quantile or QUANTILE)
        for each in read_spec(spec, name).services
    ]


class ClusterEndpoints:
    """What to serve, from a cluster (the gateway's `ServiceSource`).

    While the API server is away, what it said last holds: connections tell by themselves which workers are gone.

    Args:
        api: of the cluster.
        workload: name of the Workload, in the API's namespace.

    Raises:
        KubernetesError: it cannot be read.
        InputError: there is no such Workload, or something is wrong in it.
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
        """What to serve now; of a Workload that cannot be read, what it said before."""
        try:
            self._services = self._read_services()
            self._told = ""
        except InputError as error:
            if str(error) != self._told:
                self._told = str(error)
                _LOG.warning("%s; what it said before is kept", error)
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
        # One that is deleted while its replicas drain is served until they are gone.
        return served_by(found[0].spec, f"Workload {self._workload}") if found else self._services

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Tell what to serve now, and again whenever that changes, until cancelled."""
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
        """Watch no longer."""
        for cache in self._caches:
            cache.close()
