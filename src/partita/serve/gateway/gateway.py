"""The gateway's runtime: connects to the workers of a folder, routes queries to them and hands back their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.values import (
    Ended,
    FailedError,
    GatewaySnapshot,
    Model,
    Reason,
    RefusedError,
    ServedService,
    ServiceStatistics,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from partita.serve.tensors import Answer, Query

__all__ = [
    "Ended",
    "FailedError",
    "Gateway",
    "GatewaySnapshot",
    "Model",
    "Reason",
    "RefusedError",
    "ServedService",
    "ServiceStatistics",
]


class Gateway:
    """Routes queries to workers. All its methods belong to one event loop.

    Args:
        services: that it serves.
        folder: in which the workers' sockets appear.
        router: name of the policy: `late-binding`, `price`, `elsa` or `fifs`.
        batching: whether waiting queries are joined into batches.
        rates: file to which observed rates are written; none if None.
        on_end: is told of every query's end, on the event loop.
    """

    def __init__(
        self,
        services: Sequence[ServedService],
        folder: Path,
        *,
        router: str = "late-binding",
        batching: bool = True,
        rates: Path | None = None,
        on_end: Callable[[Ended], None] | None = None,
    ) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Watch the folder; return when the workers that are already there are known."""
        raise NotImplementedError

    async def drain(self, grace_s: float) -> None:
        """Refuse what comes, and return when what is there has ended or the grace is over."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave the workers; what is still there is refused."""
        raise NotImplementedError

    def model(self, service: str) -> Model | None:
        """Return what a service takes and gives, None if there is no such service."""
        raise NotImplementedError

    def ready(self, service: str) -> bool:
        """Return whether some worker takes this service's queries."""
        raise NotImplementedError

    async def infer(self, service: str, query: Query, deadline_s: float | None = None) -> Answer:
        """Return the answer. Cancelling the task that awaits it takes the query out of the queue.

        Args:
            service: that is asked; it must be known.
            query: as the client sent it.
            deadline_s: seconds from now to the latest answer; the service's own if None.

        Raises:
            RefusedError: it cannot be answered in time, or not now.
            FailedError: workers failed it.
        """
        raise NotImplementedError

    def statistics(self, service: str) -> ServiceStatistics:
        """Return what a service has done so far; it must be known."""
        raise NotImplementedError

    def snapshot(self) -> GatewaySnapshot:
        """Return the state of everything now."""
        raise NotImplementedError
