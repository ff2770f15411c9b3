"""What goes wrong: told once, and never one job's trouble another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from partita.jobs.queue.record import JobRecord


class Faults:
    """Remembers what is wrong at the moment.

    Args:
        tell: told what people should know.

    Attributes:
        told: the newest; empty if all is well.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._wrong: dict[int, str] = {}
        self.told = ""

    @property
    def first(self) -> str | None:
        """What is wrong with the first of the jobs with which something is; None if nothing is."""
        return next(iter(self._wrong.values()), None)

    def tell(self, text: str) -> None:
        """Tell something once, however often it comes in a row."""
        if text != self.told:
            self._tell(text)
        self.told = text

    def each(self, jobs: Iterable[JobRecord], do: Callable[[JobRecord], None]) -> None:
        """Do something with each job, so that what is wrong with one holds up no other.

        Raises:
            StoreError: nothing can be written at all.
        """
        for job in jobs:
            try:
                do(job)
            except StoreError:
                raise
            except PartitaError as error:
                self._wrong[job.number] = str(error)
            else:
                self._wrong.pop(job.number, None)
