"""`partita adopt`: take over instances that someone else made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.drivers import Cluster, DriverName, DriverOption
from partita.cli.options import DryRun, stdout

if TYPE_CHECKING:
    from partita.drive.driver import Observation
    from partita.mig.layout import Placement

GpuId = Annotated[str, typer.Argument(metavar="GPU", help="Id of the GPU, as `partita status` shows it.")]
Placements = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INSTANCE]...", help="Profile and start: 3g.40gb@4. (default: all that are not ours)"
    ),
]


def adopt(
    gpu: GpuId,
    instances: Placements = None,
    *,
    driver: DriverOption = DriverName.SIMULATED,
    dry_run: DryRun = False,
) -> None:
    """Take over instances that someone else made: from then on a plan may use, move and destroy them.

    Partita never touches an instance that it did not make, and plans around it. Adopt one only if nobody else counts
    on it.
    """
    from partita.cli.workplace import workplace  # noqa: PLC0415 -- only commands that act need it

    with workplace(Cluster(driver), _refuse_making) as place:
        for placement in _chosen(place.driver.observe(), gpu, instances or []):
            if not dry_run:
                place.driver.adopt(gpu, placement)
            stdout().print(f"{'would adopt' if dry_run else 'adopted'} {gpu} {placement}", markup=False)


def _refuse_making() -> list[tuple[str, str]]:
    from partita.errors import InputError  # noqa: PLC0415

    raise InputError("there is no simulated cluster yet", hint="`partita apply PLAN` makes one")


def _chosen(seen: Observation, gpu: str, asked: list[str]) -> list[Placement]:
    from partita.errors import InputError  # noqa: PLC0415
    from partita.mig.layout import Placement  # noqa: PLC0415 -- only where it is run

    found = seen.gpu(gpu)
    if found is None:
        raise InputError(f"no GPU {gpu!r}", hint="see `partita status`")
    foreign = [each.placement for each in found.instances if not each.ours]
    wanted = [Placement.parse(word) for word in asked] or foreign
    if not wanted:
        raise InputError("no instance of someone else's to adopt", where=gpu)
    for placement in wanted:
        if placement not in foreign:
            others = ", ".join(map(str, foreign)) or "none"
            raise InputError(
                f"{placement} is no instance of someone else's", where=gpu, hint=f"there: {others}"
            )
    return wanted
