"""A transition as one HTML page that needs nothing else: what changes, when, and what each service keeps."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model
from partita.planning.explain import id_ranges
from partita.transition.overview import gpu_changes, service_changes, timeline
from partita.web.charts import Line, Scale, axis, figure, steps
from partita.web.cut import Box, cut
from partita.web.gantt import LEGEND, gantt
from partita.web.page import TIMES, figures, key, left_out, look, page, row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from partita.transition.deployment import DeployedInstance
    from partita.transition.overview import GpuGroupChange, Point, ServiceChange, Timeline
    from partita.transition.transition import Request, Transition

STYLES = ("report.css", "transition.css")
MOST_SERVICES = 200
MOST_GROUPS = 250
_MOST_RANGES = 24


def transition_report(request: Request, transition: Transition) -> str:
    """Return the page of a transition that the checker found right, with its predicted course."""
    changes = service_changes(request, transition)
    numbers = {each.name: n for n, each in enumerate(changes, 1)}
    course = timeline(request, transition)
    parts = [
        *_head(request, transition, changes),
        "<h2>Services</h2>",
        *service_table(changes, numbers),
        "<h2>Timeline</h2>",
        *course_parts(course, (request.current.used, transition.target.used), changes, numbers),
        "<h2>GPUs that change</h2>",
        *change_cards(gpu_changes(request.current, transition.target), numbers),
        _footer(transition),
    ]
    return page(f"Transition: {_title(request, transition)}", STYLES, parts)


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


def service_table(changes: Sequence[ServiceChange], numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield what each service goes through as a table."""
    yield (
        "<p>A service's floor is what was required of it before and is required after, whichever is less. "
        "<i>Least</i> is its worst capacity of every order in which the actions may happen, however long each takes."
        "</p><table><thead><tr><th>service<th>now/s<th>then/s<th>floor/s<th>least/s<th>over floor<th>replicas"
        "</thead><tbody>"
    )
    for each in changes[:MOST_SERVICES]:
        yield row(
            {
                "service": key(numbers[each.name], each.name),
                "now/s": f"{each.before:,.6g}",
                "then/s": f"{each.after:,.6g}",
                "floor/s": f"{each.floor:,.6g}",
                "least/s": f"{each.least:,.6g}",
                "over floor": f"{(each.least / each.floor - 1) * 100:+z.0f} %" if each.floor else "no floor",
                "replicas": ", ".join(f"{n:,} {what}" for what, n in each.replicas.items() if n) or "none",
            }
        )
    yield "</tbody></table>"
    yield from left_out(len(changes) - MOST_SERVICES, "services are not listed")


def course_parts(
    course: Timeline, used: tuple[int, int], changes: Sequence[ServiceChange], numbers: Mapping[str, int]
) -> Iterator[str]:
    """Yield the course of a transition: its actions, GPUs in use, and each service's capacity, over time.

    Args:
        course: when what happens.
        used: GPUs in use before and after.
        changes: what each service goes through.
        numbers: of the services.
    """
    seconds = max((bar.end for bar in course.bars), default=0.0)
    if not seconds:
        yield "<p>Nothing happens.</p>"
        return
    yield LEGEND
    yield from gantt(course.bars, Scale(0.0, seconds), numbers)
    yield "<div class=charts>"
    scale = Scale.with_lead(seconds)
    yield from _gpus_card(course.gpus, used, scale)
    for each in changes[:MOST_SERVICES]:
        yield from _capacity_card(each, course.capacity[each.name], scale, numbers[each.name])
    yield "</div>"


def _gpus_card(points: Sequence[Point], used: tuple[int, int], scale: Scale) -> Iterator[str]:
    most = max(point.value for point in points)
    yield f"<section class=card><h3>GPUs in use <span>{used[0]} → {used[1]}, most {most:g}</span></h3>"
    yield from steps(used[0], points, scale, Line(max(used), f"{max(used)} without extra"), "plain")
    yield axis(scale) + "</section>"


def _capacity_card(
    change: ServiceChange, points: Sequence[Point], scale: Scale, number: int
) -> Iterator[str]:
    least = figure(min(change.before, *(point.value for point in points)))
    yield (
        f"<section class=card><h3>{key(number, change.name)} "
        f"<span>{figure(change.before)} → {figure(change.after)}/s, least {least}</span></h3>"
    )
    line = Line(change.floor, f"floor {figure(change.floor)}") if change.floor else None
    yield from steps(change.before, points, scale, line, look(number))
    yield axis(scale) + "</section>"


def change_cards(groups: Sequence[GpuGroupChange], numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield each kind of GPU that changes, drawn before and after."""
    yield "<p>Above as it is now, below as it will be. \N{MINUS SIGN} marks what goes, + what comes.</p>"
    yield "<div class=gpus>"
    for group in groups[:MOST_GROUPS]:
        ranges = id_ranges(group.ids)
        ids = ", ".join(map(escape, ranges[:_MOST_RANGES]))
        more = f" and more, {len(group.ids):,} in all" if len(ranges) > _MOST_RANGES else ""
        yield (
            f"<section class=gpu><h3>{TIMES} {len(group.ids):,} <span>{escape(group.model)}</span></h3>"
            f"<p>{ids}{more}</p>"
        )
        gpu = gpu_model(group.model)
        yield from cut(gpu, _boxes(group.before, group.after, "goes", numbers))
        yield "<div class=arrow>↓</div>"
        yield from cut(gpu, _boxes(group.after, group.before, "comes", numbers))
        yield "</section>"
    yield "</div>"
    left = groups[MOST_GROUPS:]
    yield from left_out(sum(len(group.ids) for group in left), "GPUs change and are not drawn")


def _boxes(
    instances: Iterable[DeployedInstance],
    others: Collection[DeployedInstance],
    kind: str,
    numbers: Mapping[str, int],
) -> Iterator[Box]:
    for each in instances:
        kept = "stays" if each in others else kind
        replica = each.replica
        if replica is None:
            title = "someone else's" if each.fixed else "idle"
            yield Box(each.placement, 0, title, f"{each.placement}: {title}", kind=kept)
            continue
        hint = f"{replica.service} ({replica.model}) on {each.placement}: batch {replica.batch}, "
        hint += f"{replica.throughput:,.6g}/s, {replica.latency_ms:,.6g} ms"
        note = f"{replica.throughput:,.4g}/s"
        yield Box(each.placement, numbers[replica.service], replica.service, hint, note, kept)
