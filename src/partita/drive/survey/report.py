"""The survey: all that was found, in one value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.drive.port import DriveError
from partita.drive.state import CLUSTER
from partita.drive.survey import host
from partita.drive.survey.finding import Finding, Level
from partita.drive.survey.real import RealGpu, RealHost, absent, real_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.drive.port import Observation
    from partita.drive.survey.host import Manager


@dataclass(frozen=True, slots=True)
class Report:
    """What this host can do with GPUs.

    Attributes:
        driver: version of NVIDIA's driver; None without one.
        state: the state folder.
        simulated: the simulated cluster; None if there is none, or it cannot be read.
    """

    driver: str | None
    gpus: tuple[RealGpu, ...]
    managers: tuple[Manager, ...]
    state: Path
    simulated: Observation | None
    findings: tuple[Finding, ...]

    @property
    def mend(self) -> bool:
        """Whether something is in the way of using what there is."""
        return any(each.level is Level.MEND for each in self.findings)


def survey(state: Path, *, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> Report:
    """Look at this host and change nothing.

    Args:
        state: the state folder; need not be there.
        root: where the host's files are.
        environ: variables; the process's own where left out.
    """
    real, missing = _real(state, root)
    others = host.managers(root, os.environ if environ is None else environ)
    simulated, told = _simulated(state)
    findings: list[Finding] = [*missing]
    if real is not None:
        findings += [*real.findings, *host.fabric_findings(root)]
        if any(gpu.model for gpu in real.gpus):
            findings += host.permission_findings(root, root_user=os.geteuid() == 0)
    findings += [*host.manager_findings(others), *_state_findings(state), *told]
    driver, gpus = (real.driver, real.gpus) if real else (None, ())
    return Report(driver, gpus, others, state, simulated, tuple(findings))


def _real(state: Path, root: Path) -> tuple[RealHost | None, list[Finding]]:
    try:
        found = real_host(state)
    except DriveError as error:
        present = host.pci_gpus(root)
        if present:
            what = f"{present} NVIDIA GPUs are here and cannot be used: {error.what}"
            return None, [Finding(Level.MEND, what, hint=error.hint)]
        if not absent(error):
            # Its driver is here all the same, as in a container that shows no PCI devices.
            return None, [
                Finding(Level.MEND, f"NVIDIA's driver does not answer: {error.what}", hint=error.hint)
            ]
        note = "no NVIDIA GPU on this host; planning and the simulated cluster need none"
        return None, [Finding(Level.NOTE, note)]
    if not found.gpus:
        return found, [
            Finding(Level.NOTE, "NVIDIA's driver is here and sees no GPU", hint="`lspci -d 10de:`")
        ]
    return found, list(_unseen(host.pci_gpus(root), len(found.gpus)))


def _unseen(on_bus: int, seen: int) -> Iterator[Finding]:
    if on_bus > seen:
        yield Finding(
            Level.NOTE,
            f"{on_bus} NVIDIA GPUs are on the PCI bus, and the driver shows {seen}",
            hint="as it should be in a container that is given some of them; elsewhere look for Xid errors with "
            "`dmesg | grep -i xid`, and for GPUs bound to another driver with `lspci -k -d 10de:`",
        )


def _simulated(state: Path) -> tuple[Observation | None, list[Finding]]:
    path = state / CLUSTER
    if not path.exists():
        return None, [Finding(Level.NOTE, "there is no simulated cluster", str(path))]
    from partita.drive.simulated import SimulatedDriver  # noqa: PLC0415 -- only where there is one
    from partita.sim.clock import SimulatedClock  # noqa: PLC0415

    try:
        driver = SimulatedDriver(path, SimulatedClock())
        seen = driver.observe()
        driver.close()
    except DriveError as error:
        return None, [Finding(Level.MEND, error.what, str(path), f"move it away: `mv {path} {path}.broken`")]
    lost = sum(gpu.lost for gpu in seen.gpus)
    told = f"the simulated cluster has {len(seen.gpus)} GPUs" + (f", {lost} of them lost" if lost else "")
    return seen, [Finding(Level.OK, told, str(path))]


def _state_findings(state: Path) -> Iterator[Finding]:
    if state.exists() and not (state.is_dir() and os.access(state, os.W_OK | os.X_OK)):
        yield Finding(
            Level.MEND,
            "the state folder cannot be written to",
            str(state),
            "set PARTITA_STATE to a folder of yours",
        )
