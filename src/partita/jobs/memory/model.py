"""The forecast of a model on disk, with the sizes that were given for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

from partita.errors import InputError, nearest
from partita.jobs.memory.dtypes import value_bytes
from partita.jobs.memory.training import Optimiser

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from partita.jobs.memory.forecast import ModelForecast

_TYPES = ("dtype", "kv_cache_dtype")
_OPTIMISER = "optimiser"
_SPELLINGS = {"optimizer": _OPTIMISER, "kv_dtype": "kv_cache_dtype", "torch_dtype": "dtype"}

_PARTS = frozenset({".json", ".safetensors", ".bin", ".pth", ".pt", ".gguf"})

TRANSFORMER_NAMES = ("batch", "tokens", "encoder_tokens", "prefill", *_TYPES, _OPTIMISER)
"""What can be said of a transformer; `batch` and `tokens` must be."""


@dataclass(frozen=True, slots=True)
class Given:
    """What was said with `NAME=VALUE`.

    Attributes:
        sizes: whole numbers.
        types: bytes of a value, under `dtype` and `kv_cache_dtype`.
        optimiser: `none` for inference.
        option: that it was said with, for errors.
    """

    sizes: Mapping[str, int]
    types: Mapping[str, float]
    optimiser: Optimiser
    option: str


def forecast_model(model: Path, words: Iterable[str], option: str = "--with") -> ModelForecast:
    """Return the forecast for an ONNX file, or for a folder with `config.json` and weights.

    Args:
        model: the file or folder.
        words: `name=value`, several in a word parted by commas; `optimiser` says how it trains, without it inference
            is meant.
        option: that the words were given with.

    Raises:
        InputError: a file that cannot be read, a size that is missing, unknown or no number.
    """
    given = _given(words, option)
    if model.is_dir():
        return _transformer(model, given)
    if not model.exists():
        raise InputError(
            "no such file or folder", where=str(model), hint="name an ONNX file or a model's folder"
        )
    if model.suffix in _PARTS:
        raise InputError(
            "this is a part of a model", where=str(model), hint=f"name the folder it is in: {model.parent}"
        )
    from partita.jobs.memory.onnx_graph import forecast_graph  # noqa: PLC0415 -- only for ONNX

    if given.types:
        raise InputError(
            f"an ONNX graph has its own types, and no {next(iter(given.types))}", where=given.option
        )
    return forecast_graph(model, given.sizes, given.optimiser, given.option)


def _transformer(folder: Path, given: Given) -> ModelForecast:
    from partita.jobs.memory.hugging_face import (  # noqa: PLC0415 -- not for ONNX
        PREFILL,
        TransformerMemory,
        read_transformer,
    )

    sizes = given.sizes
    for name in sizes:
        if name not in TRANSFORMER_NAMES:
            close = nearest(name, list(TRANSFORMER_NAMES))
            raise InputError(
                f"a transformer's memory does not depend on {name!r}",
                where=given.option,
                hint=f"did you mean {close}?" if close else f"one of {', '.join(TRANSFORMER_NAMES)}",
            )
    if missing := [name for name in ("batch", "tokens") if name not in sizes]:
        raise InputError(
            f"a transformer's memory is computed for a batch and a number of tokens; {missing[0]} is missing",
            where=given.option,
            hint=f"{given.option} batch=8 {given.option} tokens=2048",
        )
    memory = TransformerMemory(
        read_transformer(folder),
        sizes["batch"],
        sizes["tokens"],
        sizes.get("encoder_tokens"),
        sizes.get("prefill", PREFILL),
        given.optimiser,
        given.types.get("dtype"),
        given.types.get("kv_cache_dtype"),
    )
    return memory.forecast()


def _given(words: Iterable[str], option: str) -> Given:
    sizes: dict[str, int] = {}
    types: dict[str, float] = {}
    optimiser: Optimiser = "none"
    seen: set[str] = set()
    for word in (part for each in words for part in each.split(",") if part.strip()):
        name, _, value = (part.strip() for part in word.rpartition("="))
        name = _SPELLINGS.get(name, name)
        if name in seen:
            raise InputError(f"{name} is there twice", where=option)
        seen.add(name)
        if name == _OPTIMISER:
            optimiser = _optimiser(value, option)
        elif name in _TYPES:
            if value != "auto":
                types[name] = value_bytes(value, option)
        else:
            sizes[name] = _size(word, name, value, option)
    return Given(sizes, types, optimiser, option)


def _size(word: str, name: str, value: str, option: str) -> int:
    if not name or not (value.isascii() and value.isdecimal()) or len(value) > 15 or int(value) < 1:
        raise InputError(f"{word!r} is no size", where=option, hint="write batch=8")
    return int(value)


def _optimiser(value: str, option: str) -> Optimiser:
    known = get_args(Optimiser)
    if value not in known:
        close = nearest(value, list(known))
        raise InputError(
            f"no optimiser {value!r}",
            where=option,
            hint=f"did you mean {close}?" if close else f"one of {', '.join(known)}",
        )
    return cast("Optimiser", value)
