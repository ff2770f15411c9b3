"""The GPUs as the queue last saw them, and those that it leaves alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.drive.port import Observation
from partita.jobs.queue.hosts import hosts
from partita.jobs.queue.resting import Resting

if TYPE_CHECKING:
    from partita.drive.port import Driver
    from partita.jobs.queue.book import Book
    from partita.jobs.queue.hosts import Host


class Sight:
    """Looks at the cluster.

    Args:
        driver: the cluster's.
        book: knows what the queue's own jobs hold.

    Attributes:
        seen: the cluster as it was last seen.
        hosts: the GPUs that jobs may use, as they were then.
        resting: GPUs on which something could not be made.
        due: when to look again.
    """

    def __init__(self, driver: Driver, book: Book) -> None:
        self._driver, self._book = driver, book
        self.seen = Observation(())
        self.hosts: tuple[Host, ...] = ()
        self.resting = Resting()
        self.due = float("-inf")

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self._driver.clock.now()

    def look(self, due: float) -> Observation:
        """Look at the cluster, and again when it is `due`.

        Raises:
            DriveError: it cannot be reached.
        """
        self.seen = self._driver.observe()
        self.hosts = hosts(self.seen, self._book.holding)
        self.due = due
        return self.seen

    def usable(self, now: float) -> list[Host]:
        """Return the GPUs that jobs may use, apart from those that rest."""
        resting = self.resting.gpus(now)
        return [host for host in self.hosts if host.id not in resting]
