"""Where measured rates come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

from msgspec import field

from partita.control.demand import Demand
from partita.documents.codec import Amount, Meta, Value
from partita.documents.json_text import parse_json
from partita.files import read_text
from partita.workload import LARGEST_BATCH

if TYPE_CHECKING:
    from pathlib import Path

    from partita.control.demand import Shares

FILE = "rates.json"


class ServiceRate(Value):
    """How a service is asked: items/s, and the weight of each batch size where that is known."""

    rate: Annotated[Amount, Meta(description="Items per second.", examples=[812.5])]
    batches: Annotated[
        dict[Annotated[int, Meta(ge=1, le=LARGEST_BATCH)], Amount],
        Meta(description="Weight of the queries of each batch size.", examples=[{"1": 0.4, "8": 0.6}]),
    ] = field(default_factory=dict)

    @property
    def shares(self) -> Shares:
        """The batches' weights as shares that add up to 1."""
        total = sum(self.batches.values())
        return {size: weight / total for size, weight in sorted(self.batches.items()) if weight > 0}


RatesDocument = dict[str, Amount | ServiceRate]
"""Either form may stand for a service: `{"resnet50": 812.5}`, or what the gateway writes, with batches."""


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
        found = parse_json(read_text(self._path), RatesDocument, str(self._path))
        told = {name: ServiceRate(each) if isinstance(each, float) else each for name, each in found.items()}
        return Demand(
            {name: each.rate for name, each in told.items()},
            {name: each.shares for name, each in told.items() if each.shares},
        )
