"""Energy for Prometheus."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from partita.jobs.energy.ledger import EnergyLedger


class EnergyCollector:
    """A collector of prometheus-client: register it, or have `exposition` write it.

    Jobs are one series together, as each would be a series for ever; `partita energy --by job` tells them apart.

    Args:
        ledger: what is told of.

    Raises:
        InputError: prometheus-client is not installed.
    """

    def __init__(self, ledger: EnergyLedger) -> None:
        try:
            import prometheus_client.core  # noqa: F401, PLC0415 -- optional
        except ImportError:
            raise InputError("metrics need prometheus-client", hint='pip install "partita[serve]"') from None
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 -- optional

        up = GaugeMetricFamily(
            "partita_gpu_energy_counter_up", "Whether the GPU's energy counter can be read.", labels=["gpu"]
        )
        counter = CounterMetricFamily(
            "partita_gpu_energy_joules", "The GPU's own energy counter.", labels=["gpu", "uuid"]
        )
        for each in self._ledger.counters().values():
            up.add_metric([each.gpu], float(each.joules is not None))
            if each.joules is not None:
                counter.add_metric([each.gpu, each.uuid], each.joules)
        took = CounterMetricFamily(
            "partita_energy_joules",
            "Energy attributed to jobs, a service, or nobody: a share of idle power, and the work beyond it.",
            labels=["kind", "name", "part"],
        )
        missing = CounterMetricFamily(
            "partita_energy_missing_seconds",
            "Seconds for which no counter could be read: what was taken then is not in the joules.",
            labels=["kind", "name"],
        )
        for (kind, name), energy in self._ledger.totals().items():
            missing.add_metric([kind.value, name], energy.missing_s)
            if energy.joules is not None:
                took.add_metric([kind.value, name, "idle"], energy.idle_j)
                took.add_metric([kind.value, name, "active"], energy.active_j)
        yield from (up, counter, took, missing)


def exposition(ledger: EnergyLedger) -> bytes:
    """Return the metrics in Prometheus' text format (0.0.4).

    Raises:
        InputError: prometheus-client is not installed.
    """
    collector = EnergyCollector(ledger)
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 -- optional

    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


@contextmanager
def serving(ledger: EnergyLedger, port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve the metrics by HTTP on `/metrics` for a block, from a thread; yield the port (0 asks for any).

    Raises:
        InputError: prometheus-client is not installed, or the port is taken.
    """
    collector = EnergyCollector(ledger)
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 -- optional

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be served on: {error.strerror}",
            where="--metrics-port",
            hint="choose another",
        ) from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
