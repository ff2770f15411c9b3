"""The way from one deployment to another, briefly, before it is gone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from partita.transition.transition import Request, Transition


def way_data(asked: Request, way: Transition, state: str) -> dict[str, object]:
    """Return a way as plain data: what happens, how long it takes, and what each service keeps."""
    from partita.transition.check import least_capacity  # noqa: PLC0415 -- only where a way is shown
    from partita.transition.check_graph import Graph  # noqa: PLC0415

    now, then = asked.current.capacity(), way.target.capacity()
    least = least_capacity(asked, Graph(way.actions))
    return {
        "algorithm": way.algorithm,
        "state": state,
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
                "name": name,
                "capacity_before": round(now.get(name, 0.0), 6),
                "capacity_after": round(then.get(name, 0.0), 6),
                "floor": round(way.floors.get(name, 0.0), 6),
                "least": round(least.get(name, 0.0), 6),
            }
            for name in sorted(now.keys() | then.keys())
        ],
    }


def print_way(console: Console, data: dict[str, object]) -> None:
    """Print what `way_data` returned."""
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import

    actions, gpus = data["actions"], data["gpus"]
    if not isinstance(actions, dict) or not isinstance(gpus, dict) or not isinstance(data["services"], list):
        raise TypeError(data)
    if not actions:
        console.print("nothing to do: the cluster is as the plan wants it")
        return
    kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in actions.items())
    console.print(f"{sum(actions.values())} actions ({kinds}), about {data['seconds']:.0f} s", markup=False)
    console.print(
        f"{gpus['before']} GPUs in use, {gpus['after']} at the end, at most {gpus['peak']} of {gpus['there']} "
        f"meanwhile; {data['replicas_moved']} replicas move or end",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold")
    for name in ("capacity/s now", "then", "floor", "least meanwhile"):
        table.add_column(name, justify="right")
    for each in data["services"]:
        figures = (each["capacity_before"], each["capacity_after"], each["floor"], each["least"])
        table.add_row(each["name"], *(f"{value:,.6g}" for value in figures))
    console.print(table)
    console.print(f"state {data['state']}: `--expect {data['state']}` refuses any other", markup=False)
