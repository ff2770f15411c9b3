"""Protects replicas from evictions by others, with a PodDisruptionBudget for each service.

Budgets do not apply to Partita itself, which deletes pods in its own checked order.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from partita.kubernetes.objects import Kind, KubernetesObject
from partita.kubernetes.pods import MANAGER, SERVICE, WORKLOAD, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import Body

_NEVER = 1_000_000
"""`minAvailable` of a budget: more than any service has pods. Kubernetes supports neither `maxUnavailable` nor
percentages for pods without a controller that has a scale."""


class PodDisruptionBudget(KubernetesObject, frozen=True, gc=False):
    """A budget that forbids evictions."""


DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "poddisruptionbudgets", PodDisruptionBudget, group="policy")


class EvictionGuard:
    """The disruption budgets of one Workload's services. Services are given as their pods' label has them.

    All methods raise `KubernetesError` if the budgets cannot be read or written.

    Args:
        api: the cluster's; budgets are created in its namespace.
        workload: name of the Workload.
        owners: owner references of the budgets.
    """

    def __init__(self, api: KubernetesApi, workload: str, owners: list[Body]) -> None:
        self._api = api
        self._workload = workload
        self._labels = {**MANAGER, WORKLOAD: shortened(workload)}
        self._owners = owners
        self._guarded: set[str] = set()
        self._lock = threading.Lock()

    def guard(self, service: str) -> None:
        """Protect a service's pods from evictions."""
        with self._lock:
            if service in self._guarded:
                return
        self._make(service)
        with self._lock:
            self._guarded.add(service)

    def keep(self, services: Callable[[], set[str]]) -> None:
        """Protect the pods of exactly these services: create budgets that are missing, delete those of no use.

        Args:
            services: returns those that have pods or are about to have one. It is asked again once budgets are
                deleted, since a service whose budget was there may have started meanwhile.
        """
        there = {each.metadata.labels.get(SERVICE, ""): each.metadata for each in self._budgets()}
        wanted = services()
        for service in wanted - there.keys():
            self._make(service)
        useless = there.keys() - wanted
        for service in useless:
            with self._lock:
                self._guarded.discard(service)
            self._api.delete(DISRUPTION_BUDGET, there[service].name, uid=there[service].uid)
        for service in useless & services():
            self._make(service)

    def lift(self) -> None:
        """Delete all budgets of the Workload."""
        for each in self._budgets():
            self._api.delete(DISRUPTION_BUDGET, each.metadata.name, uid=each.metadata.uid)

    def _budgets(self) -> tuple[PodDisruptionBudget, ...]:
        labels = ",".join(f"{key}={value}" for key, value in self._labels.items())
        return self._api.list_objects(DISRUPTION_BUDGET, self._api.namespace, labels=labels).items

    def _make(self, service: str) -> None:
        chosen = {WORKLOAD: self._labels[WORKLOAD], SERVICE: service}
        metadata = {
            "name": shortened(f"{self._workload}-{service}".replace(".", "-")),
            "labels": {**self._labels, SERVICE: service},
            "ownerReferences": self._owners,
        }
        spec = {"minAvailable": _NEVER, "selector": {"matchLabels": chosen}}
        self._api.apply(DISRUPTION_BUDGET, {"metadata": metadata, "spec": spec}, force=True)
