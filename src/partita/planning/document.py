"""The plan as a JSON document: written GPU by GPU, read with every field checked."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from partita.documents.codec import (
    Amount,
    Count,
    DocumentKind,
    FieldFault,
    Name,
    Text,
    Value,
    Whole,
    check,
    convert,
    readable,
)
from partita.documents.text import line, number, parse, write
from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.perf.operating_point import OperatingPoint, Tenant
from partita.planning.plan import (
    Instance,
    Objective,
    Plan,
    PlanMoves,
    PlannedGpu,
    ServiceCapacity,
    Solver,
    TradePoint,
    WorstLoss,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

_MIG_PARTED = re.compile(r"""(?m)^\s*mig-configs\s*:|["']mig-configs["']\s*:""")
_CACHED_TEXTS = 10_000  # enough for GPUs cut alike that stand together, and little memory


class ObjectiveDocument(Value):
    """The objective: its name, the value reached, and the proven lower bound."""

    name: Text
    value: Amount
    lower_bound: Amount
    gap: Amount
    proven: bool

    def faults(self) -> Iterator[FieldFault]:
        """Yield a fault where gap or proof contradict value and bound."""
        made = Objective(self.name, self.value, self.lower_bound)
        if abs(self.gap - made.gap) > 1e-6:
            yield FieldFault(("gap",), f"value and lower bound give a gap of {made.gap:.6g}")
        if self.proven != made.proven:
            yield FieldFault(("proven",), f"value and lower bound make this {str(made.proven).lower()}")


class SolverDocument(Value):
    """What made the plan: planner, seed, and wall-clock seconds of planning."""

    name: Text
    seed: Whole
    seconds: Amount


class LossDocument(Value):
    """The loss that leaves a service the least: what is lost, the capacity without it, and what it may be at least.

    Both are in items/s.
    """

    level: Literal["gpu", "node", "rack", "zone"]
    least: Amount
    domain: Text
    left: Amount


class ServiceDocument(Value, omit_defaults=True):
    """What the plan gives a service: required rate and capacity in items/s, latency SLO in milliseconds.

    `loss` is there where it must survive one.
    """

    name: Name
    rate: Amount
    capacity: Amount
    latency_slo_ms: Amount
    loss: LossDocument | None = None


class TenantDocument(Value, omit_defaults=True):
    """One of the services that share an instance: items/s reserved for it, its batch alone, its own memory."""

    service: Name
    model: Text
    batch: Count
    throughput: Amount
    latency_ms: Amount
    memory_mb: Amount
    estimated: bool = False

    @property
    def tenant(self) -> Tenant:
        """The value that this describes."""
        return Tenant(*(getattr(self, name) for name in self.__struct_fields__))


def tenant_document(each: Tenant) -> TenantDocument:
    """Return the document of a service that shares an instance."""
    return TenantDocument(
        each.service, each.model, int(each.batch), number(each.throughput), number(each.latency_ms),
        number(each.memory_mb), bool(each.estimated),
    )  # fmt: skip


class InstanceDocument(Value, omit_defaults=True):
    """A placed profile with the service that runs on it, and how it is run; `tenants` if several share it."""

    profile: Text
    start: Whole
    service: Name
    model: Text
    batch: Count
    processes: Count
    throughput: Amount
    latency_ms: Amount
    estimated: bool = False
    tenants: tuple[TenantDocument, ...] = ()


class GpuDocument(Value):
    """One GPU: `id` is `node-0/gpu-3`, `model` the catalogue's name; `pool` where it is not named after the model.

    `zone` and `rack` are those of its node, where the workload says them.
    """

    id: Name
    model: Annotated[str, check(gpu_model)]
    instances: tuple[InstanceDocument, ...]
    pool: Text = ""
    zone: Text = ""
    rack: Text = ""

    def faults(self) -> Iterator[FieldFault]:
        """Yield a fault where the instances cannot stand together."""
        found = layout_fault(
            self.model, tuple(Placement(each.start, each.profile) for each in self.instances)
        )
        if found is not None:
            yield found


@lru_cache(maxsize=10_000)
def layout_fault(model: str, placements: tuple[Placement, ...]) -> FieldFault | None:
    """Return the first of a GPU's instances that cannot stand beside those before it, and why; None if all can."""
    gpu = gpu_model(model)
    for index, placement in enumerate(placements):
        if why := fault(gpu, placements[: index + 1]):
            at = "start" if gpu.has(placement.profile) else "profile"
            return FieldFault(("instances", index, at), why, f"see `partita gpus show {model}`")
    return None


class TradePointDocument(Value):
    """A plan that takes more for fewer moves: its GPUs, its value in units of the objective, and its moves."""

    gpus: Whole
    value: Amount
    moves: Whole


class MovesDocument(Value, omit_defaults=True):
    """Replicas that the plan moves, starts or stops; no plan of this value has fewer than `least`."""

    count: Whole
    least: Whole
    trade: tuple[TradePointDocument, ...] = ()


class PlanDocument(Value):
    """A plan as files hold it."""

    objective: ObjectiveDocument
    solver: SolverDocument
    services: tuple[ServiceDocument, ...]
    gpus: tuple[GpuDocument, ...]
    moves: MovesDocument | None = None
    without_survival: ObjectiveDocument | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield services and GPUs that appear twice."""
        yield from repeated("services", "service", [each.name for each in self.services])
        yield from repeated("gpus", "GPU", [each.id for each in self.gpus])


def repeated(field: str, what: str, names: Sequence[str]) -> Iterator[FieldFault]:
    """Yield a fault for each entry of a field whose name an entry before it has."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            yield FieldFault((field, index), f"the {what} {name} appears twice", None, (field, first[name]))


PLAN = DocumentKind(
    "Plan",
    PlanDocument,
    "a plan starts with apiVersion: partita/v1 and kind: Plan; `partita plan --out` writes one",
    others={"Layouts": "layouts have no services: `partita diff` and `partita apply` take them"},
)


def write_plan(plan: Plan, stream: TextIO) -> None:
    """Write the JSON of a plan, one service and one GPU per line, so that `diff` can compare two plans.

    The text is never held as a whole, and GPUs that share a tuple of instances share its text.
    """
    solver = plan.solver
    parts: dict[str, Value | str | Iterable[Value | str]] = {"objective": _objective(plan.objective)}
    if plan.without_survival is not None:
        parts["without_survival"] = _objective(plan.without_survival)
    parts["solver"] = SolverDocument(solver.name, int(solver.seed), _figure(solver.seconds))
    if plan.moves is not None:
        parts["moves"] = _moves_document(plan.moves)
    write(PLAN, stream, parts | {"services": map(_service, plan.services), "gpus": _gpu_lines(plan)})


def _moves_document(moves: PlanMoves) -> MovesDocument:
    trade = (TradePointDocument(int(each.gpus), _figure(each.value), int(each.moves)) for each in moves.trade)
    return MovesDocument(int(moves.count), int(moves.least), tuple(trade))


def _objective(objective: Objective) -> ObjectiveDocument:
    return ObjectiveDocument(
        objective.name,
        _figure(objective.value),
        _figure(objective.lower_bound),
        _figure(objective.gap),
        bool(objective.proven),
    )


def _service(service: ServiceCapacity) -> ServiceDocument:
    loss = service.loss
    return ServiceDocument(
        service.name,
        _figure(service.rate),
        _figure(service.capacity),
        _figure(service.latency_slo_ms),
        None
        if loss is None
        else LossDocument(loss.level, _figure(loss.least), loss.domain, _figure(loss.left)),
    )


def _gpu_lines(plan: Plan) -> Iterator[str]:
    texts: dict[int, str] = {}  # by identity, which is safe because the plan keeps the tuples alive
    words: dict[str, str] = {}
    for gpu in plan.gpus:
        text = texts.get(id(gpu.instances))
        if text is None:
            if len(texts) >= _CACHED_TEXTS:
                texts.clear()
            text = texts[id(gpu.instances)] = ", ".join(map(_instance_text, gpu.instances))
        model = words.get(gpu.model) or words.setdefault(gpu.model, json.dumps(gpu.model))
        pool = f'"pool": {json.dumps(gpu.pool)}, ' if gpu.pool else ""
        pool += f'"zone": {json.dumps(gpu.zone)}, ' if gpu.zone else ""
        pool += f'"rack": {json.dumps(gpu.rack)}, ' if gpu.rack else ""
        yield f'{{"id": {json.dumps(gpu.id)}, "model": {model}, {pool}"instances": [{text}]}}'


def _instance_text(instance: Instance) -> str:
    place, point = instance.placement, instance.point
    document = InstanceDocument(
        place.profile, int(place.start), instance.service, instance.model, int(point.batch), int(point.processes),
        number(point.throughput), number(point.latency_ms), bool(point.estimated),
        tuple(map(tenant_document, point.tenants)),
    )  # fmt: skip
    return line(document)


def _figure(value: float) -> float:
    """Return a computed figure rounded to 12 digits, which drops floating-point noise."""
    return number(float(f"{value:.12g}"))


def read_plan(path: Path | str) -> Plan:
    """Read a plan; `-` reads stdin. GPUs that are cut alike share one tuple of instances.

    A plan does not say the quantile of its latencies, nor power and memory: those fields are empty.

    Raises:
        InputError: the file cannot be read, is cut short, is of another kind or a newer version, a field is
            missing, unknown or wrong, a GPU or profile is not in the catalogue, or a layout is not legal.
    """
    return parse_plan(read_text(path), "stdin" if str(path) == "-" else str(path))


def parse_plan(text: str, name: str) -> Plan:
    """Return the plan that a text holds, as `read_plan` does; errors call the file `name`."""
    if not text.startswith('{"apiVersion"') and _MIG_PARTED.search(text):
        raise InputError(
            "this is a mig-parted config, not a plan",
            where=name,
            hint=f"convert it: `partita import mig-parted {name} --out layouts.json`; diff and apply read that file",
        )
    seen: dict[InstanceDocument, InstanceDocument] = {}

    def share(found: dict[str, Any]) -> Any:  # noqa: ANN401 -- plain data, or an instance
        # Equal instances become one value at once, so that each distinct one is held once.
        if "profile" in found:
            with suppress(msgspec.ValidationError):
                made = msgspec.convert(found, readable(InstanceDocument))
                return seen.setdefault(made, made)
        return found

    try:
        data, source = parse(text, name, share)
        document = convert(data, PLAN, source)
    except InputError:
        data, source = parse(text, name)  # only plain data keeps the place of each fault
        document = convert(data, PLAN, source)
    return _plan(document)


def _plan(document: PlanDocument) -> Plan:
    solver, without = document.solver, document.without_survival
    return Plan(
        _read_objective(document.objective),
        Solver(solver.name, solver.seed, solver.seconds),
        tuple(
            ServiceCapacity(each.name, each.rate, each.capacity, each.latency_slo_ms, _loss(each.loss))
            for each in document.services
        ),
        _gpus(document),
        None if document.moves is None else _moves(document.moves),
        None if without is None else _read_objective(without),
    )


def _moves(document: MovesDocument) -> PlanMoves:
    trade = tuple(TradePoint(each.gpus, each.value, each.moves) for each in document.trade)
    return PlanMoves(document.count, document.least, trade)


def _read_objective(document: ObjectiveDocument) -> Objective:
    return Objective(document.name, document.value, document.lower_bound)


def _loss(document: LossDocument | None) -> WorstLoss | None:
    if document is None:
        return None
    return WorstLoss(document.level, document.least, document.domain, document.left)


def _gpus(document: PlanDocument) -> tuple[PlannedGpu, ...]:
    shared: dict[tuple[int, ...], tuple[Instance, ...]] = {}  # by identity: the document keeps them alive
    gpus = []
    for gpu in document.gpus:
        key = tuple(map(id, gpu.instances))
        if key not in shared:
            shared[key] = tuple(sorted(map(_instance, gpu.instances), key=lambda each: each.placement))
        gpus.append(PlannedGpu(gpu.id, gpu.model, shared[key], gpu.pool, gpu.zone, gpu.rack))
    return tuple(gpus)


def _instance(each: InstanceDocument) -> Instance:
    point = OperatingPoint(
        profile=each.profile,
        batch=each.batch,
        processes=each.processes,
        throughput=each.throughput,
        latency_ms=each.latency_ms,
        quantile="",
        estimated=each.estimated,
        tenants=tuple(tenant.tenant for tenant in each.tenants),
    )
    return Instance(Placement(each.start, each.profile), each.service, each.model, point)
