"""A reservation in words: how many GPUs, cut how, what they hold, and what no cut can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planning.problem import Pool
    from partita.serve.reserving.reserve import Reservation


def told(made: Reservation, pools: Sequence[Pool]) -> str:
    """Return one sentence for the user."""
    service, gpus = made.service, len(made.cut.gpus)
    slices = ", ".join(
        f"{n} {profile}"
        for profile, n in zip(made.offer.problem.profiles, made.cut.counts.tolist(), strict=True)
        if n
    )
    pool = pools[made.offer.pool].name
    others = [pools[offer.pool].name for offer in service.offers if offer is not made.offer]
    why = f", the best pool of {pool}, {', '.join(others)}" if others else ""
    bound = "as few as any cut needs" if made.least == gpus else f"any cut needs {made.least} at least"
    return (
        f"{service.spec.name}: {gpus} {pool} alone, cut by {service.cut} into {slices}{why}; holds "
        f"{made.capacity / service.items:,.4g} queries/s of {service.items:.3g} items each with "
        f"{made.offer.problem.quantile:.4g} in time, {bound}"
    )
