"""A query of the model `mixed` with any of tritonclient's four modules, which are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

DATATYPES = {"TEXT": "BYTES", "HALF": "FP16", "WHOLE": "INT64"}


def inputs(triton: ModuleType, arrays: Mapping[str, np.ndarray], **how: bool) -> list[Any]:
    """Return the inputs; `how` is `binary_data` over HTTP."""
    found = []
    for name, array in arrays.items():
        one = triton.InferInput(name, list(array.shape), DATATYPES[name])
        one.set_data_from_numpy(array, **how)
        found.append(one)
    return found


def outputs(triton: ModuleType, names: Sequence[str] = tuple(DATATYPES), **how: bool) -> list[Any]:
    return [triton.InferRequestedOutput(f"{name}_OUT", **how) for name in names]


def assert_same(result: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """What came back is what was sent."""
    for name, array in arrays.items():
        got = result.as_numpy(f"{name}_OUT")
        if got.dtype == object:
            got = np.array([each.encode() if isinstance(each, str) else each for each in got.flat], object)
            assert list(got) == list(array.flat)
        else:
            assert got.dtype == array.dtype
            assert got.tobytes() == array.tobytes()
