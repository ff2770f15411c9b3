"""What the gateways of a controller's Workloads measure: the pods of each `rates.gateway`, read for the dashboard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from partita.dash.gateway import GatewayPage
from partita.dash.gateway_watch import GatewayWatch
from partita.errors import InputError, PartitaError
from partita.kubernetes.rates import gateway_addresses, metrics_url

if TYPE_CHECKING:
    from partita.dash.measured import GatewayNow
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.resources import GatewayRates

_FIND_S = 5.0
"""Seconds between two looks for gateways that came or went."""

_EACH_S = 0.5
"""Seconds that each Workload adds to that where there are many: two requests a second to the API server."""

WorkloadKey = tuple[str, str]


class ControllerGateways:
    """Finds the gateways of all Workloads again and again, in a thread of its own, and reads them; until `close`.

    Each gateway is waited for by itself, and all of them together take a tenth of a core. Where addresses cannot be
    read, those from before hold.

    Args:
        controller: it may begin to lead, or cease to, at any time.
    """

    def __init__(self, controller: ClusterController) -> None:
        self._controller = controller
        self._pages: dict[WorkloadKey, dict[str, GatewayPage]] = {}
        self._watches: dict[WorkloadKey, GatewayWatch] = {}
        self._faults: dict[WorkloadKey, str] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="gateways", daemon=True).start()

    def latest(self) -> dict[WorkloadKey, GatewayNow]:
        """Return what the gateways of each Workload said last, by namespace and name."""
        return {key: watch.latest() for key, watch in dict(self._watches).items()}

    def notes(self) -> tuple[str, ...]:
        """Return what is not measured, and why."""
        found = self.latest()
        faults = {key: now.fault for key, now in found.items() if now.fault is not None} | self._faults
        unknown = [
            "/".join(key)
            for key, keeper in sorted(dict(self._controller.keepers).items())
            if keeper.loaded is not None and key not in found
        ]
        told = []
        if unknown:
            told.append(
                f"rates, attainment and latencies are not measured of {_several(unknown)}: "
                "`rates.gateway` of a Workload names the gateways that measure them"
            )
        if faults:
            key = min(faults)
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            told.append(f"Workload {'/'.join(key)}{more}: {faults[key]}")
        return tuple(told)

    def close(self) -> None:
        """Read no more."""
        self._ended.set()

    def _run(self) -> None:
        self._look()
        while not self._ended.wait(max(_FIND_S, _EACH_S * len(self._watches))):
            self._look()
        for key in list(self._watches):
            self._forget(key)

    def _look(self) -> None:
        """Read the gateways that there are now, and no others."""
        keepers = dict(self._controller.keepers)
        for key in self._watches.keys() - keepers.keys():
            self._forget(key)
        for key, keeper in keepers.items():
            loaded = keeper.loaded
            if loaded is None:  # not accepted yet, or being accepted anew
                continue
            source = loaded.spec.rates
            if source is None or source.gateway is None:
                self._forget(key)
            else:
                self._find(key, source.gateway)

    def _forget(self, key: WorkloadKey) -> None:
        self._faults.pop(key, None)
        self._pages.pop(key, None)
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.close()

    def _find(self, key: WorkloadKey, source: GatewayRates) -> None:
        """Read the gateways of a Workload that there are now."""
        if key not in self._watches:
            self._watches[key] = GatewayWatch(among=self._count)
        try:
            pages = self._pages_of(key, source)
            self._faults.pop(key, None)
        except InputError as error:  # there is none
            pages = {}
            self._faults[key] = str(error)
        except (PartitaError, OSError) as error:
            self._faults[key] = str(error)
            return
        except Exception as error:  # noqa: BLE001 -- the others are read on
            self._faults[key] = f"{type(error).__name__}: {error}"
            return
        self._pages[key] = pages
        self._watches[key].follow(pages.values())

    def _pages_of(self, key: WorkloadKey, source: GatewayRates) -> dict[str, GatewayPage]:
        """Return the pages that there are now, by URL; those that are known already go on.

        Raises:
            InputError: there is none.
            KubernetesError: addresses cannot be read.
            OSError: the authority of their certificates cannot be read.
        """
        controller, before = self._controller, self._pages.get(key, {})
        access = controller.gateways
        ca = None if access.ca is None else Path(access.ca)
        found = gateway_addresses(controller.api.within(key[0]), key[0], source.service)
        urls = [metrics_url(each, source.port, access) for each in found]
        return {url: before.get(url) or GatewayPage(url, access.token, ca, named=False) for url in urls}

    def _count(self) -> int:
        """Return how many gateways are read."""
        return sum(len(watch.urls) for watch in dict(self._watches).values())


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"Workload{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"
