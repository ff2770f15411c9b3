"""Where measured rates come from."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Protocol

from partita.control.demand import Demand
from partita.errors import InputError
from partita.files import json_value, read_text

if TYPE_CHECKING:
    from pathlib import Path

    from partita.control.demand import Shares

FILE = "rates.json"
_EXAMPLE = 'write {"resnet50": 812.5} or {"resnet50": {"rate": 812.5, "batches": {"1": 0.4, "8": 0.6}}}'
_LARGEST = 1_024


class Rates(Protocol):
    """Tells how each service is asked now."""

    def measured(self) -> Demand:
        """Return what is measured; services that nobody measures are left out.

        Raises:
            InputError: there is something, and it cannot be read.
        """
        ...


class RatesFile:
    """Rates that someone writes to a JSON file: items/s, and shares of batch sizes where they are known.

    Either form may stand for a service: `{"resnet50": 812.5}`, or what the gateway writes,
    `{"resnet50": {"rate": 812.5, "batches": {"1": 0.4, "8": 0.6}}}`.

    Args:
        path: the file; while it is not there, nothing is measured.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def measured(self) -> Demand:
        """Return what the file says.

        Raises:
            InputError: it is no object of rates that are not negative, or a batch size or its share is none.
        """
        if not self._path.exists():
            return Demand({})
        where = str(self._path)
        try:
            data = json_value(read_text(self._path))
        except json.JSONDecodeError as error:
            raise InputError(f"no JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
        if not isinstance(data, dict):
            raise InputError("no object", where=where, hint=_EXAMPLE)
        read = {name: _service(each, f"{where}: {name}") for name, each in data.items()}
        return Demand(
            {name: rate for name, (rate, _) in read.items()},
            {name: shares for name, (_, shares) in read.items() if shares},
        )


def _service(found: object, where: str) -> tuple[float, Shares]:
    if not isinstance(found, dict):
        return _number(found, where, "rate"), {}
    if "rate" not in found or found.keys() - {"rate", "batches"}:
        raise InputError("a service has a rate, and may have batches", where=where, hint=_EXAMPLE)
    batches = found.get("batches", {})
    if not isinstance(batches, dict):
        raise InputError("batches are no object", where=where, hint=_EXAMPLE)
    weights = {_size(key, where): _number(weight, where, "share") for key, weight in batches.items()}
    total = sum(weights.values())
    return _number(found["rate"], where, "rate"), {
        size: weight / total for size, weight in sorted(weights.items()) if weight > 0
    }


def _number(found: object, where: str, what: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not (0 <= found < math.inf):
        hint = "write items/s, 0 or more" if what == "rate" else "write a number, 0 or more"
        raise InputError(f"{found!r} is no {what}", where=where, hint=hint)
    return float(found)


def _size(key: str, where: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= 9 and 1 <= int(key) <= _LARGEST):
        raise InputError(f"{key!r} is no batch size from 1 to {_LARGEST}", where=where, hint=_EXAMPLE)
    return int(key)
