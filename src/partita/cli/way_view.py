"""The way from one deployment to another, briefly, before it is gone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from partita.transition.transition import Request, Transition


def way_data(asked: Request, way: Transition) -> dict[str, Any]:
    """Return a way as plain data: what happens, how long it takes, and what each service keeps."""
    from partita.transition.overview import service_changes  # noqa: PLC0415 -- only where a way is shown

    return {
        "algorithm": way.algorithm,
        "actions": dict(sorted(Counter(action.kind.value for action in way.actions).items())),
        "seconds": round(way.makespan, 3),
        "gpus": {
            "before": asked.current.used,
            "after": way.target.used,
            "peak": way.peak_gpus,
            "there": len(asked.current.gpus),
        },
        "replicas_moved": way.moved,
        "services": [
            {
                "name": each.name,
                "capacity_before": round(each.before, 6),
                "capacity_after": round(each.after, 6),
                "floor": round(each.floor, 6),
                "least": round(each.least, 6),
                "replicas": each.replicas,
            }
            for each in service_changes(asked, way)
        ],
    }


def print_way(console: Console, data: dict[str, Any]) -> None:
    """Print what `way_data` returned."""
    actions, gpus = data["actions"], data["gpus"]
    if not actions:
        console.print("nothing to do: all runs as the plan wants it")
        return
    kinds = ", ".join(f"{n} {kind.partition('_')[0]}" for kind, n in actions.items())
    console.print(f"{sum(actions.values())} actions, about {data['seconds']:.0f} s: {kinds}", markup=False)
    extra = gpus["peak"] - max(gpus["before"], gpus["after"])
    beyond = f", {extra} of them extra" if extra > 0 else ""
    console.print(
        f"{gpus['before']} GPUs in use, {gpus['after']} at the end, at most {gpus['peak']} of {gpus['there']} "
        f"meanwhile{beyond}",
        markup=False,
    )
    _print_services(console, data["services"])


def _print_services(console: Console, services: list[dict[str, Any]]) -> None:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold", min_width=8)
    for name in ("capacity/s", "then", "floor", "least"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("replicas", min_width=8)
    for each in services:
        figures = (each["capacity_before"], each["capacity_after"], each["floor"], each["least"])
        replicas = ", ".join(f"{n} {what}" for what, n in each["replicas"].items() if n) or "none"
        table.add_row(each["name"], *(f"{value:,.6g}" for value in figures), replicas)
    console.print(table)
