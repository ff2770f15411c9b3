"""A day of transitions that were carried out, as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Protocol

from partita.transition.overview import gpu_changes, service_changes
from partita.web.page import figures, page
from partita.web.transition_report import STYLES, change_cards, course_parts, service_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.transition.overview import Timeline
    from partita.transition.transition import Request, Transition


class Act(Protocol):
    """A transition that was carried out: what was asked and predicted, and how it went."""

    @property
    def request(self) -> Request:
        """What was asked."""
        ...

    @property
    def transition(self) -> Transition:
        """What was predicted."""
        ...

    @property
    def course(self) -> Timeline:
        """How it went."""
        ...


def day_report(acts: Mapping[str, Act], counts: Mapping[str, int]) -> str:
    """Return the page.

    Args:
        acts: transitions by name, in their order.
        counts: GPUs that the first plan takes, by way of planning, the plan's own last.
    """
    used = [act.transition.target.used for act in acts.values()]
    title = f"A day on {max(used)} GPUs, a night on {min(used)}"
    names = sorted({name for act in acts.values() for name in act.transition.target.capacity()})
    numbers = {name: n for n, name in enumerate(names, 1)}
    spare = min((each for act in acts.values() for each in _spare(act)), default=0.0)
    kept = "<span class=proven>every floor kept" if spare >= 0 else "<span class=open>a floor broken"
    parts = [
        f"<h1>{title}, {kept}</span></h1>",
        *_summary(acts, spare),
        *_comparison(counts),
        *(text for name, act in acts.items() for text in _act(name, act, numbers)),
        "<footer>Drawn by Partita, from a simulated cluster.</footer>",
    ]
    return page(title, STYLES, parts)


def _spare(act: Act) -> Iterator[float]:
    """Yield how far each service stayed over its floor, as a fraction of it."""
    for name, floor in act.transition.floors.items():
        if floor:
            yield min(point.value for point in act.course.capacity[name]) / floor - 1


def _summary(acts: Mapping[str, Act], spare: float) -> Iterator[str]:
    changes = [change for act in acts.values() for change in service_changes(act.request, act.transition)]
    yield from figures(
        {
            **{f"{name}, in": f"{_seconds(act):.0f} s" for name, act in acts.items()},
            "actions": f"{sum(len(act.transition.actions) for act in acts.values()):,}",
            "replicas stayed": f"{sum(each.stay for each in changes):,}",
            "moved": f"{sum(each.move for each in changes):,}",
            "nearest to a floor": f"{spare:+z.1%}",
        }
    )


def _seconds(act: Act) -> float:
    return max((bar.end for bar in act.course.bars), default=0.0)


def _comparison(counts: Mapping[str, int]) -> Iterator[str]:
    most = max(counts.values(), default=1)
    yield "<h2>GPUs by day, in simpler ways and in this one</h2><div class='card compare'>"
    for name, n in counts.items():
        yield f"<span>{escape(name)}</span><div><b style='width:{n / most:.1%}'>{n}</b></div>"
    yield "</div>"


def _act(name: str, act: Act, numbers: Mapping[str, int]) -> Iterator[str]:
    changes = service_changes(act.request, act.transition)
    before, after = act.request.current.used, act.transition.target.used
    yield f"<h2>{escape(name)}: {before} → {after} GPUs in {_seconds(act):.0f} s</h2>"
    yield f"<p>Predicted were {act.transition.makespan:.0f} s; below is how it went.</p>"
    if before:
        yield from service_table(changes, numbers)
    yield from course_parts(act.course, (before, after), changes, numbers)
    yield f"<details{'' if before else ' open'}><summary>GPUs, before and after</summary>"
    yield from change_cards(gpu_changes(act.request.current, act.transition.target), numbers)
    yield "</details>"
