"""What gateways measure of services and instances, and how it is joined with what else is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.dash.source import InstanceLoad
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.dash.model import Service
    from partita.dash.source import InstanceKey


@dataclass(frozen=True, slots=True)
class ServiceNow:
    """What a service does now; None where nothing says so."""

    rate: float | None = None
    attainment: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    slo_ms: float | None = None
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class GatewayNow:
    """What all gateways together say; nothing where none answers."""

    services: Mapping[str, ServiceNow] = field(default_factory=dict)
    load: Mapping[InstanceKey, InstanceLoad] = field(default_factory=dict)
    fault: str | None = None


def load_change(before: GatewayNow, now: GatewayNow) -> dict[InstanceKey, InstanceLoad]:
    """Return the loads of all instances now; unknown ones of those of which nothing is said any more."""
    return {**{key: InstanceLoad() for key in before.load if key not in now.load}, **now.load}


def with_measured(service: Service, now: ServiceNow) -> Service:
    """Return a service with what gateways measure of it, and their SLO, or its share, where it has none."""
    slo_ms = now.slo_ms if service.slo_ms is None else service.slo_ms
    return service.replace(
        slo_ms=slo_ms,
        quantile=service.quantile or now.quantile or (None if slo_ms is None else QUANTILE),
        rate=_digits(now.rate),
        attainment=_digits(now.attainment, 4),
        p50_ms=_digits(now.p50_ms),
        p95_ms=_digits(now.p95_ms),
        p99_ms=_digits(now.p99_ms),
        queue=now.queue,
        in_flight=now.in_flight,
        refused=dict(now.refused),
    )


def _digits(value: float | None, digits: int = 5) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")
