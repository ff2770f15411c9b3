"""Transition algorithms by name, and the options of every command that makes one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from partita.transition.transition import Transitioner


class AlgorithmName(StrEnum):
    """The algorithms there are."""

    SHORTEST = "shortest"
    EXCHANGE_COMPACT = "exchange-compact"


Algorithm = Annotated[
    AlgorithmName,
    typer.Option("--algorithm", help="How the way is ordered: shortest, or the paper's exchange-compact."),
]
ExtraGpus = Annotated[
    int | None,
    typer.Option(
        "--extra-gpus",
        min=0,
        help="GPUs that may be in use meanwhile, beyond those used before and after. (default: as many as help)",
    ),
]

Forbid = Annotated[
    list[str] | None,
    typer.Option(
        "--forbid",
        metavar="COMBINATION",
        help="Combination that no GPU may hold on the way, as in 4g+3g. Repeatable. (plans do not record it)",
    ),
]


def make_transitioner(name: AlgorithmName) -> Transitioner:
    """Return the algorithm of that name. Only its own modules are imported."""
    if name is AlgorithmName.SHORTEST:
        from partita.transition.shortest import Shortest  # noqa: PLC0415 -- each imports its own modules

        return Shortest()
    from partita.transition.exchange_compact import ExchangeCompact  # noqa: PLC0415

    return ExchangeCompact()
