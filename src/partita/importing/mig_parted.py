"""A config of NVIDIA's nvidia-mig-parted as layouts (github.com/NVIDIA/mig-parted, README and api/spec/v1).

A config gives counts and says for which GPUs of a node by index and by PCI number, never which GPUs a node has: that
is asked of the cluster, or given. Starts are chosen here, where something stands already so that it stays.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from partita.documents.codec import Fault, FieldPath, Source, written
from partita.documents.text import parse
from partita.errors import InputError
from partita.files import read_text
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, layouts_of
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from partita.mig.gpu import GpuModel

OWN = "partita-"
"""Begins the names of the configs that `partita export mig-parted` writes; the node's name follows."""

_DEVICE_ID = re.compile(r"0x(?P<device>[0-9A-Fa-f]{4})10[Dd][Ee]")
_ENTRY = {"device-filter", "devices", "mig-enabled", "mig-devices"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a config.

    Attributes:
        path: where it stands in the document.
        devices: indices on the node; None for all.
        filter: PCI device numbers, such as `20B2`, of the GPUs that it is for; None for any.
        enabled: whether MIG mode is on.
        counts: how many of each profile.
    """

    path: FieldPath
    devices: tuple[int, ...] | None
    filter: tuple[str, ...] | None
    enabled: bool
    counts: Mapping[str, int]


@dataclass
class Config:
    """A file of named configs, and what is wrong in it."""

    source: Source
    entries: dict[str, tuple[Entry, ...]]
    faults: list[Fault] = field(default_factory=list)

    def fault(self, path: FieldPath, what: str, hint: str | None = None) -> None:
        """Note what is wrong at a place."""
        self.faults.append(Fault(path, what, hint))

    def refuse(self) -> None:
        """Raise what was noted, if anything was.

        Raises:
            InputError: all of it, with its lines.
        """
        if self.faults:
            raise self.source.refusal(self.faults)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a config.

    Attributes:
        layouts: of the GPUs that it mentions, and of others as they stand.
        notes: what was assumed or left out, for the user to read.
    """

    layouts: Layouts
    notes: tuple[str, ...]


def read_config(path: Path | str) -> Config:
    """Read a config; `-` reads stdin. One in a Kubernetes ConfigMap, as the GPU operator has it, is taken out.

    Raises:
        InputError: it cannot be read, is no such config, or a field is missing, unknown or wrong; all faults are told
            with their lines.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    data, source = parse(read_text(path), name)
    if isinstance(data, dict) and data.get("kind") == "ConfigMap":
        data, source = _inner(data, name)
    if not isinstance(data, dict) or not isinstance(data.get("mig-configs"), dict):
        raise InputError(
            "this is no mig-parted config: it has no mapping mig-configs",
            where=f"{source.name}:1",
            hint="see github.com/NVIDIA/mig-parted, or `partita export mig-parted PLAN` for one",
        )
    config = Config(source, {})
    if data.get("version") != "v1":
        config.fault(("version",), f"{data.get('version')!r}, and v1 is read", "write version: v1")
    for key in sorted(data.keys() - {"version", "mig-configs"}):
        config.fault((key,), "there is no such field")
    if not data["mig-configs"]:
        config.fault(("mig-configs",), "at least one config is needed")
    for key, entries in data["mig-configs"].items():
        config.entries[key] = _entries(config, ("mig-configs", key), entries)
    config.refuse()
    return config


def _inner(data: Mapping[str, Any], name: str) -> tuple[Any, Source]:
    found = data.get("data")
    for key, text in found.items() if isinstance(found, dict) else ():
        if isinstance(text, str) and "mig-configs" in text:
            return parse(text, f"{name} data.{key}")
    raise InputError("this ConfigMap holds no mig-parted config", where=name, hint="name the one that does")


def _entries(config: Config, path: FieldPath, value: object) -> tuple[Entry, ...]:
    if not isinstance(value, list) or not value:
        config.fault(path, "a list with at least one entry is needed")
        return ()
    found = (_entry(config, (*path, n), each) for n, each in enumerate(value))
    return tuple(each for each in found if each is not None)


def _entry(config: Config, path: FieldPath, value: object) -> Entry | None:
    if not isinstance(value, dict):
        config.fault(path, "a mapping is needed")
        return None
    for key in sorted(value.keys() - _ENTRY):
        config.fault((*path, key), "there is no such field", f"known are {', '.join(sorted(_ENTRY))}")
    enabled = value.get("mig-enabled")
    if not isinstance(enabled, bool):
        config.fault((*path, "mig-enabled"), "true or false is needed")
    counts = _counts(
        config, (*path, "mig-devices"), value.get("mig-devices", {} if enabled is False else None)
    )
    if counts and enabled is False:
        config.fault((*path, "mig-devices"), "MIG devices, and mig-enabled is false")
    return Entry(
        path,
        _devices(config, (*path, "devices"), value.get("devices")),
        _filter(config, (*path, "device-filter"), value.get("device-filter")),
        enabled is True,
        counts,
    )


def _devices(config: Config, path: FieldPath, value: object) -> tuple[int, ...] | None:
    if value == "all":
        return None
    if isinstance(value, list) and all(type(each) is int and each >= 0 for each in value):
        return tuple(value)
    config.fault(path, "all, or a list of indices, is needed", "write devices: all, or devices: [0, 1]")
    return ()


def _filter(config: Config, path: FieldPath, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    words = value if isinstance(value, list) else [value]
    found = [_DEVICE_ID.fullmatch(each) if isinstance(each, str) else None for each in words]
    if not all(found):
        config.fault(path, "PCI numbers are needed, quoted", 'write device-filter: ["0x20B210DE"]')
    return tuple(each["device"].upper() for each in found if each)


def _counts(config: Config, path: FieldPath, value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not all(type(each) is int and each >= 0 for each in value.values()):
        config.fault(path, "a mapping of profiles to counts is needed", 'write mig-devices: {"1g.10gb": 7}')
        return {}
    parts = [name for name in value if re.match(r"\d+c\.", name)]
    for name in parts:
        config.fault(
            (*path, name),
            "compute instances of a part of a GPU instance are not made",
            f"take the whole of it: {name.split('.', 1)[1]}",
        )
    return {name: count for name, count in value.items() if count and name not in parts}


def chosen(
    config: Config, asked: str | None, nodes: Sequence[str]
) -> dict[str, tuple[str, tuple[Entry, ...]]]:
    """Return the name and the entries of the config for each node.

    Args:
        config: the file.
        asked: the config for all nodes; without it the file's only one, or the one of each node's own name as
            `partita export` writes them.
        nodes: names.

    Raises:
        InputError: it cannot be told which.
    """
    if asked is not None:
        if asked not in config.entries:
            raise InputError(
                f"no config {asked!r}", where=config.source.name, hint=f"it has {', '.join(config.entries)}"
            )
        return dict.fromkeys(nodes, (asked, config.entries[asked]))
    own = {node: f"{OWN}{node}" for node in nodes if f"{OWN}{node}" in config.entries}
    if own:
        return {node: (name, config.entries[name]) for node, name in own.items()}
    if len(config.entries) == 1:
        (only,) = config.entries.items()
        return dict.fromkeys(nodes, only)
    raise InputError(
        f"the file has {len(config.entries)} configs",
        where=config.source.name,
        hint=f"name one with --config: {', '.join(config.entries)}",
    )


def as_layouts(config: Config, there: Sequence[DeployedGpu], asked: str | None = None) -> Imported:
    """Return the layouts that a config asks of GPUs.

    Args:
        config: the file.
        there: the GPUs, with what stands on them; ids are node and index, `node-0/gpu-3`.
        asked: as in `chosen`.

    Raises:
        InputError: it asks for what these GPUs do not have or cannot hold; all faults are told with their lines.
    """
    by_node: defaultdict[str, dict[int, DeployedGpu]] = defaultdict(dict)
    for gpu in there:
        node, index = _place(gpu)
        by_node[node][index] = gpu
    found: dict[str, DeployedGpu] = {}
    notes: list[str] = []
    for node, (name, entries) in chosen(config, asked, list(by_node)).items():
        notes.append(f"{node}: {name}")
        _node(config, entries, by_node[node], (found, notes))
    config.refuse()
    rest = [gpu.id for gpu in there if gpu.id not in found]
    if rest:
        notes.append(f"the config does not mention {', '.join(rest)}: left as they stand")
    return Imported(Layouts(tuple(found.get(gpu.id, gpu) for gpu in there)), tuple(notes))


def _node(
    config: Config,
    entries: Sequence[Entry],
    gpus: Mapping[int, DeployedGpu],
    told: tuple[dict[str, DeployedGpu], list[str]],
) -> None:
    """Add what a node's entries ask of its GPUs; of two for one GPU the later holds, as mig-parted applies them."""
    found, notes = told
    asked: dict[str, Entry] = {}
    for entry in entries:
        fitting = _fitting(config, entry, gpus)
        if entry.filter is not None and not fitting:
            notes.append(f"{written(entry.path)}: no GPU here has a PCI number of its device-filter")
        for gpu in fitting:
            made = _cut(config, entry, gpu)
            if made is None:
                return
            if gpu.id in asked:
                before, now = written(asked[gpu.id].path), written(entry.path)
                notes.append(f"{gpu.id}: of {before} and {now} the later holds")
            found[gpu.id], asked[gpu.id] = made, entry
    off = ", ".join(gpu_id for gpu_id, entry in asked.items() if not entry.enabled)
    if off:
        notes.append(f"{off}: mig-enabled is false, so nothing is cut; MIG mode itself is never turned off")


def _fitting(config: Config, entry: Entry, gpus: Mapping[int, DeployedGpu]) -> list[DeployedGpu]:
    """Return the GPUs that an entry is for; none, and a fault, if it names one that the node lacks."""
    indices = list(gpus) if entry.devices is None else entry.devices
    for index in indices:
        if index not in gpus:
            what = f"there is no GPU {index}: the node has {_range(gpus)}"
            config.fault((*entry.path, "devices"), what)
            return []
    return [gpus[index] for index in indices if _meant(entry, gpu_model(gpus[index].model))]


def _meant(entry: Entry, gpu: GpuModel) -> bool:
    return entry.filter is None or bool(set(entry.filter) & set(gpu.pci))


def _cut(config: Config, entry: Entry, gpu: DeployedGpu) -> DeployedGpu | None:
    """Return a GPU with the counts of an entry, at starts that keep the most of what stands; None for a fault."""
    model = gpu_model(gpu.model)
    path = (*entry.path, "mig-devices")
    counts: Counter[str] = Counter()
    for name, count in entry.counts.items():
        profile = model.profile_called(name)
        if profile is None:
            known = ", ".join(each.name for each in model.profiles)
            config.fault((*path, name), f"{gpu.id} is a {gpu.model}, which has no {name}", f"it has {known}")
            return None
        counts[profile.name] += count
    standing = {each.placement for each in gpu.instances}
    placements = _placed(model.restricted(counts), counts, standing)
    if placements is None:
        words = " + ".join(f"{count} x {name}" for name, count in counts.items())
        config.fault(
            path, f"{words} do not fit on {gpu.id}, a {gpu.model}", f"see `partita gpus show {gpu.model}`"
        )
        return None
    return DeployedGpu(gpu.id, gpu.model, tuple(DeployedInstance(each, None) for each in placements))


def _placed(
    model: GpuModel, counts: Mapping[str, int], standing: set[Placement]
) -> tuple[Placement, ...] | None:
    fitting = layouts_of(model, tuple(counts[profile.name] for profile in model.profiles))
    if not fitting:
        return None
    return max(fitting, key=lambda layout: len(standing & set(layout.placements))).placements


def _place(gpu: DeployedGpu) -> tuple[str, int]:
    node, _, last = gpu.id.rpartition("/")
    index = last.removeprefix("gpu-")
    if not node or not index.isdecimal():
        raise InputError(
            "the id does not say the node and the index", where=f"GPU {gpu.id}", hint="as in node-0/gpu-3"
        )
    return node, int(index)


def _range(gpus: Mapping[int, DeployedGpu]) -> str:
    return ", ".join(map(str, sorted(gpus))) or "none"
