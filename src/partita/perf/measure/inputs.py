"""A model's inputs, and the shapes that they are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from partita.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


Dim: TypeAlias = int | str | None

TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
"""numpy's name of each element type of ONNX Runtime that random data can be made for."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input as the model declares it.

    Attributes:
        type: as ONNX Runtime says, `tensor(float)`.
        dims: a size, the name of a symbolic dimension, or None for one without a name.
    """

    name: str
    type: str
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class FedInput:
    """An input as it is fed.

    Attributes:
        dtype: numpy's name of the element type.
        dims: sizes; None where the batch stands.
    """

    name: str
    dtype: str
    dims: tuple[int | None, ...]

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape for a batch size."""
        return tuple(batch if size is None else size for size in self.dims)


@dataclass(frozen=True, slots=True)
class Feed:
    """All inputs as they are fed, and the batch size where the model knows only one."""

    inputs: tuple[FedInput, ...]
    fixed: int | None = None


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read `input=1x3x224x224` and `symbol=128`.

    Raises:
        InputError: written otherwise, or the same name twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise InputError(
                f"{text!r} is not a shape", where="--shape", hint="write input=1x3x224x224, or dimension=128"
            )
        if name in found:
            raise InputError(f"two shapes of {name!r}", where="--shape", hint="keep one of them")
        found[name] = tuple(map(int, parts))
    return found


def feed(inputs: Sequence[Input], given: Mapping[str, tuple[int, ...]], batch_dim: str = "0") -> Feed:
    """Return the shapes to feed, the batch at its place.

    Args:
        inputs: what the model declares.
        given: sizes by input (all of its dimensions) or by symbolic dimension (one size).
        batch_dim: the position of the batch in each input, or the name of its symbolic dimension.

    Raises:
        InputError: a shape that is unknown or contradicts the model, an element type without random data, or no batch
            dimension.
    """
    _refuse_unknown(inputs, given)
    symbols = _batch_symbols(inputs, batch_dim)
    free = any(_is_batch(each, at, batch_dim, symbols) for each in inputs for at in range(len(each.dims)))
    pinned = set() if free else _pinned(inputs, batch_dim)
    if not free and not pinned:
        raise InputError(
            f"no input has a batch dimension {batch_dim}",
            where="--batch-dim",
            hint="the inputs are " + ", ".join(map(_told, inputs)),
        )
    if len(pinned) > 1:
        sizes = " and ".join(map(str, sorted(pinned)))
        raise InputError(f"inputs are fixed to different batches: {sizes}", where="--batch-dim")
    fed = tuple(_fed(each, given, batch_dim, symbols) for each in inputs)
    return Feed(fed, next(iter(pinned), None))


def _batch_symbols(inputs: Sequence[Input], batch_dim: str) -> set[str]:
    if not batch_dim.isdecimal():
        return {batch_dim}
    at = int(batch_dim)
    found = (each.dims[at] for each in inputs if at < len(each.dims))
    return {dim for dim in found if isinstance(dim, str)}


def _is_batch(each: Input, at: int, batch_dim: str, symbols: set[str]) -> bool:
    dim = each.dims[at]
    return dim in symbols or (dim is None and batch_dim == str(at))


def _pinned(inputs: Sequence[Input], batch_dim: str) -> set[int]:
    """Return the fixed sizes that stand where the batch should."""
    if not batch_dim.isdecimal():
        return set()
    at = int(batch_dim)
    found = (each.dims[at] for each in inputs if at < len(each.dims))
    return {dim for dim in found if isinstance(dim, int)}


def _fed(each: Input, given: Mapping[str, tuple[int, ...]], batch_dim: str, symbols: set[str]) -> FedInput:
    dtype = TYPES.get(each.type)
    if dtype is None:
        raise InputError(
            f"input {each.name} is a {each.type}, for which no random data can be made",
            hint=f"these can be: {', '.join(sorted(set(TYPES.values())))}",
        )
    sizes = given.get(each.name)
    if sizes is not None and len(sizes) != len(each.dims):
        raise InputError(f"{len(sizes)} sizes for {_told(each)}", where="--shape")
    dims: list[int | None] = []
    for at, dim in enumerate(each.dims):
        if _is_batch(each, at, batch_dim, symbols):
            dims.append(None)
        else:
            dims.append(_size(each, dim, None if sizes is None else sizes[at], given))
    return FedInput(each.name, dtype, tuple(dims))


def _size(each: Input, dim: Dim, asked: int | None, given: Mapping[str, tuple[int, ...]]) -> int:
    if isinstance(dim, int):
        if asked not in (None, dim):
            raise InputError(f"{asked} where the model has {dim}: {_told(each)}", where="--shape")
        return dim
    if asked is not None:
        return asked
    named = given.get(dim) if dim else None
    if named is None:
        example = f" or --shape {dim}=128" if dim else ""
        sizes = "x".join(str(d) if isinstance(d, int) else "N" for d in each.dims)
        raise InputError(
            f"a dimension of {_told(each)} is not known", hint=f"give --shape {each.name}={sizes}{example}"
        )
    if len(named) != 1:
        raise InputError(f"{dim} is one dimension, not {len(named)}", where="--shape")
    return named[0]


def _refuse_unknown(inputs: Sequence[Input], given: Mapping[str, tuple[int, ...]]) -> None:
    symbols = {dim for each in inputs for dim in each.dims if isinstance(dim, str)}
    known = [each.name for each in inputs] + sorted(symbols)
    for name in given:
        if name not in known:
            close = nearest(name, known)
            raise InputError(
                f"the model has no input or dimension {name!r}",
                where="--shape",
                hint=f"did you mean {close}?" if close else f"it has {', '.join(known)}",
            )


def _told(each: Input) -> str:
    return f"{each.name}[{', '.join('?' if dim is None else str(dim) for dim in each.dims)}]"
