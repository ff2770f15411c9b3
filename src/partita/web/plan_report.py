"""A plan as one self-contained HTML page: figures, services, and the GPUs drawn slice by slice."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from partita.planning.overview import VALUE_NAMES, amount, number, survival, trade_rows, verdict
from partita.web.page import (
    TIMES,
    GpuCard,
    InstanceBox,
    figures,
    gpu_cards,
    left_out,
    page,
    row,
    service_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from partita.planning.overview import GpuGroup, PlanOverview, ServiceOverview
    from partita.planning.plan import Instance, Plan
    from partita.verification.outcome import PlanOutcome, ServiceOutcome, Share


MOST_GROUPS = 500
MOST_SERVICES = 1000
_MOST_TENANTS = 20
_COLUMNS = ("rate/s", "capacity/s", "spare", "SLO ms", "latency ms", "replicas")
_OUTCOME_COLUMNS = (
    "queries/s", "promised", "in time", "kept", "p50 ms", "p95 ms", "p99 ms", "refused", "busy",
)  # fmt: skip
_LOSS_COLUMNS = ("worst loss", "left then/s")
_LEGEND = (
    "<p>Each box is an instance, as wide as the memory slices it takes, with the number and name of its service; "
    "each bar in it is a compute slice. Dashed boxes are free memory slices.</p>"
)


def plan_report(
    overview: PlanOverview, verified: PlanOutcome | None = None, *, embedded: bool = False
) -> str:
    """Return the page, of at most a few megabytes: for very large plans it states what it leaves out.

    Args:
        overview: of the plan.
        verified: what became of its queries in simulation; None if it was not simulated.
        embedded: whether to return a part of another page.
    """
    plan, services, groups = overview.plan, overview.services, overview.groups
    takes, good = amount(plan), verdict(plan)
    numbers = {each.service.name: n for n, each in enumerate(services, 1)}
    # Notebooks are stored and compared, so the planning time, which always differs, is left out.
    values = _figures(overview, timed=not embedded)
    losses = any(each.service.loss for each in services)
    rows = [
        (n, each.service.name, (*_cells(each), *(_loss_cells(each) if losses else ())))
        for n, each in enumerate(services[:MOST_SERVICES], 1)
    ]
    cards = [_card(group, numbers) for group in groups[:MOST_GROUPS]]
    left = groups[MOST_GROUPS:]
    parts = (
        f"<h1>{takes}, <span class={'proven' if plan.objective.proven else 'open'}>{good}</span></h1>",
        *figures(values),
        "<h2>Services</h2>",
        "<p>≈ marks estimates: nobody has measured these figures.</p>"
        if any(each.estimated for each in services)
        else "",
        f"<p>{escape(survived)}.</p>" if (survived := survival(plan)) else "",
        *service_table((*_COLUMNS, *(_LOSS_COLUMNS if losses else ())), rows, len(services) - MOST_SERVICES),
        *_trade(plan),
        *(() if verified is None else _promises(verified, numbers)),
        "<h2>GPUs</h2>",
        _LEGEND,
        *gpu_cards(cards),
        *left_out(sum(len(group.ids) for group in left), f"GPUs, cut in {len(left):,} ways, are not drawn"),
        "<footer>Drawn by Partita. The JSON file of the plan says the same in full.</footer>",
    )
    return page(f"Plan: {takes}", ("report.css",), parts, embedded=embedded)


def _trade(plan: Plan) -> Iterator[str]:
    """Yield the plans with more value and fewer moves, if there are any."""
    if rows := trade_rows(plan):
        yield (
            "<h2>More GPUs for fewer moves</h2>"
            if plan.objective.name == "gpus"
            else "<h2>More for fewer moves</h2>"
        )
        head = (VALUE_NAMES.get(plan.objective.name, "value"), "moves", "")
        yield f"<table><thead><tr><th>{'<th>'.join(head)}</thead><tbody>"
        for each in rows:
            yield row(dict(zip(head, map(escape, each), strict=True)))
        yield "</tbody></table>"


def _figures(overview: PlanOverview, *, timed: bool) -> dict[str, str]:
    plan, used = overview.plan, overview.compute_used
    objective, solver = plan.objective, plan.solver
    value = {VALUE_NAMES.get(objective.name, "value"): number(objective.value)}
    return {
        "GPUs": f"{len(plan.gpus):,}",
        **({} if objective.name == "gpus" else value),
        "lower bound": number(objective.lower_bound),
        "gap": f"{objective.gap * 100:.2g} %",
        "services": f"{len(plan.services):,}",
        "instances": f"{overview.instances:,}",
        "compute used": "none" if used is None else f"{used * 100:.0f} %",
        f"planner, seed {solver.seed}": escape(solver.name),
        **({} if plan.moves is None else {"moves from what runs": f"{plan.moves.count:,}"}),
        **({"planned in": f"{solver.seconds:.2f} s"} if timed else {}),
    }


def _cells(each: ServiceOverview) -> Sequence[str]:
    about = "≈" if each.estimated else ""
    return (
        f"{each.service.rate:,.6g}",
        f"{about}{each.service.capacity:,.6g}",
        f"{each.spare * 100:+z.0f} %",
        f"{each.service.latency_slo_ms:,.6g}",
        "none" if each.latency_ms is None else f"{about}{each.latency_ms:,.1f}",
        escape(each.replicas_text(TIMES)),
    )


def _promises(verified: PlanOutcome, numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield what became of the queries in simulation."""
    trial = verified.trial
    yield "<h2>Promises, simulated</h2>"
    yield (
        "<p>Queries answered within the SLO, by the gateway's own code in simulated time, with 95 % confidence"
        f"{f'; at {trial.load:g} times the rates' if trial.load != 1 else ''}"
        f"{f'; batches vary by {trial.jitter:g} around the seconds of the table' if trial.jitter else ''}.</p>"
    )
    services = verified.services[:MOST_SERVICES]
    rows = [(numbers.get(each.service, 0), each.service, _outcome_cells(each)) for each in services]
    yield from service_table(_OUTCOME_COLUMNS, rows, len(verified.services) - len(services))
    sized = [each for each in services if each.sizes]
    if sized:
        yield "<p>By the items of a query:</p>"
        sizes = [
            (
                numbers.get(each.service, 0),
                each.service,
                (size.items, f"{size.queries:,}", _in_time(size.in_time)),
            )
            for each in sized
            for size in each.sizes
        ]
        yield from service_table(("items", "queries", "in time"), sizes, 0)


def _outcome_cells(each: ServiceOutcome) -> Sequence[str]:
    p50, p95, p99 = ("none" if ms is None else f"{ms:,.1f}" for ms in each.latency_ms)
    return (
        f"{each.queries_per_second:,.6g}",
        "none" if each.promised is None else f"{each.promised * 100:g} %",
        _in_time(each.in_time),
        "" if each.promised is None else each.verdict.value,
        p50,
        p95,
        p99,
        f"{each.refused * 100:.2f} %",
        f"{each.busy * 100:.0f} %",
    )


def _in_time(share: Share) -> str:
    return f"{share.value * 100:.2f} % ({share.low * 100:.2f} to {share.high * 100:.2f})"


def _loss_cells(each: ServiceOverview) -> Sequence[str]:
    loss = each.service.loss
    return ("none", "") if loss is None else (escape(loss.domain), f"{loss.left:,.6g}")


def _card(group: GpuGroup, numbers: Mapping[str, int]) -> GpuCard:
    boxes = [_box(each, numbers.get(each.serves[0][0], 0)) for each in group.instances]
    return GpuCard(group.model, group.label, group.ids, (boxes,))


def _box(instance: Instance, number: int) -> InstanceBox:
    point = instance.point
    about = "≈" if point.estimated else ""
    if point.tenants:
        return _shared_box(instance, number)
    processes = f", {point.processes} processes" if point.processes > 1 else ""
    hint = f"{instance.service} ({instance.model}) on {instance.placement.profile} at {instance.placement.start}: "
    hint += (
        f"batch {point.batch}{processes}, {about}{point.throughput:,.6g}/s, {about}{point.latency_ms:,.6g} ms"
    )
    return InstanceBox(
        instance.placement, number, instance.service, hint, f"{about}{point.throughput:,.4g}/s"
    )


def _shared_box(instance: Instance, number: int) -> InstanceBox:
    tenants = instance.point.tenants
    total = sum(each.throughput for each in tenants)
    about = "≈" if instance.point.estimated else ""
    named = ", ".join(each.service for each in tenants[:_MOST_TENANTS])
    more = f" and {len(tenants) - _MOST_TENANTS} more" if len(tenants) > _MOST_TENANTS else ""
    hint = f"{named}{more} share {instance.placement.profile} at {instance.placement.start}: "
    hint += f"{about}{sum(each.memory_mb for each in tenants):,.0f} MB, {total:,.6g}/s together"
    return InstanceBox(instance.placement, number, instance.service, hint, f"{total:,.4g}/s shared")
