"""The controller behind `partita controller`: plans Workloads and carries out the plans.

It is level-triggered: each step compares the Workload's spec with what the caches show, whatever happened in between.
All state is in the API, so the controller may be killed at any point, and the next holder of the lease goes on. The
decisions are those of `control`: when to plan, how to schedule, what to begin. `ClusterController` leads while it
holds the lease, and runs a `WorkloadKeeper` for each Workload in its own thread.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from partita.kubernetes.action_log import ActionLog
from partita.kubernetes.inventory import NODE
from partita.kubernetes.leader_mark import LeaderMark
from partita.kubernetes.objects import (
    ForbiddenError,
    Kind,
    KubernetesError,
    NoKindError,
    UnreachableError,
)
from partita.kubernetes.resources import (
    PLANS,
    TRANSITIONS,
    WORKLOADS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.leader import Leader
    from partita.kubernetes.rates import GatewayAccess
from partita.kubernetes.workload_keeper import WorkloadKeeper
from partita.kubernetes.workload_session import ClusterDrivers, ControllerSettings, KeeperContext

_SYNC_S = 60.0
_RESOURCES_S = 5.0
"""Seconds between two looks for resource definitions that are missing."""


class ClusterController:
    """Runs a keeper for each Workload while it holds the lease.

    Args:
        api: without a guard.
        leader: a candidate for the lease.
        drivers: makes drivers.
        settings: of the controller.
        tell: called with each event, as a sentence for the log.

    Attributes:
        keepers: of the current Workloads, by namespace and name.
        ticked: time of the main loop's last iteration, on the monotonic clock; infinite while others lead.
        troubles: why resources cannot be read, by their plural names.
        caches: of Workloads, Plans, Transitions and nodes, since it leads.
        log: what was done since it leads; None before.
    """

    def __init__(
        self,
        api: KubernetesApi,
        leader: Leader,
        drivers: ClusterDrivers,
        settings: ControllerSettings,
        tell: Callable[[str], None],
    ) -> None:
        self.keepers: dict[tuple[str, str], WorkloadKeeper] = {}
        self.ticked = time.monotonic()
        self.troubles: dict[str, str] = {}
        self.leader = leader
        self.api = api
        self.caches: tuple[Cache[Any], ...] = ()
        self.log: ActionLog | None = None
        self._drivers = drivers
        self._settings = settings
        self._tell = tell
        self._news = threading.Event()

    @property
    def namespace(self) -> str | None:
        """That of all Workloads; None if they may be in any."""
        return self._settings.namespace

    @property
    def gateways(self) -> GatewayAccess:
        """Credentials for the gateways that measure rates."""
        return self._settings.gateways

    def run(self, stop: threading.Event) -> None:
        """Lead whenever the lease is free, until asked to stop; the next leader continues unfinished transitions.

        Without Partita's resource definitions it waits for them.

        Raises:
            KubernetesError: rights are missing.
        """
        while not stop.is_set():
            self.ticked = float("inf")
            if self.leader.campaign(stop):
                try:
                    self._lead(stop)
                except UnreachableError as error:
                    self._tell(f"{error}; trying again")
                except NoKindError as error:
                    self._note_troubles([error])
                    stop.wait(_RESOURCES_S)
                finally:
                    self.leader.release()

    def _lead(self, stop: threading.Event) -> None:
        api = self.api.guarded(self.leader.check)
        with ExitStack() as stack:

            def cached(kind: Kind[Any], namespace: str | None) -> Cache[Any]:
                cache = api.watch(kind, namespace)
                stack.callback(cache.close)
                return cache

            namespace = self._settings.namespace
            context = KeeperContext(
                api,
                self._drivers,
                self._settings,
                self._tell,
                cached(WORKLOADS, namespace),
                cached(PLANS, namespace),
                cached(TRANSITIONS, namespace),
                cached(NODE, None),
                ActionLog(time.time()),
            )
            self.caches, self.log = context.caches, context.log
            mark = self._mark(api, stack)
            for each in self.caches:
                each.synced(_SYNC_S)
            for each in (context.workloads, context.plans):
                each.listen(self._changed)
            stack.callback(self._end_all)
            self._news.set()
            while not stop.is_set() and self.leader.leads:
                self.ticked = time.monotonic()
                self._note_troubles(cache.error for cache in self.caches)
                if mark is not None:
                    mark.keep()
                self._news.wait(1.0)
                if self._news.is_set():
                    self._news.clear()
                    self._match(context)

    def _mark(self, api: KubernetesApi, stack: ExitStack) -> LeaderMark | None:
        """Return what marks the pod that leads, until the end of the stack; None if nothing is to."""
        if not self._settings.pod:
            return None
        made = LeaderMark(api, self._settings.pod, self._tell)
        stack.callback(made.remove)
        return made

    def _note_troubles(self, errors: Iterable[KubernetesError | None]) -> None:
        """Keep, and log once, which resources cannot be read until somebody changes the cluster."""
        found = {
            str(each.where): each.with_hint
            for each in errors
            if isinstance(each, NoKindError | ForbiddenError)
        }
        for name, text in found.items():
            if self.troubles.get(name) != text:
                self._tell(f"{text}; what is known of {name} holds until then")
        for name in self.troubles.keys() - found.keys():
            self._tell(f"{name} can be read again")
        self.troubles = found

    def _changed(self, change: Any) -> None:  # noqa: ANN401 -- of any kind
        """Wake the keeper that a change concerns; called in a cache's thread."""
        found = change.new or change.old
        names = [found.metadata.name, *(owner.name for owner in found.metadata.owner_references)]
        for name in names:
            keeper = self.keepers.get((found.metadata.namespace, name))
            if keeper is not None:
                keeper.wake.set()
        self._news.set()

    def _match(self, context: KeeperContext) -> None:
        """Start a keeper for each Workload that has none, and forget those that have ended."""
        for key in [key for key, keeper in self.keepers.items() if keeper.over]:
            del self.keepers[key]
        for found in context.workloads.values():
            key = found.metadata.namespace, found.metadata.name
            if key not in self.keepers:
                self.keepers[key] = WorkloadKeeper(context, *key, self._news.set)

    def _end_all(self) -> None:
        for keeper in self.keepers.values():
            keeper.ask_to_end()
        until = time.monotonic() + self._settings.shutdown_s
        for keeper in self.keepers.values():
            keeper.join(max(0.0, until - time.monotonic()))
        self.keepers.clear()
