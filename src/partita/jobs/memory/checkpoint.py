"""A model on disk: the fields of its `config.json`, and the parameters and bytes of its weights.

Families name the same field differently, so fields are looked up by several names. Of weights only headers are read.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import json_fault, json_value, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models with several parts keep the language model's fields."""

_SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_DEFAULTS = {
    "gemma": (28, 3072, 16, 16, 256),
    "gemma2": (26, 2304, 8, 4, 256),
    "gemma3_text": (26, 2304, 8, 4, 256),
    "gpt2": (12, 768, 12),
    "llama": (32, 4096, 32),
    "llama4_text": (48, 5120, 40, 8, 128),
    "mistral": (32, 4096, 32, 8),
    "mixtral": (32, 4096, 32, 8),
    "mllama_text_model": (40, 4096, 32, 8),
    "opt": (12, 768, 12),
    "phi": (24, 2048, 32),
    "phi3": (32, 3072, 32),
    "qwen2": (32, 4096, 32, 32),
    "qwen2_vl_text": (80, 8192, 64, 8),
    "qwen2_5_vl_text": (80, 8192, 64, 8),
    "qwen3": (32, 4096, 32, 32, 128),
}
"""Default shapes of the classes in transformers; nested configs leave out fields that have the default."""

_NESTED_TYPES = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "mllama": "mllama_text_model",
    "paligemma": "gemma",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "vipllava": "llama",
}
"""The model type of a nested config that does not say its own."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Fields of a model's config, or of a part of it.

    Attributes:
        fields: as the file has them.
        where: the file, and the path to this part in it.
        model_type: the family, whose rules apply; empty if the config does not say.
        defaults: values of absent fields.
        outer: fields of the whole model, which its parts share.
    """

    fields: Mapping[str, Any]
    where: str
    model_type: str
    defaults: Mapping[str, int]
    outer: Mapping[str, Any]

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return the first of these fields that is present.

        Raises:
            InputError: it is not a positive whole number, or all are absent and there is no default.
        """
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            raise InputError(f"{name} is {value!r}, not a positive whole number", where=self.where)
        found = next((self.defaults[name] for name in names if name in self.defaults), default)
        if found is None:
            raise InputError(f"no positive whole number {' or '.join(names)}", where=self.where)
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a field that is true or false.

        Raises:
            InputError: it is neither.
        """
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}, neither true nor false", where=self.where)
        return value

    def sequence(self, name: str, length: int | None = None) -> list[Any] | None:
        """Return a field that is a list, or a text as the list of its characters; None if it is absent.

        Raises:
            InputError: it is something else, or its length is not `length`.
        """
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list | str):
            raise InputError(f"{name} is not a list", where=self.where)
        if length is not None and len(value) != length:
            raise InputError(f"{name} has {len(value)} entries for {length} layers", where=self.where)
        return list(value)

    def part(self, name: str) -> ModelConfig:
        """Return a part of the config, an empty one if it is absent.

        Raises:
            InputError: it is not an object.
        """
        value = self.fields.get(name, {})
        if not isinstance(value, dict):
            raise InputError(f"{name} is not an object", where=self.where)
        kind = value.get("model_type") or _NESTED_TYPES.get(self.model_type, "")
        return _config(value, f"{self.where}: {name}", kind, _defaults(kind), self.outer)

    def shared(self, *names: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the first of these fields that this part or else the whole model has, None if neither has."""
        return next(
            (fields[name] for fields in (self.fields, self.outer) for name in names if fields.get(name)), None
        )

    def head_dim(self, heads: int) -> int:
        """Return the size of a head: as the config says, else its share of the hidden size.

        Raises:
            InputError: it does not say, and the heads do not divide the hidden size.
        """
        names = ("head_dim", "attention_head_dim", "kv_channels", "d_kv")
        if any(self.fields.get(name) is not None for name in names) or "head_dim" in self.defaults:
            return self.whole(*names)
        hidden = self.whole(*HIDDEN)
        if hidden % heads:
            raise InputError(f"{heads} heads do not divide the hidden size {hidden}", where=self.where)
        return hidden // heads

    def grouped(self, heads: int, *names: str) -> int:
        """Return the number of key and value heads; all heads if no field gives it.

        Raises:
            InputError: it does not divide the number of heads.
        """
        given = self.whole(*names, default=heads)
        if heads % given:
            raise InputError(f"{names[0]} {given} does not divide {heads} heads", where=self.where)
        return given


def read_config(path: Path | str) -> ModelConfig:
    """Read a `config.json`; of a model with several parts, the language model's fields.

    Raises:
        InputError: it cannot be read, or is not a JSON object.
    """
    if not Path(path).exists():
        raise InputError("no such file", where=str(path), hint="name the folder that has the config.json")
    try:
        fields = json_value(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(json_fault(error), where=f"{path}:{error.lineno}") from None
    if not isinstance(fields, dict):
        raise InputError("not a JSON object", where=str(path))
    kind = fields.get("model_type")
    return _language(_config(fields, str(path), kind if isinstance(kind, str) else "", {}, fields))


def _language(config: ModelConfig) -> ModelConfig:
    """Return the part that is the language model, the whole if it has none."""
    for name in _TEXT:
        if isinstance(config.fields.get(name), dict) and config.model_type not in _WHOLE:
            return _language(config.part(name))
    return config


_WHOLE = frozenset({"clip", "siglip", "siglip2", "blip", "chinese_clip", "clap", "altclip", "flava"})
"""Models with a text part that generates nothing."""


def _defaults(kind: str) -> dict[str, int]:
    return dict(zip(_SHAPE, _DEFAULTS.get(kind, ()), strict=False))


def _config(
    fields: Mapping[str, Any], where: str, kind: str, defaults: Mapping[str, int], outer: Mapping[str, Any]
) -> ModelConfig:
    # A top-level config has its shape in its file; only the head size may be left to the class.
    defaults = defaults or {k: v for k, v in _defaults(kind).items() if k == "head_dim"}
    return ModelConfig(fields, where, kind, defaults, outer)


BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
} | {
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of a value, by safetensors' names of types."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that a framework casts when it loads a model in another type; other types are quantised."""

_LONGEST_HEADER = 100 * 2**20
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.[a-z]+)")
_NO_MODEL = re.compile(r"adapter|optimizer|training_args|scheduler|rng_state", re.IGNORECASE)
_KINDS = (
    ("model.safetensors.index.json", "model", ".safetensors"),
    (None, "", ".safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model", ".bin"),
    (None, "", ".bin"),
    (None, "", ".pth"),
    (None, "", ".gguf"),
)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model's weights.

    Attributes:
        parameters: number of values; None where the files must be loaded to know it.
        size: bytes in the files.
        by_type: bytes of each type of value; empty where unknown.
        files: the files of the weights.
    """

    parameters: int | None = None
    size: int = 0
    by_type: Mapping[str, int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def cast_to(self, value_bytes: float) -> float:
        """Return the bytes of weights loaded with `value_bytes` a value; quantised ones stay as they are."""
        return sum(
            size * 8 * value_bytes / BITS[kind] if kind in FLOATS else size
            for kind, size in self.by_type.items()
        ) + (0 if self.by_type else self.size)

    def widest_float(self) -> int | None:
        """Return the bytes of a value of the most used floating-point type; None without any."""
        floats = {kind: size for kind, size in self.by_type.items() if kind in FLOATS}
        return BITS[max(floats, key=lambda kind: floats[kind])] // 8 if floats else None


def read_weights(folder: Path) -> ModelWeights:
    """Read the headers of the files that a framework would load: one set of the weights, never two.

    These are the files that `model.safetensors.index.json` lists, else `model*.safetensors`, else other safetensors,
    PyTorch's files, or GGUF. Adapters and optimiser states are not counted.

    Raises:
        InputError: there are none, a listed file is missing, or a file has the wrong format.
    """
    return weigh(weight_files(folder))


def weigh(files: Sequence[Path]) -> ModelWeights:
    """Return the weights in these files.

    Raises:
        InputError: a file cannot be read, or has the wrong format.
    """
    sizes: Counter[str] = Counter()
    parameters: int | None = 0
    total = 0
    for path in files:
        if path.suffix == ".safetensors":
            found, held = _header(path)
            sizes.update(held)
            total += sum(held.values())
            parameters = None if parameters is None else parameters + found
        else:
            parameters, total = None, total + _stored(path)
    # If one file does not give its types, the types of the whole are unknown.
    return ModelWeights(parameters, total, {} if parameters is None else dict(sizes), tuple(files))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of one set of a folder's weights.

    Raises:
        InputError: there are none, or a file of the set is missing.
    """
    for index, stem, suffix in _KINDS:
        if index is not None and (folder / index).is_file():
            return _listed(folder / index)
        files = [path for path in sorted(folder.glob(f"{stem}*{suffix}")) if not _NO_MODEL.search(path.name)]
        if files:
            return _one_layout(files)
    raise InputError(
        "there are no safetensors files, and no other weights",
        where=str(folder),
        hint="name the folder that has them and the config.json",
    )


def _listed(index: Path) -> list[Path]:
    try:
        listed = json_value(read_text(index))["weight_map"].values()
        names = sorted({str(name) for name in listed})
    except json.JSONDecodeError as error:
        raise InputError(json_fault(error), where=f"{index}:{error.lineno}") from None
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            "weight_map is not an object that names a file for each tensor", where=str(index)
        ) from None
    if outside := next((name for name in names if "/" in name or name in ("", ".", "..")), None):
        raise InputError(f"weight_map names {outside!r}, which is not a file beside it", where=str(index))
    return _there([index.parent / name for name in names], str(index))


def _there(files: list[Path], told_by: str) -> list[Path]:
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else ""),
            where=told_by,
            hint="download the model again: its weights are incomplete",
        )
    return files


def _one_layout(files: list[Path]) -> list[Path]:
    """Return the files of one set: all shards of one count, one whole file, or one set of parts.

    `model*` and `pytorch_model*` come first, then other names, last Mistral's `consolidated*`.
    """
    layouts: dict[tuple[int, int, str], list[Path]] = {}
    for path in files:
        layouts.setdefault(_layout(path.name), []).append(path)
    if files[0].suffix == ".gguf" and len(layouts) > 1:
        raise InputError(
            f"several models: {', '.join(path.name for path in files[:4])}",
            where=str(files[0].parent),
            hint="keep only the one to load in a folder with its config.json",
        )
    rank, _, _ = best = min(layouts)
    found = layouts[best]
    shard = _SHARD.fullmatch(found[0].name)
    if shard is None:
        # Parts without a total, such as consolidated.00.pth, and files of unknown names are all taken.
        return found if rank else found[:1]
    stem, _, count, suffix = shard.groups()
    names = [f"{stem}-{n:0{len(count)}}-of-{count}{suffix}" for n in range(1, int(count) + 1)]
    return _there([found[0].with_name(name) for name in names], str(found[0].parent))


def _layout(name: str) -> tuple[int, int, str]:
    """Return a key of the set that a file belongs to; preferred sets sort first."""
    shard = _SHARD.fullmatch(name)
    stem, _, count = shard.group(1, 2, 3) if shard else (name.rpartition(".")[0], "", "")
    model = stem in ("model", "pytorch_model")
    if model or shard or name.endswith(".gguf"):
        return (0 if model else 2), (1 if shard else 0), f"{stem} {count}"
    variant = stem.startswith(("model.", "pytorch_model."))
    family = stem if variant else re.split(r"[.\-_]\d", stem)[0]
    if variant:
        return 1, 0, family
    return (3, 0, "consolidated") if family == "consolidated" else (2, 2, "")


def _header(path: Path) -> tuple[int, dict[str, int]]:
    """Return the parameters that a safetensors file's header lists, and the bytes of each type."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            _require_content(path, start)
            (length,) = struct.unpack("<Q", start)
            if length > _LONGEST_HEADER:
                raise InputError("not a safetensors file: its header would be too long", where=str(path))
            return _held(json_value(stream.read(length)))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise InputError("not a safetensors file: its header cannot be read", where=str(path)) from None


def _held(header: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    parameters, sizes = 0, Counter[str]()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        count, kind = math.prod(tensor["shape"]), str(tensor["dtype"])
        # The size of an unknown, newer type follows from its offsets.
        begin, end = tensor.get("data_offsets", (0, count))
        sizes[kind if kind in BITS else "U8"] += -(-count * BITS[kind] // 8) if kind in BITS else end - begin
        parameters += count
    return parameters, dict(sizes)


def _stored(path: Path) -> int:
    """Return the bytes of the tensors in one of PyTorch's files, which are archives, or of any other file."""
    try:
        with path.open("rb") as stream:
            _require_content(path, stream.read(8))
        if not zipfile.is_zipfile(path):
            return path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)
    except (OSError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or "not an archive of PyTorch"
        raise InputError(f"cannot be read: {why}", where=str(path)) from None


def _require_content(path: Path, start: bytes) -> None:
    if start == b"version ":
        raise InputError(
            "a pointer of Git LFS, and not the file itself", where=str(path), hint="git lfs pull"
        )
