"""A plan as one HTML page that needs nothing else: figures, services, and the GPUs drawn slice by slice."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model
from partita.plan.overview import amount, gpu_groups, id_ranges, number, service_overviews, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.plan.overview import GpuGroup, ServiceOverview
    from partita.plan.plan import Instance, Plan

MOST_GROUPS = 500
MOST_SERVICES = 1000
_MOST_RANGES = 24
_HUES = 9  # classes h0 to h8 of the style sheet
_HATCHES = 4  # none, and classes p1 to p3: colour alone never tells two services apart
_TIMES = "\N{MULTIPLICATION SIGN}"


def plan_report(plan: Plan) -> str:
    """Return the page. It is at most a few megabytes: of very large plans it says what it leaves out."""
    groups = gpu_groups(plan)
    services = service_overviews(plan, groups)
    numbers = {each.service.name: n for n, each in enumerate(services, 1)}
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Plan: {amount(plan)}</title>\n<style>\n{style}</style>",
            *_head(plan, groups),
            *_service_table(services, numbers),
            *_gpu_cards(groups, numbers),
            "<footer>Drawn by Partita. The JSON file of the plan says the same in full.</footer>",
            "</html>\n",
        )
    )


def _head(plan: Plan, groups: Sequence[GpuGroup]) -> Iterator[str]:
    objective, solver = plan.objective, plan.solver
    yield f"<h1>{amount(plan)}, <span class={_class(plan)}>{verdict(plan)}</span></h1>"
    figures = {
        "GPUs": f"{len(plan.gpus):,}",
        **(
            {} if objective.name == "gpus" else {_UNITS.get(objective.name, "value"): number(objective.value)}
        ),
        "lower bound": number(objective.lower_bound),
        "gap": f"{objective.gap * 100:.2g} %",
        "services": f"{len(plan.services):,}",
        "instances": f"{sum(len(group.instances) * len(group.ids) for group in groups):,}",
        "compute used": _slices_used(groups),
        f"planner, seed {solver.seed}": escape(solver.name),
        "planned in": f"{solver.seconds:.2f} s",
    }
    yield "<dl class=figures>"
    yield from (f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in figures.items())
    yield "</dl>"


_UNITS = {"cost": "cost per hour", "watts": "watts"}


def _class(plan: Plan) -> str:
    return "proven" if plan.objective.proven else "open"


def _slices_used(groups: Sequence[GpuGroup]) -> str:
    used = there = 0
    for group in groups:
        gpu = gpu_model(group.model)
        used += len(group.ids) * sum(gpu.profile(i.placement.profile).compute for i in group.instances)
        there += len(group.ids) * gpu.compute_slices
    return f"{used / there * 100:.0f} %" if there else "none"


def _service_table(services: Sequence[ServiceOverview], numbers: dict[str, int]) -> Iterator[str]:
    yield "<h2>Services</h2>"
    if any(each.estimated for each in services):
        yield "<p>≈ marks estimates: nobody has measured these figures.</p>"
    yield "<table><thead><tr><th>service<th>rate/s<th>capacity/s<th>spare<th>SLO ms<th>latency ms<th>replicas"
    yield "</thead><tbody>"
    yield from (_service_row(each, numbers[each.service.name]) for each in services[:MOST_SERVICES])
    yield "</tbody></table>"
    yield from _left_out(len(services) - MOST_SERVICES, "services are not listed")


def _service_row(each: ServiceOverview, number: int) -> str:
    about = "≈" if each.estimated else ""
    latency = "none" if each.latency_ms is None else f"{about}{each.latency_ms:,.1f}"
    replicas = ", ".join(f"{n:,}{_TIMES}{escape(profile)}" for profile, n in each.replicas) or "none"
    return (
        f'<tr><td><span class="key {_look(number)}">{number}</span>{escape(each.service.name)}'
        f"<td>{each.service.rate:,.6g}<td>{about}{each.service.capacity:,.6g}<td>{each.spare * 100:+.0f} %"
        f"<td>{each.service.latency_slo_ms:,.6g}<td>{latency}<td>{replicas}"
    )


def _look(number: int) -> str:
    hatch = (number - 1) % _HATCHES
    return f"h{(number - 1) % _HUES}" + (f" p{hatch}" if hatch else "")


def _gpu_cards(groups: Sequence[GpuGroup], numbers: dict[str, int]) -> Iterator[str]:
    yield "<h2>GPUs</h2>"
    yield (
        "<p>Each box is an instance, as wide as the memory slices it takes, with the number and name of its "
        "service; each bar in it is a compute slice. Dashed boxes are free memory slices.</p>"
    )
    yield "<div class=gpus>"
    for group in groups[:MOST_GROUPS]:
        yield from _card(group, numbers)
    yield "</div>"
    left = groups[MOST_GROUPS:]
    yield from _left_out(
        sum(len(group.ids) for group in left), f"GPUs, cut in {len(left):,} ways, are not drawn"
    )


def _card(group: GpuGroup, numbers: dict[str, int]) -> Iterator[str]:
    gpu = gpu_model(group.model)
    ranges = id_ranges(group.ids)
    ids = ", ".join(map(escape, ranges[:_MOST_RANGES]))
    if len(ranges) > _MOST_RANGES:
        ids += f" and more, {len(group.ids):,} in all"
    head = f"{_TIMES} {len(group.ids):,} <span>{escape(group.model)}</span>"
    yield f"<section class=gpu><h3>{head}</h3><p>{ids}</p>"
    yield f'<div class=cut style="grid-template-columns:repeat({gpu.memory_slices},1fr)">'
    at = 0
    for instance in group.instances:
        profile = gpu.profile(instance.placement.profile)
        yield "<div class=free></div>" * (instance.placement.start - at)
        yield _box(instance, numbers.get(instance.service, 0), profile.memory, profile.compute)
        at = instance.placement.start + profile.memory
    yield "<div class=free></div>" * (gpu.memory_slices - at) + "</div></section>"


def _box(instance: Instance, number: int, memory: int, compute: int) -> str:
    point = instance.point
    about = "≈" if point.estimated else ""
    profile, service = escape(instance.placement.profile), escape(instance.service)
    processes = f", {point.processes} processes" if point.processes > 1 else ""
    hint = f"{service} ({escape(instance.model)}) on {profile} at {instance.placement.start}: "
    hint += (
        f"batch {point.batch}{processes}, {about}{point.throughput:,.6g}/s, {about}{point.latency_ms:,.6g} ms"
    )
    size, dot, rest = profile.partition(".")
    look = _look(number) + (" slim" if memory == 1 else "")
    return (
        f'<div class="on {look}" style="grid-column:span {memory}" title="{hint}">'
        f"<b>{number} {service}</b><i>{size}<s>{dot}{rest}</s></i>"
        f'<small>{about}{point.throughput:,.4g}/s</small><u style="--c:{compute}"></u></div>'
    )


def _left_out(n: int, what: str) -> Iterator[str]:
    if n > 0:
        yield f"<p>{n:,} more {what} here; the plan's JSON file has all.</p>"
