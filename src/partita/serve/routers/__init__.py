"""Routers: which slice answers which query, and when. One policy a file, run live and in simulation alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.routers.bound import Elsa, Price
from partita.serve.routers.fifs import Fifs
from partita.serve.routers.late_binding import LateBinding

if TYPE_CHECKING:
    from partita.serve.routers.port import Router

ROUTERS: dict[str, type[Router]] = {
    "late-binding": LateBinding,
    "price": Price,
    "elsa": Elsa,
    "fifs": Fifs,
}
"""Routers of the gateway by their names; the first is the default."""
