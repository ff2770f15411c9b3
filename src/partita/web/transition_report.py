"""The report of a transition: how each service changes, the actions over time, and GPUs before and after.

The report of a day has several transitions that were carried out, as they were predicted and as they went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from partita import __version__
from partita.dash.model import (
    ActionBar,
    CapacityLine,
    TransitionDetail,
    TransitionState,
)
from partita.dash.model import Transition as TransitionSummary
from partita.errors import counted
from partita.transition.overview import gpu_changes, service_changes, timeline
from partita.web.fleet import changed_gpus
from partita.web.report import Bar as ReportBar
from partita.web.report import Column, ColumnKind, Report, Section, Table, TransitionPart, figures_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from partita.transition.overview import Bar, Point, ServiceChange, Timeline
    from partita.transition.transition import Request, Transition

MOST_ACTIONS = 20_000
"""Actions of a report, so that a browser can hold it."""
MOST_LINES = 2_000
"""Services whose capacity is drawn over time."""
_MOST_ROWS = 20_000
_FLOORS = (
    "A service's floor is what was required of it before and is required after, whichever is less. Least is its "
    "worst capacity of every order in which the actions may happen, however long each takes."
)
_TIMELINE = (
    "A lane is an instance. A replica is ready at the right end of its start, and drains while it stops."
)
_GPUS = (
    "Above as it is before, below as it is after. \N{MINUS SIGN} marks what goes, + what comes. GPUs that change "
    "alike are drawn once."
)


def transition_report(request: Request, transition: Transition) -> Report:
    """Return the report of a transition that the checker accepted."""
    changes = service_changes(request, transition)
    before, after = request.current.used, transition.target.used
    extra = max(0, transition.peak_gpus - max(before, after))
    title = (
        f"{before:,} to {after:,} GPUs in {_time(transition.makespan)}"
        if transition.actions
        else "nothing to do"
    )
    figures = {
        "GPUs now": f"{before:,}",
        "GPUs then": f"{after:,}",
        "most meanwhile": f"{transition.peak_gpus:,}" + (f" ({extra:,} extra)" if extra else ""),
        "predicted time": _time(transition.makespan),
        "actions": f"{len(transition.actions):,}",
        "replicas stay": f"{sum(each.stay for each in changes):,}",
        "move": f"{sum(each.move for each in changes):,}",
        "new": f"{sum(each.new for each in changes):,}",
        "end": f"{sum(each.end for each in changes):,}",
    }
    return Report(
        title=f"Transition: {title}",
        headline=title,
        verdict="every floor kept",
        good=True,
        figures=figures_of(figures),
        sections=tuple(_sections(request, transition, changes)),
        footer=f"Ordered by the algorithm {transition.algorithm}. Every order of actions that the transition allows "
        "was checked, not this schedule alone.",
        version=__version__,
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _sections(
    request: Request,
    transition: Transition,
    changes: Sequence[ServiceChange],
    course: Timeline | None = None,
    of: str = "",
) -> Iterator[Section]:
    """Yield the parts about one transition.

    Args:
        request: what was asked.
        transition: what was predicted.
        changes: of each service.
        course: how it went; None where it was not carried out.
        of: name of the transition, for the headings.
    """
    yield Section(title=f"Services{of}", notes=(_FLOORS,), table=_services(changes))
    if transition.actions:
        part = _part(request, transition, changes, course)
        yield Section(title=f"Timeline{of}", notes=(_TIMELINE,), transition=part)
    groups = gpu_changes(request.current, transition.target)
    if groups:
        gpus = changed_gpus(groups, [each.name for each in changes])
        yield Section(title=f"GPUs that change{of}", notes=(_GPUS,), gpus=gpus)


def _services(changes: Sequence[ServiceChange]) -> Table:
    rows = changes[:_MOST_ROWS]
    counts = {what: tuple(each.replicas[what] for each in rows) for what in ("stay", "move", "new", "end")}
    stand_ins = tuple(each.stand_in for each in rows)
    columns = [
        Column("service", ColumnKind.SERVICE, tuple(each.name for each in rows)),
        Column("now/s", ColumnKind.NUMBER, tuple(each.before for each in rows)),
        Column("then/s", ColumnKind.NUMBER, tuple(each.after for each in rows)),
        Column("floor/s", ColumnKind.NUMBER, tuple(each.floor for each in rows)),
        Column("least/s", ColumnKind.NUMBER, tuple(each.least for each in rows)),
        Column(
            "over floor",
            ColumnKind.CHANGE,
            tuple(each.least / each.floor - 1 if each.floor else None for each in rows),
            digits=0,
            none="no floor",
        ),
        *(Column(what, ColumnKind.NUMBER, values) for what, values in counts.items()),
        *((Column("stand in", ColumnKind.NUMBER, stand_ins),) if any(stand_ins) else ()),
    ]
    return Table(tuple(columns), left=len(changes) - len(rows))


def _part(
    request: Request, transition: Transition, changes: Sequence[ServiceChange], course: Timeline | None
) -> TransitionPart:
    predicted = timeline(request, transition)
    ran = {} if course is None else {bar.action.id: bar for bar in course.bars}
    capacity = {} if course is None else course.capacity
    before, after = request.current.used, transition.target.used
    bars = predicted.bars[:MOST_ACTIONS]
    ended = max((bar.end for bar in ran.values()), default=None)
    return TransitionPart(
        detail=TransitionDetail(
            transition=TransitionSummary(
                id="",
                at=0.0,
                command="",
                state=TransitionState.WAITING if course is None else TransitionState.REACHED,
                done=len(ran),
                actions=len(transition.actions),
                seconds=transition.makespan,
                ended=ended,
            ),
            actions=tuple(_bar(bar, ran.get(bar.action.id)) for bar in bars),
            capacity=tuple(
                CapacityLine(
                    service=each.name,
                    floor=each.floor,
                    predicted=_steps(predicted.capacity[each.name]),
                    actual=_steps(capacity.get(each.name, ())),
                    before=each.before,
                )
                for each in changes[:MOST_LINES]
            ),
            notes=(),
        ),
        in_use=CapacityLine(
            service="GPUs in use",
            floor=max(before, after),
            predicted=_steps(predicted.gpus),
            actual=() if course is None else _steps(course.gpus),
            before=before,
        ),
        left=len(predicted.bars) - len(bars),
    )


def _bar(bar: Bar, ran: Bar | None) -> ActionBar:
    action = bar.action
    return ActionBar(
        id=action.id,
        kind=action.kind.value,
        gpu=action.gpu,
        placement=str(action.placement),
        service=action.replica.service if action.replica else None,
        begin=bar.begin,
        end=bar.end,
        began=None if ran is None else ran.begin,
        ended=None if ran is None else ran.end,
    )


def _steps(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    return tuple((point.second, point.value) for point in points)


class ExecutedTransition(Protocol):
    """An executed transition: its request, its prediction, and its course."""

    @property
    def request(self) -> Request:
        """The request."""
        ...

    @property
    def transition(self) -> Transition:
        """The prediction."""
        ...

    @property
    def course(self) -> Timeline:
        """The course."""
        ...


def day_report(acts: Mapping[str, ExecutedTransition], counts: Mapping[str, int]) -> Report:
    """Return the report of a day.

    Args:
        acts: transitions by name, in order.
        counts: GPUs of the first plan, by kind of planning; Partita's last.
    """
    used = [act.transition.target.used for act in acts.values()]
    title = f"A day on {counted(max(used), 'GPU')}, a night on {min(used)}"
    spare = min((each for act in acts.values() for each in _spare(act)), default=0.0)
    changes = {name: service_changes(act.request, act.transition) for name, act in acts.items()}
    every = [each for found in changes.values() for each in found]
    figures = {
        **{f"{name}, in": _time(_seconds(act)) for name, act in acts.items()},
        "actions": f"{sum(len(act.transition.actions) for act in acts.values()):,}",
        "replicas stayed": f"{sum(each.stay for each in every):,}",
        "moved": f"{sum(each.move for each in every):,}",
        "nearest to a floor": f"{spare:+z.1%}",
    }
    return Report(
        title=title,
        headline=title,
        verdict="every floor kept" if spare >= 0 else "a floor broken",
        good=spare >= 0,
        figures=figures_of(figures),
        sections=(
            Section(
                title="GPUs by day, in simpler ways and in this one",
                bars=tuple(ReportBar(name, n) for name, n in counts.items()),
            ),
            *(each for name, act in acts.items() for each in _executed(name, act, changes[name])),
        ),
        footer="From a simulated cluster.",
        version=__version__,
    )


def _spare(act: ExecutedTransition) -> Iterator[float]:
    """Yield how far each service stayed above its floor, as a fraction of the floor."""
    for name, floor in act.transition.floors.items():
        if floor:
            yield min(point.value for point in act.course.capacity[name]) / floor - 1


def _seconds(act: ExecutedTransition) -> float:
    return max((bar.end for bar in act.course.bars), default=0.0)


def _executed(name: str, act: ExecutedTransition, changes: Sequence[ServiceChange]) -> Iterator[Section]:
    before, after = act.request.current.used, act.transition.target.used
    yield Section(
        title=f"{name}: {before} \N{RIGHTWARDS ARROW} {after} GPUs in {_time(_seconds(act))}",
        notes=(f"Predicted were {_time(act.transition.makespan)}.",),
    )
    yield from _sections(act.request, act.transition, changes, act.course, f", {name.lower()}")
