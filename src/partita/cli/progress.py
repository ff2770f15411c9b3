"""Progress of a search on a terminal: best, bound, gap and time left, on stderr."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.cli.options import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.deadline import SearchProgress


@contextmanager
def search_progress(what: str, time_limit: float) -> Iterator[Callable[[SearchProgress], None]]:
    """Yield a function to be told progress, and show a line of it on a terminal meanwhile."""
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
            status.update(
                f"{what}: {_figures(best, bound)}, {max(0.0, time_limit - progress.seconds):.0f} s left"
            )

        yield show


def _figures(best: float | None, bound: float | None) -> str:
    if best is None:
        return "no plan yet" if bound is None else f"at least {bound:.6g}"
    if bound is None:
        return f"best {best:.6g}"
    return f"best {best:.6g}, at least {bound:.6g}, gap {max(0.0, best - bound) / best:.2%}"
