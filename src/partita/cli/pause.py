"""`partita pause` and `partita resume`: hold a transition back, and let it go on."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_read_only
from partita.cli.output import echo
from partita.control.journal import holder
from partita.drive.state import state_path
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.control.journal import Journal


def pause(*, driver: DriverOption = SIMULATED) -> None:
    """Pause the transition that is in progress: its actions that run end, and none begins until `partita resume`.

    It holds for whichever process carries the transition out, also after a restart. Every service keeps its floor.
    """
    number, _ = _told(driver, lambda journal, by, at: journal.pause(by, at))
    echo(f"transition {number} is paused; go on with `partita resume`")


def resume(*, driver: DriverOption = SIMULATED) -> None:
    """End a pause: the transition goes on, or the command that goes on with it is said."""
    number, command = _told(driver, lambda journal, by, at: journal.resume(by, at))
    going = holder(state_path()) is not None
    echo(f"transition {number} goes on" if going else f"no process carries it out: go on with `{command}`")


def _told(driver: str, tell: Callable[[Journal, str, float], int]) -> tuple[int, str]:
    """Tell the journal; return the transition's number and the command that began it."""
    cluster = Cluster(driver)
    if not cluster.exists(state_path()):
        raise InputError("there is no simulated cluster yet", where=str(state_path()))
    with open_read_only(cluster, list) as opened:
        number = tell(opened.journal, getpass.getuser(), opened.driver.clock.now())
        return number, opened.journal.goals(1)[0].command
