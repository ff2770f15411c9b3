"""Transitions and layouts as JSON documents: written line by line, read with every field checked.

Layouts are what `partita import` makes of another tool's config, for `diff` and `apply` beside plans: a plan says
what runs where, layouts say how GPUs are cut, with nothing on them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.planning.document import API_VERSION, parse_plan
from partita.planning.fields import Fields, parse_json
from partita.transition.check import graph_faults
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Layouts, Replica
from partita.transition.transition import Action, Kind, Transition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from partita.planning.plan import Plan

_LAYOUTS = "Layouts"
_SAYS_LAYOUTS = re.compile(rf'"kind"\s*:\s*"{_LAYOUTS}"')

_REPLICA = "service model batch processes throughput latency_ms"


def write_transition(transition: Transition, stream: TextIO) -> None:
    """Write the JSON of a transition, one service, one action and one GPU per line."""
    head = {
        "algorithm": transition.algorithm,
        "makespan": _number(transition.makespan),
        "peak_gpus": transition.peak_gpus,
        "moved": transition.moved,
    }
    stream.write(
        f'{{"apiVersion": "{API_VERSION}", "kind": "Transition", {json.dumps(head)[1:-1]},\n "services": ['
    )
    _write_lines(stream, ({"name": n, "floor": _number(f)} for n, f in sorted(transition.floors.items())))
    stream.write('],\n "actions": [')
    _write_lines(stream, map(_action_data, transition.actions))
    stream.write('],\n "target": [')
    _write_lines(stream, map(_gpu_data, transition.target.gpus))
    stream.write("]}\n")


def _write_lines(stream: TextIO, items: Iterator[dict[str, object]]) -> None:
    separator = "\n  "
    for item in items:
        stream.write(separator + json.dumps(item))
        separator = ",\n  "


def _action_data(action: Action) -> dict[str, object]:
    return {
        "id": action.id,
        "kind": action.kind.value,
        "gpu": action.gpu,
        "instance": str(action.placement),
        **_replica_data(action.replica),
        "after": list(action.after),
        "seconds": _number(action.seconds),
    }


def _gpu_data(gpu: DeployedGpu) -> dict[str, object]:
    return {"id": gpu.id, "model": gpu.model, "instances": [_instance_data(each) for each in gpu.instances]}


def _instance_data(each: DeployedInstance) -> dict[str, object]:
    data = {"instance": str(each.placement), **_replica_data(each.replica)}
    return {**data, "fixed": True} if each.fixed else data


def _replica_data(replica: Replica | None) -> dict[str, object]:
    if replica is None:
        return {}
    return {
        "service": replica.service,
        "model": replica.model,
        "batch": replica.batch,
        "processes": replica.processes,
        "throughput": _number(replica.throughput),
        "latency_ms": _number(replica.latency_ms),
    }


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def read_transition(path: Path | str) -> Transition:
    """Read a transition; `-` reads stdin.

    Raises:
        InputError: the file cannot be read, is cut short, is of another kind or a newer version, a field is
            missing, unknown or wrong, or the actions are no acyclic graph.
    """
    name = "stdin" if str(path) == "-" else str(path)
    value = parse_json(read_text(path), name, lambda found: found)
    _check_kind(value, name)
    root = Fields.of(
        value, name, "", "apiVersion kind algorithm makespan peak_gpus moved services actions target"
    )
    actions = tuple(_action(each, name, at) for at, each in root.items("actions"))
    for wrong in graph_faults(actions):
        raise root.error(str(wrong), "actions")
    services = [Fields.of(each, name, at, "name floor") for at, each in root.items("services")]
    return Transition(
        algorithm=root.text("algorithm"),
        actions=actions,
        floors={each.text("name"): each.number("floor") for each in services},
        target=Deployment(tuple(_gpu(each, name, at) for at, each in root.items("target"))),
        makespan=root.number("makespan"),
        peak_gpus=root.whole("peak_gpus"),
        moved=root.whole("moved"),
    )


def _check_kind(value: object, name: str) -> None:
    if not isinstance(value, dict) or "apiVersion" not in value or "kind" not in value:
        raise InputError("not a transition: that is an object with 'apiVersion' and 'kind'", where=name)
    if value["kind"] != "Transition":
        raise InputError(f"this is of kind {value['kind']!r}, not a Transition", where=f"{name}: kind")
    if value["apiVersion"] != API_VERSION:
        raise InputError(
            f"a transition of version {value['apiVersion']!r}, and this partita reads {API_VERSION}",
            where=f"{name}: apiVersion",
        )


def _action(value: object, name: str, at: str) -> Action:
    fields = Fields.of(value, name, at, "id kind gpu instance after seconds", _REPLICA)
    kind = fields.text("kind")
    if kind not in list(Kind):
        raise fields.error(f"no kind of action {kind!r}", "kind", f"there are {', '.join(Kind)}")
    replica = _replica(fields)
    if (replica is None) is (Kind(kind) in (Kind.START_REPLICA, Kind.STOP_REPLICA)):
        raise fields.error("actions on replicas name a service, others do not")
    after = tuple(item for _, item in fields.items("after"))
    if not all(isinstance(item, str) for item in after):
        raise fields.error("expected the ids of actions", "after")
    return Action(
        fields.text("id"),
        Kind(kind),
        fields.text("gpu"),
        _placement(fields),
        replica,
        tuple(map(str, after)),
        fields.number("seconds"),
    )


def _placement(fields: Fields) -> Placement:
    try:
        return Placement.parse(fields.text("instance"))
    except InputError as error:
        raise fields.error(error.what, "instance", error.hint) from None


def _replica(fields: Fields) -> Replica | None:
    present = [key for key in _REPLICA.split() if key in fields.data]
    if not present:
        return None
    for key in _REPLICA.split():
        if key not in present:
            raise fields.error(f"the key {key!r} is missing")
    return Replica(
        fields.text("service"),
        fields.text("model"),
        fields.whole("batch", 1),
        fields.whole("processes", 1),
        fields.number("throughput"),
        fields.number("latency_ms"),
    )


def _gpu(value: object, name: str, at: str) -> DeployedGpu:
    fields = Fields.of(value, name, at, "id model instances")
    instances = []
    for path, each in fields.items("instances"):
        one = Fields.of(each, name, path, "instance", f"{_REPLICA} fixed")
        instances.append(DeployedInstance(_placement(one), _replica(one), one.flag("fixed")))
    return DeployedGpu(fields.text("id"), fields.text("model"), tuple(instances))


def write_layouts(layouts: Layouts, stream: TextIO) -> None:
    """Write layouts as JSON, one GPU to a line."""
    stream.write(f'{{"apiVersion": "{API_VERSION}", "kind": "{_LAYOUTS}",\n "gpus": [')
    separator = "\n  "
    for gpu in layouts.gpus:
        instances = [{"profile": i.placement.profile, "start": i.placement.start} for i in gpu.instances]
        data = {"id": gpu.id, "model": gpu.model, "instances": instances}
        stream.write(separator + json.dumps(data))
        separator = ",\n  "
    stream.write("]}\n")


def read_target(path: Path | str) -> Plan | Layouts:
    """Read what a cluster is to be brought to, a plan or layouts; `-` reads stdin.

    Raises:
        InputError: as `read_plan`, and of layouts the same.
    """
    name = "stdin" if str(path) == "-" else str(path)
    text = read_text(path)
    return parse_layouts(text, name) if _SAYS_LAYOUTS.search(text) else parse_plan(text, name)


def parse_layouts(text: str, name: str) -> Layouts:
    """Return the layouts that a JSON text describes.

    Args:
        text: the document.
        name: what errors call it.

    Raises:
        InputError: it is of a newer version, a field is missing, unknown or wrong, a GPU or profile is not known, or
            a layout is not legal.
    """
    root = Fields.of(parse_json(text, name, lambda found: found), name, "", "apiVersion kind gpus")
    if root.data["apiVersion"] != API_VERSION:
        raise root.error(f"this partita reads {API_VERSION}", "apiVersion")
    gpus = tuple(
        _cut_gpu(Fields.of(each, name, path, "id model instances")) for path, each in root.items("gpus")
    )
    seen: set[str] = set()
    for gpu in gpus:
        if gpu.id in seen:
            raise InputError(f"the GPU {gpu.id} is there twice", where=f"{name}: gpus")
        seen.add(gpu.id)
    return Layouts(gpus)


def _cut_gpu(fields: Fields) -> DeployedGpu:
    model = fields.text("model")
    try:
        gpu = gpu_model(model)
    except InputError as error:
        raise fields.error(error.what, "model", error.hint) from None
    found: list[Placement] = []
    for path, each in fields.items("instances"):
        one = Fields.of(each, fields.file, path, "profile start")
        found.append(Placement(one.whole("start"), one.text("profile")))
        if why := fault(gpu, found):
            raise one.error(why, "start", f"see `partita gpus show {model}`")
    instances = tuple(DeployedInstance(placement, None) for placement in sorted(found))
    return DeployedGpu(fields.text("id"), model, instances)
