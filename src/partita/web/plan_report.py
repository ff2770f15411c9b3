"""A plan as one HTML page that needs nothing else: figures, services, and the GPUs drawn slice by slice."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model
from partita.planning.explain import (
    amount,
    gpu_groups,
    id_ranges,
    number,
    replicas_text,
    service_overviews,
    verdict,
)
from partita.web.page import TIMES, InstanceBox, figures, key, layout, left_out, page, row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.planning.explain import GpuGroup, ServiceOverview
    from partita.planning.plan import Instance, Plan


MOST_GROUPS = 500
MOST_SERVICES = 1000
_MOST_RANGES = 24


def plan_report(plan: Plan, *, embedded: bool = False) -> str:
    """Return the page, or a part for somebody else's.

    It is at most a few megabytes: of very large plans it says what it leaves out.
    """
    groups = gpu_groups(plan)
    services = service_overviews(plan, groups)
    numbers = {each.service.name: n for n, each in enumerate(services, 1)}
    parts = (
        *_head(plan, groups, timed=not embedded),
        *_service_table(services, numbers),
        *_gpu_cards(groups, numbers),
        "<footer>Drawn by Partita. The JSON file of the plan says the same in full.</footer>",
    )
    return page(f"Plan: {amount(plan)}", ("report.css",), parts, embedded=embedded)


def _head(plan: Plan, groups: Sequence[GpuGroup], *, timed: bool) -> Iterator[str]:
    objective, solver = plan.objective, plan.solver
    yield f"<h1>{amount(plan)}, <span class={_class(plan)}>{verdict(plan)}</span></h1>"
    values = {
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
        # A notebook is kept and compared, and this differs each time.
        **({"planned in": f"{solver.seconds:.2f} s"} if timed else {}),
    }
    yield from figures(values)


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
    yield from left_out(len(services) - MOST_SERVICES, "services are not listed")


def _service_row(each: ServiceOverview, index: int) -> str:
    about = "≈" if each.estimated else ""
    return row(
        {
            "service": key(index, each.service.name),
            "rate/s": f"{each.service.rate:,.6g}",
            "capacity/s": f"{about}{each.service.capacity:,.6g}",
            "spare": f"{each.spare * 100:+z.0f} %",
            "SLO ms": f"{each.service.latency_slo_ms:,.6g}",
            "latency ms": "none" if each.latency_ms is None else f"{about}{each.latency_ms:,.1f}",
            "replicas": escape(replicas_text(each, TIMES)),
        }
    )


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
    yield from left_out(
        sum(len(group.ids) for group in left), f"GPUs, cut in {len(left):,} ways, are not drawn"
    )


def _card(group: GpuGroup, numbers: dict[str, int]) -> Iterator[str]:
    gpu = gpu_model(group.model)
    ranges = id_ranges(group.ids)
    ids = ", ".join(map(escape, ranges[:_MOST_RANGES]))
    if len(ranges) > _MOST_RANGES:
        ids += f" and more, {len(group.ids):,} in all"
    head = f"{TIMES} {len(group.ids):,} <span>{escape(group.label)}</span>"
    yield f"<section class=gpu><h3>{head}</h3><p>{ids}</p>"
    yield from layout(gpu, (_box(each, numbers.get(each.service, 0)) for each in group.instances))
    yield "</section>"


def _box(instance: Instance, index: int) -> InstanceBox:
    point = instance.point
    about = "≈" if point.estimated else ""
    processes = f", {point.processes} processes" if point.processes > 1 else ""
    hint = f"{instance.service} ({instance.model}) on {instance.placement.profile} at {instance.placement.start}: "
    hint += (
        f"batch {point.batch}{processes}, {about}{point.throughput:,.6g}/s, {about}{point.latency_ms:,.6g} ms"
    )
    return InstanceBox(instance.placement, index, instance.service, hint, f"{about}{point.throughput:,.4g}/s")
