"""What `import partita` offers: plans, explanations, transitions and simulations as values, from Python.

Each function takes values or the paths of files, prints nothing, and returns a value that shows itself in a notebook.
What cannot be done raises the `PartitaError` that the command line would show, with `what`, `where` and `hint`.
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
from partita.errors import InputError, nearest
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
from partita.web.page import page
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

Columns: TypeAlias = dict[str, list[Any]]


class Result(ABC):
    """What all results can do: become a frame, plain data, or a drawing in a notebook."""

    @abstractmethod
    def _columns(self) -> Columns: ...

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, as the command line's `-o json` prints it."""

    def to_frame(self, backend: str | None = None) -> Any:  # noqa: ANN401 -- of the library that is there
        """Return it as a frame.

        Args:
            backend: `pandas`, `polars` or `pyarrow`; None for the one that is imported already, or else installed.
        """
        return frame_of(self._columns(), backend)

    def to_html(self, path: Path | str | None = None) -> str:
        """Return it drawn as a page that needs nothing else, and write it to a file if one is given."""
        text = self._html(embedded=False)
        if path is not None:
            with replacing(path) as stream:
                stream.write(text)
        return text

    def _html(self, *, embedded: bool) -> str:
        columns = self._columns()
        head = "".join(f"<th>{name}" for name in columns)
        rows = (
            "".join(f"<td>{_cell(each)}" for each in values) for values in zip(*columns.values(), strict=True)
        )
        table = (
            f"<table><thead><tr>{head}</thead><tbody>{''.join(f'<tr>{row}' for row in rows)}</tbody></table>"
        )
        return page(type(self).__name__, ("report.css",), (table,), embedded=embedded)

    def _repr_html_(self) -> str:
        return self._html(embedded=True)


def _cell(value: object) -> str:
    from html import escape  # noqa: PLC0415 -- only where a table is drawn

    if value is None:
        return ""
    return f"{value:,.6g}" if isinstance(value, float) else escape(str(value))


@dataclass(frozen=True, eq=False)
class PlannedWorkload(Result):
    """A plan and the workload that it is for.

    Attributes:
        plan: the plan itself: GPUs, services, objective and solver.
        prepared: the workload with its performance table.
        notes: what was assumed and reserved, a sentence each.
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
        """What its models do on slices."""
        return self.prepared.table

    @property
    def objective(self) -> Objective:
        """What was kept smallest: `value`, `lower_bound`, `gap`, and `proven`."""
        return self.plan.objective

    @property
    def gpus(self) -> tuple[PlannedGpu, ...]:
        """The GPUs, each with its instances."""
        return self.plan.gpus

    @property
    def services(self) -> tuple[ServiceCapacity, ...]:
        """What each service is given."""
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
        """Return one row for each service: its rate, the capacity it is given, its SLO, and its instances."""
        instances: dict[str, int] = {}
        for gpu in self.plan.gpus:
            for each in gpu.instances:
                instances[each.service] = instances.get(each.service, 0) + 1
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
        """Return the plan as plain data, as it stands in a file."""
        text = io.StringIO()
        write_plan(self.plan, text)
        found: dict[str, Any] = json.loads(text.getvalue())
        return found

    def save(self, path: Path | str) -> None:
        """Write the plan to a file, which `partita diff` and `partita apply` read."""
        with replacing(path) as stream:
            write_plan(self.plan, stream)

    def _html(self, *, embedded: bool) -> str:
        return plan_report(PlanOverview(self.plan), embedded=embedded)

    def __repr__(self) -> str:
        n = len(self.services)
        return f"<{amount(self.plan)}, {verdict(self.plan)}, for {n:,} service{'' if n == 1 else 's'}>"


@dataclass(frozen=True, eq=False)
class CheckedPlan(Result):
    """What the independent checker says of a plan; true if the plan meets the workload.

    Attributes:
        faults: pairs of where and what; empty for a right plan.
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
        told = "; ".join(f"{where}: {what}" for where, what in self.faults[:3])
        return f"<{len(self.faults)} faults: {told}>" if self.faults else "<the plan meets the workload>"


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """What binds each service of a plan, and what a change of it would do to the objective.

    Attributes:
        services: each explained; its `changes` are what more rate and a looser SLO would do.
    """

    services: tuple[ServiceExplanation, ...]

    def _columns(self) -> Columns:
        """Return one row for each profile of each service; of one with a cut, what its slices answer."""
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
        return f"<{len(self.services)} services explained>"


@dataclass(frozen=True, eq=False)
class PlannedTransition(Result):
    """What lies between two deployments: actions in an order that keeps every service served.

    Attributes:
        request: what was asked: from what, to what, at which rates.
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
        """Return it as plain data, as it stands in a file."""
        text = io.StringIO()
        write_transition(self.transition, text)
        found: dict[str, Any] = json.loads(text.getvalue())
        return found

    def _html(self, *, embedded: bool) -> str:
        return transition_report(self.request, self.transition, embedded=embedded)

    def __repr__(self) -> str:
        return f"<{len(self):,} actions in {self.seconds:,.0f} s, {self.transition.moved:,} replicas moved>"


@dataclass(frozen=True, eq=False)
class SimulatedService(Result):
    """What became of the queries of one service on GPUs cut for it.

    Attributes:
        asked: the problem and the traffic.
        simulation: what came of each query, and what the cut holds.
        cut: name of the cut.
        router: name of the router.
    """

    asked: AskedSimulation
    simulation: Simulation
    cut: str
    router: str

    @property
    def attainment(self) -> float:
        """Share of the queries that were answered in time."""
        return self.simulation.evaluation.attainment

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, a sentence each."""
        return self.asked.notes

    def _columns(self) -> Columns:
        """Return one row for each slice: queries it answered, and the share of the time it was busy."""
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

    def _html(self, *, embedded: bool) -> str:
        from partita.web.serving_report import serving_report  # noqa: PLC0415 -- as above

        return serving_report(self.to_dict(), self.asked.problem, self.simulation, embedded=embedded)

    def __repr__(self) -> str:
        return f"<{self.attainment:.3%} of {self.simulation.evaluation.queries:,} queries in time>"


@dataclass(frozen=True, eq=False)
class Catalogue(Result, Mapping[str, "GpuModel"]):
    """The GPUs that are known, by name."""

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
        return f"<{len(self)} GPUs: {', '.join(self)}>"


def catalogue() -> Catalogue:
    """Return the GPUs that are known, each with its profiles."""
    return Catalogue(tuple(gpus_known.gpu_model(name) for name in gpus_known.gpu_names()))


def read_performance(*sources: object) -> PerfTable:
    """Return performance tables, joined.

    Args:
        sources: paths of CSV or Parquet files, or frames of pandas, polars or Arrow.

    Raises:
        InputError: one that cannot be used; it counts all faults, and shows each kind.
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
    """Return a workload with other values, for a what-if.

    Args:
        workload: the one to change, which stays as it is.
        services: what changes of services by name: `{"resnet50": {"rate": 2000, "slo": {"latency_ms": 50}}}`; None
            leaves the service out.
        fields: other fields of the workload: `gpus=[{"model": "h100-80gb"}]`, `objective="cost"`.

    Raises:
        InputError: there is no such service or field, or a value that a workload cannot have.
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
    """Return an argument, held to its type and bounds as a field of a document is; numpy's numbers are numbers.

    Raises:
        InputError: it is of another type or out of bounds; `where` is its name.
    """
    return convert(to_data(value), kind, DocumentSource(name))


def _names(name: str, given: object) -> list[str]:
    """Return an argument that is names, of which one may stand alone."""
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


def _prepared(workload: Workload | Path | str, performance: object) -> PreparedWorkload:
    """Return a workload with its table: the given one, or else those that it names."""
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
        return planning.prepare(made, table, path)


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
        performance: what its models do on slices: a `PerfTable`, a frame of pandas, polars or Arrow, a path, or
            several; None for the tables that the workload names.
        planner: `exact`, or another that is installed.
        time_limit: seconds of search; the best plan so far is returned then.
        seed: of random choices: same input and seed, same plan.
        best_effort: with too few GPUs, meet the most services by priority.

    Raises:
        InputError: a workload or table that cannot be used.
        InfeasibleError: the GPUs do not suffice; says which services would fall short.
    """
    planner, seed = _argument("planner", planner, Text), _argument("seed", seed, int)
    deadline = Deadline(_argument("time_limit", time_limit, Amount))
    prepared = _prepared(workload, performance)
    found = planning.plan(prepared, planner=planner, deadline=deadline, seed=seed, best_effort=best_effort)
    return PlannedWorkload(found.plan, prepared, found.notes)


def check(
    plan: PlannedWorkload | Plan | Path | str,
    workload: Workload | Path | str | None = None,
    performance: object = None,
) -> CheckedPlan:
    """Hold a plan to a workload with the checker, which shares no code with the planners.

    Args:
        plan: the plan, or the path of its file.
        workload: what it must meet; may be left out for a plan that `partita.plan` returned.
        performance: as for `plan`.

    Raises:
        InputError: a file that cannot be used, or no workload.
    """
    made, prepared = _plan_and_workload(plan, workload, performance)
    return CheckedPlan(tuple((each.where, each.what) for each in planning.check(made, prepared)))


def _plan_and_workload(
    given: PlannedWorkload | Plan | Path | str, workload: Workload | Path | str | None, performance: object
) -> tuple[Plan, PreparedWorkload]:
    if workload is not None:
        return _plan_of(given), _prepared(workload, performance)
    if not isinstance(given, PlannedWorkload):
        raise InputError("nothing says which workload the plan is for", hint="give the workload as well")
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
    """Say what binds services of a plan, what a change would do, and the next best way to run them.

    Args:
        plan: the plan, or the path of its file.
        services: names, or one name; None for all. Each takes up to ten seconds of planning.
        workload: as for `check`.
        performance: as for `plan`.

    Raises:
        InputError: there is no service of that name, a file cannot be used, or no workload is given.
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
    """Return what lies between two plans: what moves, how long it takes, and what each service keeps.

    Args:
        current: what runs: a plan, or the path of its file.
        target: what is wanted.
        algorithm: `shortest`, `exchange-compact`, or another that is installed.
        extra_gpus: GPUs in use meanwhile beyond those used before and after; None for as many as help.
        durations: seconds per action: `measured` on today's stack, or the `paper`'s.
        forbid: combinations that no GPU may hold on the way, as `4g+3g`.

    Raises:
        InputError: a file that cannot be used.
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
    """Simulate the queries of one service on slices of unlike sizes.

    Args:
        workload: the workload, or the path of its file.
        performance: as for `plan`; its rows with one process say how long a query takes.
        service: its name; None for the only one.
        cut: how the GPUs are cut: `search`, `fluid`, `paris`, `homogeneous`, `random`, or another that is installed.
        router: who answers which query: `late-binding`, `price`, `elsa`, `fifs`, `kairos`.
        gpus: how many; None for the count of the pool, or else the fewest that may hold the rate.
        queries: how many, at the service's rate, where there is no trace.
        arrivals: `poisson`, `gamma` (bursts) or `day`.
        trace: file of queries to replay.
        quantile: share of the queries that should be in time.
        seed: of arrivals and batch sizes.

    Raises:
        InputError: something that cannot be used.
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
