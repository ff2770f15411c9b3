"""Where measured rates come from."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Protocol

from partita.errors import InputError
from partita.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "rates.json"


class Rates(Protocol):
    """Tells the rate at which each service is asked now."""

    def measured(self) -> Mapping[str, float]:
        """Return items/s by service; services that nobody measures are left out.

        Raises:
            InputError: there is something, and it cannot be read.
        """
        ...


class RatesFile:
    """Rates that someone writes to a JSON file, such as `{"resnet50": 812.5}`.

    Args:
        path: the file; while it is not there, nothing is measured.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def measured(self) -> Mapping[str, float]:
        """Return what the file says.

        Raises:
            InputError: it is no object of numbers that are not negative.
        """
        if not self._path.exists():
            return {}
        where = str(self._path)
        try:
            data = json.loads(read_text(self._path))
        except json.JSONDecodeError as error:
            raise InputError(f"no JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
        if not isinstance(data, dict):
            raise InputError("no object", where=where, hint='write {"resnet50": 812.5}')
        for name, rate in data.items():
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not (0 <= rate < math.inf):
                raise InputError(
                    f"{rate!r} is no rate", where=f"{where}: {name}", hint="write items/s, 0 or more"
                )
        return {name: float(rate) for name, rate in data.items()}
