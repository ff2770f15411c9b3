"""What runs now, from which a workload is planned: a plan, the cluster of a driver, or a Workload of Kubernetes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita import registry
from partita.cli.searching import planned, read_to_plan
from partita.errors import InputError
from partita.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.planner import PlanResult, PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment, Layouts

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PLAN|DRIVER",
        help="What runs: a plan's file, or the cluster of a driver (simulated, nvml); with --cluster a Workload's "
        "name. Of equally good plans, the one with the fewest moves from there.",
    ),
]
MostMoves = Annotated[
    int | None,
    typer.Option(
        "--most-moves",
        min=0,
        help="With --from: most replicas to move, start or stop; of the plans with so few, the best.",
    ),
]

_SAYS_WORKLOAD = re.compile(r"""(?m)^\s*["']?kind["']?\s*:\s*["']?Workload\b""")
_PLENTY = 1_000_000


def refuse_without_from(most_moves: int | None) -> None:
    """Refuse a limit of moves where nothing says from where.

    Raises:
        InputError: there is one.
    """
    if most_moves is not None:
        raise InputError(
            "it has no meaning without --from", where="--most-moves", hint="add --from PLAN, or leave it out"
        )


def is_driver(source: str | None) -> bool:
    """Say whether `--from` names a driver, whose GPUs are all there are, and not a plan's file."""
    return source in registry.names("drivers")


def what_runs(source: str) -> Deployment:
    """Return what runs.

    Args:
        source: a plan's file, or the name of a driver.

    Raises:
        InputError: the file cannot be used, or there is no cluster.
        DriveError: the cluster does not answer.
    """
    from partita.transition.deployment import deployment_of  # noqa: PLC0415 -- as in `plan`

    if not is_driver(source):
        from partita.transition.document import read_target  # noqa: PLC0415 -- as in `plan`

        return deployment_of(read_target(Path(source)))
    from partita.cli.cluster import Cluster, open_read_only  # noqa: PLC0415 -- as in `plan`
    from partita.control.cluster_view import deployed  # noqa: PLC0415 -- as in `plan`
    from partita.drive.state import state_path  # noqa: PLC0415 -- as in `plan`

    cluster = Cluster(source)
    if not cluster.exists(state_path()):
        raise InputError(
            "there is no simulated cluster yet",
            where=str(state_path()),
            hint="name the plan that runs now: --from PLAN; or plan without --from",
        )
    with open_read_only(cluster, list) as opened:
        return deployed(opened.driver.observe())


def on_gpus(loaded: PreparedWorkload, current: Deployment) -> PreparedWorkload:
    """Return a workload, at its own rates, on the GPUs there are that a plan may use."""
    from partita.control.reconciler import free_gpus  # noqa: PLC0415 -- as in `plan`

    return loaded.on(free_gpus(current))


def target_or_workload(path: Path) -> Plan | Layouts | PreparedWorkload:
    """Read a plan or layouts, or a workload that is still to be planned; `-` reads a plan or layouts from stdin.

    Raises:
        InputError: the file is none of these, or cannot be used.
        InfeasibleError: a service of the workload can run on no profile.
    """
    from partita.transition.document import read_target  # noqa: PLC0415 -- as in `plan`

    if str(path) != "-" and _SAYS_WORKLOAD.search(read_text(path)):
        return read_to_plan(path)
    return read_target(path)


def forbidden(asked: Plan | Layouts | PreparedWorkload, more: Sequence[str] | None) -> tuple[str, ...]:
    """Return the combinations that no GPU may hold: those of the command, and those of a workload."""
    workload = getattr(asked, "workload", None)
    return (*(more or ()), *(() if workload is None else workload.limits.forbid))


def planned_from(loaded: PreparedWorkload, current: Deployment) -> PlanResult:
    """Plan a workload from what runs, as `partita plan --from` does, with progress on stderr.

    Raises:
        InfeasibleError: the GPUs do not suffice.
    """
    return planned(loaded, current=current)


def gpus_for(loaded: PreparedWorkload, plan: Callable[[PreparedWorkload], Plan]) -> list[tuple[str, str]]:
    """Return ids and models of GPUs for a new simulated cluster: a workload's own, or as many as its plan takes.

    Args:
        loaded: the workload.
        plan: plans a workload.

    Raises:
        InfeasibleError: no GPUs suffice.
    """
    from partita.cli.cluster import named  # noqa: PLC0415 -- as in `plan`
    from partita.transition.between import whole_nodes  # noqa: PLC0415 -- as in `plan`

    pools = loaded.workload.gpus
    if all(pool.count is not None for pool in pools):
        return named([pool.model for pool in pools for _ in range(pool.count or 0)])
    made = plan(loaded.on({pool.model: _PLENTY for pool in pools}))
    return whole_nodes([(gpu.id, gpu.model) for gpu in made.gpus])
