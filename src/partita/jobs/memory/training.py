"""Bytes that training keeps for each parameter."""

from __future__ import annotations

from typing import Literal

from partita.errors import InputError

Optimiser = Literal["none", "sgd", "momentum", "adam"]

_STATES = {"sgd": 0, "momentum": 1, "adam": 2}


def training_bytes(parameters: int, weight_bytes: int, optimiser: Optimiser) -> int:
    """Return the bytes of weights, gradients and optimiser state.

    The optimiser keeps its states in 4 bytes each, and a copy of the weights in 4 bytes if they have fewer (mixed
    precision; ZeRO, arXiv 1910.02054, section 3.1). `none` is inference: the weights alone.

    Raises:
        InputError: an optimiser that is not known.
    """
    if optimiser == "none":
        return weight_bytes
    if optimiser not in _STATES:
        known = ", ".join(("none", *_STATES))
        raise InputError(f"no optimiser {optimiser!r}", hint=f"one of {known}")
    copy = 4 * parameters if weight_bytes < 4 * parameters else 0
    return 2 * weight_bytes + copy + 4 * parameters * _STATES[optimiser]
