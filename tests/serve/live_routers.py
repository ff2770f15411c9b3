"""The routers for live queries, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.registry import names
from partita.serve.routers import live_router

if TYPE_CHECKING:
    from partita.serve.dispatching.port import Router

ROUTERS: dict[str, type[Router]] = {
    name: live_router(name) for name in sorted(names("routers")) if name != "kairos"
}
