"""The performance table: measurements of models on slices, as an immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.errors import counted
from partita.frames import frame_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a model on one instance of a profile, with a batch size and a number of processes.

    Attributes:
        throughput: items/s of the whole instance, all its processes together.
        latency_ms: latency of one batch in milliseconds, at `quantile`.
        quantile: `0.9`, `0.99`, ... or `mean`, as text.
        memory_mb: memory used, in MB; None where not measured.
        utilization: share of the slice's compute in use, 0 to 1; None where not measured.
        power_w: power drawn by the instance in watts; None where not measured.
        source: where the row is from, in the user's words.
        estimated: made by a formula, not measured.
    """

    model: str
    gpu: str
    profile: str
    batch: int
    processes: int
    throughput: float
    latency_ms: float
    quantile: str
    memory_mb: float | None = None
    utilization: float | None = None
    power_w: float | None = None
    source: str = ""
    estimated: bool = False


class PerfTable:
    """Measurements, found by model and GPU. Immutable; tables are joined by making a new one.

    Attributes:
        notes: remarks of reading them, for the user.
    """

    def __init__(self, rows: Iterable[Measurement], notes: Iterable[str] = ()) -> None:
        self._rows = tuple(rows)
        self.notes = tuple(notes)
        index: dict[tuple[str, str], list[Measurement]] = {}
        for row in self._rows:
            index.setdefault((row.model, row.gpu), []).append(row)
        self._index = {key: tuple(found) for key, found in index.items()}
        self._gpus: dict[str, list[str]] = {}
        for model, gpu in sorted(self._index):
            self._gpus.setdefault(model, []).append(gpu)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        gpus = len({gpu for _, gpu in self._index})
        models = counted(len(self._gpus), "model")
        return f"<{counted(len(self), 'measurement')}: {models} on {counted(gpus, 'GPU')}>"

    @classmethod
    def from_frame(cls, frame: object) -> PerfTable:
        """Return the table that a frame of pandas, polars or Arrow holds; its columns are those of the files.

        Raises:
            InputError: columns are missing, or rows cannot be used; all are counted, and each kind is described.
        """
        from partita.perf.reading import read_tables  # noqa: PLC0415 -- it imports this module

        return read_tables([frame])

    def to_frame(self, backend: str | None = None) -> Any:  # noqa: ANN401 -- of the library that is there
        """Return the rows as a frame; optional columns that no row fills are left out.

        Args:
            backend: `pandas`, `polars` or `pyarrow`; None for the one that is imported already, or else installed.
        """
        from partita.perf.reading import columns_filled  # noqa: PLC0415 -- as above

        names = columns_filled(self)
        return frame_of({name: [getattr(row, name) for row in self._rows] for name in names}, backend)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as an Arrow stream: `polars.DataFrame(table)` and `pyarrow.table(table)` read it."""
        return self.to_frame("pyarrow").__arrow_c_stream__(requested_schema)

    def of(self, model: str, gpu: str) -> tuple[Measurement, ...]:
        """Return the rows of a model on a GPU, none if nobody measured it."""
        return self._index.get((model, gpu), ())

    @property
    def models(self) -> tuple[str, ...]:
        """The models there are rows of, in alphabetical order."""
        return tuple(self._gpus)

    def gpus(self, model: str) -> tuple[str, ...]:
        """Return the GPUs that a model was measured on, in alphabetical order."""
        return tuple(self._gpus.get(model, ()))
