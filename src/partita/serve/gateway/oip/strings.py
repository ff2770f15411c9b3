"""Elements of type BYTES: each follows its length in four bytes, little-endian."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from partita.serve.gateway.oip.faults import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.tensors import Buffer

_LENGTH = Struct("<I")


def check_strings(name: str, data: Buffer, count: int) -> None:
    """Check that the data are so many elements.

    Raises:
        RequestError: they are not.
    """
    at, end = 0, len(data)
    for _ in range(count):
        if at + 4 > end:
            break
        at += 4 + _LENGTH.unpack_from(data, at)[0]
    else:
        if at == end:
            return
    raise RequestError(
        f"input {name}: its data are not {count} elements of BYTES, each after its length in 4 bytes",
        reason="data",
    )


def pack_strings(elements: Sequence[bytes]) -> bytes:
    """Return the elements as a tensor's data."""
    return b"".join([part for each in elements for part in (_LENGTH.pack(len(each)), each)])


def unpack_strings(data: Buffer) -> list[bytes]:
    """Return the elements of a tensor's data.

    Raises:
        ValueError: they are cut short.
    """
    view, at, found = memoryview(data), 0, []
    while at < len(view):
        if at + 4 > len(view):
            raise ValueError("data of BYTES are cut short")
        start = at + 4
        at = start + _LENGTH.unpack_from(view, at)[0]
        if at > len(view):
            raise ValueError("data of BYTES are cut short")
        found.append(bytes(view[start:at]))
    return found
