"""How large a request may be."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What no request may exceed; each is refused before it takes memory or time.

    Attributes:
        body: bytes of a body, unpacked where it came compressed.
        header: bytes of its JSON: parsing holds the event loop up, some milliseconds for each MiB.
        tensors: inputs, and outputs asked for, where the model itself does not have more.
        name: characters of a name or an id.
        strings: elements of a tensor of type BYTES, which are looked at one by one.
        deadline_s: seconds.
    """

    body: int = 64 * MIB
    header: int = 8 * MIB
    tensors: int = 64
    name: int = 256
    strings: int = 100_000
    deadline_s: float = 86_400.0
