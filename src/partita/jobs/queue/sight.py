"""The GPUs as the queue last saw them, and those that it leaves alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.drive.driver import Observation
from partita.jobs.queue.hosts import hosts
from partita.jobs.queue.resting import Resting

if TYPE_CHECKING:
    from partita.drive.driver import Driver
    from partita.jobs.queue.book import Book
    from partita.jobs.queue.hosts import Host


class Sight:
    """Looks at the cluster.

    Args:
        driver: the cluster's.
        book: knows what the queue's own jobs hold.

    Attributes:
        seen: the cluster as it was last seen.
        resting: GPUs on which something could not be made.
        due: when to look again.
    """

    def __init__(self, driver: Driver, book: Book) -> None:
        self._driver, self._book = driver, book
        self.seen = Observation(())
        self._hosts: tuple[Host, ...] = ()
        self._of: tuple[Observation, int] | None = None
        self.resting = Resting()
        self.due = float("-inf")

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self._driver.clock.now()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The GPUs that jobs may use, as they were last seen, with what the queue's own jobs hold now."""
        # Jobs start and end between two looks: what runs must be in use wherever it is looked at.
        now = (self.seen, self._book.version)
        if self._of is None or self._of[0] is not now[0] or self._of[1] != now[1]:
            self._hosts, self._of = hosts(self.seen, self._book.holding), now
        return self._hosts

    def look(self, due: float) -> Observation:
        """Look at the cluster, and again when it is `due`.

        Raises:
            DriveError: it cannot be reached.
        """
        self.seen = self._driver.observe()
        self.due = due
        return self.seen

    def usable(self, now: float) -> list[Host]:
        """Return the GPUs that jobs may use, apart from those that rest."""
        resting = self.resting.gpus(now)
        return [host for host in self.hosts if host.id not in resting]
