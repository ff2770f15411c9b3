"""Where the wanted services and their plans come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.control.demand import Demand
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment


class Workbook(Protocol):
    """The workload as it is written now, and how to plan it."""

    @property
    def document(self) -> str:
        """Fingerprint of the text and of the tables that it names."""
        ...

    @property
    def demand(self) -> Demand:
        """What services are asked, as written: all rates, and batch sizes of those that are cut by them."""
        ...

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not stand together."""
        ...

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the plan with the fewest GPUs, of those the one nearest to what runs.

        Where they do not suffice, the plan that meets the most services by priority.

        Args:
            demand: what to plan each service for.
            gpus: how many GPUs of each model may be used.
            current: what runs.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        ...


class Source(Protocol):
    """Where the workload is read from."""

    def read(self) -> Workbook:
        """Return the workload as it is now.

        Raises:
            InputError: it cannot be read.
            InfeasibleError: a service can run nowhere.
        """
        ...
