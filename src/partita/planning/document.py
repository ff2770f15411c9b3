"""The plan as a JSON document: written GPU by GPU, read with every field checked."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.perf.operating_point import OperatingPoint
from partita.planning.fields import Fields, parse_json
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

API_VERSION = "partita/v1"
_MIG_PARTED = re.compile(r"""(?m)^\s*mig-configs\s*:|["']mig-configs["']\s*:""")
_CACHED_TEXTS = 10_000  # enough for GPUs cut alike that stand together, and little memory


def write_plan(plan: Plan, stream: TextIO) -> None:
    """Write the JSON of a plan, one service and one GPU per line, so that `diff` can compare two plans.

    The text is never held as a whole, and GPUs that share a tuple of instances share its text.
    """
    objective, solver = plan.objective, plan.solver
    head = {
        "name": objective.name,
        "value": _figure(objective.value),
        "lower_bound": _figure(objective.lower_bound),
        "gap": _figure(objective.gap),
        "proven": bool(objective.proven),
    }
    stream.write(f'{{"apiVersion": "{API_VERSION}", "kind": "Plan",\n "objective": {json.dumps(head)},\n')
    by = {"name": solver.name, "seed": int(solver.seed), "seconds": _figure(solver.seconds)}
    stream.write(f' "solver": {json.dumps(by)},\n "services": [')
    separator = "\n  "
    for service in plan.services:
        stream.write(separator + _service_text(service))
        separator = ",\n  "
    stream.write('],\n "gpus": [')
    _write_gpus(plan, stream)
    stream.write("]}\n")


def _write_gpus(plan: Plan, stream: TextIO) -> None:
    texts: dict[int, str] = {}  # by identity, which is safe because the plan keeps the tuples alive
    models: dict[str, str] = {}
    separator = "\n  "
    for gpu in plan.gpus:
        text = texts.get(id(gpu.instances))
        if text is None:
            if len(texts) >= _CACHED_TEXTS:
                texts.clear()
            text = texts[id(gpu.instances)] = ", ".join(map(_instance_text, gpu.instances))
        model = models.get(gpu.model) or models.setdefault(gpu.model, json.dumps(gpu.model))
        pool = f'"pool": {json.dumps(gpu.pool)}, ' if gpu.pool else ""
        head = f'"id": {json.dumps(gpu.id)}, "model": {model}, {pool}'
        stream.write(f'{separator}{{{head}"instances": [{text}]}}')
        separator = ",\n  "


def _service_text(service: ServiceCapacity) -> str:
    return json.dumps(
        {
            "name": service.name,
            "rate": _figure(service.rate),
            "capacity": _figure(service.capacity),
            "latency_slo_ms": _figure(service.latency_slo_ms),
        }
    )


def _instance_text(instance: Instance) -> str:
    point = instance.point
    data: dict[str, object] = {
        "profile": instance.placement.profile,
        "start": int(instance.placement.start),
        "service": instance.service,
        "model": instance.model,
        "batch": int(point.batch),
        "processes": int(point.processes),
        "throughput": _number(point.throughput),
        "latency_ms": _number(point.latency_ms),
    }
    if point.estimated:
        data["estimated"] = True
    return json.dumps(data)


def _figure(value: float) -> int | float:
    """Return a figure that was computed, without what floating point adds at its end."""
    return _number(float(f"{value:.12g}"))


def _number(value: float) -> int | float:
    # Whole numbers are written without ".0"; the rest in the fewest digits that read back as the same number.
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def read_plan(path: Path | str) -> Plan:
    """Read a plan; `-` reads stdin. GPUs that are cut alike share one tuple of instances.

    A plan does not say the quantile of its latencies, nor power and memory: those fields are empty.

    Raises:
        InputError: the file cannot be read, is cut short, is of another kind or a newer version, a field is
            missing, unknown or wrong, a GPU or profile is not in the catalogue, or a layout is not legal.
    """
    return parse_plan(read_text(path), "stdin" if str(path) == "-" else str(path))


def parse_plan(text: str, name: str) -> Plan:
    """Return the plan that a text holds, as `read_plan`; `name` is what errors call the file."""
    if not text.startswith('{"apiVersion"') and _MIG_PARTED.search(text):
        raise InputError(
            "this is a mig-parted config, not a plan",
            where=name,
            hint=f"bring it in: `partita import mig-parted {name} --out layouts.json`, which diff and apply take",
        )
    seen: dict[str, dict[str, Any]] = {}

    def share(found: dict[str, Any]) -> dict[str, Any]:
        # Equal instances become one object, so that each distinct layout is checked and held once.
        return seen.setdefault(repr(found), found) if "profile" in found else found

    return _plan(parse_json(text, name, share), name)


def _plan(value: object, name: str) -> Plan:
    _check_kind(value, name)
    root = Fields.of(value, name, "", "apiVersion kind objective solver services gpus")
    objective = _objective(
        Fields.of(root.data["objective"], name, "objective", "name value lower_bound gap proven")
    )
    by = Fields.of(root.data["solver"], name, "solver", "name seed seconds")
    solver = Solver(by.text("name"), by.whole("seed"), by.number("seconds"))
    services = tuple(
        _service(Fields.of(each, name, path, "name rate capacity latency_slo_ms"))
        for path, each in root.items("services")
    )
    return Plan(objective, solver, services, _gpus(root))


def _check_kind(value: object, name: str) -> None:
    if not isinstance(value, dict) or "apiVersion" not in value or "kind" not in value:
        raise InputError("not a plan: a plan is an object with 'apiVersion' and 'kind'", where=name)
    version, kind = value["apiVersion"], value["kind"]
    if kind != "Plan":
        hint = (
            "layouts have no services: `partita diff` and `partita apply` take them"
            if kind == "Layouts"
            else None
        )
        raise InputError(f"this is of kind {kind!r}, not a Plan", where=f"{name}: kind", hint=hint)
    if version != API_VERSION:
        newer = isinstance(version, str) and version.startswith("partita/v")
        raise InputError(
            f"a plan of version {version!r}, and this partita reads {API_VERSION}",
            where=f"{name}: apiVersion",
            hint="it was made by a newer partita; upgrade this one" if newer else None,
        )


def _objective(fields: Fields) -> Objective:
    found = Objective(fields.text("name"), fields.number("value"), fields.number("lower_bound"))
    if abs(fields.number("gap") - found.gap) > 1e-6:
        raise fields.error(f"value and lower bound give a gap of {found.gap:.6g}", "gap")
    if fields.flag("proven") != found.proven:
        raise fields.error(f"value and lower bound make this {str(found.proven).lower()}", "proven")
    return found


def _service(fields: Fields) -> ServiceCapacity:
    rate, capacity = fields.number("rate"), fields.number("capacity")
    return ServiceCapacity(fields.text("name"), rate, capacity, fields.number("latency_slo_ms"))


def _gpus(root: Fields) -> tuple[PlannedGpu, ...]:
    shared: dict[tuple[str, tuple[int, ...]], tuple[Instance, ...]] = {}
    gpus = []
    for path, each in root.items("gpus"):
        fields = Fields.of(each, root.file, path, "id model instances", "pool")
        model = fields.text("model")
        key = (model, tuple(id(item) for _, item in fields.items("instances")))
        if key not in shared:
            shared[key] = _instances(fields, model)
        pool = fields.text("pool") if "pool" in fields.data else ""
        gpus.append(PlannedGpu(fields.text("id"), model, shared[key], pool))
    return tuple(gpus)


def _instances(fields: Fields, model: str) -> tuple[Instance, ...]:
    try:
        gpu = gpu_model(model)
    except InputError as error:
        raise fields.error(error.what, "model", error.hint) from None
    found: list[Instance] = []
    for path, each in fields.items("instances"):
        one = Fields.of(
            each,
            fields.file,
            path,
            "profile start service model batch processes throughput latency_ms",
            "estimated",
        )
        found.append(_instance(one))
        if why := fault(gpu, [instance.placement for instance in found]):
            known = gpu.has(found[-1].placement.profile)
            raise one.error(why, "start" if known else "profile", f"see `partita gpus show {model}`")
    return tuple(sorted(found, key=lambda instance: instance.placement))


def _instance(fields: Fields) -> Instance:
    profile = fields.text("profile")
    point = OperatingPoint(
        profile=profile,
        batch=fields.whole("batch", 1),
        processes=fields.whole("processes", 1),
        throughput=fields.number("throughput"),
        latency_ms=fields.number("latency_ms"),
        quantile="",
        estimated=fields.flag("estimated"),
    )
    return Instance(
        Placement(fields.whole("start"), profile), fields.text("service"), fields.text("model"), point
    )
