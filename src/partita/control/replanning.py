"""When to plan anew: bands around the planned rates and batch sizes, and a time for which a plan is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.control.demand import Demand, distance

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_RATE = 1e-3
"""Items/s that an idle service is planned for: it keeps a replica."""


@dataclass(frozen=True, slots=True)
class Holding:
    """How calm planning is.

    Attributes:
        dead_band: a rate may leave the planned one by this fraction before anything is done.
        hold_s: seconds for which a plan is held at least.
        batch_shift: share of a service's queries that may change size (total variation) before anything is done.
    """

    dead_band: float = 0.1
    hold_s: float = 300.0
    batch_shift: float = 0.15


@dataclass(frozen=True, slots=True)
class Planned:
    """What the present plan was made for.

    Attributes:
        at: when, in seconds on the caller's clock.
        document: fingerprint of the workload's text and tables.
        demand: of each service.
    """

    at: float
    document: str
    demand: Demand


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why to plan anew, None if there is no reason, and whether the plan is still held."""

    why: str | None
    held: bool = False

    @property
    def now(self) -> bool:
        """Whether to plan now."""
        return self.why is not None and not self.held


def wanted(written: Demand, measured: Demand) -> Demand:
    """Return what to plan for: as measured, or as written where nobody measures.

    Args:
        written: of all services; batch sizes of those that are cut by them.
        measured: batch sizes of other services, and other services, count for nothing.
    """
    return Demand(
        {name: max(measured.rates.get(name, rate), LEAST_RATE) for name, rate in written.rates.items()},
        {name: measured.batches.get(name, shares) for name, shares in written.batches.items()},
    )


def judge(planned: Planned | None, document: str, demand: Demand, now: float, holding: Holding) -> Verdict:
    """Say whether to plan anew.

    Args:
        planned: what the present plan was made for; None if there is none.
        document: fingerprint of the workload as it is now.
        demand: of each service now.
        now: seconds, on the clock of `planned.at`.
        holding: how calm planning is.
    """
    if planned is None:
        return Verdict("there is no plan yet")
    if document != planned.document:
        why: str | None = "the workload has changed"
    else:
        why = _left(planned.demand.rates, demand.rates, holding) or _shifted(planned.demand, demand, holding)
    return Verdict(why, held=now < planned.at + holding.hold_s)


def _left(planned: Mapping[str, float], rates: Mapping[str, float], holding: Holding) -> str | None:
    for name, rate in sorted(rates.items()):
        was = planned.get(name)
        if was is None or abs(rate - was) > holding.dead_band * was:
            return f"{name} is at {rate:g} items/s" + ("" if was is None else f", planned for {was:g}")
    return None


def _shifted(planned: Demand, demand: Demand, holding: Holding) -> str | None:
    for name, shares in sorted(demand.batches.items()):
        was = planned.batches.get(name)
        if was is None or (moved := distance(was, shares)) > holding.batch_shift:
            part = "" if was is None else f" of {moved:.0%} of its queries"
            return f"{name} has other batch sizes{part} than planned for"
    return None
