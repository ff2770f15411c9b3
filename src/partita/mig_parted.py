"""Configs of NVIDIA's nvidia-mig-parted, in and out (github.com/NVIDIA/mig-parted, README and api/spec/v1).

A config gives the number of instances of each profile, for GPUs selected by their index on a node and by PCI number.
It does not state which GPUs a node has; the caller gives those. Starts are chosen here, so that existing instances
stay where possible.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from partita.documents.codec import (
    DocumentSource,
    FieldFault,
    FieldPath,
    Meta,
    Value,
    Whole,
    check,
    convert,
    written,
)
from partita.documents.text import parse
from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, layouts_of
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from partita.mig.gpu import GpuModel
    from partita.planning.plan import Plan, PlannedGpu

OWN = "partita-"
"""Prefix of the names of configs that `partita export mig-parted` writes, before the node's name."""

# Reading a config

_DEVICE_ID = re.compile(r"0x(?P<device>[0-9A-Fa-f]{4})10[Dd][Ee]")


def _pci(text: str) -> None:
    if not _DEVICE_ID.fullmatch(text):
        raise InputError("must be a PCI number, quoted", hint='write device-filter: ["0x20B210DE"]')


def _whole_instance(name: str) -> None:
    if re.match(r"\d+c\.", name):
        whole = name.split(".", 1)[1]
        raise InputError(
            "compute instances smaller than their GPU instance are not supported",
            hint=f"use the whole GPU instance: {whole}",
        )


_Pci = Annotated[str, check(_pci)]


class ConfigEntry(Value, rename="kebab"):
    """One entry of a config.

    Attributes:
        devices: indices on the node.
        mig_enabled: whether MIG mode is on.
        mig_devices: number of instances of each profile.
        device_filter: PCI numbers, such as `0x20B210DE`, of the GPUs that it applies to; None for all.
    """

    devices: Annotated[Literal["all"] | tuple[Whole, ...], Meta(examples=["all"])]
    mig_enabled: bool
    mig_devices: Annotated[
        dict[Annotated[str, check(_whole_instance)], Whole] | None, Meta(examples=[{'"1g.10gb"': 7}])
    ] = None
    device_filter: _Pci | tuple[_Pci, ...] | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if self.mig_enabled and self.mig_devices is None:
            yield FieldFault((), "mig-devices is missing", 'for example mig-devices: {"1g.10gb": 7}')
        if not self.mig_enabled and self.counts:
            yield FieldFault(
                ("mig-devices",), "mig-enabled is false, but MIG devices are given", "leave one out"
            )

    @property
    def counts(self) -> dict[str, int]:
        """Number of instances of each profile, without zeros."""
        return {name: count for name, count in (self.mig_devices or {}).items() if count}

    def for_gpu(self, gpu: GpuModel) -> bool:
        """Return whether its filter matches a GPU model."""
        if self.device_filter is None:
            return True
        words = (self.device_filter,) if isinstance(self.device_filter, str) else self.device_filter
        return bool({word[2:6].upper() for word in words} & set(gpu.pci))


class ConfigDocument(Value, rename="kebab"):
    """A file of named configs."""

    version: Literal["v1"]
    mig_configs: Annotated[
        dict[str, Annotated[tuple[ConfigEntry, ...], Meta(min_length=1)]], Meta(min_length=1)
    ]


@dataclass(frozen=True, slots=True)
class Config:
    """A file's named configs, and the file."""

    source: DocumentSource
    configs: Mapping[str, tuple[ConfigEntry, ...]]


def read_config(path: Path | str) -> Config:
    """Read a config, which may be inside a Kubernetes ConfigMap, as for the GPU operator; `-` reads stdin.

    Raises:
        InputError: it cannot be read, is not such a config, or a field is missing, unknown or wrong; all faults, with
            their lines.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    data, source = parse(read_text(path), name)
    if isinstance(data, dict) and data.get("kind") == "ConfigMap":
        data, source = _inner(data, name)
    if not isinstance(data, dict) or not isinstance(data.get("mig-configs"), dict):
        raise InputError(
            "this is not a mig-parted config: it has no mapping mig-configs",
            where=f"{source.name}:1",
            hint="see github.com/NVIDIA/mig-parted, or `partita export mig-parted PLAN` for one",
        )
    return Config(source, convert(data, ConfigDocument, source).mig_configs)


def _inner(data: Mapping[str, Any], name: str) -> tuple[Any, DocumentSource]:
    found = data.get("data")
    for key, text in found.items() if isinstance(found, dict) else ():
        if isinstance(text, str) and "mig-configs" in text:
            return parse(text, f"{name} data.{key}")
    raise InputError("this ConfigMap has no mig-parted config", where=name, hint="give the one that has it")


@dataclass(frozen=True, slots=True)
class ImportedLayouts:
    """The layouts of a config.

    Attributes:
        layouts: of the GPUs that it mentions; the others are as they were.
        notes: for the user: what was assumed or left out.
    """

    layouts: Layouts
    notes: tuple[str, ...]


def chosen(
    config: Config, asked: str | None, nodes: Sequence[str]
) -> dict[str, tuple[str, tuple[ConfigEntry, ...]]]:
    """Return the name and the entries of the config for each node.

    Args:
        config: the file.
        asked: name of the config for all nodes; None for the config with each node's name, as `partita export` writes
            them, otherwise the file's only one.
        nodes: names.

    Raises:
        InputError: there is no such config, or the file has several and none was asked for.
    """
    if asked is not None:
        if asked not in config.configs:
            raise InputError(
                f"no config {asked!r}", where=config.source.name, hint=f"it has {', '.join(config.configs)}"
            )
        return dict.fromkeys(nodes, (asked, config.configs[asked]))
    own = {node: f"{OWN}{node}" for node in nodes if f"{OWN}{node}" in config.configs}
    if own:
        return {node: (name, config.configs[name]) for node, name in own.items()}
    if len(config.configs) == 1:
        (only,) = config.configs.items()
        return dict.fromkeys(nodes, only)
    raise InputError(
        f"the file has {len(config.configs)} configs",
        where=config.source.name,
        hint=f"name one with --config: {', '.join(config.configs)}",
    )


def as_layouts(config: Config, there: Sequence[DeployedGpu], asked: str | None = None) -> ImportedLayouts:
    """Return the layouts that a config requires of GPUs.

    Args:
        config: the file.
        there: the GPUs, with their instances; ids are node and index, `node-0/gpu-3`.
        asked: as in `chosen`.

    Raises:
        InputError: it requires profiles or counts that these GPUs do not have; all faults, with their lines.
    """
    by_node: defaultdict[str, dict[int, DeployedGpu]] = defaultdict(dict)
    for gpu in there:
        node, index = _place(gpu)
        by_node[node][index] = gpu
    found: dict[str, DeployedGpu] = {}
    notes: list[str] = []
    faults: list[FieldFault] = []
    for node, (name, entries) in chosen(config, asked, list(by_node)).items():
        notes.append(f"{node}: {name}")
        try:
            made, more = _node(("mig-configs", name), entries, by_node[node])
        except _UnfitError as error:
            faults.append(error.fault)
            continue
        found |= made
        notes += more
    if faults:
        raise config.source.refusal(faults)
    rest = [gpu.id for gpu in there if gpu.id not in found]
    if rest:
        notes.append(f"the config does not mention {', '.join(rest)}: left as they are")
    return ImportedLayouts(Layouts(tuple(found.get(gpu.id, gpu) for gpu in there)), tuple(notes))


class _UnfitError(Exception):
    """A config requires profiles or counts that a GPU does not have."""

    def __init__(self, path: FieldPath, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.fault = FieldFault(path, what, hint)


def _node(
    config: FieldPath, entries: Sequence[ConfigEntry], gpus: Mapping[int, DeployedGpu]
) -> tuple[dict[str, DeployedGpu], list[str]]:
    """Return the layouts that a node's entries require of its GPUs, and notes; later entries override earlier ones.

    Raises:
        _UnfitError: the first that is not possible.
    """
    found: dict[str, DeployedGpu] = {}
    notes: list[str] = []
    by: dict[str, tuple[FieldPath, ConfigEntry]] = {}
    for number, entry in enumerate(entries):
        path = (*config, number)
        indices = tuple(gpus) if entry.devices == "all" else entry.devices
        for index in indices:
            if index not in gpus:
                there = ", ".join(map(str, sorted(gpus))) or "none"
                raise _UnfitError((*path, "devices"), f"there is no GPU {index}: the node has {there}")
        fitting = [gpus[index] for index in indices if entry.for_gpu(gpu_model(gpus[index].model))]
        if entry.device_filter is not None and not fitting:
            notes.append(f"{written(path)}: no GPU here has a PCI number of its device-filter")
        for gpu in fitting:
            found[gpu.id] = _cut((*path, "mig-devices"), entry.counts, gpu)
            if gpu.id in by:
                notes.append(f"{gpu.id}: {written(path)} overrides {written(by[gpu.id][0])}")
            by[gpu.id] = path, entry
    off = ", ".join(gpu_id for gpu_id, (_, entry) in by.items() if not entry.mig_enabled)
    if off:
        notes.append(
            f"{off}: mig-enabled is false, so it gets no instances; MIG mode itself is never turned off"
        )
    return found, notes


def _cut(path: FieldPath, asked: Mapping[str, int], gpu: DeployedGpu) -> DeployedGpu:
    """Return a GPU with these counts of profiles, at starts that keep the most existing instances."""
    model = gpu_model(gpu.model)
    counts: Counter[str] = Counter()
    for name, count in asked.items():
        profile = model.profile_called(name)
        if profile is None:
            known = ", ".join(each.name for each in model.profiles)
            what = f"{gpu.id} is a {gpu.model}, which has no {name}"
            raise _UnfitError((*path, name), what, f"it has {known}")
        counts[profile.name] += count
    placements = _placed(model.restricted(counts), counts, {each.placement for each in gpu.instances})
    if placements is None:
        words = " + ".join(f"{count} x {name}" for name, count in counts.items())
        what = f"{words} do not fit on {gpu.id}, a {gpu.model}"
        raise _UnfitError(path, what, f"see `partita gpus show {gpu.model}`")
    return DeployedGpu(gpu.id, gpu.model, tuple(DeployedInstance(each, None) for each in placements))


def _placed(
    model: GpuModel, counts: Mapping[str, int], standing: set[Placement]
) -> tuple[Placement, ...] | None:
    fitting = layouts_of(model, tuple(counts[profile.name] for profile in model.profiles))
    if not fitting:
        return None
    return max(fitting, key=lambda layout: len(standing & set(layout.placements))).placements


_ID = re.compile(r"(?P<node>.+)/gpu-(?P<index>\d+)")


def _place(gpu: DeployedGpu | PlannedGpu) -> tuple[str, int]:
    found = _ID.fullmatch(gpu.id)
    if not found:
        hint = "mig-parted needs the GPU's index on its node, as in node-0/gpu-3"
        raise InputError("the id does not give the node and the index", where=f"GPU {gpu.id}", hint=hint)
    return found["node"], int(found["index"])


# Writing a config

_Counts = tuple[tuple[str, int], ...]


def mig_parted_config(plan: Plan | Layouts) -> dict[str, Any]:
    """Return a config for nvidia-mig-parted, with one named config per node.

    Apply it on each node with `nvidia-mig-parted apply -f FILE -c partita-node-0`. It does not mention GPUs that the
    plan does not use, so they stay as they are. A config has only counts: mig-parted chooses the starts, which may
    differ from the plan's.

    Returns:
        The config as plain data. `devices` are indices on the node; GPUs with equal counts share an entry.

    Raises:
        InputError: a GPU's id does not give its node and index, as in `node-0/gpu-3`.
    """
    nodes: defaultdict[str, defaultdict[_Counts, list[int]]] = defaultdict(lambda: defaultdict(list))
    for gpu in plan.gpus:
        node, index = _place(gpu)
        nodes[node][_counts(gpu)].append(index)
    configs = {f"{OWN}{node}": [_entry(*each) for each in groups.items()] for node, groups in nodes.items()}
    return {"version": "v1", "mig-configs": configs}


def _counts(gpu: PlannedGpu | DeployedGpu) -> _Counts:
    return tuple(sorted(Counter(i.placement.profile for i in gpu.instances).items()))


def _entry(counts: _Counts, devices: list[int]) -> dict[str, Any]:
    return {"devices": sorted(devices), "mig-enabled": True, "mig-devices": dict(counts)}
