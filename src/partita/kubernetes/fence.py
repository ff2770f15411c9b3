"""Keeps the claims of other users off the GPUs that Partita manages, by device taints.

The scheduler allocates claims from a cache of its own, and could give another user a device that Partita is
allocating. A DeviceTaintRule taints all devices of a node's pool; where only some GPUs of a node are managed, each of
their devices has a rule. The scheduler does not allocate a tainted device to a claim without the toleration. Feature
gates, by pkg/features/kube_features.go of 1.37.2: DRADeviceTaints is alpha from 1.33 and on from 1.36;
DRADeviceTaintRules is alpha from 1.35, beta and off in 1.36, on from 1.37.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from partita.drive.driver import RefusedError
from partita.kubernetes.inventory import NVIDIA, OWN_TAINT, Taint
from partita.kubernetes.objects import ExistsError, Kind, KubernetesObject, NoKindError
from partita.kubernetes.pods import MANAGER, WORKLOAD, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.inventory import ClusterGpu
    from partita.kubernetes.objects import Body

_LABEL = "app.kubernetes.io/managed-by=partita"


class TaintSelector(msgspec.Struct, frozen=True, gc=False):
    """Which devices a rule taints."""

    driver: str | None = None
    pool: str | None = None
    device: str | None = None


class TaintRuleSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The spec of a rule."""

    taint: Taint
    device_selector: TaintSelector | None = None


class DeviceTaintRule(KubernetesObject, frozen=True, gc=False):
    """A rule that taints devices."""

    spec: TaintRuleSpec


TAINT_RULES = tuple(
    Kind("DeviceTaintRule", "devicetaintrules", DeviceTaintRule, version, "resource.k8s.io", namespaced=False)
    for version in ("v1", "v1beta2", "v1alpha3")
)
_GATES = "--feature-gates=DRADeviceTaints=true,DRADeviceTaintRules=true"
_OLD = (
    "Kubernetes has them from 1.37 on. On 1.36 start kube-apiserver, kube-controller-manager and kube-scheduler with "
    f"{_GATES}, and kube-apiserver with --runtime-config=resource.k8s.io/v1beta2/devicetaintrules=true (on 1.35 "
    "resource.k8s.io/v1alpha3, on 1.34 the gate DRADeviceTaints alone); or keep the nodes to Partita by a node taint "
    "and start the controller with --keep-off None"
)


class Fence:
    """The taint rules of the GPUs that one Partita manages.

    Args:
        api: the cluster's.
        owner: of the rules, NAMESPACE.WORKLOAD; rules of other owners are never deleted.
    """

    def __init__(self, api: KubernetesApi, owner: str) -> None:
        self._api = api
        self._labels = {**MANAGER, WORKLOAD: shortened(owner)}
        self._kind: Kind[DeviceTaintRule] | None = None
        self._standing: set[TaintSelector] = set()
        self._lifted = False
        self._lock = threading.Lock()

    def keep(self, gpus: Iterable[ClusterGpu], nodes: Mapping[str, int]) -> int:
        """Taint every device of these GPUs; return how many rules were created. Once lifted, it makes none.

        Args:
            gpus: those that Partita manages.
            nodes: number of all GPUs of each node; a node whose GPUs are all managed needs only one rule.

        Raises:
            RefusedError: the cluster has no device taint rules.
            KubernetesError: the rules cannot be written.
        """
        wanted = _wanted(gpus, nodes)
        with self._lock:
            if self._lifted or wanted <= self._standing:
                return 0
            kind = self._found()
            made = 0
            for selector in sorted(wanted - self._standing, key=str):
                made += self._make(kind, selector)
                self._standing.add(selector)
            return made

    def look_again(self) -> None:
        """Read the rules again at the next `keep`, so that it restores rules that somebody deleted."""
        with self._lock:
            self._kind = None
            self._standing.clear()

    def lift(self) -> None:
        """Delete all rules of this owner for good, so that other users may have the devices again.

        Raises:
            KubernetesError: the rules cannot be deleted.
        """
        with self._lock:
            self._lifted = True  # whoever tidies up at this moment must not make them again
            kind = self._found()
            for rule in self._api.list_objects(kind, labels=f"{WORKLOAD}={self._labels[WORKLOAD]}").items:
                self._api.delete(kind, rule.metadata.name, uid=rule.metadata.uid)
            self._standing.clear()

    def _found(self) -> Kind[DeviceTaintRule]:
        """Return the kind in the version that this cluster serves, after reading the existing rules.

        Raises:
            RefusedError: the cluster serves no version of it.
        """
        if self._kind is not None:
            return self._kind
        for kind in TAINT_RULES:
            try:
                standing = self._api.list_objects(kind, labels=_LABEL).items
            except NoKindError:
                continue
            self._standing |= {
                rule.spec.device_selector
                for rule in standing
                if rule.spec.device_selector is not None and rule.metadata.deletion_timestamp is None
            }
            self._kind = kind
            return kind
        raise RefusedError("the cluster has no device taint rules", where="resource.k8s.io", hint=_OLD)

    def _make(self, kind: Kind[DeviceTaintRule], selector: TaintSelector) -> bool:
        name = "-".join(filter(None, ("partita", selector.pool, selector.device)))
        chosen = {"driver": selector.driver, "pool": selector.pool, "device": selector.device}
        body: Body = {
            "metadata": {"name": shortened(name, 200), "labels": self._labels},
            "spec": {
                "deviceSelector": {key: value for key, value in chosen.items() if value},
                "taint": {"key": OWN_TAINT, "effect": "NoSchedule"},
            },
        }
        try:
            self._api.create(kind, body)
        except ExistsError:
            return False
        return True


def _wanted(gpus: Iterable[ClusterGpu], nodes: Mapping[str, int]) -> set[TaintSelector]:
    by_node: defaultdict[str, list[ClusterGpu]] = defaultdict(list)
    for gpu in gpus:
        if gpu.pool is not None:
            by_node[gpu.node].append(gpu)
    found = set()
    for node, managed in by_node.items():
        if len(managed) == nodes.get(node):
            found.add(TaintSelector(NVIDIA, managed[0].pool))
        else:
            found |= {TaintSelector(NVIDIA, gpu.pool, name) for gpu in managed for name in gpu.names}
    return found
