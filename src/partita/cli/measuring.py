"""Measuring energy beside a queue of jobs."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from partita.cli.drivers import DriverName
from partita.drive.state import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from partita.drive.nvml.driver import NvmlEnergyMeter
    from partita.drive.simulated.cluster import SimulatedEnergyMeter
    from partita.jobs.energy import EnergyLedger, QueueEnergy
    from partita.sim.clock import Clock


@contextmanager
def measuring(
    driver: DriverName, folder: Path, clock: Clock, tell: Callable[[str], None], metrics_port: int | None
) -> Iterator[tuple[EnergyLedger, QueueEnergy]]:
    """Open the ledger of energy for a block, and what fills it.

    Args:
        driver: of the cluster.
        folder: the state folder.
        clock: of the cluster.
        tell: told what goes wrong later.
        metrics_port: where to serve the metrics; None for nowhere.

    Raises:
        PartitaError: no GPU answers, or the port is taken.
    """
    from partita.jobs.energy import (  # noqa: PLC0415 -- only where jobs run
        FILE,
        EnergyLedger,
        EnergySampler,
        QueueEnergy,
        serving,
    )

    with ExitStack() as stack:
        meter = stack.enter_context(closing(_meter(driver, folder, clock)))
        ledger = stack.enter_context(closing(EnergyLedger(folder / FILE, tell)))
        if metrics_port is not None:
            port = stack.enter_context(serving(ledger, metrics_port))
            tell(f"metrics on http://127.0.0.1:{port}/metrics")
        yield ledger, QueueEnergy(EnergySampler(meter, ledger), tell)


def _meter(driver: DriverName, folder: Path, clock: Clock) -> NvmlEnergyMeter | SimulatedEnergyMeter:
    if driver is DriverName.NVML:
        from partita.drive.nvml.driver import NvmlEnergyMeter  # noqa: PLC0415 -- each driver imports its own modules

        return NvmlEnergyMeter()
    from partita.drive.simulated.cluster import SimulatedEnergyMeter  # noqa: PLC0415 -- as above

    return SimulatedEnergyMeter(folder / CLUSTER, clock)
