"""Planning a workload: joins the modules for services that share GPUs and for services with a cut.

`prepare` builds a planning problem from a workload and its performance tables, `plan` solves it, and `check` checks a
plan against it. A planner (`planning`) plans the services that share GPUs; those with a `cut` get whole GPUs of their
own (`serve.reserving`). All commands that plan, `control` and the library use this module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError
from partita.perf.reading import read_tables
from partita.planning.check import check_plan, requirements
from partita.planning.exact import TooFewGpusError, met_shares, plan_best_effort, plan_what_fits
from partita.planning.formulate import formulate, names
from partita.registry import make
from partita.serve.reserving.services import cut_services
from partita.transition.nearest_plan import nearest_plan
from partita.workload import Batches, locating, read_workload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.perf.table import PerfTable
    from partita.planning.check import Violation
    from partita.planning.formulate import Formulation
    from partita.planning.plan import Plan
    from partita.planning.problem import Pool, Problem
    from partita.serve.reserving.services import CutService
    from partita.transition.deployment import Deployment
    from partita.workload import ServiceSpec, Workload

TIME_LIMIT_S = 30.0
"""Default time limit of the search, in seconds."""

_SHORT_SECONDS = 5.0
"""Most seconds to find which services would fall short."""


@dataclass(frozen=True, slots=True)
class PreparedWorkload:
    """A workload with all inputs of planning.

    Attributes:
        workload: the workload.
        table: its performance tables, joined.
        formulation: the problem of the services that share GPUs.
        cuts: the services that have a cut.
        path: its file, for errors; None for a workload built in code.
    """

    workload: Workload
    table: PerfTable
    formulation: Formulation
    cuts: tuple[CutService, ...] = ()
    path: Path | None = None

    @property
    def problem(self) -> Problem:
        """The problem of the services that share GPUs, on all pools."""
        return self.formulation.problem

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Assumptions, for the user."""
        return (
            *self.table.notes,
            *self.formulation.notes,
            *(note for each in self.cuts for note in each.notes),
        )

    def at(
        self, rates: Mapping[str, float], batches: Mapping[str, Mapping[int, float]], gpus: Mapping[str, int]
    ) -> PreparedWorkload:
        """Return the workload with current rates and GPUs.

        Args:
            rates: items/s of each service, without headroom.
            batches: by service with a cut, the share of queries of each batch size.
            gpus: number of usable GPUs of each model.

        Raises:
            InfeasibleError: too few of a service's queries can be answered in time.
        """
        problem = _at_rates(self.problem, rates)
        problem = problem.with_counts(_pool_counts(problem.pools, gpus))
        formulation = replace(self.formulation, problem=problem)
        if not self.cuts:
            return replace(self, formulation=formulation)
        written = {cut.spec.name: cut.shares for cut in self.cuts}

        def now(spec: ServiceSpec) -> ServiceSpec:
            if spec.name not in written:
                return spec
            shares = batches[spec.name]
            as_written = shares == written[spec.name]
            new = spec.batches if as_written else Batches(histogram=dict(shares))
            return spec.replace(rate=rates[spec.name], batches=new)

        workload = self.workload.replace(services=tuple(map(now, self.workload.services)))
        cuts = cut_services(workload, problem.pools, formulation.measured)
        return replace(self, workload=workload, formulation=formulation, cuts=cuts)


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan and its notes.

    Attributes:
        plan: the plan.
        assumptions: a sentence each.
        reservations: the GPUs reserved for services with a cut, a sentence each.
    """

    plan: Plan
    assumptions: tuple[str, ...] = ()
    reservations: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes for the user."""
        return (*self.assumptions, *self.reservations)


def read_prepared(path: Path) -> PreparedWorkload:
    """Read a workload and the tables that it names, and prepare it.

    Raises:
        InputError: a file cannot be used; `where` is its `file:line`.
        InfeasibleError: a service cannot run on any profile; `where` as above.
    """
    workload = read_workload(path)
    table = read_tables(workload.performance)
    with locating(path):
        return prepare(workload, table, path)


def prepare(workload: Workload, table: PerfTable | None = None, path: Path | None = None) -> PreparedWorkload:
    """Build the planning problem of a workload.

    Args:
        workload: what to plan.
        table: its performance table; None to read the tables that the workload names.
        path: the workload's file, for errors of planning.

    Raises:
        InputError: a service cannot be planned; `where` is the field's path, such as `services[3].model`.
        InfeasibleError: a service cannot run on any profile; `where` as above.
    """
    table = read_tables(workload.performance) if table is None else table
    made = formulate(workload, table)
    cuts = cut_services(workload, made.problem.pools, made.measured)
    return PreparedWorkload(workload, table, made, cuts, path)


def plan(
    asked: Workload | PreparedWorkload,
    *,
    planner: str = "exact",
    deadline: Deadline | None = None,
    seed: int = 0,
    best_effort: bool = False,
    current: Deployment | None = None,
) -> PlanResult:
    """Plan the fewest GPUs that meet all services of a workload.

    Args:
        asked: the workload, or a prepared one.
        planner: name of the algorithm for the services that share GPUs.
        deadline: time limit, stop request and progress; None for a limit of 30 seconds.
        seed: of random choices; the same input and seed give the same plan.
        best_effort: with too few GPUs, meet the most services by priority, and the others in part.
        current: what runs now; among equally good plans, one close to it is preferred.

    Raises:
        InputError: as `prepare`; or there is no such planner, or it does not support the options.
        InfeasibleError: the GPUs do not suffice; names the services that would fall short.
        PartitaError: the time limit was reached before a plan was found.
    """
    if best_effort and planner != "exact":
        raise InputError(
            "this planner does not support --best-effort",
            hint="leave out --planner, or write --planner exact",
        )
    prepared = asked if isinstance(asked, PreparedWorkload) else prepare(asked)
    if planner != "exact" and (prepared.problem.survives or prepared.problem.parts):
        raise InputError(
            "this planner looks at no losses: `survive`, and `spot` between 0 and 1",
            hint="leave out --planner, or write --planner exact",
        )
    deadline = deadline or Deadline(TIME_LIMIT_S)
    try:
        if prepared.cuts:
            return _plan_with_cuts(prepared, planner, deadline, seed, current, best_effort=best_effort)
        problem = prepared.problem
        try:
            found = _plan_shared(problem, planner, deadline, seed, current)
        except InfeasibleError:
            if not best_effort:
                raise
            found = plan_what_fits(problem, _rest(deadline), seed)
        return PlanResult(found, prepared.assumptions)
    except TooFewGpusError as error:
        if error.problem is not None:
            short = met_shares(error.problem, Deadline(_SHORT_SECONDS, deadline.stop)).short(error.problem)
            error.what += f"; by priority these would fall short: {names(short)}"
        raise


def _plan_shared(
    problem: Problem, planner: str, deadline: Deadline, seed: int, current: Deployment | None
) -> Plan:
    found: Plan = make("planners", planner, seed=seed, deadline=deadline).plan(problem)
    return found if current is None else nearest_plan(problem, found, current)


def _plan_with_cuts(
    prepared: PreparedWorkload,
    planner: str,
    deadline: Deadline,
    seed: int,
    current: Deployment | None,
    *,
    best_effort: bool,
) -> PlanResult:
    """Plan services with a cut, and on the remaining GPUs those that share."""
    # These import numba, which takes seconds and which most workloads do not need.
    from partita.serve.reserving.planning import plan_reserving, reserve_best_effort  # noqa: PLC0415
    from partita.serve.reserving.reservation import describe, running, shared_part  # noqa: PLC0415

    problem, cuts = prepared.problem, prepared.cuts
    runs = None if current is None else running(current, cuts)
    shared = None if current is None else shared_part(current, cuts)

    def whole(rest: Problem) -> Plan:
        return _plan_shared(rest, planner, deadline, seed, shared)

    with locating(prepared.path):
        try:
            found = plan_reserving(problem, cuts, whole, deadline, seed=seed, running=runs)
        except InfeasibleError:
            if not best_effort:
                raise
            later = _rest(deadline)

            def what_fits(rest: Problem) -> Plan:
                return plan_best_effort(rest, later, seed)

            found = reserve_best_effort(problem, cuts, what_fits, later, seed=seed, running=runs)
    return PlanResult(
        found.plan, prepared.assumptions, tuple(describe(each, problem.pools) for each in found.made)
    )


def _rest(deadline: Deadline) -> Deadline:
    """Return the deadline for a best-effort plan: at least half the limit, as the proof before may have used most."""
    return Deadline(max(deadline.left, deadline.time_limit / 2), deadline.stop, deadline.report)


def check(plan: Plan, prepared: PreparedWorkload) -> list[Violation]:
    """Return all faults of a plan for a workload, by the independent checkers; empty for a correct plan."""
    faults = check_plan(plan, requirements(prepared.workload), prepared.formulation.measured)
    if prepared.cuts:
        from partita.serve.reserving.check import check_reserved  # noqa: PLC0415 -- numba, as above

        faults += check_reserved(plan, prepared.cuts, prepared.problem.pools)
    return faults


def _at_rates(problem: Problem, rates: Mapping[str, float]) -> Problem:
    """Return the problem with these rates, plus each service's headroom."""
    return problem.with_services(
        tuple(
            replace(
                service,
                asked_rate=rates[service.name],
                rate=rates[service.name] * service.rate / service.asked_rate,
            )
            for service in problem.services
        )
    )


def _pool_counts(pools: tuple[Pool, ...], gpus: Mapping[str, int]) -> dict[str, int | None]:
    """Distribute the usable GPUs of each model over its pools, in order."""
    left = dict(gpus)
    counts: dict[str, int | None] = {}
    for pool in pools:
        there = left.get(pool.gpu.name, 0)
        counts[pool.name] = n = there if pool.count is None else min(pool.count, there)
        left[pool.gpu.name] = there - n
    return counts
