"""What the dashboard's process says to Prometheus: what it sees, and how many look at it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from partita.control.metrics import GPU_STATES, ClusterFacts, Promise, ServiceNumbers, service_metrics
from partita.dash.source import LEAVING, LOST, MIG_OFF
from partita.drive.driver import Observation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from partita.dash.model import Fleet
    from partita.dash.state import ApiState

_STATES = {MIG_OFF: "mig_off", LEAVING: "leaving", LOST: "lost"}


def dash_metrics(api: ApiState, streams: int) -> Iterator[Metric]:
    """Yield the metrics: GPUs and services under the names that `partita run` has for them.

    Args:
        api: what all answers are made of.
        streams: readers that have a stream open.
    """
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 -- of the extra

    seen = GaugeMetricFamily("partita_dash_sees", "1 while the cluster is seen, 0 while looks at it fail")
    seen.add_metric((), int(api.fault is None))
    opened = GaugeMetricFamily("partita_dash_streams", "Readers that have a stream of events open")
    opened.add_metric((), streams)
    gpus = GaugeMetricFamily(
        "partita_gpus", "GPUs by model and state: used ones have an instance", labels=("model", "state")
    )
    for (model, state), count in sorted(_gpus(api.fleet.fleet()).items()):
        gpus.add_metric((model, state), count)
    services = api.fleet.services.values()
    facts = ClusterFacts(
        Observation(()),
        api.fleet.at,
        {
            each.name: ServiceNumbers(each.required, each.planned, each.capacity, each.floor)
            for each in services
        },
        {
            each.name: Promise(each.slo_ms / 1000, each.quantile)
            for each in services
            if each.slo_ms is not None and each.quantile is not None
        },
    )
    yield from (seen, opened, gpus)
    yield from service_metrics([({}, facts)])


def _gpus(fleet: Fleet) -> Counter[tuple[str, str]]:
    columns, cut = fleet.gpus, set(fleet.instances.gpu)
    counted = Counter({(each.name, state): 0 for each in fleet.models for state in GPU_STATES})
    for number, (model, state) in enumerate(zip(columns.model, columns.state, strict=True)):
        word = _STATES.get(state) or ("used" if number in cut else "free")
        counted[fleet.models[model].name, word] += 1
    return counted
