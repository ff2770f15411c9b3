"""What the controller answers by HTTP: to kubelets whether it lives and is ready, and to Prometheus its metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.control.metrics import cluster_metrics
from partita.kubernetes.resources import WORKLOAD_STATES
from partita.metrics import MetricsPage, ServedPages, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from partita.kubernetes.controller import ClusterController

_HUNG_S = 60.0
"""Seconds without an iteration of the main loop after which it counts as hung."""
_STALE_S = 90.0
"""Seconds without an answer of the API server after which the controller is not ready."""
_WORKLOAD = ("workload_namespace", "workload")
"""Labels of a Workload; `namespace` would be that of the controller's own pod."""


def controller_pages(controller: ClusterController) -> ServedPages:
    """Return what a controller answers by HTTP."""
    page = MetricsPage(lambda: _metrics(controller))
    return ServedPages(page.read, lambda: _alive(controller), lambda: _ready(controller))


def _alive(controller: ClusterController) -> str | None:
    """Return why the controller must be restarted; None if it need not be."""
    silent = time.monotonic() - controller.ticked
    return f"the main loop has not moved for {silent:.0f} s" if silent > _HUNG_S else None


def _ready(controller: ClusterController) -> str | None:
    """Return why the controller is not ready; None if it is. A controller that waits for the lease is ready."""
    for text in controller.troubles.values():
        return text
    for each in controller.caches if controller.leader.leads else ():
        if each.age_s > _STALE_S:
            return f"{each.kind.plural}: {each.error or 'the API server is silent'}"
    return None


def _metrics(controller: ClusterController) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 -- of the extra

    leads = GaugeMetricFamily("partita_controller_leads", "1 while this controller acts")
    leads.add_metric((), int(controller.leader.leads))
    writes = CounterMetricFamily(
        "partita_controller_writes", "Writes sent to the API server", labels=("verb", "resource")
    )
    for key, count in sorted(dict(controller.api.writes).items()):
        writes.add_metric(key, count)
    age = GaugeMetricFamily(
        "partita_controller_cache_age_seconds",
        "Seconds since the API server's last answer",
        labels=("resource",),
    )
    for each in controller.caches:
        age.add_metric((each.kind.plural,), each.age_s)
    state = GaugeMetricFamily(
        "partita_workload",
        "1 for the state that a Workload is in, 0 for all others",
        labels=(*_WORKLOAD, "state"),
    )
    gpus = GaugeMetricFamily("partita_workload_gpus", "GPUs in use by a Workload", labels=_WORKLOAD)
    for (namespace, name), keeper in sorted(dict(controller.keepers).items()):
        labels = dict(zip(_WORKLOAD, (namespace, name), strict=True))
        states(state, labels, WORKLOAD_STATES, keeper.status.state)
        gpus.add_metric((namespace, name), keeper.status.gpus)
    yield from (leads, writes, age, state, gpus)
    yield from cluster_metrics(
        [
            (dict(zip(_WORKLOAD, key, strict=True)), keeper.facts)
            for key, keeper in sorted(dict(controller.keepers).items())
            if keeper.facts is not None
        ]
    )
