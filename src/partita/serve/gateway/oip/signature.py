"""What a model takes and gives, laid out for checking requests against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.oip.layouts import Layouts
from partita.serve.gateway.oip.numbers import NO_JSON
from partita.serve.tensors import ITEM_BYTES, Query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.values import Model
    from partita.serve.tensors import Tensor, TensorSpec


class Signature:
    """A model's inputs and outputs by name.

    Attributes:
        batched: whether the first dimension of every input is free, hence the batch.
        layouts: of requests that were found to be right.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batched = batched(model)
        self._inputs = {spec.name: spec for spec in model.inputs}
        self._outputs = {spec.name: spec for spec in model.outputs}
        self._order = tuple(self._inputs)
        self.layouts = Layouts()
        self.binary_only = tuple(spec.name for spec in model.outputs if spec.datatype in NO_JSON)

    def specs(self, names: Sequence[object]) -> Sequence[TensorSpec]:
        """Return what each of the inputs of these names must be.

        Raises:
            RequestError: one is unknown, given twice or missing.
        """
        if tuple(names) == self._order:
            return self.model.inputs
        found = {}
        for name in names:
            spec = self._inputs.get(name) if isinstance(name, str) else None
            if spec is None:
                known = ", ".join(self._order)
                raise RequestError(f"no input {shown(name)}; {self.model.service} takes {known}")
            if spec.name in found:
                raise RequestError(f"input {spec.name} is given twice")
            found[spec.name] = spec
        for name in self._order:
            if name not in found:
                raise RequestError(f"input {name} is missing")
        return tuple(found.values())

    def query(self, tensors: Sequence[Tensor], outputs: Sequence[object]) -> Query:
        """Return the query of these inputs, which are all that there must be, in the model's order.

        Raises:
            RequestError: batch sizes are unlike or too large, or an output is unknown or asked for twice.
        """
        if outputs:
            self._check_outputs(outputs)
        found = tuple(tensors)
        if tuple(tensor.name for tensor in found) != self._order:
            given = {tensor.name: tensor for tensor in found}
            found = tuple(given[name] for name in self._order)
        if self.batched:
            self._check_batch(found)
        return Query(found, tuple(outputs))  # type: ignore[arg-type]  # checked to be known names

    def _check_batch(self, tensors: tuple[Tensor, ...]) -> None:
        batch = tensors[0].shape[0]
        for tensor in tensors:
            if tensor.shape[0] != batch:
                raise RequestError(
                    f"inputs of unlike batch sizes: {tensors[0].name} {batch}, {tensor.name} {tensor.shape[0]}"
                )
        if not 1 <= batch <= self.model.max_batch:
            raise RequestError(
                f"batch size {batch}, and {self.model.service} takes 1 to {self.model.max_batch}"
            )

    def _check_outputs(self, names: Sequence[object]) -> None:
        for name in names:
            if not isinstance(name, str) or name not in self._outputs:
                known = ", ".join(self._outputs)
                raise RequestError(f"no output {shown(name)}; {self.model.service} gives {known}")
        if len(set(names)) != len(names):
            raise RequestError("an output is asked for twice")


def batched(model: Model) -> bool:
    """Say whether the first dimension of every input is free, hence the batch."""
    return bool(model.inputs) and all(spec.shape[:1] == (-1,) for spec in model.inputs)


def elements(spec: TensorSpec, datatype: object, shape: object) -> int:
    """Return the number of elements of an input, after checking what is said of it.

    Raises:
        RequestError: it is not of its datatype or shape.
    """
    if datatype != spec.datatype:
        raise RequestError(f"input {spec.name} is {spec.datatype}, not {shown(datatype)}")
    count = 1
    if not isinstance(shape, (list, tuple)) or len(shape) != len(spec.shape):
        raise _misfit(spec, shape)
    for size, wanted in zip(shape, spec.shape, strict=True):
        if type(size) is not int or size < 0 or (size != wanted and wanted >= 0):
            raise _misfit(spec, shape)
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
            f"input {name}: {size} bytes of data, and {count} elements of {datatype} take {needed}"
        )


def _misfit(spec: TensorSpec, shape: object) -> RequestError:
    return RequestError(f"input {spec.name} has shape {list(spec.shape)} (-1: any size), not {shown(shape)}")
