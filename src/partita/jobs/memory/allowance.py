"""What a framework takes beside the tensors that it was asked for."""

from __future__ import annotations

from partita.jobs.memory.bounds import Bounds

GIB = 2**30

CONTEXT = 0.3 * GIB
"""The least that a CUDA context takes."""

WORKSPACES = 3.0 * GIB
"""The most by which estimates from tensors alone were seen to fall short: context, workspaces, fragments."""


def with_allowance(lower: float, upper: float) -> Bounds:
    """Return the bounds of the device memory from those of the tensors, in bytes."""
    return Bounds(lower + CONTEXT, upper + WORKSPACES)
