"""Planning a workload: joins the modules for services that share GPUs and for services with a cut.

`prepare` builds a planning problem from a workload and its performance tables, `plan` solves it, and `check` checks a
plan against it. A planner (`planning`) plans the services that share GPUs; those with a `cut` get whole GPUs of their
own (`serve.reserving`). All commands that plan, `control` and the library use this module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.deadline import Deadline
from partita.errors import InfeasibleError, InputError, counted
from partita.perf.reading import read_tables
from partita.planning.check import check_plan, requirements
from partita.planning.domains import domain, with_domains
from partita.planning.exact import TooFewGpusError, met_shares, plan_best_effort, plan_what_fits
from partita.planning.formulate import formulate, names
from partita.planning.overview import survival
from partita.planning.plan import PlanMoves, TradePoint, falls_short
from partita.registry import make
from partita.serve.reserving.services import cut_services
from partita.transition.between import with_room
from partita.transition.deployment import deployment_of
from partita.transition.fewest_moves import TooManyMovesError, near_plan, plan_within, trade_off
from partita.transition.moves import moves_between, total_moves
from partita.workload import Batches, locating, read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from partita.perf.operating_point import OperatingPoint
    from partita.perf.table import PerfTable
    from partita.planning.check import Violation
    from partita.planning.formulate import Capacities, Formulation, Measured
    from partita.planning.plan import Plan
    from partita.planning.problem import Pool, Problem, Service
    from partita.serve.reserving.services import CutService
    from partita.transition.deployment import Deployment
    from partita.workload import ServiceSpec, Workload

TIME_LIMIT_S = 30.0
"""Default time limit of the search, in seconds."""

_REPAIRS = 8
"""Most times that a plan whose sets hold too little is made again."""

_SURVIVING_SHARE = 0.7
"""Share of the time for a plan that survives losses; the rest is for one that need not, to compare it with."""

_VALUE_SHARE = 0.75
"""Share of the time for the best value, where the moves to it are to be few as well."""

_Runs = tuple[str, str, int, int]
"""How an instance runs: GPU, profile, batch and processes."""

_NOT_SEARCHED = "there was no time to look for fewer moves: those of the plan are counted, and may be fewer"
"""Note where the search for the fewest moves was cut short before it began."""

_CAPACITIES_SHARE = 0.5
"""Most of the time for capacities with waiting, which are found before the search."""

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
        bundled: whether bundles stand in the problem for the services that share instances.
    """

    workload: Workload
    table: PerfTable
    formulation: Formulation
    cuts: tuple[CutService, ...] = ()
    path: Path | None = None
    bundled: bool = False

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

    def searching(self, deadline: Deadline) -> Deadline:
        """Return the deadline of a search that begins now, if capacities with waiting took part of the time."""
        limit = deadline.time_limit
        left = max(limit - self.formulation.seconds, (1 - _CAPACITIES_SHARE) * limit)
        return Deadline(left, deadline.stop, deadline.report)

    def on(self, gpus: Mapping[str, int]) -> PreparedWorkload:
        """Return the workload at its own rates with current GPUs; argument and errors as for `at`."""
        rates = {service.name: service.rate for service in self.workload.services}
        return self.at(rates, {cut.spec.name: cut.shares for cut in self.cuts}, gpus)

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
        problem = self.formulation.at(self.workload, rates)
        problem = problem.with_counts(pool_counts(problem.pools, gpus))
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
        sharing: which services share instances, a sentence each.
        losses: what surviving losses takes, and which services it was left out for, a sentence each.
    """

    plan: Plan
    assumptions: tuple[str, ...] = ()
    reservations: tuple[str, ...] = ()
    sharing: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes for the user."""
        return (*self.assumptions, *self.reservations, *self.sharing, *self.losses)


def read_prepared(path: Path, *, to_plan: bool = True, deadline: Deadline | None = None) -> PreparedWorkload:
    """Read a workload and the tables that it names, and prepare it.

    Args:
        path: the workload's file.
        to_plan: whether it will be planned; see `prepare`.
        deadline: of all planning; see `prepare`.

    Raises:
        InputError: a file cannot be used; `where` is its `file:line`.
        InfeasibleError: a service cannot run on any profile; `where` as above.
    """
    workload = read_workload(path)
    table = read_tables(workload.performance)
    with locating(path):
        return prepare(workload, table, path, to_plan=to_plan, deadline=deadline)


def prepare(
    workload: Workload,
    table: PerfTable | None = None,
    path: Path | None = None,
    *,
    to_plan: bool = True,
    like: PreparedWorkload | None = None,
    deadline: Deadline | None = None,
) -> PreparedWorkload:
    """Build the planning problem of a workload.

    Args:
        workload: what to plan.
        table: its performance table; None to read the tables that the workload names.
        path: the workload's file, for errors of planning.
        to_plan: whether it will be planned. What serves a plan or simulates one does without capacities with waiting,
            which take a simulation for each service, and the compiler that this needs.
        like: a workload with the same tables, models and limits that was prepared to be planned: what was simulated
            for it is not simulated again.
        deadline: of all planning. Where capacities with waiting take more than half of its time, the others are those
            of short simulations, which are lower, and a note says so. None for no limit.

    Raises:
        InputError: a service cannot be planned; `where` is the field's path, such as `services[3].model`.
        InfeasibleError: a service cannot run on any profile; `where` as above.
    """
    table = read_tables(workload.performance) if table is None else table
    capacities = _capacities(workload, like) if to_plan else None
    if deadline is not None:
        deadline = Deadline(_CAPACITIES_SHARE * deadline.time_limit, deadline.stop, deadline.report)
    made = formulate(workload, table, capacities, deadline)
    cuts = cut_services(workload, made.problem.pools, made.measured)
    return PreparedWorkload(workload, table, made, cuts, path)


def _capacities(workload: Workload, like: PreparedWorkload | None) -> Callable[[Measured], Capacities] | None:
    if not any(service.waits for service in workload.services):
        return None
    if like is not None and (known := like.formulation.capacities) is not None:
        return lambda _: known
    # It imports numba, which takes a second and which other workloads of few services do not need.
    from partita.serve.waiting import CapacityModel  # noqa: PLC0415

    return CapacityModel


def plan(
    asked: Workload | PreparedWorkload,
    *,
    planner: str = "exact",
    deadline: Deadline | None = None,
    seed: int = 0,
    best_effort: bool = False,
    current: Deployment | None = None,
    most_moves: int | None = None,
    trade: bool = False,
    compare: bool = True,
    explain: bool = True,
) -> PlanResult:
    """Plan the fewest GPUs that meet all services of a workload.

    Args:
        asked: the workload, or a prepared one.
        planner: name of the algorithm for the services that share GPUs.
        deadline: time limit, stop request and progress; None for a limit of 30 seconds.
        seed: of random choices; the same input and seed give the same plan.
        best_effort: with too few GPUs, meet the most services by priority, and the others in part.
        current: what runs now; of equally good plans, the one with the fewest moves from it is preferred.
        most_moves: the most moves from `current` (`partita.transition.moves`); of the plans with so few, the best.
        trade: look for plans, too, that take more than the best one and have fewer moves (`Plan.moves`).
        compare: whether a plan that survives losses is compared with one that need not.
        explain: whether an error of too few GPUs says how many would do and which services would fall short, which
            takes searches of its own.

    Raises:
        InputError: as `prepare`; or there is no such planner, or it does not support the options.
        InfeasibleError: the GPUs do not suffice; names the services that would fall short; or no plan has so few
            moves.
        PartitaError: the time limit was reached before a plan was found.
    """
    if best_effort and planner != "exact":
        raise InputError(
            "this planner does not support --best-effort",
            hint="leave out --planner, or write --planner exact",
        )
    limit = Deadline(TIME_LIMIT_S)
    prepared = asked if isinstance(asked, PreparedWorkload) else prepare(asked, deadline=deadline or limit)
    deadline = deadline or prepared.searching(limit)
    if prepared.formulation.capacities is None and any(spec.waits for spec in prepared.workload.services):
        raise AssertionError("the workload was not prepared to be planned")
    if planner != "exact" and (prepared.problem.survives or prepared.problem.parts):
        raise InputError(
            "this planner looks at no losses: `survive`, and `spot` between 0 and 1",
            hint="leave out --planner, or write --planner exact",
        )
    if compare and _domains_matter(prepared.problem):
        surviving = any(service.survive for service in prepared.problem.services)
        made = plan(
            prepared,
            planner=planner,
            deadline=deadline.share(_SURVIVING_SHARE) if surviving else deadline,
            seed=seed,
            best_effort=best_effort,
            current=current,
            most_moves=most_moves,
            trade=trade,
            compare=False,
            explain=explain,
        )
        made = replace(made, plan=with_domains(made.plan, prepared.problem))
        return _compared(made, prepared, deadline, seed) if surviving else made
    if not prepared.bundled and _may_share(prepared.workload):
        return _plan_bundles(
            prepared,
            planner,
            deadline,
            seed,
            current,
            best_effort=best_effort,
            most_moves=most_moves,
            trade=trade,
            explain=explain,
        )
    try:
        if prepared.cuts:
            result = _plan_with_cuts(
                prepared, planner, deadline, seed, current, best_effort=best_effort, explain=explain
            )
            return result if current is None else _with_moves(prepared, result, current, most_moves)
        problem = prepared.problem
        start = None if current is None else _Start(current, deadline, most_moves, trade)
        try:
            found, notes = _plan_shared(
                prepared, problem, planner, deadline, seed, start, explain=explain and not best_effort
            )
        except TooManyMovesError:
            raise
        except InfeasibleError:
            if not best_effort:
                raise
            found, notes = plan_what_fits(problem, _rest(deadline), seed), ()
            if start is not None:
                found, notes = start.nearest(_met_by(problem, found), found)
        return PlanResult(found, (*prepared.assumptions, *notes))
    except TooFewGpusError as error:
        if explain and error.problem is not None:
            short = met_shares(error.problem, Deadline(_SHORT_SECONDS, deadline.stop)).short(error.problem)
            error.what += f"; by priority these would fall short: {names(short)}"
        raise


def _domains_matter(problem: Problem) -> bool:
    """Return whether any service survives a loss, or any pool says its zone or racks."""
    return any(service.survive for service in problem.services) or any(
        pool.zone or pool.nodes_per_rack for pool in problem.pools
    )


def _compared(made: PlanResult, prepared: PreparedWorkload, deadline: Deadline, seed: int) -> PlanResult:
    """Return the plan with the objective that it would have if no loss had to be survived, and a note of that."""
    losses = {each.name: each.loss for each in made.plan.services}
    short = [name for name, loss in losses.items() if loss is not None and falls_short(loss.left, loss.least)]
    if short:
        return replace(made, losses=(f"these fall short after a loss: {names(short)}",))
    formulation = replace(prepared.formulation, problem=prepared.problem.without_losses())
    rest = deadline.at_most(max(deadline.left, 1.0))
    without = plan(replace(prepared, formulation=formulation), deadline=rest, seed=seed, compare=False)
    found = replace(made.plan, without_survival=without.plan.objective)
    said = survival(found)
    return replace(made, plan=found, losses=(said,) if said else ())


def _may_share(workload: Workload) -> bool:
    return workload.limits.share_below is not None or any(spec.share for spec in workload.services)


def _plan_bundles(
    prepared: PreparedWorkload,
    planner: str,
    deadline: Deadline,
    seed: int,
    current: Deployment | None,
    *,
    best_effort: bool,
    most_moves: int | None,
    trade: bool,
    explain: bool,
) -> PlanResult:
    """Decide which small services share an instance, and plan with each bundle of them as a service."""
    # Most workloads share no instance.
    from partita.planning.bundling import bundle  # noqa: PLC0415 -- as said above
    from partita.planning.tenants import needs_of  # noqa: PLC0415 -- likewise

    with locating(prepared.path):
        needs = needs_of(prepared.problem, prepared.workload, prepared.formulation.measured)
    sharing = () if needs is None else [spec.name for spec in needs.specs]
    problem = prepared.formulation.apart(prepared.workload, sharing)
    made = None if needs is None else bundle(problem, needs, deadline, _shared_now(prepared, current))
    formulation = replace(prepared.formulation, problem=problem if made is None else made.problem)
    found = plan(
        replace(prepared, formulation=formulation, bundled=True),
        planner=planner,
        deadline=deadline,
        seed=seed,
        best_effort=best_effort,
        current=current,
        most_moves=most_moves,
        trade=trade,
        explain=explain,
    )
    if made is None:
        return found
    return replace(found, plan=made.unbundled(found.plan), sharing=(*made.needs.notes, *made.notes))


def _shared_now(
    prepared: PreparedWorkload, current: Deployment | None
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the size of each instance that is shared now, and its services."""
    pools = prepared.problem.pools
    sizes = {(pools[size.pool].gpu.name, size.profile): k for k, size in enumerate(prepared.problem.sizes)}
    for gpu in current.gpus if current is not None else ():
        for instance in gpu.instances:
            k = sizes.get((gpu.model, instance.placement.profile))
            if k is not None and instance.replica is not None and instance.replica.tenants:
                yield k, tuple(each.service for each in instance.replica.tenants)


def _plan_shared(  # noqa: PLR0917 -- as `plan` has them
    prepared: PreparedWorkload,
    problem: Problem,
    planner: str,
    deadline: Deadline,
    seed: int,
    start: _Start | None,
    *,
    explain: bool,
) -> tuple[Plan, tuple[str, ...]]:
    """Return a plan whose sets of instances hold their rates with waiting queries, and notes.

    Capacities with waiting are those of sets of equal instances. A set of unlike ones that does not hold its rate in
    simulation counts from then on with what it holds, and all is planned again; where that is not enough, the service
    gets equal instances. The bound is that of the first plan. The fewest moves are looked for once a plan holds.
    """
    bound = None
    less: dict[str, float] = {}
    asked = {service.name: service for service in problem.services}
    cut_short: tuple[str, ...] = ()
    for attempt in range(_REPAIRS + 1):
        time = deadline if start is None else start.deadline.share(_VALUE_SHARE)
        found: Plan = make("planners", planner, seed=seed, deadline=time, explain=explain).plan(problem)
        short = _short(prepared, problem, found)
        last = attempt == _REPAIRS or deadline.over
        if start is not None and (last or not short):
            found, cut_short = start.nearest(problem, found)
            short = _short(prepared, problem, found)
            last = last or deadline.over
        bound = found.objective.lower_bound if bound is None else min(bound, found.objective.lower_bound)
        found = replace(found, objective=replace(found.objective, lower_bound=bound))
        if not short:
            break
        if last:
            return found, (*_repaired(less), *_broken(short), *cut_short)
        changed = {
            name: _of_one_size(asked[name]) if name in less else _lessened(asked[name], share)
            for name, share in short.items()
        }
        less |= short
        problem = problem.with_services(tuple(changed.get(each.name, each) for each in problem.services))
    return found, (*_repaired(less), *cut_short)


@dataclass(frozen=True, slots=True)
class _Start:
    """What runs, from which a plan is to have few moves.

    Attributes:
        current: what runs.
        deadline: of all planning.
        most_moves: the most moves; None for any number.
        trade: whether plans with fewer moves are looked for, too.
    """

    current: Deployment
    deadline: Deadline
    most_moves: int | None = None
    trade: bool = False

    def nearest(self, problem: Problem, found: Plan) -> tuple[Plan, tuple[str, ...]]:
        """Return the plan with the fewest moves among those as good as one, or the best with so few moves; and notes.

        Raises:
            TooManyMovesError: no plan with so few moves was found.
        """
        if not any(each.replica for gpu in self.current.gpus for each in gpu.instances):
            return found, ()
        current = with_room(self.current, found, problem.pools)
        whole = self.deadline.time_limit * (1 - _VALUE_SHARE)
        deadline = Deadline(max(self.deadline.left, min(whole, TIME_LIMIT_S)), self.deadline.stop)
        near = near_plan(problem, found, current, deadline.share(0.5) if self.trade else deadline)
        points: tuple[TradePoint, ...] = ()
        if self.most_moves is not None and near.moves > self.most_moves:
            near = plan_within(problem, near.plan, current, self.most_moves, deadline)
        elif self.trade:
            points = tuple(
                TradePoint(len(each.plan.gpus), each.plan.objective.value, each.moves)
                for each in trade_off(problem, near, current, deadline)
            )
        given = {service.name: service for service in near.plan.services}
        services = tuple(given.get(service.name, service) for service in found.services)
        made = replace(near.plan, services=services, moves=PlanMoves(near.moves, near.least, points))
        return made, () if near.searched else (_NOT_SEARCHED,)


def _met_by(problem: Problem, found: Plan) -> Problem:
    """Return the problem as far as a best-effort plan meets it: without services that get nothing."""
    capacity = {service.name: service.capacity for service in found.services}
    services = tuple(
        replace(each, rate=capacity[each.name], min_replicas=1, spread=1, survive=None)
        if falls_short(capacity[each.name], each.rate)
        else each
        for each in problem.services
        if capacity.get(each.name, 0.0) > 0
    )
    return problem.with_services(services)


def _with_moves(
    prepared: PreparedWorkload, result: PlanResult, current: Deployment, most_moves: int | None
) -> PlanResult:
    """Return a result with the moves to its plan, of which nothing is proven.

    Raises:
        TooManyMovesError: there are more than the most.
    """
    there = with_room(current, result.plan, prepared.problem.pools)
    count = total_moves(moves_between(there, deployment_of(result.plan)))
    if most_moves is not None and count > most_moves:
        raise TooManyMovesError(
            f"the plan has {counted(count, 'move')}, and with services that have a `cut` no other is looked for",
            where="--most-moves",
            hint=f"allow {count}, or leave it out",
        )
    return replace(result, plan=replace(result.plan, moves=PlanMoves(count, 0)))


def _short(prepared: PreparedWorkload, problem: Problem, found: Plan) -> dict[str, float]:
    """Return, by service whose set does not hold its rate, what the set holds as a share of its capacity.

    Of a service that survives losses, what the worst one leaves must hold what must be left, too: fewer instances
    pool less.
    """
    model = prepared.formulation.capacities
    if model is None:
        return {}
    waiting = {spec.name: spec for spec in prepared.workload.services if spec.waits}
    found = with_domains(found, problem)
    losses = {each.name: each.loss for each in found.services}
    sets: dict[str, Counter[_Runs]] = {name: Counter() for name in waiting}
    left: dict[str, Counter[_Runs]] = {name: Counter() for name in waiting}
    for gpu in found.gpus:
        for each in gpu.instances:
            if each.service in sets and not each.point.tenants:
                point = each.point
                runs = (gpu.model, point.profile, point.batch, point.processes)
                sets[each.service][runs] += 1
                loss = losses[each.service]
                if loss is not None and domain(gpu, loss.level) != loss.domain:
                    left[each.service][runs] += 1
    capacity = {each.name: each.capacity for each in found.services}
    short: dict[str, float] = {}
    for service in problem.services:
        spec = waiting.get(service.name)
        if spec is None or not sets[spec.name] or falls_short(capacity[service.name], service.rate):
            continue
        asked = [(sets[service.name], service.rate, capacity[service.name])]
        if (loss := losses[service.name]) is not None and not falls_short(loss.left, loss.least):
            asked.append((left[service.name], loss.least, loss.left))
        for instances, rate, given in asked:
            held = model.held(spec, instances, rate)
            if held < rate:
                # Just below the rate, whatever the capacity has beyond it.
                short[service.name] = min(short.get(service.name, 1.0), 0.999 * held / given)
    return short


def _lessened(service: Service, share: float) -> Service:
    """Return a service whose instances count with a share of what they did."""
    return replace(
        service,
        points=tuple(
            None if point is None else replace(point, throughput=point.throughput * share)
            for point in service.points
        ),
    )


def _of_one_size(service: Service) -> Service:
    """Return a service that may run on its best size alone: the one with the largest throughput per compute slice."""

    def per_slice(point: OperatingPoint | None) -> float:
        return 0.0 if point is None else point.throughput / int(point.profile.partition("g.")[0])

    best = max(service.points, key=per_slice)
    return replace(service, points=tuple(point if point is best else None for point in service.points))


def _repaired(less: Mapping[str, float]) -> tuple[str, ...]:
    if not less:
        return ()
    return (
        f"unlike instances hold less together than by themselves, which the plan counts for {names(less)}",
    )


def _broken(short: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{names(short)}: fewer queries than promised are in time in simulation, and no better plan was found",
    )


def _plan_with_cuts(
    prepared: PreparedWorkload,
    planner: str,
    deadline: Deadline,
    seed: int,
    current: Deployment | None,
    *,
    best_effort: bool,
    explain: bool,
) -> PlanResult:
    """Plan services with a cut, and on the remaining GPUs those that share."""
    # These import numba, which takes seconds and which most workloads do not need.
    from partita.serve.reserving.planning import plan_reserving, reserve_best_effort  # noqa: PLC0415
    from partita.serve.reserving.reservation import describe, running, shared_part  # noqa: PLC0415

    problem, cuts = prepared.problem, prepared.cuts
    runs = None if current is None else running(current, cuts)
    shared = None if current is None else shared_part(current, cuts)

    notes: tuple[str, ...] = ()

    start = None if shared is None else _Start(shared, deadline)

    def whole(rest: Problem) -> Plan:
        nonlocal notes
        found, notes = _plan_shared(prepared, rest, planner, deadline, seed, start, explain=explain)
        return found

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
        found.plan,
        (*prepared.assumptions, *notes),
        tuple(describe(each, problem.pools) for each in found.made),
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


def pool_counts(pools: tuple[Pool, ...], gpus: Mapping[str, int]) -> dict[str, int | None]:
    """Return how many GPUs pools have, of the usable ones of each model, in order; no more than each says."""
    left = dict(gpus)
    counts: dict[str, int | None] = {}
    for pool in pools:
        there = left.get(pool.gpu.name, 0)
        counts[pool.name] = n = there if pool.count is None else min(pool.count, there)
        left[pool.gpu.name] = there - n
    return counts
