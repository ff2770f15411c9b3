"""The default planner: integer programming with a proof."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError, PartitaError
from partita.plan.exact.compact import solve_compact
from partita.plan.exact.counts import Counts, reached, round_up
from partita.plan.exact.dedicated import solve_dedicated
from partita.plan.exact.shared import MOST_SHARING, solve_shared
from partita.plan.exact.valuing import config_value
from partita.plan.placing.assemble import assemble
from partita.plan.placing.pack import pack
from partita.plan.plan import GpuConfig, Plan, Solver
from partita.plan.watch import Watch

if TYPE_CHECKING:
    from partita.plan.problem import Problem

COMPACT_SERVICES = 16
"""Up to here the compact program alone is tried first: it is quick and needs nothing compiled."""

CLOSING_SERVICES = 400
"""Up to here the compact program is asked to close what gap column generation leaves."""

_FIRST_TRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ExactPlanner:
    """Fewest GPUs by integer programming, with the proven bound (`docs/concepts.md`, "The exact planner").

    Attributes:
        seed: of the random numbers that shake prices while rounding.
        watch: time limit and stop button; when it is over, the best so far is returned with its gap.
    """

    seed: int = 0
    watch: Watch = field(default_factory=Watch)

    def plan(self, problem: Problem) -> Plan:
        """Return the plan with the least objective found.

        Raises:
            InfeasibleError: the pools have too few GPUs, with the proof's reason.
            PartitaError: the time was over before any plan was found.
        """
        configs, bound = self.configs(problem)
        _refuse_overdrawn(problem, configs)
        solver = Solver("exact", self.seed, self.watch.seconds)
        return assemble(problem, configs, lower_bound=bound, solver=solver)

    def configs(self, problem: Problem) -> tuple[Counter[GpuConfig], float]:
        """Return how many GPUs have each configuration, and the proven bound of the objective."""
        if problem.max_services_per_gpu == 1:
            parts, bound = solve_dedicated(problem, self.watch)
            return sum((pack(problem, part) for part in parts), Counter[GpuConfig]()), bound
        counts, bound = self.counts(problem)
        configs = pack(problem, counts)
        if (problem.max_services_per_gpu or math.inf) > MOST_SHARING or reached(
            config_value(problem, configs), bound
        ):
            return configs, bound
        shared = solve_shared(problem, configs, self.watch)
        found = [each for each in (configs, shared.configs) if each]
        return min(found, key=lambda each: config_value(problem, each)), max(bound, shared.bound)

    def counts(self, problem: Problem) -> tuple[Counts, float]:
        """Return the counts found and the proven bound of the objective."""
        if len(problem.services) <= COMPACT_SERVICES:
            short = self.watch.at_most(_FIRST_TRY_SECONDS)
            first = solve_compact(problem, short)
            if first.infeasible:
                raise too_few_gpus(problem)
            if first.counts and reached(first.counts.value(problem), first.bound):
                return first.counts, first.bound
        return self._by_columns(problem)

    def _by_columns(self, problem: Problem) -> tuple[Counts, float]:
        from partita.plan.exact.columns import ColumnGeneration  # noqa: PLC0415 -- numba, which small cases do without
        from partita.plan.exact.rounding import round_covers  # noqa: PLC0415

        relaxation = ColumnGeneration(problem).run(self.watch)
        if relaxation.overflow > 1e-6 and not self.watch.over:
            raise too_few_gpus(problem)
        counts = round_covers(problem, relaxation, self.seed, self.watch)
        bound = round_up(relaxation.bound, problem)
        if counts and (reached(counts.value(problem), bound) or len(problem.services) > CLOSING_SERVICES):
            return counts, bound
        return self._close(problem, counts, bound)

    def _close(self, problem: Problem, counts: Counts | None, bound: float) -> tuple[Counts, float]:
        """Let the compact program search the gap for the time that is left."""
        last = solve_compact(problem, self.watch, enough=bound)
        if last.infeasible:
            raise too_few_gpus(problem)
        found = [each for each in (counts, last.counts) if each is not None]
        if not found:
            raise PartitaError(
                "no plan was found in the time there was, nor proof that there is none",
                hint="raise --time-limit",
            )
        return min(found, key=lambda each: each.value(problem)), max(bound, last.bound)


def _refuse_overdrawn(problem: Problem, configs: Counter[GpuConfig]) -> None:
    """Refuse GPUs that packing had to add to a pool that is used up."""
    for index, pool in enumerate(problem.pools):
        used = sum(n for config, n in configs.items() if config.pool == index)
        if pool.count is not None and used > pool.count:
            raise InfeasibleError(
                f"no plan was found that spreads the services as asked and keeps each GPU to its most services: "
                f"it takes {used} GPUs of {pool.name}, and there are {pool.count}",
                where="limits.max_services_per_gpu" if problem.max_services_per_gpu else "gpus",
                hint="raise `count` or `max_services_per_gpu`, or lower `spread`",
            )


class TooFewGpusError(InfeasibleError):
    """The pools do not have the GPUs that all services together need."""


def too_few_gpus(problem: Problem) -> InfeasibleError:
    """Return the error that says which pools are too small and what would do."""
    finite = {pool.name: None for pool in problem.pools if pool.count is not None}
    if not finite:
        return InfeasibleError("no plan exists", hint="see which `profiles` are allowed to each service")
    plan = ExactPlanner(watch=Watch(2.0)).counts(problem.with_counts(finite))[0]
    needed: dict[str, int] = {}
    for cut, n in zip(problem.cuts, plan.cuts, strict=True):
        name = problem.pools[cut.pool].name
        needed[name] = needed.get(name, 0) + int(n)
    there = ", ".join(f"{pool.count} {pool.name}" for pool in problem.pools if pool.count is not None)
    words = " and ".join(f"{n} {name}" for name, n in needed.items() if n)
    return TooFewGpusError(
        f"too few GPUs: {there} cannot meet all services; {words} would",
        where="gpus",
        hint="raise `count`, lower rates, or see what can be met with --best-effort",
    )
