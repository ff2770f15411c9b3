"""A model's graph as memory sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as memory sees it.

    Attributes:
        steps: in the order of execution, the tensors that each reads and those that it writes.
        sizes: bytes of each tensor that is no weight.
        inputs: tensors that are there before the first step.
        outputs: tensors that stay after the last.
        parameters: values in the weights.
        weight_bytes: their bytes.
        operators: of each step; without them no memory is reused.
        shapes: of each tensor in `sizes`, where there are operators.
        bounded: tensors whose size depends on data, down to nothing; `sizes` has the most.
    """

    steps: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    sizes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    weight_bytes: int
    operators: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bounded: tuple[str, ...] = ()
