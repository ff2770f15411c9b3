"""`partita pause` and `partita resume`: hold a transition back, and let it go on."""

from __future__ import annotations

import getpass
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_driver
from partita.cli.on_cluster import opened, refuse_unused
from partita.cli.options import Kubeconfig, KubeContext, KubeNamespace
from partita.cli.output import echo
from partita.control.journal import FILE, Journal, holder
from partita.drive.state import state_path
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.resources import WorkloadObject


WorkloadName = Annotated[
    str | None,
    typer.Option("--workload", metavar="NAME", help="A Workload of a Kubernetes cluster instead."),
]


def pause(
    *,
    driver: DriverOption = SIMULATED,
    workload: WorkloadName = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
) -> None:
    """Pause the transition that is in progress: its actions that run end, and none begins until `partita resume`.

    It holds for whichever process carries the transition out, also after a restart. Every service keeps its floor.
    With --workload it does what `kubectl partita pause` does.
    """
    if workload is not None:
        from partita.kubernetes.pausing import pause as pause_workload  # noqa: PLC0415 -- of the extra

        def tell(api: KubernetesApi, found: WorkloadObject) -> str:
            return pause_workload(api, found, getpass.getuser())

        echo(_on_cluster(kubeconfig, context, namespace, workload, tell))
        return
    _refuse_unused(kubeconfig, context, namespace)
    number, _ = _told(driver, lambda journal, by, at: journal.pause(by, at))
    echo(f"transition {number} is paused; go on with `partita resume`")


def resume(
    *,
    driver: DriverOption = SIMULATED,
    workload: WorkloadName = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: KubeNamespace = None,
) -> None:
    """End a pause: the transition goes on, or the command that goes on with it is said."""
    if workload is not None:
        from partita.kubernetes.pausing import resume as resume_workload  # noqa: PLC0415 -- of the extra

        echo(_on_cluster(kubeconfig, context, namespace, workload, resume_workload))
        return
    _refuse_unused(kubeconfig, context, namespace)
    number, command = _told(driver, lambda journal, by, at: journal.resume(by, at))
    going = holder(state_path()) is not None
    echo(f"transition {number} goes on" if going else f"no process carries it out: go on with `{command}`")


def _refuse_unused(kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
    refuse_unused(kubeconfig, context, namespace, "--workload")


def _on_cluster(
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    workload: str,
    tell: Callable[[KubernetesApi, WorkloadObject], str],
) -> str:
    """Tell a Workload of a cluster something; return what is to be said."""
    from partita.kubernetes.advice import workload_object  # noqa: PLC0415 -- of the extra

    with opened(kubeconfig, context, namespace) as api:
        return tell(api, workload_object(api, workload))


def _told(driver: str, tell: Callable[[Journal, str, float], int]) -> tuple[int, str]:
    """Tell the journal; return the transition's number and the command that began it."""
    cluster = Cluster(driver)
    folder = state_path()
    if not cluster.exists(folder):
        raise InputError("there is no simulated cluster yet", where=str(folder))
    path = folder / FILE
    with (
        open_driver(cluster, folder, list, read_only=True) as opened_driver,
        closing(Journal(path if path.exists() else None)) as journal,
    ):
        number = tell(journal, getpass.getuser(), opened_driver.clock.now())
        return number, journal.goals(1)[0].command
