"""Where a command acts: its cluster, its journal, and the lock that keeps others away meanwhile."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.cli.drivers import DriverName, open_driver
from partita.cli.options import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.cli.drivers import Cluster
    from partita.control.journal import Journal
    from partita.drive.driver import Driver


@dataclass(frozen=True, slots=True)
class Workplace:
    """A cluster and its journal."""

    driver: Driver
    journal: Journal


@contextmanager
def workplace(cluster: Cluster, gpus: Callable[[], list[tuple[str, str]]]) -> Iterator[Workplace]:
    """Open the cluster to act on it, as its one controller.

    Args:
        cluster: which.
        gpus: what a simulated one is made of, if there is none.

    Raises:
        LockedError: another controller acts on it.
        JournalError: its journal cannot be read.
    """
    from partita.control.journal import FILE, Journal  # noqa: PLC0415 -- only commands that act need these
    from partita.control.lock import controlling  # noqa: PLC0415
    from partita.drive.state import host_folder, state_folder  # noqa: PLC0415

    folder = state_folder()
    with ExitStack() as stack:
        if cluster.driver is DriverName.NVML:
            stack.enter_context(
                controlling(host_folder())
            )  # whatever the state folder, the GPUs are the same
        killed = stack.enter_context(controlling(folder))
        if killed is not None:
            stderr().print(f"note: the controller before was killed: {killed}", markup=False, soft_wrap=True)
        journal = Journal(folder / FILE)
        stack.callback(journal.close)
        yield Workplace(stack.enter_context(open_driver(cluster, folder, gpus)), journal)


@contextmanager
def rehearsal(cluster: Cluster, gpus: Callable[[], list[tuple[str, str]]]) -> Iterator[Workplace]:
    """Open the cluster to look at it and change nothing; a simulated one that is not there is made for the block.

    Raises:
        JournalError: its journal cannot be read.
    """
    from partita.control.journal import FILE, Journal  # noqa: PLC0415 -- only commands that act need these
    from partita.drive.state import state_path  # noqa: PLC0415

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = state_path()
        journal = Journal((folder if (folder / FILE).exists() else scratch) / FILE)
        stack.callback(journal.close)
        place = folder if cluster.exists(folder) else scratch
        yield Workplace(stack.enter_context(open_driver(cluster, place, gpus)), journal)
