"""When to plan anew: a dead band around the planned rates, and a time for which a plan is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    dead_band: float = 0.1
    hold_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Planned:
    """What the present plan was made for.

    Attributes:
        at: when, in seconds on the caller's clock.
        document: fingerprint of the workload's text and tables.
        rates: items/s of each service.
    """

    at: float
    document: str
    rates: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why to plan anew, None if there is no reason, and whether the plan is still held."""

    why: str | None
    held: bool = False

    @property
    def now(self) -> bool:
        """Whether to plan now."""
        return self.why is not None and not self.held


def wanted_rates(written: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Return the rate to plan for of each service of a workload: as measured, or as written where nobody measures."""
    return {name: max(measured.get(name, rate), LEAST_RATE) for name, rate in written.items()}


def judge(
    planned: Planned | None, document: str, rates: Mapping[str, float], now: float, holding: Holding
) -> Verdict:
    """Say whether to plan anew.

    Args:
        planned: what the present plan was made for; None if there is none.
        document: fingerprint of the workload as it is now.
        rates: items/s of each service now.
        now: seconds, on the clock of `planned.at`.
        holding: how calm planning is.
    """
    if planned is None:
        return Verdict("there is no plan yet")
    why = "the workload has changed" if document != planned.document else _left(planned.rates, rates, holding)
    return Verdict(why, held=now < planned.at + holding.hold_s)


def _left(planned: Mapping[str, float], rates: Mapping[str, float], holding: Holding) -> str | None:
    for name, rate in sorted(rates.items()):
        was = planned.get(name)
        if was is None or abs(rate - was) > holding.dead_band * was:
            return f"{name} is at {rate:g} items/s" + ("" if was is None else f", planned for {was:g}")
    return None
