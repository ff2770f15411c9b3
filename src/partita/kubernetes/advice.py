"""Reads a cluster's GPUs and what runs on them; nothing here writes.

`partita plan --cluster`, `partita diff --cluster` and the kubectl plugin use it. Where a node has no DRA driver, its
GPUs are known from the GPU operator's labels: they count for a plan, but what runs on them is not known.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.control.cluster_view import deployed
from partita.control.reconciler import free_gpus
from partita.control.sharing import without
from partita.documents.codec import written
from partita.drive.driver import Observation
from partita.errors import InputError, counted
from partita.kubernetes.cluster_state import ClusterState, SharedCaches
from partita.kubernetes.inventory import GpuCondition
from partita.kubernetes.objects import NotFoundError
from partita.kubernetes.resources import PLANS, WORKLOADS, cluster_faults, number_of, plan_of, read_spec
from partita.kubernetes.tables import WorkloadTables
from partita.planner import prepare
from partita.workload import locating

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.inventory import ClusterGpu, Inventory
    from partita.kubernetes.resources import PlanObject, WorkloadObject, WorkloadSpec
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment

_SYNC_S = 60.0
_CAPABLE = {"nvidia.com/mig.capable": "true"}


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """A cluster at one moment.

    Attributes:
        observation: its GPUs and their instances, as a driver would observe them.
        current: what runs on the usable GPUs; instances that are not the Workload's are fixed.
        labelled: ids, by model, of MIG-capable GPUs that are known from labels alone.
        notes: warnings about the GPUs, one sentence each.
    """

    observation: Observation
    current: Deployment
    labelled: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def free(self) -> dict[str, int]:
        """Number of GPUs of each model that a plan may use: those without instances of others."""
        labelled = Counter({model: len(ids) for model, ids in self.labelled.items()})
        return dict(Counter(free_gpus(self.current)) + labelled)


def look(
    api: KubernetesApi,
    workload: str = "",
    nodes: Mapping[str, str] | None = None,
    models: Iterable[str] | None = None,
) -> LiveCluster:
    """Return a cluster as it is now.

    Args:
        api: the cluster's; its namespace is the Workload's.
        workload: name of the Workload whose instances may be changed; empty for none.
        nodes: labels of the nodes to be read; None or empty for all nodes.
        models: of the GPUs to be read; None for all.

    Raises:
        KubernetesError: the cluster does not answer, or refuses.
    """
    wanted = dict(nodes or {})
    only = None if models is None else frozenset(models)
    shared = SharedCaches(api)

    def chosen(gpu: ClusterGpu) -> bool:
        node = shared.nodes.get(gpu.node)
        model = gpu.model.name if gpu.model else ""
        return (only is None or model in only) and (
            not wanted or (node is not None and node.has_labels(wanted))
        )

    try:
        state = ClusterState(api, shared, workload, chosen, lambda _: None)
        try:
            state.synced(_SYNC_S)
            inventory = state.inventory
            seen = [found for gpu_id in state.all_gpus() if (found := state.observed(gpu_id)) is not None]
            lent = {(gpu_id, placement) for gpu_id, placement, _ in state.lent()} if workload else set()
            capable = {node.metadata.name for node in shared.nodes.values() if node.has_labels(_CAPABLE)}
        finally:
            state.close()
    finally:
        shared.close()
    # Jobs of the Workload's namespace leave where its services need the room.
    observation = without(Observation(tuple(sorted(seen, key=lambda gpu: gpu.id))), lent)
    labelled: dict[str, tuple[str, ...]] = {}
    for gpu in sorted(inventory.gpus.values(), key=lambda each: each.id):
        if _by_labels(gpu) and gpu.node in capable and gpu.model is not None:
            labelled[gpu.model.name] = (*labelled.get(gpu.model.name, ()), gpu.id)
    told = {gpu_id for ids in labelled.values() for gpu_id in ids}
    return LiveCluster(observation, deployed(observation), labelled, tuple(_notes(inventory, told, labelled)))


def _by_labels(gpu: ClusterGpu) -> bool:
    return gpu.pool is None and gpu.condition is GpuCondition.WHOLE


def _notes(inventory: Inventory, told: set[str], labelled: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    yield from inventory.notes
    for model, ids in sorted(labelled.items()):
        yield (
            f"{len(ids)} GPUs of {model} are known by their nodes' labels alone: they count as free, whatever runs "
            f"there, and without NVIDIA's DRA driver `partita mig-manager` cuts them"
        )
    left: Counter[tuple[str, str]] = Counter()
    for gpu in inventory.gpus.values():
        if gpu.condition is not GpuCondition.READY and gpu.id not in told:
            left[gpu.node, gpu.why or gpu.condition.value] += 1
    for (node, why), count in sorted(left.items()):
        yield f"{node}: {counted(count, 'GPU')} left out: {why}"


# Workloads and plans


@dataclass(frozen=True, slots=True)
class ClusterWorkload:
    """A Workload of a cluster, prepared for planning."""

    name: str
    spec: WorkloadSpec
    prepared: PreparedWorkload

    def look(self, api: KubernetesApi) -> LiveCluster:
        """Return the cluster as it is now for this Workload.

        Raises:
            KubernetesError: it does not answer, or refuses.
        """
        return look(api, self.name, self.spec.nodes, {pool.model for pool in self.spec.gpus})


def workload_object(api: KubernetesApi, name: str) -> WorkloadObject:
    """Return a Workload of the API's namespace as it is written there.

    Raises:
        InputError: it does not exist.
        KubernetesError: the cluster does not answer, or refuses.
    """
    try:
        return api.get(WORKLOADS, name)
    except NotFoundError:
        hint = f"`kubectl get workloads -n {api.namespace}` lists them"
        raise InputError(
            "there is no such Workload", where=f"Workload {api.namespace}/{name}", hint=hint
        ) from None


def read_workload_object(api: KubernetesApi, name: str) -> ClusterWorkload:
    """Return a Workload in the API's namespace.

    Raises:
        InputError: it does not exist, or has faults.
        InfeasibleError: a service can run on no profile.
        RefusedWorkloadError: one of its tables is missing or has faults.
        KubernetesError: the cluster does not answer, or refuses.
    """
    found = workload_object(api, name)
    spec = read_spec(found.spec, f"Workload {api.namespace}/{name}")
    table, _ = WorkloadTables(api).read(spec)
    return ClusterWorkload(name, spec, prepare(spec, table))


def at_free(prepared: PreparedWorkload, live: LiveCluster) -> PreparedWorkload:
    """Return a workload with the GPUs that a cluster has free, at the workload's own rates.

    Raises:
        InputError: the workload asks for what cannot be kept on Kubernetes, as the controller says it.
        InfeasibleError: too few of a service's queries can be answered in time.
    """
    for fault in cluster_faults(prepared.workload):
        with locating(prepared.path):
            raise InputError(fault.what, where=written(fault.path), hint=fault.hint)
    return prepared.on(live.free)


def plans_of(api: KubernetesApi, workload: str) -> list[PlanObject]:
    """Return a Workload's Plans in the API's namespace, oldest first.

    Raises:
        KubernetesError: the cluster does not answer, or refuses.
    """
    found = [
        each for each in api.list_objects(PLANS, api.namespace).items if each.spec.workload.name == workload
    ]
    return sorted(found, key=lambda each: (each.metadata.creation_timestamp, number_of(each.metadata.name)))


def newest_plan(api: KubernetesApi, workload: str) -> tuple[str, Plan] | None:
    """Return the name and content of a Workload's newest Plan; None if it has none. Raises as `plans_of` does."""
    found = plans_of(api, workload)
    return (found[-1].metadata.name, plan_of(found[-1].spec)) if found else None
