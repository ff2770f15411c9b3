"""The workers that `partita serve` starts: on which instances, and how each service's are run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.cli.drivers import ClockName, Cluster, DriverName, open_driver
from partita.cli.options import stderr
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.drive.driver import Observation
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.serve.services import WorkerSettings
    from partita.serve.worker_specs import PlacedPlan


@dataclass(frozen=True, slots=True)
class Staff:
    """The workers to start.

    Attributes:
        plan: whose instances get one each.
        ways: how each service's are run.
        devices: CUDA device by GPU id and placement; empty where there are no GPUs.
    """

    plan: Plan
    ways: Mapping[str, WorkerSettings]
    devices: Mapping[tuple[str, str], str] = field(default_factory=dict)


def staff(
    loaded: PreparedWorkload, plan: Plan, services: Path | None, driver: DriverName, plan_file: Path | None
) -> Staff:
    """Return the workers for a plan.

    Args:
        loaded: the workload.
        plan: what runs where.
        services: file that says how each service is run; emulated without it.
        driver: on the GPUs of this host, or on none.
        plan_file: where the plan is from.

    Raises:
        InputError: the file of services cannot be used, or the plan's instances do not stand free on this host.
        DriveError: the host's GPUs do not answer.
    """
    if driver is DriverName.SIMULATED:
        return Staff(plan, _ways(loaded, services))
    if services is None:
        raise InputError(
            "nothing says what runs on the GPUs",
            where="--services",
            hint="write {services: [{name: resnet50, worker: {onnx: resnet50.onnx}}]} to a file",
        )
    ways = _ways(loaded, services)
    found = _standing(plan, plan_file)
    return Staff(found.plan, ways, found.devices)


def _ways(loaded: PreparedWorkload, services: Path | None) -> Mapping[str, WorkerSettings]:
    from partita.serve.services import WorkerSettings, read_workers  # noqa: PLC0415 -- only where services are run
    from partita.serve.worker.spec import EmulatedSpec  # noqa: PLC0415

    if services is not None:
        return read_workers(services)
    stderr().print(
        "note: nothing says how the services are run (--services): their workers are emulated; they take as "
        "long as the table says and answer with what they were asked",
        markup=False,
        soft_wrap=True,
    )
    return {each.name: WorkerSettings(EmulatedSpec()) for each in loaded.workload.services}


def _standing(plan: Plan, plan_file: Path | None) -> PlacedPlan:
    from partita.serve.worker_specs import place_on_existing  # noqa: PLC0415 -- only for a gateway

    return place_on_existing(plan, _seen(), plan_file=str(plan_file or "PLAN"))


def _seen() -> Observation:
    """Return the GPUs of this host as they are; nothing is changed."""
    from partita.drive.state import state_folder  # noqa: PLC0415 -- only where GPUs are driven

    with open_driver(Cluster(DriverName.NVML, ClockName.WALL), state_folder(), list) as driver:
        return driver.observe()
