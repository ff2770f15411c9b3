"""Routers decide which slice answers which query, and when; each file is one policy, for gateways and simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.registry import load

if TYPE_CHECKING:
    from partita.serve.dispatching.port import Router


def live_router(name: str) -> type[Router]:
    """Return the router of a name, for live queries.

    Raises:
        InputError: there is none, or it is for simulations alone.
        PartitaError: the package that brings it is broken.
    """
    found: type[Router] = load("routers", name)
    if not hasattr(found, "put"):
        raise InputError(
            f"the router {name!r} is for simulations alone", where="--router", hint="--router late-binding"
        )
    return found
