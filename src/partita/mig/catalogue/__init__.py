"""The GPUs Partita knows: those of the files beside this one, of a user's files, and those found on this host.

Each GPU is a TOML file: read with every field checked, and written the same way.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from partita.errors import SHOWN, InputError, nearest, together
from partita.files import read_text
from partita.mig.gpu import Combination, GpuModel, Peak, Profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


# A process knows one set of GPUs, as it has one set of codecs: names in its documents mean these.
_added: dict[str, GpuModel] = {}


def add(models: Iterable[GpuModel]) -> None:
    """Have this process know these GPUs too; one of the same name is replaced.

    So a user's file comes before the catalogue, and what NVML says of a GPU of this host before both.
    """
    for model in models:
        _added[model.name] = model


def reset() -> None:
    """Have this process know the catalogue's own GPUs alone."""
    _added.clear()


def gpu_names() -> tuple[str, ...]:
    """Return the names of all GPUs that are known, in alphabetical order."""
    return tuple(sorted({*_own_names(), *_added}))


def gpu_model(name: str) -> GpuModel:
    """Return the GPU of that name.

    Raises:
        InputError: there is none.
    """
    found = _added.get(name)
    if found is not None:
        return found
    if name in _own_names():
        return _own(name)
    close = nearest(name.lower(), list(gpu_names()))
    raise InputError(
        f"no GPU {name!r} in the catalogue",
        hint=f"did you mean {close}?"
        if close
        else "list them with `partita gpus`; name a file of your own with --gpus-file",
    )


def gpu_meant(text: str) -> GpuModel:
    """Return the GPU that a user means: by the catalogue's name in any case, or as other programs print it.

    Those are NVML and `nvidia-smi`, a line of `nvidia-smi -L`, and the labels of Kubernetes (with `-MIG-1g.10gb` at
    their end where each GPU is cut alike). A family alone (`H100`) is none: its members have unlike profiles.

    Raises:
        InputError: there is none.
    """
    name = _LABEL.sub("", _LISTED.sub("", " ".join(text.split())))
    found = None if _is_family(name) else gpu_called(name)
    return found or gpu_model(text)


_LISTED = re.compile(r"^GPU \d+:\s*|\s*\(UUID: .*$")
_LABEL = re.compile(r"-MIG-\d+g\.\d+gb.*$", re.IGNORECASE)


def _is_family(name: str) -> bool:
    names = gpu_names()
    return name.lower() not in names and any(each.startswith(name.lower() + "-") for each in names)


def gpu_called(name: str, memory_mib: float | None = None) -> GpuModel | None:
    """Return the GPU that NVML, nvidia-smi or a Kubernetes label calls so, None if none is known.

    Args:
        name: as it is written there.
        memory_mib: of the whole GPU. Where several are called so, as by `NVIDIA H100`, the one that has most nearly
            as much is meant; without it the smallest.
    """
    found = gpus_called(name)
    if not found:
        return None
    return min(found, key=lambda model: abs(_nominal_mib(model) - (memory_mib or 0.0)))


def gpus_called(name: str) -> tuple[GpuModel, ...]:
    """Return all GPUs that NVML, nvidia-smi or a Kubernetes label calls so.

    Letters' case, the maker's name in front, and blanks, hyphens and underscores do not count.
    """
    wanted = _key(name)
    found = (
        model for model in map(gpu_model, gpu_names()) if wanted in map(_key, (model.name, *model.aliases))
    )
    # A name that is spelt out comes before one that is alike.
    return tuple(sorted(found, key=lambda model: name not in (model.name, *model.aliases)))


def gpus_on_pci(number: str) -> tuple[GpuModel, ...]:
    """Return the GPUs with a PCI device number, written as `20B2`."""
    return tuple(model for model in map(gpu_model, gpu_names()) if number.upper() in model.pci)


def _nominal_mib(model: GpuModel) -> float:
    """Return the memory that the names of a GPU's profiles say, in MiB: most parts have no other figure."""
    said = (re.search(r"\.(\d+)gb", profile.name) for profile in model.profiles)
    return max((int(each[1]) * 1024.0 for each in said if each), default=0.0)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower()).removeprefix("nvidia-")


@cache
def _own_names() -> tuple[str, ...]:
    folder = resources.files(__name__)
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


@cache
def _own(name: str) -> GpuModel:
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse_gpu(text, f"{name}.toml", "catalogue")


# The files: a TOML table is read into a `GpuModel`, and all that is wrong in it is told at once.

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PROFILE = re.compile(r"(?P<compute>\d+)g\.\d+gb([+-][a-z0-9.]+)*")
_PCI = re.compile(r"[0-9A-F]{4}")
_MOST_SLICES = 16
"""No GPU has more than 12, and ways to cut one grow as a power of their number."""
_MOST = 10**9


class _Table:
    """A TOML table and its faults, each with the line it stands on."""

    def __init__(
        self, data: Mapping[str, Any], where: Callable[[str], str], faults: list[InputError]
    ) -> None:
        self.data = data
        self._where = where
        self._faults = faults

    def fault(self, what: str, key: str = "", hint: str | None = None) -> None:
        """Note what is wrong with a field, or with the table."""
        self._faults.append(InputError(f"{key}: {what}" if key else what, where=self._where(key), hint=hint))

    def known(self, keys: str) -> None:
        """Note keys that are not among these."""
        names = keys.split()
        for key in self.data.keys() - set(names):
            close = nearest(key, names)
            self.fault(
                "there is no such field", key, f"did you mean {close}?" if close else f"known are {keys}"
            )

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; one that is not left out is needed without a default."""
        value = self.data.get(key, default)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.fault("a text is needed", key)
            return default or "?"
        return value

    def whole(self, key: str, least: int, most: int = _MOST) -> int:
        """Return a whole number of that range."""
        value = self.data.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.fault(f"a whole number from {least} to {most} is needed", key)
            return least
        return value

    def optional(self, key: str, least: int = 1) -> int | None:
        """Return a whole number; None where it is left out."""
        return self.whole(key, least) if key in self.data else None

    def rate(self, key: str) -> float | None:
        """Return a number above zero; None where it is left out."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MOST:
            self.fault("a number above 0 is needed", key)
            return None
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts; empty where it is left out."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(each, str) and each.isprintable() for each in value
        ):
            self.fault("a list of texts is needed", key)
            return ()
        return tuple(value)


def read_gpu(path: Path | str) -> GpuModel:
    """Read a GPU from a file; its `origin` is the file's name.

    Raises:
        InputError: the file cannot be read or is no TOML, or fields are missing, unknown or wrong; all faults are
            told with their lines.
    """
    return parse_gpu(read_text(path), str(path))


def parse_gpu(text: str, name: str, origin: str | None = None) -> GpuModel:
    """Return the GPU that a text describes.

    Args:
        text: TOML.
        name: of the file, for errors.
        origin: of the GPU; `name` where left out.

    Raises:
        InputError: as `read_gpu`.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(error, name) from None
    except RecursionError:
        raise InputError("not TOML: nested too deep", where=name, hint="a GPU is two levels deep") from None
    faults: list[InputError] = []
    places = _Places(text, name)
    gpu = _gpu(_Table(data, places.top, faults), places, faults, origin or name)
    if faults:
        raise together(name, faults[:SHOWN], len(faults))
    return gpu


def _no_toml(error: tomllib.TOMLDecodeError, name: str) -> InputError:
    what = str(error)
    at = re.search(r" \(at (line (\d+), column (\d+)|end of document)\)$", what)
    where = f"{name}:{at[2]}:{at[3]}" if at and at[2] else name
    told = what[: at.start()] if at and at[2] else what
    return InputError(
        f"not TOML: {told[:1].lower()}{told[1:]}",
        where=where,
        hint="see `partita gpus show a100-80gb --toml`",
    )


class _Places:
    """The lines of a file's fields."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._fields: dict[tuple[str, str], int] = {}
        table, profiles = "", 0
        for number, line in enumerate(text.splitlines(), 1):
            if head := re.match(r"\s*\[{1,2}\s*([\w.-]+)\s*\]{1,2}", line):
                table = head[1]
                if table == "profile":
                    table, profiles = f"profile {profiles}", profiles + 1
                self._fields[table, ""] = number
            elif key := re.match(r"\s*([\w-]+)\s*=", line):
                self._fields.setdefault((table, key[1]), number)

    def of(self, table: str, key: str) -> str:
        """Return the place of a field, or of its table where the field is not there."""
        line = self._fields.get((table, key)) or self._fields.get((table, "")) or 1
        return f"{self._name}:{line}"

    def top(self, key: str) -> str:
        """Return the place of a field or table at the top."""
        return f"{self._name}:{self._fields.get(('', key)) or self._fields.get((key, '')) or 1}"


_KEYS = (
    "name title architecture compute_slices memory_slices memory_mib sms aliases pci sources forbidden "
    "peak power profile"
)
_RATES = "fp32_tflops tf32_tflops fp16_tflops int8_tops bandwidth_gbs"
_PROFILE_KEYS = (
    "name aliases gi_profile_id nvml_profile compute memory starts memory_mib sms copy_engines "
    "max_instances media"
)


def _gpu(top: _Table, places: _Places, faults: list[InputError], origin: str) -> GpuModel:
    top.known(_KEYS)
    name = top.text("name")
    if not _NAME.fullmatch(name):
        top.fault("small letters, digits, '-', '_' and '.' are needed, as in a100-80gb", "name")
    compute, memory = (top.whole(key, 1, _MOST_SLICES) for key in ("compute_slices", "memory_slices"))
    peak = _Table(_table(top, "peak"), partial(places.of, "peak"), faults)
    peak.known(f"{_RATES} source")
    power = _Table(_table(top, "power"), partial(places.of, "power"), faults)
    power.known("limit_w source")
    pci = top.texts("pci")
    if not all(_PCI.fullmatch(each) for each in pci):
        top.fault("PCI device numbers of four digits are needed, as in 20B2", "pci")
    return GpuModel(
        name=name,
        title=top.text("title", name),
        architecture=top.text("architecture", "unknown"),
        compute_slices=compute,
        memory_slices=memory,
        profiles=_profiles(top, places, faults, (compute, memory)),
        aliases=top.texts("aliases"),
        memory_mib=top.optional("memory_mib"),
        sms=top.optional("sms"),
        peak=Peak(**{key: peak.rate(key) for key in _RATES.split()}),
        power_limit_w=power.rate("limit_w"),
        sources=top.texts("sources"),
        forbidden=_forbidden(top),
        pci=pci,
        origin=origin,
    )


def _table(top: _Table, key: str) -> Mapping[str, Any]:
    value = top.data.get(key, {})
    if isinstance(value, dict):
        return value
    top.fault("a table is needed", key)
    return {}


def _forbidden(top: _Table) -> tuple[Combination, ...]:
    found = []
    for text in top.texts("forbidden"):
        try:
            found.append(Combination.parse(text))
        except InputError as error:
            top.fault(error.what, "forbidden", error.hint)
    return tuple(found)


def _profiles(
    top: _Table, places: _Places, faults: list[InputError], slices: tuple[int, int]
) -> tuple[Profile, ...]:
    listed = top.data.get("profile")
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        top.fault("at least one [[profile]] is needed", "profile")
        return ()
    found: list[Profile] = []
    for number, data in enumerate(listed):
        table = _Table(data, partial(places.of, f"profile {number}"), faults)
        profile = _profile(table, slices)
        if profile.name in {each.name for each in found}:
            table.fault(f"{profile.name} is there already", "name")
        found.append(profile)
    return tuple(found)


def _profile(table: _Table, slices: tuple[int, int]) -> Profile:
    table.known(_PROFILE_KEYS)
    name = table.text("name")
    compute, memory = table.whole("compute", 1, slices[0]), table.whole("memory", 1, slices[1])
    said = _PROFILE.fullmatch(name)
    if said is None:
        table.fault("NVIDIA's form is needed, as in 3g.40gb or 1g.10gb+me", "name")
    elif int(said["compute"]) != compute:
        table.fault(f"{name} says {said['compute']} compute slices", "compute")
    media = table.data.get("media", False)
    if not isinstance(media, bool):
        table.fault("true or false is needed", "media")
    starts = _starts(table, memory, slices[1])
    return Profile(
        name=name,
        compute=compute,
        memory=memory,
        starts=starts,
        max_instances=table.whole("max_instances", 1, max(1, len(starts))),
        media=bool(media),
        memory_mib=table.optional("memory_mib"),
        sms=table.optional("sms"),
        gi_profile_id=table.optional("gi_profile_id", 0),
        nvml_profile=table.optional("nvml_profile", 0),
        copy_engines=table.optional("copy_engines", 0),
        aliases=table.texts("aliases"),
    )


def _starts(table: _Table, memory: int, slices: int) -> tuple[int, ...]:
    value = table.data.get("starts")
    last = slices - memory
    if (
        not isinstance(value, list)
        or not value
        or not all(type(each) is int and 0 <= each <= last for each in value)
    ):
        table.fault(f"memory slices from 0 to {last} are needed, at least one", "starts")
        return (0,)
    if len(set(value)) < len(value):
        table.fault("a start is there twice", "starts")
    return tuple(sorted(value))


def gpu_text(gpu: GpuModel) -> str:
    """Return a GPU as TOML that `read_gpu` reads; what is not known is left out."""
    lines = [
        *_lines(
            gpu, ("name", "title", "architecture", "compute_slices", "memory_slices", "memory_mib", "sms")
        ),
        *_lines(gpu, ("aliases", "pci", "sources")),
    ]
    if gpu.forbidden:
        lines.append(f"forbidden = {_value([str(each) for each in gpu.forbidden])}")
    rates = _lines(gpu.peak, _RATES.split())
    if rates:
        lines += ["", "[peak]", *rates]
    if gpu.power_limit_w is not None:
        lines += ["", "[power]", f"limit_w = {_value(gpu.power_limit_w)}"]
    for profile in gpu.profiles:
        lines += ["", "[[profile]]", *_lines(profile, _PROFILE_KEYS.split())]
    return "\n".join(lines) + "\n"


def _lines(value: object, keys: Iterable[str]) -> list[str]:
    told = ((key, getattr(value, key)) for key in keys)
    return [f"{key} = {_value(each)}" for key, each in told if each is not None and each != ()]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # A TOML basic string takes JSON's escapes.
    return json.dumps(value, ensure_ascii=False)
