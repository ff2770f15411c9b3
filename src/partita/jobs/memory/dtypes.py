"""Bytes of a value, by the names that frameworks have for its type."""

from __future__ import annotations

from partita.errors import InputError, nearest

_BYTES = {
    "float64": 8.0,
    "double": 8.0,
    "float32": 4.0,
    "float": 4.0,
    "fp32": 4.0,
    "float16": 2.0,
    "half": 2.0,
    "fp16": 2.0,
    "bfloat16": 2.0,
    "bf16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    "nvfp4": 0.5,
}


def value_bytes(name: object, where: str) -> float:
    """Return the bytes of a value of this type, as `bfloat16`.

    Raises:
        InputError: it is no type that is known.
    """
    word = str(name).removeprefix("torch.")
    if word not in _BYTES:
        close = nearest(word, list(_BYTES))
        raise InputError(
            f"no dtype {word!r}",
            where=where,
            hint=f"did you mean {close}?" if close else f"one of {', '.join(_BYTES)}",
        )
    return _BYTES[word]
