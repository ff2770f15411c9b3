"""The Python library: plans, explanations, transitions and simulations as values.

Each function takes values or the paths of files, prints nothing, and returns a value that a notebook can display.
Errors are the `PartitaError` that the command line would show, with `what`, `where` and `hint`.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from partita import planner as planning
from partita.control.controller import ordered
from partita.deadline import Deadline
from partita.documents.codec import (
    Amount,
    Count,
    DocumentSource,
    Meta,
    Text,
    Whole,
    checked,
    convert,
    to_data,
)
from partita.errors import InputError, counted, nearest
from partita.explanation import ServiceExplanation, explain_service
from partita.files import replacing
from partita.frames import frame_of
from partita.mig import catalogue as gpus_known
from partita.perf.reading import read_tables
from partita.perf.table import PerfTable
from partita.planning.document import read_plan as read_plan_file
from partita.planning.document import write_plan
from partita.planning.overview import PlanOverview, amount, verdict
from partita.planning.plan import Plan
from partita.registry import make
from partita.transition.between import request_between
from partita.transition.document import write_transition
from partita.transition.transition import MEASURED, PAPER, Request, Transition
from partita.web.page import fragment, page, table_report
from partita.web.plan_report import plan_report
from partita.web.transition_report import transition_report
from partita.workload import Workload, locating, read_workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.mig.gpu import GpuModel
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Objective, PlannedGpu, ServiceCapacity
    from partita.serve.simulation import Simulation
    from partita.simulator import AskedSimulation
    from partita.verification.outcome import PlanOutcome, ServiceOutcome
    from partita.web.report import Report

Columns: TypeAlias = dict[str, list[Any]]


class Result(ABC):
    """Base of all results: they become a frame, plain data, or a drawing in a notebook."""

    @abstractmethod
    def _columns(self) -> Columns: ...

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as the command line's `-o json` prints it."""

    def to_frame(self, backend: str | None = None) -> Any:  # noqa: ANN401 -- of the library that is there
        """Return it as a frame.

        Args:
            backend: `pandas`, `polars` or `pyarrow`; None for the first that is imported, otherwise the first that is
                installed.
        """
        return frame_of(self._columns(), backend)

    def to_html(self, path: Path | str | None = None) -> str:
        """Return it as a self-contained page; also write that to `path` if given."""
        text = page(self._report(), self._workload_name())
        if path is not None:
            with replacing(path) as stream:
                stream.write(text)
        return text

    def _report(self) -> Report:
        return table_report(type(self).__name__, self._columns())

    def _workload_name(self) -> str | None:
        """Return the name of the workload that it is about, where it is known."""
        return None

    def _repr_html_(self) -> str:
        return fragment(self._report())


@dataclass(frozen=True, eq=False)
class PlannedWorkload(Result):
    """A plan and its workload.

    Attributes:
        plan: the plan itself: GPUs, services, objective and solver.
        prepared: the workload with its performance table.
        notes: assumptions and reservations, a sentence each.
    """

    plan: Plan
    prepared: PreparedWorkload
    notes: tuple[str, ...] = ()

    @property
    def workload(self) -> Workload:
        """The workload."""
        return self.prepared.workload

    @property
    def performance(self) -> PerfTable:
        """The performance table."""
        return self.prepared.table

    @property
    def objective(self) -> Objective:
        """The minimized objective: `value`, `lower_bound`, `gap`, and `proven`."""
        return self.plan.objective

    @property
    def gpus(self) -> tuple[PlannedGpu, ...]:
        """The GPUs, each with its instances."""
        return self.plan.gpus

    @property
    def services(self) -> tuple[ServiceCapacity, ...]:
        """The capacity of each service."""
        return self.plan.services

    def _columns(self) -> Columns:
        """Return one row for each instance."""
        pairs = [(gpu, each) for gpu in self.plan.gpus for each in gpu.instances]
        return {
            "gpu": [gpu.id for gpu, _ in pairs],
            "gpu_model": [gpu.model for gpu, _ in pairs],
            "profile": [each.placement.profile for _, each in pairs],
            "start": [each.placement.start for _, each in pairs],
            "service": [each.service for _, each in pairs],
            "model": [each.model for _, each in pairs],
            "batch": [each.point.batch for _, each in pairs],
            "processes": [each.point.processes for _, each in pairs],
            "throughput": [each.point.throughput for _, each in pairs],
            "latency_ms": [each.point.latency_ms for _, each in pairs],
            "estimated": [each.point.estimated for _, each in pairs],
        }

    def services_frame(self, backend: str | None = None) -> Any:  # noqa: ANN401 -- as to_frame
        """Return a frame with a row for each service: rate, capacity, SLO, and number of instances."""
        instances: dict[str, int] = {}
        for gpu in self.plan.gpus:
            for each in gpu.instances:
                for name, _ in each.serves:
                    instances[name] = instances.get(name, 0) + 1
        return frame_of(
            {
                "service": [each.name for each in self.services],
                "rate": [each.rate for each in self.services],
                "capacity": [each.capacity for each in self.services],
                "latency_slo_ms": [each.latency_slo_ms for each in self.services],
                "instances": [instances.get(each.name, 0) for each in self.services],
            },
            backend,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, as in its file."""
        text = io.StringIO()
        write_plan(self.plan, text)
        found: dict[str, Any] = json.loads(text.getvalue())
        return found

    def save(self, path: Path | str) -> None:
        """Write the plan to a file, which `partita diff` and `partita apply` read."""
        with replacing(path) as stream:
            write_plan(self.plan, stream)

    def _report(self) -> Report:
        return plan_report(PlanOverview(self.plan))

    def _workload_name(self) -> str | None:
        return None if self.prepared.path is None else self.prepared.path.name

    def __repr__(self) -> str:
        n = len(self.services)
        return f"<{amount(self.plan)}, {verdict(self.plan)}, for {counted(n, 'service')}>"


@dataclass(frozen=True, eq=False)
class CheckedPlan(Result):
    """The result of the independent checker; true if the plan meets the workload.

    Attributes:
        faults: pairs of where and what; empty for a correct plan.
    """

    faults: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return not self.faults

    def _columns(self) -> Columns:
        return {"where": [where for where, _ in self.faults], "what": [what for _, what in self.faults]}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "meets": bool(self),
            "faults": [{"where": where, "what": what} for where, what in self.faults],
        }

    def __repr__(self) -> str:
        first = "; ".join(f"{where}: {what}" for where, what in self.faults[:3])
        return f"<{len(self.faults)} faults: {first}>" if self.faults else "<the plan meets the workload>"


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """What limits each service of a plan, and how a change of it would affect the objective.

    Attributes:
        services: an explanation of each; `changes` has the effect of a higher rate and of a looser SLO.
    """

    services: tuple[ServiceExplanation, ...]

    def _columns(self) -> Columns:
        """Return one row for each profile of each service; for one with a cut, for each of its slices."""
        names = ("service", "gpu", "profile", "instances", "batch", "latency_ms", "throughput", "binds")
        rows: list[tuple[Any, ...]] = []
        for each in self.services:
            name = each.service.name
            for gpu, bound in each.gpus.items():
                for one in bound:
                    point = one.point
                    runs = (None,) * 3 if point is None else (point.batch, point.latency_ms, point.throughput)
                    rows.append((name, gpu, one.profile, one.instances, *runs, one.binds.value))
            for slice_ in each.slices or ():
                largest = (slice_.largest, slice_.latency_ms) if slice_.largest else (None, None)
                rows.append(
                    (name, slice_.gpu, slice_.profile, slice_.instances, *largest, slice_.throughput, "cut")
                )
        return {name: [row[index] for row in rows] for index, name in enumerate(names)}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"services": [each.to_dict() for each in self.services]}

    def __repr__(self) -> str:
        return f"<{counted(len(self.services), 'service')} explained>"


@dataclass(frozen=True, eq=False)
class PlannedTransition(Result):
    """A transition between two deployments: actions in an order that keeps every service at its floor.

    Attributes:
        request: the deployments before and after, the rates, and the limits.
        transition: the actions, their predicted times, and the floor of each service.
    """

    request: Request
    transition: Transition

    @property
    def seconds(self) -> float:
        """Predicted seconds from the first action to the end of the last."""
        return self.transition.makespan

    def __len__(self) -> int:
        return len(self.transition.actions)

    def _columns(self) -> Columns:
        """Return one row for each action."""
        actions = self.transition.actions
        return {
            "id": [each.id for each in actions],
            "action": [each.kind.value for each in actions],
            "gpu": [each.gpu for each in actions],
            "profile": [each.placement.profile for each in actions],
            "start": [each.placement.start for each in actions],
            "service": [each.replica.service if each.replica else None for each in actions],
            "seconds": [each.seconds for each in actions],
            "after": [", ".join(each.after) for each in actions],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as in its file."""
        text = io.StringIO()
        write_transition(self.transition, text)
        found: dict[str, Any] = json.loads(text.getvalue())
        return found

    def _report(self) -> Report:
        return transition_report(self.request, self.transition)

    def __repr__(self) -> str:
        return (
            f"<{counted(len(self), 'action')} in {self.seconds:,.0f} s, "
            f"{counted(self.transition.moved, 'replica')} moved>"
        )


@dataclass(frozen=True, eq=False)
class SimulatedService(Result):
    """A simulation of the queries of one service on GPUs cut for it.

    Attributes:
        asked: the problem and the traffic.
        simulation: the outcome of each query, and the rate that the cut sustains.
        cut: name of the cut.
        router: name of the router.
    """

    asked: AskedSimulation
    simulation: Simulation
    cut: str
    router: str

    @property
    def attainment(self) -> float:
        """Fraction of the queries that were answered in time."""
        return self.simulation.evaluation.attainment

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions, a sentence each."""
        return self.asked.notes

    def _columns(self) -> Columns:
        """Return one row for each slice: number of queries, and fraction of the time in which it was busy."""
        slices = self.simulation.evaluation.slices
        return {
            "gpu": [each.gpu for each in slices],
            "profile": [each.placement.profile for each in slices],
            "start": [each.placement.start for each in slices],
            "queries": [each.queries for each in slices],
            "busy": [each.busy for each in slices],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        from partita.simulator import simulation_data  # noqa: PLC0415 -- numba is slow to import

        return simulation_data(self.asked, self.simulation, self.cut, self.router)

    def _report(self) -> Report:
        from partita.web.serving_report import serving_report  # noqa: PLC0415 -- as above

        return serving_report(self.to_dict(), self.asked.problem, self.simulation)

    def __repr__(self) -> str:
        return f"<{self.attainment:.3%} of {self.simulation.evaluation.queries:,} queries in time>"


@dataclass(frozen=True, eq=False)
class SimulatedPlan(Result):
    """A simulation of the queries of all services of a plan; true if no promise is broken.

    Attributes:
        plan: what was simulated.
        outcome: what became of the queries of each service, with confidence.
    """

    plan: Plan
    outcome: PlanOutcome

    def __bool__(self) -> bool:
        return not self.outcome.broken

    @property
    def services(self) -> tuple[ServiceOutcome, ...]:
        """What became of the queries of each service."""
        return self.outcome.services

    def _columns(self) -> Columns:
        """Return one row for each service."""
        rows = self.outcome.services
        p50, p95, p99 = ([each.latency_ms[at] for each in rows] for at in range(3))
        return {
            "service": [each.service for each in rows],
            "queries_per_second": [each.queries_per_second for each in rows],
            "promised": [each.promised for each in rows],
            "in_time": [each.in_time.value for each in rows],
            "in_time_low": [each.in_time.low for each in rows],
            "in_time_high": [each.in_time.high for each in rows],
            "kept": [each.verdict.value for each in rows],
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "refused": [each.refused for each in rows],
            "busy": [each.busy for each in rows],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return self.outcome.to_dict()

    def _report(self) -> Report:
        return plan_report(PlanOverview(self.plan), self.outcome)

    def __repr__(self) -> str:
        kept = sum(each.verdict.value == "yes" for each in self.services)
        promises = counted(len(self.services), "service keeps its promise", "services keep their promise")
        return f"<{kept:,} of {promises}>"


@dataclass(frozen=True, eq=False)
class Catalogue(Result, Mapping[str, "GpuModel"]):
    """The known GPU models, by name."""

    models: tuple[GpuModel, ...] = field(repr=False)

    @cached_property
    def _by_name(self) -> dict[str, GpuModel]:
        return {each.name: each for each in self.models}

    def __getitem__(self, name: str) -> GpuModel:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.models)

    def _columns(self) -> Columns:
        """Return one row for each profile of each GPU."""
        pairs = [(gpu, profile) for gpu in self.models for profile in gpu.profiles]
        return {
            "gpu": [gpu.name for gpu, _ in pairs],
            "profile": [profile.name for _, profile in pairs],
            "compute": [profile.compute for _, profile in pairs],
            "memory": [profile.memory for _, profile in pairs],
            "memory_mib": [profile.memory_mib for _, profile in pairs],
            "max_instances": [profile.max_instances for _, profile in pairs],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the names of each GPU's profiles."""
        return {gpu.name: [profile.name for profile in gpu.profiles] for gpu in self.models}

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'GPU')}: {', '.join(self)}>"


def catalogue() -> Catalogue:
    """Return the known GPU models, each with its profiles."""
    return Catalogue(tuple(gpus_known.gpu_model(name) for name in gpus_known.gpu_names()))


def read_performance(*sources: object) -> PerfTable:
    """Return performance tables, joined.

    Args:
        sources: paths of CSV or Parquet files, or frames of pandas, polars or Arrow.

    Raises:
        InputError: a table cannot be used; lists each kind of fault with its count.
    """
    return read_tables(sources)


def read_plan(path: Path | str) -> Plan:
    """Return a plan from its file.

    Raises:
        InputError: the file cannot be used.
    """
    return read_plan_file(path)


def replace(
    workload: Workload, *, services: Mapping[str, Mapping[str, object] | None] | None = None, **fields: object
) -> Workload:
    """Return a changed copy of a workload, for a what-if.

    Args:
        workload: the original, which stays as it is.
        services: changed fields by service: `{"resnet50": {"rate": 2000, "slo": {"latency_ms": 50}}}`; None removes
            the service.
        fields: other fields of the workload: `gpus=[{"model": "h100-80gb"}]`, `objective="cost"`.

    Raises:
        InputError: there is no such service or field, or a value is not valid.
    """
    workload = _workload(workload)
    known = {each.name: each for each in workload.services}
    changes: Mapping[str, Mapping[str, object] | None] = _argument(
        "services", services or {}, dict[str, dict[str, Any] | None]
    )
    for name in changes:
        if name not in known:
            raise _no_service(name, list(known))
    data = to_data(workload)
    data["services"] = [
        _merged(each, changes.get(each["name"]) or {})
        for each in data["services"]
        if changes.get(each["name"], {}) is not None
    ]
    return convert(
        {**data, **{name: _plain(value) for name, value in fields.items()}},
        Workload,
        DocumentSource("the workload"),
    )


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = (
            _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else _plain(value)
        )
    return merged


def _plain(value: object) -> Any:  # noqa: ANN401 -- plain data
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else to_data(value)


def _argument(name: str, value: object, kind: Any) -> Any:  # noqa: ANN401 -- of the type that is asked for
    """Return an argument after a check of its type and bounds, as of a document's field; numpy's numbers are allowed.

    Raises:
        InputError: it has another type or is out of bounds; `where` is its name.
    """
    return convert(to_data(value), kind, DocumentSource(name))


def _names(name: str, given: object) -> list[str]:
    """Return an argument that is a list of names or a single name."""
    if isinstance(given, str):
        return [given]
    found: list[str] = _argument(name, list(given) if isinstance(given, Iterable) else given, list[str])
    return found


def _workload(given: object) -> Workload:
    if isinstance(given, Workload):
        return checked(given, "the workload")
    raise InputError(
        f"a {type(given).__name__} is not a workload",
        hint="give a partita.Workload, or the path of its file; partita.read_workload reads one",
    )


def _no_service(name: str, known: Sequence[str]) -> InputError:
    close = nearest(name, list(known))
    return InputError(
        f"no service {name!r}",
        where="the workload",
        hint=f"did you mean {close}?" if close else f"the first is {known[0]}",
    )


def _prepared(
    workload: Workload | Path | str, performance: object, deadline: Deadline | None = None
) -> PreparedWorkload:
    """Return a workload with the given performance table, or with those that it names."""
    path, made = None, workload
    if isinstance(made, str | Path):
        path = Path(made)
        made = read_workload(path)
    else:
        made = _workload(made)
    if performance is None:
        table = None
    elif isinstance(performance, PerfTable):
        table = performance
    else:
        several = isinstance(performance, list | tuple)
        table = read_tables(performance if several else [performance])  # type: ignore[arg-type]  # narrowed above
    with locating(path):
        return planning.prepare(made, table, path, deadline=deadline)


def plan(
    workload: Workload | Path | str,
    performance: object = None,
    *,
    planner: str = "exact",
    time_limit: float = planning.TIME_LIMIT_S,
    seed: int = 0,
    best_effort: bool = False,
) -> PlannedWorkload:
    """Plan the fewest GPUs that meet the services of a workload, and prove how good the plan is.

    Args:
        workload: the workload, or the path of its file.
        performance: a `PerfTable`, a frame of pandas, polars or Arrow, a path, or several of these; None for the
            tables that the workload names.
        planner: `exact`, or another that is installed.
        time_limit: seconds, after which the best plan so far is returned; at most half of them for simulating what
            instances hold with waiting queries.
        seed: of random choices; the same input and seed give the same plan.
        best_effort: with too few GPUs, meet the most services by priority.

    Raises:
        InputError: the workload or a table cannot be used.
        InfeasibleError: the GPUs do not suffice; names the services that would fall short.
    """
    planner, seed = _argument("planner", planner, Text), _argument("seed", seed, int)
    deadline = Deadline(_argument("time_limit", time_limit, Amount))
    prepared = _prepared(workload, performance, deadline)
    deadline = prepared.searching(deadline)
    found = planning.plan(prepared, planner=planner, deadline=deadline, seed=seed, best_effort=best_effort)
    return PlannedWorkload(found.plan, prepared, found.notes)


def check(
    plan: PlannedWorkload | Plan | Path | str,
    workload: Workload | Path | str | None = None,
    performance: object = None,
) -> CheckedPlan:
    """Check a plan against a workload with the checker, which shares no code with the planners.

    Args:
        plan: the plan, or the path of its file.
        workload: what it must meet; optional for a plan that `partita.plan` returned.
        performance: as for `plan`.

    Raises:
        InputError: a file cannot be used, or there is no workload.
    """
    made, prepared = _plan_and_workload(plan, workload, performance)
    return CheckedPlan(tuple((each.where, each.what) for each in planning.check(made, prepared)))


def _plan_and_workload(
    given: PlannedWorkload | Plan | Path | str, workload: Workload | Path | str | None, performance: object
) -> tuple[Plan, PreparedWorkload]:
    if workload is not None:
        return _plan_of(given), _prepared(workload, performance)
    if not isinstance(given, PlannedWorkload):
        raise InputError("a plan alone does not give its workload", hint="give the workload as well")
    return given.plan, given.prepared


def _plan_of(given: PlannedWorkload | Plan | Path | str) -> Plan:
    if isinstance(given, PlannedWorkload):
        return given.plan
    if not isinstance(given, Plan | str | Path):
        raise InputError(
            f"a {type(given).__name__} is not a plan",
            hint="give what partita.plan returned, or the path of a plan's file",
        )
    return given if isinstance(given, Plan) else read_plan(given)


def explain(
    plan: PlannedWorkload | Plan | Path | str,
    services: Iterable[str] | str | None = None,
    *,
    workload: Workload | Path | str | None = None,
    performance: object = None,
) -> Explanation:
    """Explain what limits services of a plan, how a change would affect it, and the next best way to run them.

    Args:
        plan: the plan, or the path of its file.
        services: names, or one name; None for all. Each takes up to ten seconds of planning.
        workload: as for `check`.
        performance: as for `plan`.

    Raises:
        InputError: there is no service of that name, a file cannot be used, or there is no workload.
    """
    made, prepared = _plan_and_workload(plan, workload, performance)
    known = {spec.name: spec for spec in prepared.workload.services}
    chosen = list(known) if services is None else _names("services", services)
    for name in chosen:
        if name not in known:
            raise _no_service(name, list(known))
    return Explanation(tuple(explain_service(prepared, made, known[name]) for name in chosen))


def diff(
    current: PlannedWorkload | Plan | Path | str,
    target: PlannedWorkload | Plan | Path | str,
    *,
    algorithm: str = "shortest",
    extra_gpus: int | None = None,
    durations: str = "measured",
    forbid: Iterable[str] | str = (),
) -> PlannedTransition:
    """Return the transition between two plans: what moves, how long it takes, and each service's least capacity.

    Args:
        current: the plan that runs, or the path of its file.
        target: the wanted plan, likewise.
        algorithm: `shortest`, `exchange-compact`, or another that is installed.
        extra_gpus: most GPUs in use at once beyond those used before or after; None for as many as help.
        durations: seconds per action: `measured` on a current stack, or those of the `paper`.
        forbid: combinations that no GPU may have on the way, such as `4g+3g`.

    Raises:
        InputError: a file or argument cannot be used.
        InfeasibleError: the extra GPUs are too few.
    """
    known = {"measured": MEASURED, "paper": PAPER}
    if durations not in known:
        raise InputError(f"there are no durations {durations!r}", hint="one of measured, paper")
    extra, forbidden = _argument("extra_gpus", extra_gpus, Whole | None), _names("forbid", forbid)
    request = request_between(_plan_of(current), _plan_of(target), known[durations], extra, tuple(forbidden))
    wanted = make("transition_algorithms", _argument("algorithm", algorithm, Text))
    return PlannedTransition(request, ordered(wanted, request))


def simulate(
    workload: Workload | Path | str,
    performance: object = None,
    *,
    service: str | None = None,
    cut: str = "search",
    router: str = "late-binding",
    gpus: int | None = None,
    queries: int = 100_000,
    arrivals: str = "poisson",
    trace: Path | str | None = None,
    quantile: float | None = None,
    seed: int = 0,
) -> SimulatedService:
    """Simulate the queries of one service on slices of different sizes.

    Args:
        workload: the workload, or the path of its file.
        performance: as for `plan`; rows with one process give the time of a query.
        service: its name; None for the only one.
        cut: how the GPUs are cut: `search`, `fluid`, `paris`, `homogeneous`, `random`, or another that is installed.
        router: which slice answers a query: `late-binding`, `price`, `kairos`; `elsa`, `fifs`, or with refusal of
            what is hopeless `elsa-refusing`, `fifs-refusing`.
        gpus: how many; None for the count of the pool, otherwise the fewest that may sustain the rate.
        queries: how many, at the service's rate, if there is no trace.
        arrivals: `poisson`, `gamma` (bursts) or `day`.
        trace: file of queries to replay.
        quantile: fraction of the queries that should be in time.
        seed: of arrivals and batch sizes.

    Raises:
        InputError: an argument or file cannot be used.
        InfeasibleError: too few of the queries can be answered in time.
    """
    from partita.simulator import Arrivals, SimulationRequest, ask, play  # noqa: PLC0415 -- numba is slow to import

    wanted = SimulationRequest(
        Arrivals(
            _argument("arrivals", arrivals, Literal["poisson", "gamma", "day"]),
            queries=_argument("queries", queries, Count),
        ),
        None if trace is None else Path(_argument("trace", trace, str)),
        gpus=_argument("gpus", gpus, Count | None),
        quantile=_argument("quantile", quantile, Annotated[float, Meta(gt=0, lt=1)] | None),
        seed=_argument("seed", seed, Whole),
    )
    cut, router = _argument("cut", cut, Text), _argument("router", router, Text)
    name = _argument("service", service, Text | None)
    asked = ask(_prepared(workload, performance), name, wanted)
    return SimulatedService(asked, play(asked, cut, router, wanted.seed), cut, router)


def simulate_plan(
    plan: PlannedWorkload | Plan | Path | str,
    workload: Workload | Path | str | None = None,
    performance: object = None,
    *,
    load: float = 1.0,
    without: Iterable[str] | str = (),
    queries: int = 20_000,
    jitter: float | None = None,
    router: str = "late-binding",
    seed: int = 0,
) -> SimulatedPlan:
    """Simulate the queries of all services of a plan, through the gateway's own code in simulated time.

    Args:
        plan: the plan, or the path of its file.
        workload: what it is for; optional for a plan that `partita.plan` returned.
        performance: as for `plan`.
        load: factor of all rates.
        without: names of GPUs, nodes, racks or zones that are lost.
        queries: of each service; a promise that stays undecided gets up to 16 times as many.
        jitter: standard deviation of the logarithm of a batch's seconds; None for what capacity is counted with.
        router: which slice answers a query: `late-binding`, `price`, `elsa`, `fifs`.
        seed: of arrivals, batch sizes and jitter.

    Raises:
        InputError: an argument or file cannot be used, or the plan is not for the workload.
    """
    from partita.verification import losses, plan_simulation  # noqa: PLC0415 -- most plans are not simulated
    from partita.verification.outcome import Trial  # noqa: PLC0415 -- as above

    made, prepared = _plan_and_workload(plan, workload, performance)
    trial = Trial(
        _argument("load", load, Annotated[float, Meta(gt=0)]),
        _argument("queries", queries, Annotated[int, Meta(ge=100)]),
        _argument("seed", seed, Whole),
        _argument("jitter", jitter, Amount | None),
        _argument("router", router, Text),
        processes=1,
    )
    gone, domains = _names("without", without), losses.Domains(made, prepared.workload)
    judged, rest = domains.judged(domains.named(gone)), losses.without(made, gone, domains)
    return SimulatedPlan(rest, plan_simulation.simulate_plan(rest, prepared, trial, judged=judged))
