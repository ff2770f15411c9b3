"""Partita cuts Multi-Instance GPUs to fit the work.

    import partita

    plan = partita.plan("workload.yaml")
    plan.objective.value, plan.objective.proven
    plan.to_frame()

`docs/library.md` describes the whole library. Names are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is a tenth of a job's watcher's memory, and every watcher imports this
if TYPE_CHECKING:
    from partita.errors import InfeasibleError, InputError, PartitaError
    from partita.library import (
        Catalogue,
        CheckedPlan,
        Explanation,
        PlannedTransition,
        PlannedWorkload,
        SimulatedPlan,
        SimulatedService,
        catalogue,
        check,
        diff,
        explain,
        plan,
        read_performance,
        read_plan,
        replace,
        simulate,
        simulate_plan,
    )
    from partita.perf.table import Measurement, PerfTable
    from partita.workload import (
        Batches,
        LimitsSpec,
        ModelSpec,
        PoolSpec,
        ServiceSpec,
        Slo,
        Workload,
        read_workload,
    )

__version__ = "0.1.0"

__all__ = [
    "Batches",
    "Catalogue",
    "CheckedPlan",
    "Explanation",
    "InfeasibleError",
    "InputError",
    "LimitsSpec",
    "Measurement",
    "ModelSpec",
    "PartitaError",
    "PerfTable",
    "PlannedTransition",
    "PlannedWorkload",
    "PoolSpec",
    "ServiceSpec",
    "SimulatedPlan",
    "SimulatedService",
    "Slo",
    "Workload",
    "catalogue",
    "check",
    "diff",
    "explain",
    "plan",
    "read_performance",
    "read_plan",
    "read_workload",
    "replace",
    "simulate",
    "simulate_plan",
]

_HOMES = {
    "partita.errors": ("InfeasibleError", "InputError", "PartitaError"),
    "partita.perf.table": ("Measurement", "PerfTable"),
    "partita.workload": (
        *("Batches", "LimitsSpec", "ModelSpec", "PoolSpec", "ServiceSpec", "Slo", "Workload"),
        "read_workload",
    ),
}
"""Modules of the names that are not in `partita.library`."""


def __getattr__(name: str) -> object:
    """Import a name when it is first used: the library takes half a second, `import partita` next to nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- needed only here

    home = next((module for module, names in _HOMES.items() if name in names), "partita.library")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
