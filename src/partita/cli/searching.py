"""A search at the command line: its progress on stderr, and Ctrl-C, which ends it with what it has found."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.cli.output import stderr
from partita.deadline import Deadline
from partita.errors import InfeasibleError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from partita.deadline import SearchProgress
    from partita.planner import PlanResult, PreparedWorkload
    from partita.transition.deployment import Deployment


def planned(
    asked: PreparedWorkload,
    planner: str = "exact",
    *,
    time_limit: float = 30.0,
    seed: int = 0,
    best_effort: bool = False,
    current: Deployment | None = None,
    most_moves: int | None = None,
    trade: bool = False,
    keep: bool = False,
) -> PlanResult:
    """Plan with progress on stderr; arguments as for `planner.plan`.

    With `keep`, Ctrl-C returns the best plan so far: for commands that do nothing but show it.

    Raises:
        InfeasibleError: the GPUs do not suffice; says which services are left out then.
        KeyboardInterrupt: Ctrl-C was pressed, and there was no plan yet, or it is not to be kept.
    """
    from partita import planner as planning  # noqa: PLC0415 -- as above

    with stoppable() as stop, search_progress("planning", time_limit) as report:
        deadline = asked.searching(Deadline(time_limit, stop, report))
        found = planning.plan(
            asked,
            planner=planner,
            deadline=deadline,
            seed=seed,
            best_effort=best_effort,
            current=current,
            most_moves=most_moves,
            trade=trade,
        )
        if stop() and not keep:
            raise KeyboardInterrupt
        return found


def read_to_plan(path: Path, time_limit: float = 30.0, *, to_plan: bool = True) -> PreparedWorkload:
    """Read and prepare a workload with progress on stderr; arguments and errors as for `planner.read_prepared`."""
    from partita.planner import read_prepared  # noqa: PLC0415 -- as above

    with search_progress("planning", time_limit) as report:
        return read_prepared(path, to_plan=to_plan, deadline=Deadline(time_limit, report=report))


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the user has pressed Ctrl-C since the block began.

    Raises:
        KeyboardInterrupt: it was pressed twice, or the block had nothing yet that it could return.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    except InfeasibleError:
        raise
    except PartitaError:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def search_progress(what: str, time_limit: float | None) -> Iterator[Callable[[SearchProgress], None]]:
    """Yield a function to be told progress, and show a line of it on a terminal meanwhile.

    Args:
        what: is done, in words.
        time_limit: its seconds; None where it has no limit, so that the seconds gone by are shown.
    """
    console = stderr()
    if not console.is_terminal:
        yield lambda _: None
        return
    best: float | None = None
    bound: float | None = None
    with console.status(f"{what} ...") as status:

        def show(progress: SearchProgress) -> None:
            nonlocal best, bound
            best = progress.best if progress.best is not None else best
            bound = progress.bound if progress.bound is not None else bound
            left = None if time_limit is None else max(0.0, time_limit - progress.seconds)
            time = f"{progress.seconds:.0f} s" if left is None else f"{left:.0f} s left"
            status.update(f"{what}: {progress.doing or _progress_figures(best, bound)}, {time}")

        yield show


def _progress_figures(best: float | None, bound: float | None) -> str:
    if best is None:
        return "no plan yet" if bound is None else f"at least {bound:.6g}"
    if bound is None:
        return f"best {best:.6g}"
    return f"best {best:.6g}, at least {bound:.6g}, gap {max(0.0, best - bound) / best:.2%}"
