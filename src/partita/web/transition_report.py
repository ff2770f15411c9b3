"""Transitions as self-contained HTML pages: one planned transition, and a day of executed ones."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, Protocol

from partita.transition.overview import gpu_changes, service_changes, timeline
from partita.transition.transition import ActionKind
from partita.web.page import (
    GpuCard,
    InstanceBox,
    Level,
    Scale,
    axis,
    figure,
    figures,
    gpu_cards,
    key,
    left_out,
    page,
    service_class,
    service_table,
    steps,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from partita.transition.deployment import DeployedInstance, Replica
    from partita.transition.overview import Bar, GpuGroupChange, Point, ServiceChange, Timeline
    from partita.transition.transition import Request, Transition


_STYLES = ("report.css", "transition.css")
_MOST_TENANTS = 20
_MOST_SERVICES = 200
_MOST_GROUPS = 250
_COLUMNS = ("now/s", "then/s", "floor/s", "least/s", "over floor", "replicas")
MOST_GPUS = 256
_SIGNS = {
    ActionKind.CREATE_INSTANCE: "+",
    ActionKind.DESTROY_INSTANCE: "\N{MULTIPLICATION SIGN}",
    ActionKind.START_REPLICA: "\N{BLACK RIGHT-POINTING TRIANGLE}",
    ActionKind.STOP_REPLICA: "\N{BLACK SQUARE}",
}
_LEGEND = (
    "<p class=legend><span class='bar start'>▶ 1 service</span> a replica starts, ready at its right end "
    "<span class='bar stop'>■ 1 service</span> a replica drains and stops "
    "<span class='bar create'>+</span> an instance is created "
    "<span class='bar destroy'>&times;</span> an instance is destroyed. "
    "A lane is an instance; numbers and hatches are those of the services.</p>"
)


def transition_report(request: Request, transition: Transition, *, embedded: bool = False) -> str:
    """Return the page of a transition that the checker accepted; `embedded` makes it a part of another page."""
    changes = service_changes(request, transition)
    numbers = {each.name: n for n, each in enumerate(changes, 1)}
    times = timeline(request, transition)
    parts = [
        *_head(request, transition, changes),
        "<h2>Services</h2>",
        *_service_table(changes, numbers),
        "<h2>Timeline</h2>",
        *_timeline_parts(times, (request.current.used, transition.target.used), changes, numbers),
        "<h2>GPUs that change</h2>",
        *_change_cards(gpu_changes(request.current, transition.target), numbers),
        _footer(transition),
    ]
    return page(f"Transition: {_title(request, transition)}", _STYLES, parts, embedded=embedded)


def _footer(transition: Transition) -> str:
    return (
        f"<footer>Ordered by the algorithm {escape(transition.algorithm)}, drawn by Partita. Every order of actions "
        "that the transition allows was checked, not this schedule alone.</footer>"
    )


def _title(request: Request, transition: Transition) -> str:
    if not transition.actions:
        return "nothing to do"
    return f"{request.current.used:,} to {transition.target.used:,} GPUs in {_time(transition.makespan)}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _head(request: Request, transition: Transition, changes: Sequence[ServiceChange]) -> Iterator[str]:
    yield f"<h1>{_title(request, transition)}, <span class=proven>every floor kept</span></h1>"
    before, after = request.current.used, transition.target.used
    extra = max(0, transition.peak_gpus - max(before, after))
    yield from figures(
        {
            "GPUs now": f"{before:,}",
            "GPUs then": f"{after:,}",
            "most meanwhile": f"{transition.peak_gpus:,}"
            + (f" <small>{extra} extra</small>" if extra else ""),
            "predicted time": _time(transition.makespan),
            "actions": f"{len(transition.actions):,}",
            "replicas stay": f"{sum(each.stay for each in changes):,}",
            "move": f"{sum(each.move for each in changes):,}",
            "new": f"{sum(each.new for each in changes):,}",
            "end": f"{sum(each.end for each in changes):,}",
        }
    )


def _service_table(changes: Sequence[ServiceChange], numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield a table of how the transition changes each service."""
    yield (
        "<p>A service's floor is what was required of it before and is required after, whichever is less. "
        "<i>Least</i> is its worst capacity of every order in which the actions may happen, however long each takes."
        "</p>"
    )
    rows = [(numbers[each.name], each.name, _cells(each)) for each in changes[:_MOST_SERVICES]]
    yield from service_table(_COLUMNS, rows, len(changes) - _MOST_SERVICES)


def _cells(each: ServiceChange) -> Sequence[str]:
    return (
        f"{each.before:,.6g}",
        f"{each.after:,.6g}",
        f"{each.floor:,.6g}",
        f"{each.least:,.6g}",
        f"{(each.least / each.floor - 1) * 100:+z.0f} %" if each.floor else "no floor",
        ", ".join(f"{n:,} {what}" for what, n in each.replicas.items() if n) or "none",
    )


def _timeline_parts(
    times: Timeline, used: tuple[int, int], changes: Sequence[ServiceChange], numbers: Mapping[str, int]
) -> Iterator[str]:
    """Yield the actions, the GPUs in use and each service's capacity over time.

    Args:
        times: the timeline.
        used: GPUs in use before and after.
        changes: change of each service.
        numbers: number of each service.
    """
    seconds = max((bar.end for bar in times.bars), default=0.0)
    if not seconds:
        yield "<p>Nothing happens.</p>"
        return
    yield _LEGEND
    yield from _gantt(times.bars, Scale(0.0, seconds), numbers)
    yield "<div class=charts>"
    scale = Scale.with_lead(seconds)
    yield from _gpus_card(times.gpus, used, scale)
    for each in changes[:_MOST_SERVICES]:
        yield from _capacity_card(each, times.capacity[each.name], scale, numbers[each.name])
    yield "</div>"


def _gpus_card(points: Sequence[Point], used: tuple[int, int], scale: Scale) -> Iterator[str]:
    most = max(point.value for point in points)
    yield f"<section class=card><h3>GPUs in use <span>{used[0]} → {used[1]}, most {most:g}</span></h3>"
    yield from steps(used[0], points, scale, Level(max(used), f"{max(used)} without extra"), "plain")
    yield axis(scale) + "</section>"


def _capacity_card(
    change: ServiceChange, points: Sequence[Point], scale: Scale, number: int
) -> Iterator[str]:
    least = figure(min(change.before, *(point.value for point in points)))
    yield (
        f"<section class=card><h3>{key(number, change.name)} "
        f"<span>{figure(change.before)} → {figure(change.after)}/s, least {least}</span></h3>"
    )
    line = Level(change.floor, f"floor {figure(change.floor)}") if change.floor else None
    yield from steps(change.before, points, scale, line, service_class(number))
    yield axis(scale) + "</section>"


def _change_cards(groups: Sequence[GpuGroupChange], numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield each group of GPUs that change alike, drawn before and after."""
    yield "<p>Above as it is now, below as it will be. \N{MINUS SIGN} marks what goes, + what comes.</p>"
    yield from gpu_cards(
        GpuCard(
            group.model,
            group.model,
            group.ids,
            (
                _boxes(group.before, group.after, "goes", numbers),
                _boxes(group.after, group.before, "comes", numbers),
            ),
        )
        for group in groups[:_MOST_GROUPS]
    )
    left = groups[_MOST_GROUPS:]
    yield from left_out(sum(len(group.ids) for group in left), "GPUs change and are not drawn")


def _boxes(
    instances: Iterable[DeployedInstance],
    others: Collection[DeployedInstance],
    kind: str,
    numbers: Mapping[str, int],
) -> Iterator[InstanceBox]:
    for each in instances:
        kept = "stays" if each in others else kind
        replica = each.replica
        if replica is None:
            title = "someone else's" if each.fixed else "idle"
            yield InstanceBox(each.placement, 0, title, f"{each.placement}: {title}", kind=kept)
            continue
        hint = f"{replica.service} ({replica.model}) on {each.placement}: batch {replica.batch}, "
        hint += f"{replica.throughput:,.6g}/s, {replica.latency_ms:,.6g} ms"
        note = f"{replica.throughput:,.4g}/s"
        if replica.tenants:
            named = ", ".join(name for name, _ in replica.serves[:_MOST_TENANTS])
            hint = f"{replica.service} share {each.placement}: {named}"
            note = f"{sum(given for _, given in replica.serves):,.4g}/s shared"
        yield InstanceBox(each.placement, _number(replica, numbers), replica.service, hint, note, kept)


def _number(replica: Replica, numbers: Mapping[str, int]) -> int:
    """Return the number of a replica's service, or of the first of those that share its instance."""
    return numbers[replica.serves[0][0]]


def _gantt(bars: Sequence[Bar], scale: Scale, numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield a row for each GPU that changes, in order of its first action.

    Args:
        bars: actions with their times.
        scale: the time range.
        numbers: number of each service.
    """
    per_gpu: dict[str, list[Bar]] = defaultdict(list)
    for bar in bars:
        per_gpu[bar.action.gpu].append(bar)
    yield f'<div class=gantt style="--step:{_step(scale)}">'
    yield f"<div class=gpu-row><span></span>{axis(scale)}</div>"
    for name, mine in list(per_gpu.items())[:MOST_GPUS]:
        lanes = _lanes(mine)
        yield f'<div class=gpu-row><span>{escape(name)}</span><div class=track style="--lanes:{len(lanes)}">'
        for number, lane in enumerate(lanes):
            yield from (_gantt_bar(bar, number, scale, numbers) for bar in lane)
        yield "</div></div>"
    yield "</div>"
    yield from left_out(len(per_gpu) - MOST_GPUS, "GPUs change and are not drawn")


def _lanes(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Return the bars in as few lanes as possible, those of one placement in one lane."""
    runs: dict[object, list[Bar]] = defaultdict(list)
    for bar in sorted(bars, key=lambda bar: (bar.begin, bar.end)):
        runs[bar.action.placement].append(bar)
    lanes: list[list[Bar]] = []
    for run in sorted(runs.values(), key=lambda run: (run[0].begin, run[0].action.placement)):
        free = next((lane for lane in lanes if lane[-1].end <= run[0].begin + 1e-9), None)
        if free is None:
            lanes.append(run)
        else:
            free.extend(run)
    return lanes


def _gantt_bar(bar: Bar, lane: int, scale: Scale, numbers: Mapping[str, int]) -> str:
    action = bar.action
    words = action.kind.value.replace("_", " ")
    kind = action.kind.value.partition("_")[0]
    text, style = _SIGNS[action.kind], ""
    if action.replica is not None:
        number = _number(action.replica, numbers)
        text += f" {number} {escape(action.replica.service)}"
        style = " " + service_class(number)
        words += f" {action.replica.service}"
    else:
        text += f" {escape(action.placement.profile)}"
    hint = escape(f"{words} on {action.placement}, {bar.begin:.1f} to {bar.end:.1f} s")
    left, right = scale.share(bar.begin), scale.share(bar.end)
    return (
        f'<b class="bar {kind}{style}" style="--lane:{lane};left:{left:.3%};width:{right - left:.3%}" '
        f'title="{hint}">{text}</b>'
    )


def _step(scale: Scale) -> str:
    marks = scale.ticks()
    return f"{scale.share(marks[1]):.3%}" if len(marks) > 1 else "100%"


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


def day_report(acts: Mapping[str, ExecutedTransition], counts: Mapping[str, int]) -> str:
    """Return the page.

    Args:
        acts: transitions by name, in order.
        counts: GPUs of the first plan, by kind of planning; Partita's last.
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
        *(text for name, act in acts.items() for text in _executed(name, act, numbers)),
        "<footer>Drawn by Partita, from a simulated cluster.</footer>",
    ]
    return page(title, _STYLES, parts)


def _spare(act: ExecutedTransition) -> Iterator[float]:
    """Yield how far each service stayed above its floor, as a fraction of the floor."""
    for name, floor in act.transition.floors.items():
        if floor:
            yield min(point.value for point in act.course.capacity[name]) / floor - 1


def _summary(acts: Mapping[str, ExecutedTransition], spare: float) -> Iterator[str]:
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


def _seconds(act: ExecutedTransition) -> float:
    return max((bar.end for bar in act.course.bars), default=0.0)


def _comparison(counts: Mapping[str, int]) -> Iterator[str]:
    most = max(counts.values(), default=1)
    yield "<h2>GPUs by day, in simpler ways and in this one</h2><div class='card compare'>"
    for name, n in counts.items():
        yield f"<span>{escape(name)}</span><div><b style='width:{n / most:.1%}'>{n}</b></div>"
    yield "</div>"


def _executed(name: str, act: ExecutedTransition, numbers: Mapping[str, int]) -> Iterator[str]:
    changes = service_changes(act.request, act.transition)
    before, after = act.request.current.used, act.transition.target.used
    yield f"<h2>{escape(name)}: {before} → {after} GPUs in {_seconds(act):.0f} s</h2>"
    yield f"<p>Predicted were {act.transition.makespan:.0f} s; below is how it went.</p>"
    if before:
        yield from _service_table(changes, numbers)
    yield from _timeline_parts(act.course, (before, after), changes, numbers)
    yield f"<details{'' if before else ' open'}><summary>GPUs, before and after</summary>"
    yield from _change_cards(gpu_changes(act.request.current, act.transition.target), numbers)
    yield "</details>"
