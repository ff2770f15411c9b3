"""`--like`: the memory of a job, forecast from a model it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from partita.jobs.memory.bounds import Bounds
    from partita.jobs.memory.training import Optimiser

_OPTIMISERS: tuple[Optimiser, ...] = ("none", "sgd", "momentum", "adam")


def model_bounds(model: Path, words: Sequence[str]) -> Bounds:
    """Return the bounds of the peak for an ONNX file, or a folder with `config.json` and safetensors files.

    Args:
        model: the file or folder.
        words: `name=value`; `optimiser` says how it trains, without it inference is meant.

    Raises:
        InputError: a file that cannot be read, a size that is missing, unknown or no number.
    """
    sizes, optimiser = _sizes(words)
    return _transformer(model, sizes, optimiser) if model.is_dir() else _graph(model, sizes, optimiser)


def _graph(model: Path, sizes: dict[str, int], optimiser: Optimiser) -> Bounds:
    from partita.jobs.memory.onnx_graph import GraphMemory, read_graph  # noqa: PLC0415 -- only for ONNX

    return GraphMemory(read_graph(model, sizes), optimiser).bounds()


def _transformer(folder: Path, sizes: dict[str, int], optimiser: Optimiser) -> Bounds:
    from partita.jobs.memory.hugging_face import TransformerMemory, read_transformer  # noqa: PLC0415 -- as above

    missing = {"batch", "tokens"} - sizes.keys()
    if missing or sizes.keys() - {"batch", "tokens"}:
        raise InputError(
            "a transformer's memory is computed for a batch and a number of tokens, and nothing else",
            where="--like-with",
            hint="--like-with batch=8 --like-with tokens=2048",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError("there are no safetensors files", where=str(folder))
    transformer = read_transformer(folder / "config.json", weights)
    return TransformerMemory(transformer, sizes["batch"], sizes["tokens"], optimiser).bounds()


def _sizes(words: Sequence[str]) -> tuple[dict[str, int], Optimiser]:
    sizes: dict[str, int] = {}
    optimiser: Optimiser = "none"
    for word in (part for each in words for part in each.split(",")):
        name, _, value = word.partition("=")
        if name == "optimiser":
            optimiser = _optimiser(value)
        elif not value.isdecimal() or int(value) < 1:
            raise InputError(f"{word!r} is no size", where="--like-with", hint="write batch=8")
        else:
            sizes[name] = int(value)
    return sizes, optimiser


def _optimiser(value: str) -> Optimiser:
    found = next((each for each in _OPTIMISERS if each == value), None)
    if found is None:
        known = ", ".join(_OPTIMISERS)
        raise InputError(f"no optimiser {value!r}", where="--like-with", hint=f"one of {known}")
    return found
