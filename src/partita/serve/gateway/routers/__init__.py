"""Routers of the gateway, one policy a file: which worker starts which queries, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.routers.elsa import Elsa
from partita.serve.gateway.routers.fifs import Fifs
from partita.serve.gateway.routers.late_binding import LateBinding
from partita.serve.gateway.routers.price import Price

if TYPE_CHECKING:
    from partita.serve.gateway.routers.port import Router

ROUTERS: dict[str, type[Router]] = {
    "late-binding": LateBinding,
    "price": Price,
    "elsa": Elsa,
    "fifs": Fifs,
}
"""Routers by their names; the first is the default."""
