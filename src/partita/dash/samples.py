"""What the history keeps: a point of the fleet and one of each service, as of now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.dash.fleet import FleetState
    from partita.dash.model import Service

FLEET = "fleet"
"""Name of the fleet's series."""


def service_series(name: str) -> str:
    """Return the name of a service's series."""
    return f"service {name}"


def samples(fleet: FleetState) -> dict[str, Mapping[str, float | None]]:
    """Return a point of each series."""
    found: dict[str, Mapping[str, float | None]] = {FLEET: fleet.totals()}
    found.update((service_series(each.name), _point(each)) for each in fleet.services.values())
    return found


def _point(service: Service) -> dict[str, float | None]:
    return {
        "required": service.required,
        "floor": service.floor,
        "capacity": service.capacity,
        "planned": service.planned,
        "rate": service.rate,
        "attainment": service.attainment,
        "p50_ms": service.p50_ms,
        "p95_ms": service.p95_ms,
        "p99_ms": service.p99_ms,
        "queue": service.queue,
        "in_flight": service.in_flight,
        "refused": sum(service.refused.values()) if service.rate is not None else None,
    }
