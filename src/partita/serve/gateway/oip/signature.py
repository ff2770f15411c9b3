"""What a model takes and gives, laid out for checking requests against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.oip.layouts import Layouts
from partita.serve.gateway.oip.numbers import NO_JSON
from partita.serve.tensors import ITEM_BYTES, Query, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.oip.limits import Limits
    from partita.serve.gateway.values import Model
    from partita.serve.tensors import Tensor


class Signature:
    """A model's inputs and outputs by name. A model that lists no inputs is asked whatever comes.

    Attributes:
        layouts: of requests that were found to be right.
        binary_only: outputs that have no form in JSON.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._outputs = {spec.name: spec for spec in model.outputs}
        self._order = tuple(self._inputs)
        self._places = _places(model.inputs)
        self.layouts = Layouts()
        self.binary_only = tuple(spec.name for spec in model.outputs if spec.datatype in NO_JSON)

    def most_inputs(self, limits: Limits) -> int:
        """Return how many inputs a request may have: all of a model that has more than is usual."""
        return max(limits.tensors, len(self._inputs))

    def most_outputs(self, limits: Limits) -> int:
        """Return how many outputs a request may ask for."""
        return max(limits.tensors, len(self._outputs))

    def specs(self, given: Sequence[tuple[object, object, object]]) -> Sequence[TensorSpec]:
        """Return what each input must be.

        Args:
            given: name, datatype and shape of each, as they came.

        Raises:
            RequestError: one is unknown, given twice or missing.
        """
        names = [name for name, _, _ in given]
        if not self._inputs:
            return [_as_given(*each) for each in given]
        if tuple(names) == self._order:
            return self.model.inputs
        found = {}
        for name in names:
            spec = self._inputs.get(name) if isinstance(name, str) else None
            if spec is None:
                known = ", ".join(self._order)
                raise RequestError(
                    f"no input {shown(name)}; {self.model.service} takes {known}", reason="names"
                )
            if spec.name in found:
                raise RequestError(f"input {spec.name} is given twice", reason="names")
            found[spec.name] = spec
        for name, spec in self._inputs.items():
            if name not in found and not spec.optional:
                raise RequestError(f"input {name} is missing", reason="names")
        return tuple(found.values())

    def query(self, tensors: Sequence[Tensor], outputs: Sequence[object]) -> Query:
        """Return the query of these inputs, which are all that there must be, in the model's order.

        Raises:
            RequestError: sizes that have to be alike are not, there are too many rows, or an output is unknown or
                asked for twice.
        """
        if outputs:
            self._check_outputs(outputs)
        found = tuple(tensors)
        if self._order and tuple(tensor.name for tensor in found) != self._order:
            given = {tensor.name: tensor for tensor in found}
            found = tuple(given[name] for name in self._order if name in given)
        if not self._inputs:
            self._check_given(found)
        if self._places:
            self._check_symbols({tensor.name: tensor.shape for tensor in found})
        if self.model.batching.rows:
            self._check_batch(found)
        return Query(found, tuple(outputs))  # type: ignore[arg-type]  # checked to be known names

    def _check_symbols(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check that dimensions of one name have one size."""
        for symbol, places in self._places.items():
            there = [(name, shapes[name][at]) for name, at in places if name in shapes]
            for name, size in there[1:]:
                if size != there[0][1]:
                    raise RequestError(
                        f"{symbol} is {there[0][1]} in {there[0][0]} and {size} in {name}", reason="shape"
                    )

    def _check_batch(self, tensors: tuple[Tensor, ...]) -> None:
        if not tensors or not all(tensor.shape for tensor in tensors):
            raise RequestError("an input has no dimension, and the first one is the batch", reason="shape")
        batch = tensors[0].shape[0]
        for tensor in tensors:
            if tensor.shape[0] != batch:
                raise RequestError(
                    f"inputs of unlike batch sizes: {tensors[0].name} {batch}, {tensor.name} {tensor.shape[0]}",
                    reason="shape",
                )
        if batch > self.model.max_batch:
            raise RequestError(
                f"batch size {batch}, and {self.model.service} takes {self.model.max_batch} at most "
                "(its max_batch_size)",
                reason="shape",
            )

    def _check_outputs(self, names: Sequence[object]) -> None:
        for name in names:
            if not isinstance(name, str) or (self._outputs and name not in self._outputs):
                known = ", ".join(self._outputs)
                raise RequestError(
                    f"no output {shown(name)}; {self.model.service} gives {known}", reason="names"
                )
        if len(set(names)) != len(names):
            raise RequestError("an output is asked for twice", reason="names")

    def _check_given(self, tensors: tuple[Tensor, ...]) -> None:
        if not tensors:
            raise RequestError("there is no input", reason="names")
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != len(names):
            twice = next(each for each in names if names.count(each) > 1)
            raise RequestError(f"input {shown(twice)} is given twice", reason="names")


def elements(spec: TensorSpec, datatype: object, shape: object) -> int:
    """Return the number of elements of an input, after checking what is said of it.

    Raises:
        RequestError: it is not of its datatype or shape.
    """
    if datatype != spec.datatype:
        raise RequestError(f"input {spec.name} is {spec.datatype}, not {shown(datatype)}", reason="datatype")
    count = 1
    sizes = spec.shape
    if spec.any_rank and isinstance(shape, (list, tuple)):
        sizes = (-1,) * len(shape)
    if not isinstance(shape, (list, tuple)) or len(shape) != len(sizes):
        raise _misfit(spec, shape)
    for at, (size, wanted) in enumerate(zip(shape, sizes, strict=True)):
        if type(size) is not int or size < 0 or (size != wanted and wanted >= 0):
            raise _misfit(spec, shape, at)
        count *= size
    return count


def check_size(name: str, datatype: str, count: int, size: int) -> None:
    """Check the bytes of binary data of a fixed-size datatype.

    Raises:
        RequestError: they are not as many as its elements take.
    """
    needed = count * ITEM_BYTES[datatype]
    if size != needed:
        raise RequestError(
            f"input {name}: {size} bytes of data, and {count} elements of {datatype} take {needed}",
            reason="data",
        )


def _places(inputs: Sequence[TensorSpec]) -> dict[str, list[tuple[str, int]]]:
    """Return where each name of a dimension stands that stands in several places."""
    found: dict[str, list[tuple[str, int]]] = {}
    for spec in inputs:
        for at, symbol in enumerate(spec.symbols):
            if symbol:
                found.setdefault(symbol, []).append((spec.name, at))
    return {symbol: places for symbol, places in found.items() if len(places) > 1}


def _as_given(name: object, datatype: object, shape: object) -> TensorSpec:
    """Return what an input says of itself, of a model that lists none."""
    if not isinstance(name, str) or not name:
        raise RequestError(f"an input's name is {shown(name)}, not a text", reason="names")
    if not isinstance(datatype, str) or (datatype not in ITEM_BYTES and datatype != "BYTES"):
        known = ", ".join((*ITEM_BYTES, "BYTES"))
        raise RequestError(
            f"input {shown(name)} is of the unknown datatype {shown(datatype)}; there are {known}",
            reason="datatype",
        )
    size = len(shape) if isinstance(shape, (list, tuple)) else 1
    return TensorSpec(name, datatype, (-1,) * size)


def _misfit(spec: TensorSpec, shape: object, at: int | None = None) -> RequestError:
    if spec.any_rank:
        return RequestError(
            f"input {spec.name} has a shape of any sizes from 0, not {shown(shape)}", reason="shape"
        )
    names = spec.symbols or ("",) * len(spec.shape)
    sizes = [name or str(size) for size, name in zip(spec.shape, names, strict=True)]
    told = (
        f"input {spec.name} has shape [{', '.join(sizes)}]{_ANY if '-1' in sizes else ''}, not {shown(shape)}"
    )
    if at is not None and isinstance(shape, (list, tuple)) and type(shape[at]) is int and spec.shape[at] >= 0:
        return RequestError(f"{told}: dimension {at} is {spec.shape[at]}, not {shape[at]}", reason="shape")
    if isinstance(shape, (list, tuple)) and len(shape) != len(spec.shape):
        return RequestError(f"{told}: {len(spec.shape)} dimensions, not {len(shape)}", reason="shape")
    return RequestError(told, reason="shape")


_ANY = " (-1: any size)"
