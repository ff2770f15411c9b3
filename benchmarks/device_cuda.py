# ruff: noqa: ANN401 -- ctypes
"""The child of `benchmarks.device`: a CUDA context on one GPU, and an allocation that cannot be met.

`python -m benchmarks.device_cuda GPU-UUID` prints one line of JSON, keeps its context until stdin ends, and goes. It
speaks to `libcuda.so.1` alone, so that no framework is needed.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

SMALL = 16 * 2**20


class CudaError(Exception):
    """A call did not succeed; says what CUDA calls it."""


class Cuda:
    """The few calls that are needed of CUDA's driver."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call an entry point.

        Raises:
            CudaError: it does not succeed.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self.text("cuGetErrorString", code)
            raise CudaError(f"{name}: {code} {self.text('cuGetErrorName', code)}: {said}")

    def text(self, name: str, code: int) -> str:
        """Return what an entry point says of a code."""
        found = ctypes.c_char_p()
        getattr(self._library, name)(code, ctypes.byref(found))
        return (found.value or b"?").decode(errors="replace")


def look(cuda: Cuda) -> dict[str, Any]:
    """Return what the driver says of a GPU's memory, and of asking for twice as much."""
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.call("cuInit", 0)
    cuda.call("cuDeviceGet", ctypes.byref(device), 0)
    cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    cuda.call("cuCtxSetCurrent", context)
    cuda.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    cuda.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(SMALL))
    cuda.call("cuMemFree_v2", address)
    try:
        cuda.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(2 * total.value))
    except CudaError as error:
        said = str(error)
    else:
        said = "met, though it is twice what there is"
        cuda.call("cuMemFree_v2", address)
    return {"total_mib": total.value // 2**20, "free_mib": free.value // 2**20, "too_much": said}


def main(uuid: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    try:
        found = look(Cuda(ctypes.CDLL("libcuda.so.1")))
    except (OSError, CudaError) as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
