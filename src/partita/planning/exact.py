"""The default planner: integer programs with a proof, from a handful of services to a hundred thousand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline, run_beside
from partita.errors import InfeasibleError, PartitaError
from partita.milp import INFINITY
from partita.planning.assemble import assemble, nodes_of, pack, placed_configs
from partita.planning.bound import lower_bound
from partita.planning.compact import (
    Counts,
    OutOfTimeError,
    add_instances,
    gpu_supply,
    reached,
    round_up,
    solve_by_targets,
    solve_compact,
    solve_dedicated,
)
from partita.planning.mig_serving import greedy_configs
from partita.planning.on_nodes import nodes_there, solve_on_nodes
from partita.planning.plan import Plan, ServiceCapacity, Solver
from partita.planning.problem import RATE_SLACK, GpuConfig, domains_there, gpus_used, merge_pools, pools_there
from partita.planning.shared_gpus import MOST_SHARING, config_value, meets_rates, solve_shared
from partita.planning.surviving import place_surviving

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from partita.planning.assemble import Placed
    from partita.planning.on_nodes import PoolNode
    from partita.planning.problem import MergedPools, Problem, Service


COMPACT_SERVICES = 16
"""Up to this many services the compact program is tried first: it is quick and needs nothing compiled."""


CLOSING_SERVICES = 400
"""Up to this many services the compact program tries to close the gap that column generation leaves."""


_FIRST_TRY_SECONDS, _FIRST_TRY_SHARE = 10.0, 0.25
"""The compact program's first try: so many seconds, or this share of the time if that is less."""


_COUNTS_OF_TIME = 0.6
"""Share of the time for counts where they must be placed so that losses are survived."""


_COUNTS_SHARE = 0.25
"""Share of the time for counts where few services may share a GPU."""


_GREEDY_SERVICES = 100
"""Up to this many services a greedy pass still begins after a stop request: it takes a third of a second."""


_LOADING_SECONDS = 2.0
"""Seconds beyond the time limit for reading compiled loops: without, a greedy pass takes longer, and more GPUs."""


_EXPLAIN_SECONDS = 2.0
"""Most seconds to find how many GPUs would be enough where there are too few."""


_OVERFLOW = 1e-6
"""GPUs that the pools lack, beyond rounding, if even split GPUs and covers take more than there are."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A plan before it is written out: configurations of the whole problem, and their objective.

    Attributes:
        placed: the place of each GPU; None where no service must be spread, so that any place will do.
    """

    configs: Counter[GpuConfig]
    placed: Placed | None
    value: float


@dataclass(frozen=True, slots=True)
class ExactPlanner:
    """Fewest GPUs by integer programming, with the proven bound (`docs/concepts.md`, "The exact planner").

    Attributes:
        seed: of the random numbers that shake prices while rounding.
        deadline: time limit and stop button; when it is over, the best so far is returned with its gap.
        explain: whether too few GPUs are an error that says how many would do, which takes another search.
    """

    seed: int = 0
    deadline: Deadline = field(default_factory=Deadline)
    explain: bool = True

    def plan(self, problem: Problem) -> Plan:
        """Return the plan with the least objective found.

        If no other search finds a plan in time, a greedy pass makes one, even past the time limit. After a stop
        request it is made for few services alone, for which it takes a moment.

        Raises:
            InfeasibleError: there is no plan, with the proof's reason.
            PartitaError: no plan was found in time, and a greedy pass finds none.
        """
        refuse_too_few_places(problem)
        merged = merge_pools(problem)
        if problem.survives:
            best, bound = self._surviving(merged)
        else:
            configs, bound = self._searched(merged)
            best = self._placed(merged, configs) if configs else None
        if best is None or not reached(best.value, bound):
            best, bound = self._on_nodes(merged, best, bound)
        few = len(problem.services) <= _GREEDY_SERVICES
        if best is None and not problem.survives and (few or not self.deadline.stop()):
            best = self._greedy(merged)
        if best is None or not meets_rates(problem, best.configs):
            raise PartitaError(
                "found neither a plan nor a proof that there is none in the time allowed",
                hint="raise --time-limit, `count` or `max_services_per_gpu`, or lower `spread`",
            )
        if not math.isfinite(bound):
            bound = lower_bound(problem)
        solver = Solver("exact", self.seed, self.deadline.seconds)
        return assemble(problem, best.configs, lower_bound=bound, solver=solver, placed=best.placed)

    def _searched(self, merged: MergedPools) -> tuple[Counter[GpuConfig] | None, float]:
        """Return configurations that ignore nodes, None if time ran out, and the bound."""
        try:
            return self.configs(merged.problem)
        except TooFewGpusError:
            raise self._too_few(merged) from None
        except OutOfTimeError as error:
            return None, error.bound

    def _surviving(self, merged: MergedPools) -> tuple[_Found | None, float]:
        """Return a plan that survives what it must, None if none was found, and the bound."""
        problem = merged.problem
        try:
            counts, bound = replace(self, deadline=self.deadline.share(_COUNTS_OF_TIME)).counts(problem)
        except TooFewGpusError:
            raise self._too_few(merged) from None
        except OutOfTimeError as error:
            return None, error.bound
        if problem.max_services_per_gpu is not None:
            return None, bound
        placed = place_surviving(merged, counts, self.deadline.share(0.5))
        return (_numbered(merged, placed) if placed else None), bound

    def _too_few(self, merged: MergedPools) -> TooFewGpusError:
        return too_few_gpus(merged.whole, _EXPLAIN_SECONDS if self.explain else 0.0)

    def _placed(self, merged: MergedPools, configs: Counter[GpuConfig]) -> _Found | None:
        """Return the configurations with their places; None if a pool has too few GPUs or no places were found."""
        whole = merged.split(configs)
        if not _within_counts(merged.whole, whole):
            return None
        if not _spreads(problem := merged.whole):
            return _Found(whole, None, config_value(problem, whole))
        placed = placed_configs(problem, whole, self.deadline)
        if placed is None:
            return None
        configs = Counter(config for _, config in placed)
        return _Found(configs, placed, config_value(merged.whole, configs))

    def _on_nodes(
        self, merged: MergedPools, best: _Found | None, bound: float
    ) -> tuple[_Found | None, float]:
        """Solve the program with nodes, or with whole configurations, in it where that is small enough.

        Raises:
            InfeasibleError: there is no plan.
        """
        problem = merged.problem
        places = _spreads(problem) or problem.survives
        if self.deadline.over or (not places and problem.max_services_per_gpu in {None, 1}):
            return best, bound
        found = solve_on_nodes(merged, best.value if best else math.inf, self.deadline, bound)
        if found is None:
            return best, bound
        if found.infeasible:
            raise _unspreadable(merged.whole)
        bound = max(bound, found.bound)
        if found.placed is None:
            return best, bound
        other = _numbered(merged, found.placed)
        if not problem.survives:
            # Where exchanges find places for the same GPUs, those stand on fewer nodes.
            placed = placed_configs(merged.whole, other.configs, self.deadline)
            other = other if placed is None else _found(merged.whole, placed)
        return (other if best is None or other.value < best.value else best), bound

    def _greedy(self, merged: MergedPools) -> _Found | None:
        """Return the plan of a greedy pass, None if it finds none; used where time ran out.

        A pass may spend a pool on services that could go elsewhere. A second pass therefore starts with the services
        that have the fewest pools.
        """
        for classes in ([range(len(merged.problem.services))], _by_pools(merged.problem)):
            configs: Counter[GpuConfig] = Counter()
            try:
                for services in classes:
                    for rest, numbers in _one_after_another(merged.problem, services, configs):
                        for config, n in greedy_configs(rest).items():
                            slots = ((k, numbers[s]) for k, s in config.assignment)
                            configs[GpuConfig(config.pool, tuple(sorted(slots)))] += n
            except InfeasibleError:
                continue
            if found := self._placed(merged, configs):
                return found
        return None

    def configs(self, problem: Problem) -> tuple[Counter[GpuConfig], float]:
        """Return how many GPUs have each configuration, and the proven bound of the objective.

        Nodes are ignored. `spread` and `max_services_per_gpu` may use more GPUs than a pool has.

        Raises:
            TooFewGpusError: there is no plan.
            OutOfTimeError: no plan was found in time.
        """
        if problem.max_services_per_gpu == 1:
            parts, bound = solve_dedicated(problem, self.deadline)
            return sum((pack(problem, part) for part in parts), Counter[GpuConfig]()), bound
        sharing = problem.max_services_per_gpu or math.inf
        # Counts do not say which services share a GPU. The search that does needs the rest of the time.
        first = (
            replace(self, deadline=self.deadline.share(_COUNTS_SHARE)) if sharing <= MOST_SHARING else self
        )
        counts, bound = first.counts(problem)
        configs = pack(problem, counts)
        if sharing > MOST_SHARING or reached(config_value(problem, configs), bound):
            return configs, bound
        shared = solve_shared(problem, configs, bound, self.deadline, self.seed)
        found = [each for each in (configs, shared.configs) if each]
        return min(found, key=lambda each: config_value(problem, each)), max(bound, shared.bound)

    def counts(self, problem: Problem) -> tuple[Counts, float]:
        """Return the counts found and the proven bound of the objective.

        Raises:
            TooFewGpusError: there is no plan.
            OutOfTimeError: no plan was found in time.
        """
        if len(problem.services) > COMPACT_SERVICES:
            return self._by_columns(problem)
        # Column generation first compiles loops, which on a busy machine may take all the time allowed.
        seconds = min(_FIRST_TRY_SECONDS, max(1.0, self.deadline.left * _FIRST_TRY_SHARE))
        turn = self.deadline.at_most(seconds)
        first = solve_by_targets(problem, turn, self._known_bound(problem))
        if not first.infeasible and first.counts is None:
            known = first.bound
            first = solve_compact(problem, turn, enough=known)
            first = replace(first, bound=max(known, first.bound))
        if first.infeasible:
            raise too_few_gpus(problem, 0.0)
        if first.counts is None:
            return self._by_columns(problem)
        if reached(first.counts.value(problem), first.bound) or self.deadline.over:
            return first.counts, first.bound
        try:
            counts, bound = self._by_columns(problem)
        except OutOfTimeError as error:
            return first.counts, max(first.bound, error.bound)
        best = min((first.counts, counts), key=lambda each: each.value(problem))
        return best, max(first.bound, bound)

    def _known_bound(self, problem: Problem) -> float:
        """Return the bound of column generation where its loops are at hand: it then takes some milliseconds.

        Raises:
            TooFewGpusError: there is no plan.
        """
        if not _kinds(problem) <= _compiled:
            return -INFINITY
        from partita.planning.column_generation import ColumnGeneration  # noqa: PLC0415 -- numba, as below

        relaxation = ColumnGeneration(problem).run(self.deadline)
        if relaxation.overflow > _OVERFLOW and not self.deadline.over:
            raise too_few_gpus(problem, 0.0)
        return round_up(relaxation.bound, problem)

    def _by_columns(self, problem: Problem) -> tuple[Counts, float]:
        # What this imports takes seconds to import and to compile, and small cases do without.
        patience = Deadline(self.deadline.left + _LOADING_SECONDS, self.deadline.stop)
        if not run_beside(partial(compile_for, problem), patience):
            raise OutOfTimeError(-math.inf)
        from partita.planning.column_generation import (  # noqa: PLC0415
            ColumnGeneration,
            cut_for,
            round_covers,
        )

        relaxation = ColumnGeneration(problem).run(self.deadline)
        if relaxation.overflow > _OVERFLOW and not self.deadline.over:
            raise too_few_gpus(problem, 0.0)
        counts = round_covers(problem, relaxation, self.seed, self.deadline) or cut_for(
            problem, relaxation.covers
        )
        bound = round_up(relaxation.bound, problem)
        if counts and (reached(counts.value(problem), bound) or len(problem.services) > CLOSING_SERVICES):
            return counts, bound
        return self._close(problem, counts, bound)

    def _close(self, problem: Problem, counts: Counts | None, bound: float) -> tuple[Counts, float]:
        """Search the gap with the compact program in the time that is left."""
        last = solve_compact(problem, self.deadline, enough=bound)
        if last.infeasible:
            raise too_few_gpus(problem, 0.0)
        found = [each for each in (counts, last.counts) if each is not None]
        if not found:
            raise OutOfTimeError(max(bound, last.bound))
        return min(found, key=lambda each: each.value(problem)), max(bound, last.bound)


def compile_for(problem: Problem) -> None:
    """Have the loops compiled by which this problem's services are priced, or read as they were compiled before."""
    from partita.planning.pricing import compile_loops  # noqa: PLC0415 -- numba, as above

    compile_loops(problem)
    _compiled.update(_kinds(problem))


_compiled: set[tuple[bool, bool]] = set()
"""Kinds of services for which the loops of this process are compiled."""


def _kinds(problem: Problem) -> set[tuple[bool, bool]]:
    """Return which kinds of services there are: with rates on some sizes alone, and that survive a loss."""
    part_of = {part.service for part in problem.parts}
    return {(s in part_of, each.survive not in {None, "zone"}) for s, each in enumerate(problem.services)}


def _by_pools(problem: Problem) -> list[list[int]]:
    """Return the services grouped by their pools: groups without an unlimited pool first, then those of fewest."""
    pools = np.array([size.pool for size in problem.sizes])
    classes: dict[frozenset[int], list[int]] = defaultdict(list)
    for s in range(len(problem.services)):
        classes[frozenset(pools[problem.throughput[s] > 0].tolist())].append(s)
    endless = {index for index, pool in enumerate(problem.pools) if pool.count is None}
    order = sorted(classes, key=lambda mine: (bool(mine & endless), len(mine), sorted(mine)))
    return [classes[mine] for mine in order]


def _one_after_another(
    problem: Problem, services: Sequence[int], taken: Counter[GpuConfig]
) -> Iterator[tuple[Problem, Sequence[int]]]:
    """Yield problems that a planner which knows no parts can solve in turn, each with its services' numbers here.

    The rates on some sizes alone come first, by these sizes, and then what is still missing of the whole.

    Args:
        problem: the whole.
        services: those to be met.
        taken: the GPUs used so far, to which the caller adds before it asks for the next problem.
    """
    parts: defaultdict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
    these = set(services)
    for part in problem.parts:
        if part.service in these:
            rates = parts[tuple(np.flatnonzero(part.sizes).tolist())]
            rates[part.service] = max(part.rate, rates.get(part.service, 0.0))
    for sizes, rates in parts.items():
        given, _, _ = _given(problem, taken, sizes)
        lack = {s: rate - given[s] for s, rate in rates.items() if given[s] < rate * (1 - RATE_SLACK)}
        if lack:
            alone = tuple(_on_sizes(problem.services[s], sizes, rate) for s, rate in lack.items())
            yield _left_over(problem, alone, taken), [*lack]
    rate, replicas, gpus = _given(problem, taken, range(len(problem.sizes)))
    rest: dict[int, Service] = {}
    for s in services:
        service, asked = problem.services[s], float(problem.rate[s])
        missing = 0.0 if rate[s] >= asked * (1 - RATE_SLACK) else asked - float(rate[s])
        fewest, nodes = int(problem.replicas[s] - replicas[s]), int(service.spread - gpus[s])
        if missing > 0 or fewest > 0 or nodes > 0:
            least = replace(service, min_replicas=max(fewest, 1), spread=max(nodes, 1))
            rest[s] = replace(least, rate=missing, survive=None, spot=1.0)
    if rest:
        yield _left_over(problem, tuple(rest.values()), taken), [*rest]


def _on_sizes(service: Service, sizes: Collection[int], rate: float) -> Service:
    """Return a service that runs on some sizes alone, and need only hold a rate."""
    points = tuple(point if k in sizes else None for k, point in enumerate(service.points))
    return replace(service, rate=rate, points=points, min_replicas=1, spread=1, survive=None, spot=1.0)


def _given(
    problem: Problem, taken: Counter[GpuConfig], sizes: Collection[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return what each service has on some sizes: items/s, instances and GPUs; each of shape (S,)."""
    rate = np.zeros(len(problem.services))
    replicas, gpus = np.zeros((2, len(problem.services)), dtype=np.int64)
    for config, n in taken.items():
        there = [(k, s) for k, s in config.assignment if k in sizes]
        for k, s in there:
            rate[s] += n * problem.throughput[s, k]
            replicas[s] += n
        for s in {s for _, s in there}:
            gpus[s] += n
    return rate, replicas, gpus


def _left_over(problem: Problem, services: tuple[Service, ...], taken: Counter[GpuConfig]) -> Problem:
    """Return the problem of some services on the GPUs that are left."""
    used = gpus_used(taken)
    counts = {
        pool.name: None if pool.count is None else max(0, pool.count - used[index])
        for index, pool in enumerate(problem.pools)
    }
    return problem.with_services(services).with_counts(counts)


def refuse_too_few_places(problem: Problem) -> None:
    """Refuse services that need more nodes, or other domains or pools, than can run them.

    Raises:
        InfeasibleError: names the first such service.
    """
    for s, service in enumerate(problem.services):
        there = nodes_there(problem, s) if service.spread > 1 else math.inf
        if service.survive is not None and domains_there(problem, s) < 2:
            raise InfeasibleError(
                f"{service.name} must survive the loss of a {service.survive}, and only one can run it",
                where="services",
                hint=f"add a {service.survive}, or write survive: none",
            )
        runs = pools_there(problem, s)
        if service.spot < 1 and runs and all(problem.pools[index].spot for index in runs):
            raise InfeasibleError(
                f"{service.name} may have {service.spot:.0%} of its rate on spot GPUs, and only those can run it",
                where="services",
                hint="raise `spot`, or add GPUs that are not spot",
            )
        if service.spread > there:
            raise InfeasibleError(
                f"{service.name} must be spread over {service.spread} nodes, and only {there:.0f} can run it",
                where="services",
                hint="lower `spread`, or add nodes",
            )


def _unspreadable(problem: Problem) -> InfeasibleError:
    limit = problem.max_services_per_gpu
    keeps = f" with at most {limit} service{'s' if limit > 1 else ''} on a GPU" if limit else ""
    spread = _spreads(problem)
    nodes = " spread over the nodes as asked" if spread else ""
    return InfeasibleError(
        f"there is no plan that meets all services{keeps}{nodes} (proven)",
        where="limits.max_services_per_gpu" if limit and not spread else "services",
        hint="raise `count`, add nodes, or lower `spread`"
        + (" or raise `max_services_per_gpu`" if limit else ""),
    )


def _spreads(problem: Problem) -> bool:
    return any(service.spread > 1 for service in problem.services)


def _within_counts(problem: Problem, configs: Counter[GpuConfig]) -> bool:
    """Return whether each pool has the GPUs used of it: packing adds some where it must keep services apart."""
    used = gpus_used(configs)
    return all(pool.count is None or used[index] <= pool.count for index, pool in enumerate(problem.pools))


def _numbered(merged: MergedPools, found: list[tuple[PoolNode, GpuConfig]]) -> _Found:
    """Return the plan with nodes numbered over all pools; empty nodes of pools without a count are dropped."""
    problem = merged.whole
    by_pool: dict[int, dict[int, list[GpuConfig]]] = defaultdict(lambda: defaultdict(list))
    for node, config in found:
        by_pool[node.member][node.number].append(merged.moved(config, node.member))
    placed: Placed = []
    first = 0
    for index, pool in enumerate(problem.pools):
        mine = by_pool[index]
        open_nodes = {number: at for at, number in enumerate(sorted(mine))}
        for number, held in sorted(mine.items()):
            at = first + (open_nodes[number] if pool.count is None else number)
            placed += [((at, position), config) for position, config in enumerate(held)]
        first += len(open_nodes) if pool.count is None else nodes_of(pool, 0, 0)
    return _found(problem, placed)


def _found(problem: Problem, placed: Placed) -> _Found:
    configs = Counter(config for _, config in placed)
    return _Found(configs, placed, config_value(problem, configs))


class TooFewGpusError(InfeasibleError):
    """The pools do not have the GPUs that all services together need.

    Attributes:
        problem: what the pools cannot meet; None where it is not known.
    """

    problem: Problem | None = None


def too_few_gpus(problem: Problem, seconds: float = _EXPLAIN_SECONDS) -> TooFewGpusError:
    """Return the error that says which pools are too small and how many GPUs would be enough.

    Args:
        problem: what cannot be met.
        seconds: most seconds of the search for how many would be enough; 0 to leave that out.
    """
    finite = {pool.name: None for pool in problem.pools if pool.count is not None}
    if not finite:
        return TooFewGpusError("no plan exists", hint="check the `profiles` that each service allows")
    there = ", ".join(f"{pool.count} {pool.name}" for pool in problem.pools if pool.count is not None)
    enough = f"; {_enough(problem.with_counts(finite), seconds)} would" if seconds else ""
    error = TooFewGpusError(
        f"too few GPUs: {there} cannot meet all services{enough}",
        where="gpus",
        hint="raise `count`, lower rates, or see what can be met with --best-effort",
    )
    error.problem = problem
    return error


def _enough(problem: Problem, seconds: float) -> str:
    """Return how many GPUs of each pool would be enough, in words."""
    merged = merge_pools(problem).problem
    plan = ExactPlanner(deadline=Deadline(seconds)).counts(merged)[0]
    needed: dict[str, int] = {}
    for cut, n in zip(merged.cuts, plan.cuts, strict=True):
        name = merged.pools[cut.pool].name
        needed[name] = needed.get(name, 0) + int(n)
    return " and ".join(f"{n} {name}" for name, n in needed.items() if n)


# --- too few GPUs: which services to meet, by priority, and how far the others

PROGRAM_SERVICES = 300
"""Up to this many services an integer program chooses which to meet; beyond, they are added while they fit."""


@dataclass(frozen=True, slots=True)
class MetShares:
    """How much of each service's rate can be met, 0 to 1; shape (S,)."""

    met: NDArray[np.float64]

    def short(self, problem: Problem) -> list[str]:
        """Return the names of the services that are not wholly met, those of highest priority first."""
        short = [s for s, share in enumerate(self.met) if share < 1.0]
        short.sort(key=lambda s: (-problem.services[s].priority, s))
        return [problem.services[s].name for s in short]


def plan_best_effort(problem: Problem, deadline: Deadline, seed: int = 0) -> Plan:
    """Return the plan that meets the most services by priority, and others as far as it can.

    Its objective and bound are those of meeting just these shares.

    Raises:
        InfeasibleError: not a single service can be met even partly.
    """
    try:
        return ExactPlanner(seed, deadline, explain=False).plan(problem)
    except InfeasibleError:
        return plan_what_fits(problem, deadline, seed)


def plan_what_fits(problem: Problem, deadline: Deadline, seed: int = 0) -> Plan:
    """Return the best-effort plan of a problem whose services cannot all be met.

    Raises:
        InfeasibleError: not a single service can be met even partly.
    """
    planner = ExactPlanner(seed, deadline, explain=False)
    shares = met_shares(problem, deadline.share(0.5))
    kept = [s for s, share in enumerate(shares.met) if share > 0.0]
    if not kept:
        raise InfeasibleError("no service can be met, not even partly", where="gpus", hint="raise `count`")
    services = tuple(_reduced(problem, s, float(shares.met[s])) for s in kept)
    try:
        plan = planner.plan(problem.with_services(services))
    except InfeasibleError:
        # The shares ignore nodes and losses, so that services may not spread over as many as they must.
        together = tuple(replace(service, spread=1, survive=None, spot=1.0) for service in services)
        plan = planner.plan(problem.with_services(together))
    given = {service.name: service.capacity for service in plan.services}
    listed = tuple(
        ServiceCapacity(each.name, each.asked_rate, given.get(each.name, 0.0), each.latency_slo_ms)
        for each in problem.services
    )
    return replace(plan, services=listed)


def _reduced(problem: Problem, s: int, share: float) -> Service:
    service = problem.services[s]
    if share >= 1.0:
        return service
    return replace(service, rate=service.rate * share, min_replicas=1, spread=1, survive=None, spot=1.0)


def met_shares(problem: Problem, deadline: Deadline, *, quick: bool = False) -> MetShares:
    """Return how much of each service can be met with the GPUs there are.

    Args:
        problem: the services and the GPUs.
        deadline: when to return the best so far.
        quick: be content with what is found in a tenth of a second, with shares that are near the largest; for how
            far services fall short, not for a plan.

    Raises:
        PartitaError: nothing was found in time.
    """
    if len(problem.services) <= PROGRAM_SERVICES:
        return _by_program(problem, deadline, quick=quick)
    return _in_order(problem, deadline)


_QUICK_SECONDS, _QUICK_GAP = 0.04, 5e-3
"""Most seconds, and gap, of one search for shares that are near the largest."""


_QUICK_WHOLE_SECONDS = 0.1
"""Most seconds of one search for which services to meet wholly, where it is to be quick; few take far less."""


_BUSY_SECONDS = 2.0
"""Most seconds of such a search where it found nothing before, as on a busy machine."""


def _by_program(problem: Problem, deadline: Deadline, *, quick: bool) -> MetShares:
    """Meet the most services of the highest priority, then of the next, and so on; then the most of the others.

    The compact program with the rates made elastic: y[s] is 1 if the service is wholly met, f[s] its share.
    """
    gpus = gpu_supply(problem, np.zeros(len(problem.sizes)), integer=True, extra_cost=None)
    gpus.program.clear_costs()
    services = len(problem.services)
    zero, endless = np.zeros(services), np.full(services, INFINITY)
    rates = gpus.program.add_rows(zero, endless)
    replicas = gpus.program.add_rows(zero, endless)
    whole = gpus.program.add_rows(zero, endless)
    add_instances(problem, gpus, rates, replicas, np.zeros(problem.throughput.shape))
    shares = [
        (np.array([rates + s, whole + s], dtype=np.int32), np.array([-1.0, 1.0])) for s in range(services)
    ]
    share = gpus.program.add_columns(zero, np.ones(services), shares)
    wholes = [
        (np.array([replicas + s, whole + s], dtype=np.int32), np.array([-float(problem.replicas[s]), -1.0]))
        for s in range(services)
    ]
    met = gpus.program.add_columns(zero, np.ones(services), wholes, integer=True)
    levels = sorted({service.priority for service in problem.services}, reverse=True)
    best = np.zeros(0)
    for index, (first, level) in enumerate((first, level) for first in (met, share) for level in levels):
        mine = [s for s, service in enumerate(problem.services) if service.priority == level]
        columns, worth = first + np.array(mine, dtype=np.int32), np.ones(len(mine))
        turn = deadline.share(1.0 / (2 * len(levels) - index))
        if quick:
            gap = _QUICK_GAP if first == share else 0.0
            short = turn.at_most(_QUICK_SECONDS if first == share else _QUICK_WHOLE_SECONDS)
            solution = gpus.program.maximise(columns, worth, short, gap=gap)
            turn = turn.at_most(_BUSY_SECONDS)
        if not quick or not (len(solution.columns) or len(best)):
            solution = gpus.program.maximise(columns, worth, turn)
        if not len(solution.columns):
            if len(best) and first == share:
                break  # what the searches before found can be had
            raise PartitaError("no plan was found in the time allowed", hint="raise --time-limit")
        best = solution.columns
        gpus.program.hold(columns, worth, -solution.value - 1e-6)
    found = np.maximum(best[met : met + services], best[share : share + services])
    return MetShares(np.where(found > 1 - 1e-6, 1.0, np.floor(found * 1e6) / 1e6))


def _in_order(problem: Problem, deadline: Deadline) -> MetShares:
    """Meet services by priority, then by the instances they need, as many as can all be met."""
    need = problem.rate / problem.throughput.max(axis=1)
    priority = np.array([service.priority for service in problem.services])
    order = np.lexsort((need, -priority))
    low, high = 0, len(order)
    while low < high and not deadline.over:
        middle = (low + high + 1) // 2
        subset = problem.with_services(tuple(problem.services[s] for s in sorted(order[:middle])))
        try:
            ExactPlanner(deadline=deadline.share(0.25)).counts(subset)
            low = middle
        except PartitaError:
            high = middle - 1
    shares = np.zeros(len(order))
    shares[order[:low]] = 1.0
    return MetShares(shares)
