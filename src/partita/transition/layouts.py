"""Layouts as a document: instances at exact placements on named GPUs, and nothing on them.

What `partita import` makes of another tool's config, for `diff` and `apply` beside plans: a plan says what runs
where, layouts say how GPUs are cut.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.planning.document import API_VERSION, parse_plan
from partita.planning.fields import Fields, parse_json
from partita.transition.deployment import DeployedGpu, DeployedInstance

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from partita.planning.plan import Plan, ServiceCapacity

KIND = "Layouts"
_SAYS_KIND = re.compile(rf'"kind"\s*:\s*"{KIND}"')


@dataclass(frozen=True, slots=True)
class Layouts:
    """How GPUs are cut, as a target: its GPUs by id, and no services."""

    gpus: tuple[DeployedGpu, ...]

    @property
    def services(self) -> tuple[ServiceCapacity, ...]:
        """None: nothing is to run."""
        return ()


def write_layouts(layouts: Layouts, stream: TextIO) -> None:
    """Write layouts as JSON, one GPU to a line."""
    stream.write(f'{{"apiVersion": "{API_VERSION}", "kind": "{KIND}",\n "gpus": [')
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
    return parse_layouts(text, name) if _SAYS_KIND.search(text) else parse_plan(text, name)


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
    gpus = tuple(_gpu(Fields.of(each, name, path, "id model instances")) for path, each in root.items("gpus"))
    seen: set[str] = set()
    for gpu in gpus:
        if gpu.id in seen:
            raise InputError(f"the GPU {gpu.id} is there twice", where=f"{name}: gpus")
        seen.add(gpu.id)
    return Layouts(gpus)


def _gpu(fields: Fields) -> DeployedGpu:
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
