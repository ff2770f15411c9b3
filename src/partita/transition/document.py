"""Transitions and layouts as JSON documents: written line by line, read with every field checked.

`partita import` makes layouts of another tool's config; `diff` and `apply` take them as they take plans. A plan says
what runs where, layouts only say how GPUs are cut.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

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
)
from partita.documents.text import line, number, parse, read, write
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.planning.document import TenantDocument, layout_fault, parse_plan, repeated, tenant_document
from partita.transition.check import graph_violations
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Layouts, Replica
from partita.transition.transition import Action, ActionKind, Transition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from partita.planning.plan import Plan


_REPLICA = ("service", "model", "batch", "processes", "throughput", "latency_ms")


class InstanceReplicaDocument(Value, omit_defaults=True, kw_only=True):
    """An instance such as `3g.40gb@4`, with all fields of the replica on it or with none."""

    instance: Annotated[str, check(Placement.parse)]
    service: Name | None = None
    model: Text | None = None
    batch: Count | None = None
    processes: Count | None = None
    throughput: Amount | None = None
    latency_ms: Amount | None = None
    tenants: tuple[TenantDocument, ...] = ()

    def faults(self) -> Iterator[FieldFault]:
        """Yield the fields that its replica lacks."""
        lacking = [name for name in _REPLICA if getattr(self, name) is None]
        if len(lacking) < len(_REPLICA):
            for name in lacking:
                yield FieldFault((), f"{name} is missing", f"a replica has {', '.join(_REPLICA)}")

    @property
    def replica(self) -> Replica | None:
        """The replica on it."""
        if self.service is None:
            return None
        values: dict[str, Any] = {name: getattr(self, name) for name in _REPLICA}
        return Replica(**values, tenants=tuple(each.tenant for each in self.tenants))


class ActionDocument(InstanceReplicaDocument, kw_only=True):
    """One step on one instance; `after` has the ids of those that must have ended before it begins."""

    id: Text
    kind: ActionKind
    gpu: Name
    after: tuple[str, ...]
    seconds: Amount

    def faults(self) -> Iterator[FieldFault]:
        """Yield the fields that its replica lacks, and a replica that is missing or must not be there."""
        yield from super().faults()
        if (self.service is None) is (self.kind in (ActionKind.START_REPLICA, ActionKind.STOP_REPLICA)):
            yield FieldFault((), "actions on replicas name a service, others do not")


class DeployedInstanceDocument(InstanceReplicaDocument, kw_only=True):
    """An instance with the replica on it; `fixed` if it may be neither moved nor destroyed."""

    fixed: bool = False


def _replica_fields(replica: Replica | None) -> dict[str, Any]:
    if replica is None:
        return {}
    return {name: getattr(replica, name) for name in _REPLICA[:-2]} | {
        "throughput": number(replica.throughput),
        "latency_ms": number(replica.latency_ms),
        **({"tenants": tuple(map(tenant_document, replica.tenants))} if replica.tenants else {}),
    }


class DeployedGpuDocument(Value, omit_defaults=True):
    """A GPU with its instances; `leaving` if nothing may come to it: its node is cordoned, or it is not healthy."""

    id: Name
    model: Text
    instances: tuple[DeployedInstanceDocument, ...]
    leaving: bool = False


class FloorDocument(Value):
    """Items/s below which a service does not fall during the transition."""

    name: Name
    floor: Amount


class TransitionDocument(Value):
    """A transition as files hold it."""

    algorithm: Text
    makespan: Amount
    peak_gpus: Whole
    moved: Whole
    services: tuple[FloorDocument, ...]
    actions: tuple[ActionDocument, ...]
    target: tuple[DeployedGpuDocument, ...]

    def faults(self) -> Iterator[FieldFault]:
        """Yield what keeps the actions from being an acyclic graph."""
        for violation in graph_violations(tuple(map(_action, self.actions))):
            yield FieldFault(("actions",), str(violation))


TRANSITION = DocumentKind(
    "Transition",
    TransitionDocument,
    "a transition starts with apiVersion: partita/v1 and kind: Transition; `partita diff --out` writes one",
)


def write_transition(transition: Transition, stream: TextIO) -> None:
    """Write the JSON of a transition, one service, one action and one GPU per line."""
    head = {
        "algorithm": transition.algorithm,
        "makespan": number(transition.makespan),
        "peak_gpus": transition.peak_gpus,
        "moved": transition.moved,
    }
    floors = (FloorDocument(name, number(floor)) for name, floor in sorted(transition.floors.items()))
    gpus = (
        DeployedGpuDocument(
            gpu.id, gpu.model, tuple(map(_instance_document, gpu.instances)), bool(gpu.leaving)
        )
        for gpu in transition.target.gpus
    )
    actions = map(_action_line, transition.actions)
    write(TRANSITION, stream, {"services": floors, "actions": actions, "target": gpus}, head)


def _action_line(action: Action) -> str:
    """Return an action as JSON, its fields in the order in which they are read."""
    return line(
        {
            "id": action.id,
            "kind": action.kind,
            "gpu": action.gpu,
            "instance": str(action.placement),
            **_replica_fields(action.replica),
            "after": action.after,
            "seconds": number(action.seconds),
        }
    )


def _instance_document(each: DeployedInstance) -> DeployedInstanceDocument:
    return DeployedInstanceDocument(
        instance=str(each.placement), **_replica_fields(each.replica), fixed=bool(each.fixed)
    )


def read_transition(path: Path | str) -> Transition:
    """Read a transition; `-` reads stdin.

    Raises:
        InputError: the file cannot be read, is cut short, is of another kind or a newer version, a field is
            missing, unknown or wrong, or the actions do not form an acyclic graph.
    """
    document = read(path, TRANSITION)
    gpus = (
        DeployedGpu(gpu.id, gpu.model, tuple(map(_instance, gpu.instances)), gpu.leaving)
        for gpu in document.target
    )
    return Transition(
        algorithm=document.algorithm,
        actions=tuple(map(_action, document.actions)),
        floors={each.name: each.floor for each in document.services},
        target=Deployment(tuple(gpus)),
        makespan=document.makespan,
        peak_gpus=document.peak_gpus,
        moved=document.moved,
    )


def _action(document: ActionDocument) -> Action:
    place = Placement.parse(document.instance)
    return Action(
        document.id, document.kind, document.gpu, place, document.replica, document.after, document.seconds
    )


def _instance(document: DeployedInstanceDocument) -> DeployedInstance:
    return DeployedInstance(Placement.parse(document.instance), document.replica, document.fixed)


# Layouts


class PlacedDocument(Value):
    """An instance of a layout."""

    profile: Text
    start: Whole


class CutGpuDocument(Value):
    """A GPU and how it is cut."""

    id: Name
    model: Annotated[str, check(gpu_model)]
    instances: tuple[PlacedDocument, ...]

    def faults(self) -> Iterator[FieldFault]:
        """Yield a fault where the instances cannot stand together."""
        found = layout_fault(
            self.model, tuple(Placement(each.start, each.profile) for each in self.instances)
        )
        if found is not None:
            yield found


class LayoutsDocument(Value):
    """Layouts as files hold them."""

    gpus: tuple[CutGpuDocument, ...]

    def faults(self) -> Iterator[FieldFault]:
        """Yield GPUs that appear twice."""
        yield from repeated("gpus", "GPU", [each.id for each in self.gpus])


LAYOUTS = DocumentKind(
    "Layouts",
    LayoutsDocument,
    "layouts start with apiVersion: partita/v1 and kind: Layouts; `partita import` writes them",
)


def write_layouts(layouts: Layouts, stream: TextIO) -> None:
    """Write layouts as JSON, one GPU to a line."""
    gpus = (
        CutGpuDocument(
            gpu.id,
            gpu.model,
            tuple(PlacedDocument(each.placement.profile, each.placement.start) for each in gpu.instances),
        )
        for gpu in layouts.gpus
    )
    write(LAYOUTS, stream, {"gpus": gpus})


def read_target(path: Path | str) -> Plan | Layouts:
    """Read the target of a transition, a plan or layouts; `-` reads stdin.

    Raises:
        InputError: as `read_plan` and `parse_layouts`.
    """
    name = "stdin" if str(path) == "-" else str(path)
    text = read_text(path)
    return parse_layouts(text, name) if _SAYS_LAYOUTS.search(text) else parse_plan(text, name)


_SAYS_LAYOUTS = re.compile(r""""?kind"?\s*:\s*["']?Layouts\b""")


def parse_layouts(text: str, name: str) -> Layouts:
    """Return the layouts that a text describes; errors call the file `name`.

    Raises:
        InputError: it is of a newer version, a field is missing, unknown or wrong, a GPU or profile is not known, or
            a layout is not legal.
    """
    data, source = parse(text, name)
    gpus = (
        DeployedGpu(
            gpu.id,
            gpu.model,
            tuple(
                DeployedInstance(place, None)
                for place in sorted(Placement(each.start, each.profile) for each in gpu.instances)
            ),
        )
        for gpu in convert(data, LAYOUTS, source).gpus
    )
    return Layouts(tuple(gpus))
