"""A simulated cluster for the length of a story: nothing of it is left behind."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.cli.acting import make_controller
from partita.cli.options import stderr, stdout
from partita.cli.transitioners import AlgorithmName, make_transitioner
from partita.cli.workplace import Workplace
from partita.control.controller import request, standing_rates
from partita.control.goal import goal_for
from partita.control.journal import FILE, Journal
from partita.control.observed import deployed
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.sim.clock import SimulatedClock
from partita.transition.overview import Bar, timeline
from partita.transition.transition import MEASURED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from partita.control.cluster_view import ClusterView
    from partita.drive.driver import ActionResult, Observation
    from partita.planning.plan import Plan
    from partita.sim.clock import Clock
    from partita.transition.overview import Timeline
    from partita.transition.transition import Action, Request, Transition

_TIMES_FASTER = 40.0


@dataclass(frozen=True, slots=True)
class Act:
    """A transition that was carried out: what was asked and predicted, and how it went."""

    plan: Plan
    request: Request
    transition: Transition
    course: Timeline

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max((bar.end for bar in self.course.bars), default=0.0)

    def least(self, service: str) -> float:
        """Return the least capacity that a service had, in items/s."""
        return min((point.value for point in self.course.capacity.get(service, ())), default=0.0)


class Stage:
    """The cluster, with one thing after the other done on it.

    Args:
        place: its driver and journal.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def observe(self) -> Observation:
        """Return the cluster as it is."""
        return self._place.driver.observe()

    def play(self, plan: Plan, show: Callable[[Request, Transition], Callable[[Observation], None]]) -> Act:
        """Bring the cluster to a plan.

        Args:
            plan: what is wanted.
            show: is told the way before it is gone, and returns what is to see the cluster on that way.
        """
        driver, journal = self._place.driver, self._place.journal
        now = deployed(driver.observe())
        rates = standing_rates(journal.promised(), now)
        goal = goal_for(plan, rates, None, algorithm=AlgorithmName.SHORTEST.value, extra_gpus=None)
        record = _Record(driver.clock)
        controller = make_controller(
            self._place, make_transitioner(AlgorithmName.SHORTEST), record, lambda: False
        )
        asked = request(goal, now, MEASURED)
        found = controller.preview(goal, driver.observe())
        record.see = show(asked, found)
        controller.reach(goal)
        return Act(plan, asked, found, timeline(asked, found, record.bars))


class _Record:
    """Writes down when actions ran (control's `Reporter`)."""

    def __init__(self, clock: Clock) -> None:
        self.bars: dict[str, Bar] = {}
        self.see: Callable[[Observation], None] = lambda _: None
        self._clock = clock
        self._zero = clock.now()
        self._begun: dict[str, float] = {}

    def began(self, action: Action) -> None:
        """Note when."""
        self._begun[action.id] = self._clock.now() - self._zero

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Note when."""
        del done, total
        name = ended.action.id
        self.bars[name] = Bar(ended.action, self._begun[name], self._clock.now() - self._zero)

    def note(self, text: str) -> None:
        """Tell it."""
        stderr().print(f"note: {text}", markup=False)

    def observed(self, view: ClusterView) -> None:
        """Show it."""
        self.see(view.observation)


class _FastClock(SimulatedClock):
    """A simulated clock that lets one watch."""

    def sleep_until(self, moment: float) -> None:
        """Wait a fraction of the time, and make it `moment`."""
        time.sleep(max(0.0, moment - self.now()) / _TIMES_FASTER)
        super().sleep_until(moment)


@contextmanager
def stage(gpus: Sequence[tuple[str, str]], seed: int) -> Iterator[Stage]:
    """Make a cluster for the block: on a terminal slow enough to watch, else as fast as it goes.

    Args:
        gpus: pairs of id and model.
        seed: of durations.
    """
    with tempfile.TemporaryDirectory(prefix="partita-demo-") as folder:
        path = Path(folder) / "cluster.sqlite3"
        SimulatedCluster.create(path, gpus, seed=seed).close()
        clock = _FastClock() if stdout().is_terminal else SimulatedClock()
        driver, journal = SimulatedDriver(path, clock), Journal(Path(folder) / FILE)
        try:
            yield Stage(Workplace(driver, journal))
        finally:
            journal.close()
            driver.close()
