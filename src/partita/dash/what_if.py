"""What if a rate, a promise, a price or a number of GPUs were another: bound, plan, cost and what binds.

Nothing is changed. `changed` applies a what-if to a workload that was prepared before, `bound` solves the linear
relaxation alone, which takes a tenth of a second for a thousand services, and `answer` plans. `searches.py` runs them
in a process of their own.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import NODEFAULT

from partita import planner
from partita.dash.model import (
    PoolWhatIf,
    ServiceWhatIf,
    WhatIf,
    WhatIfAnswer,
)
from partita.dash.plans import cost_of, prices_of, summary
from partita.deadline import Deadline
from partita.documents.codec import DocumentSource, checked, faults_in, path_of, to_data, written
from partita.documents.text import number
from partita.errors import InfeasibleError, InputError, PartitaError, nearest
from partita.explanation import what_binds
from partita.planning.bound import lower_bound, rule_free_bound
from partita.planning.compact import round_up
from partita.planning.exact import TooFewGpusError, met_shares
from partita.planning.plan import falls_short
from partita.workload import may_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.documents.codec import FieldPath, Value
    from partita.explanation import Binding
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.workload import PoolSpec, ServiceSpec, Workload

PLAN = ("partita", "plan", "-f", "workload.yaml")
"""A command that plans a workload as it is."""

_MOST_NAMED = 200
"""Services that fall short or are bound, of which an answer tells."""
_PLAN_SHARE = 0.6
"""Share of the time limit for the plan; the rest is for how far services fall short where GPUs do not suffice."""


def changed(prepared: PreparedWorkload, asked: WhatIf, deadline: Deadline | None = None) -> PreparedWorkload:
    """Return a workload as it would be; pools have the counts of the problem, where alone they can be 0.

    Args:
        prepared: the workload as it is, prepared to be planned, on the GPUs that there are.
        asked: what would be different.
        deadline: as for `planner.prepare`.

    Raises:
        InputError: there is no such service or pool, or a value is not one that a workload can have; `where` is the
            field of the what-if, or, where that says nothing about it, of the workload.
        InfeasibleError: a service could run on no profile.
    """
    workload = _changed_workload(prepared.workload, asked)
    try:
        made = planner.prepare(workload, prepared.table, like=prepared, deadline=deadline)
    except InputError as error:
        path = _as_asked(path_of(error.where or ""), workload, asked)
        raise InputError(error.what, where=written(path) or None, hint=error.hint) from None
    counts = {pool.name: pool.count for pool in prepared.problem.pools}
    counts |= {name: pool.count for name, pool in asked.pools.items() if pool.count is not None}
    if counts != {pool.name: pool.count for pool in made.problem.pools}:
        problem = made.problem.with_counts(counts)
        made = replace(made, formulation=replace(made.formulation, problem=problem))
    return made


def _changed_workload(workload: Workload, asked: WhatIf) -> Workload:
    _require_known("services", asked.services, [each.name for each in workload.services])
    _require_known("pools", asked.pools, [each.label for each in workload.gpus])
    services = []
    for spec in workload.services:
        change = asked.services.get(spec.name)
        if change is None:
            services.append(spec)
        elif change.rate != 0:
            services.append(_changed_service(spec, change))
    if not services:
        raise InputError("no service is left", where="services", hint="leave one of the rates above 0")
    pools = [_changed_pool(pool, asked.pools.get(pool.label)) for pool in workload.gpus]
    made = workload.replace(services=tuple(services), gpus=tuple(pools))
    faults = [each._replace(path=_as_asked(each.path, made, asked)) for each in faults_in(made)]
    if len(faults) == 1:
        raise InputError(faults[0].what, where=written(faults[0].path) or None, hint=faults[0].hint)
    if faults:
        raise DocumentSource("the what-if").refusal(faults)
    return made


def _as_asked(path: FieldPath, workload: Workload, asked: WhatIf) -> FieldPath:
    """Return the field of the what-if that changes a field of the workload; the workload's where none does."""
    if len(path) < 3:
        return path
    part, at = path[:2]
    change: ServiceWhatIf | PoolWhatIf | None
    if part == "services" and isinstance(at, int):
        name = workload.services[at].name
        group, change = "services", asked.services.get(name)
    elif part == "gpus" and isinstance(at, int):
        name = workload.gpus[at].label
        group, change = "pools", asked.pools.get(name)
    else:
        return path
    known = _ASKED_AS.get(path[2:])
    return path if known is None or getattr(change, known, None) is None else (group, name, known)


_ASKED_AS: Mapping[FieldPath, str] = {
    ("rate",): "rate",
    ("slo", "latency_ms"): "latency_ms",
    ("slo", "quantile"): "quantile",
    ("count",): "count",
    ("cost_per_hour",): "price",
}
"""Fields of a service or pool of the workload, and those of a what-if that change them."""


def _changed_pool(pool: PoolSpec, change: PoolWhatIf | None) -> PoolSpec:
    """Return a pool as it would be; a workload cannot say that there is no GPU, so it has one at least."""
    if change is None:
        return pool
    count = pool.count if change.count is None else max(1, change.count)
    price = pool.cost_per_hour if change.price is None else change.price
    return pool.replace(count=count, cost_per_hour=price)


def _changed_service(spec: ServiceSpec, change: ServiceWhatIf) -> ServiceSpec:
    slo = spec.slo
    if change.latency_ms is not None:
        slo = slo.replace(latency_ms=change.latency_ms)
    if change.quantile is not None:
        slo = slo.replace(quantile=change.quantile)
    return spec.replace(rate=spec.rate if change.rate is None else change.rate, slo=slo)


def _require_known(field: str, asked: Iterable[str], known: Sequence[str]) -> None:
    there = set(known)
    for name in asked:
        if name not in there:
            close = nearest(name, list(known))
            raise InputError(
                f"the workload has no {field[:-1]} {name!r}",
                where=f"{field}.{name}",
                hint=f"did you mean {close}?" if close else f"the first is {known[0]}",
            )


def bound(prepared: PreparedWorkload) -> float:
    """Return a value of the objective that no plan goes below; infinite where no plan exists.

    Services that may share instances count without rules of placement; those with a cut by their fluid bound.
    """
    problem = prepared.problem
    sharing = any(may_share(spec, prepared.workload.limits) for spec in prepared.workload.services)
    found = round_up(rule_free_bound(problem), problem) if sharing else lower_bound(problem)
    if prepared.cuts:
        from partita.serve.reserving.reservation import Reserver  # noqa: PLC0415 -- numba is slow to import

        reserver = Reserver(problem, Deadline(), 0)
        found += sum(map(reserver.bound, prepared.cuts))
    return found


def answer(
    prepared: PreparedWorkload,
    asked: WhatIf,
    *,
    deadline: Deadline | None = None,
    applied: Mapping[str, int] | None = None,
    words: Sequence[str] = PLAN,
) -> WhatIfAnswer:
    """Answer a what-if.

    Args:
        prepared: the workload as it is, prepared to be planned.
        asked: what would be different, and whether the bound alone is asked for.
        deadline: time limit and stop request; None for the time limit that is asked for.
        applied: GPUs in use by model in the plan that was applied last; None where none was.
        words: the command that plans the workload as it is, of which the one is made that asks the same.

    Raises:
        InputError: as `changed`.
        PartitaError: it was asked to stop before any plan was found.
    """
    began = time.monotonic()
    deadline = deadline or Deadline(asked.seconds)
    prices = prices_of(prepared.workload, asked)
    found = WhatIfAnswer(
        bound=None,
        plan=None,
        feasible=False,
        now=None if applied is None else sum(applied.values()),
        objective=prepared.workload.objective,
        now_cost=None if applied is None else cost_of(applied, prices),
        command=command(asked, words),
        yaml=as_yaml(prepared.workload, asked),
    )
    try:
        there = changed(prepared, asked)
    except InfeasibleError as error:
        short = _cannot_run(_changed_workload(prepared.workload, asked), error)
        return found.replace(why=_why(error), short=short, seconds=time.monotonic() - began)
    least = bound(there)
    found = found.replace(bound=least if math.isfinite(least) else None, feasible=math.isfinite(least))
    if not found.feasible or asked.until == "bound":
        if not found.feasible:
            found = found.replace(why=_too_few(there))
            if asked.until == "plan":
                found = found.replace(short=_short(there, deadline, asked.seconds))
        return found.replace(binds=_binds(there, asked, None), seconds=time.monotonic() - began)
    try:
        limit = deadline.share(_PLAN_SHARE)
        made = planner.plan(there, deadline=limit, compare=False, explain=False).plan
    except InfeasibleError as error:
        found = found.replace(
            bound=None,
            feasible=False,
            why=_too_few(there) if isinstance(error, TooFewGpusError) else _why(error),
            short=_short(there, deadline, asked.seconds),
            binds=_binds(there, asked, None),
        )
        return found.replace(seconds=time.monotonic() - began)
    except InputError:
        raise
    except PartitaError as error:
        if deadline.stop():
            raise
        # Neither a plan nor a proof that there is none: the bound holds all the same.
        why = f"{error.what}; allow the search more seconds"
        binds = _binds(there, asked, None)
        return found.replace(feasible=False, why=why, binds=binds, seconds=time.monotonic() - began)
    return found.replace(
        bound=max(least, made.objective.lower_bound),
        plan=summary(made, prices, document=asked.document),
        binds=_binds(there, asked, made),
        seconds=time.monotonic() - began,
    )


def _why(error: InfeasibleError) -> str:
    return f"{error.what}; {error.hint}" if error.hint else error.what


def _cannot_run(workload: Workload, error: InfeasibleError) -> dict[str, float]:
    """Return the rate of the service that can run nowhere, which is the place of the error."""
    path = path_of(error.where or "")
    if len(path) < 2 or path[0] != "services" or not isinstance(path[1], int):
        return {}
    spec = workload.services[path[1]]
    return {spec.name: spec.rate}


def _too_few(prepared: PreparedWorkload) -> str:
    """Return why no plan can exist, with the bound of how many GPUs would be needed."""
    problem = prepared.problem
    many = problem.with_counts(dict.fromkeys((pool.name for pool in problem.pools), None))
    least = bound(replace(prepared, formulation=replace(prepared.formulation, problem=many)))
    text = "too few GPUs to meet all services, however they are cut"
    if problem.objective != "gpus" or not math.isfinite(least):
        return text
    if len(problem.pools) == 1:
        least = max(least, (problem.pools[0].count or 0) + 1)
    return f"{text}: that takes {least:,.0f} at least"


def _short(prepared: PreparedWorkload, deadline: Deadline, seconds: float) -> dict[str, float]:
    """Return how many items/s services would fall short if those of higher priority were met first."""
    rest = Deadline(max(deadline.left, (1 - _PLAN_SHARE) * seconds), deadline.stop)
    sharing = any(may_share(spec, prepared.workload.limits) for spec in prepared.workload.services)
    try:
        if prepared.cuts or sharing:
            made = planner.plan(prepared, deadline=rest, best_effort=True, compare=False).plan
            given = [(each.name, each.rate, each.capacity) for each in made.services]
        else:  # the shares that a plan would be made with are enough
            services = prepared.problem.services
            met = met_shares(prepared.problem, rest, quick=True).met.tolist()
            given = [
                (each.name, each.asked_rate, each.rate * share)
                for each, share in zip(services, met, strict=True)
            ]
    except PartitaError:
        return {}
    missing = {name: rate - capacity for name, rate, capacity in given if falls_short(capacity, rate)}
    return dict(sorted(missing.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMED])


def _binds(prepared: PreparedWorkload, asked: WhatIf, made: Plan | None) -> dict[str, str]:
    """Return what binds each changed service, in words."""
    specs = {spec.name: spec for spec in prepared.workload.services}
    there = [specs[name] for name in asked.services if name in specs][:_MOST_NAMED]
    return {spec.name: _bound_by(prepared, made, spec) for spec in there}


def _bound_by(prepared: PreparedWorkload, made: Plan | None, spec: ServiceSpec) -> str:
    if spec.cut is not None:
        return f"it has GPUs of its own, cut by {spec.cut}"
    runs = [each for bindings in what_binds(prepared, made, spec).values() for each in bindings]
    runs = [each for each in runs if each.point is not None]
    if not runs:
        return "it can run on no profile"
    # Where it runs, else where it would get the most of a compute slice.
    return _binding_words(max(runs, key=lambda each: (each.instances, _per_slice(each))))


def _per_slice(binding: Binding) -> float:
    throughput = 0.0 if binding.point is None else binding.point.throughput
    return throughput / int(binding.profile.partition("g.")[0])


_BINDS = {
    "latency": "its latency",
    "waiting": "waiting: more of its queries would be late",
    "memory": "memory: a larger batch did not run",
    "limits": "the workload's limits of batch and processes",
    "rate": "nothing measured is faster",
}


def _binding_words(binding: Binding) -> str:
    text = f"{_BINDS[binding.binds.value]}, on {binding.profile}"
    better = binding.better
    if better is None:
        return text
    batch = f"batch {better.batch}" + (f" in {better.processes} processes" if better.processes > 1 else "")
    return f"{text}: {batch} takes {better.latency_ms:.3g} ms for {better.throughput:,.4g} items/s"


# --- the same as a command, and as YAML


SETTINGS: Mapping[str, str] = {
    "rate": "services",
    "latency_ms": "services",
    "quantile": "services",
    "count": "pools",
    "price": "pools",
}
"""What a what-if can set, and whether it is a service's or a pool's."""


def read_settings(texts: Iterable[str]) -> WhatIf:
    """Read a what-if from texts such as `resnet50.rate=900` and `a100-80gb.count=16`.

    Raises:
        InputError: a text is not of that form, or its value is none that the field can have.
    """
    made: dict[str, dict[str, dict[str, float]]] = {"services": {}, "pools": {}}
    for text in texts:
        left, equals, right = text.rpartition("=")
        name, dot, field = left.rpartition(".")
        if not (equals and dot and name and field in SETTINGS):
            raise InputError(
                f"{text!r} sets nothing that there is",
                where="--set",
                hint=f"write NAME.FIELD=VALUE with one of {', '.join(SETTINGS)}: resnet50.rate=900",
            )
        try:
            value: float = int(right) if field == "count" else float(right)
        except ValueError:
            whole = "a whole number" if field == "count" else "a number"
            raise InputError(f"{right!r} is not {whole}", where=f"--set {left}") from None
        made[SETTINGS[field]].setdefault(name, {})[field] = value
    return checked(
        WhatIf(
            services={name: ServiceWhatIf(**values) for name, values in made["services"].items()},
            pools={
                name: PoolWhatIf(None if "count" not in values else int(values["count"]), values.get("price"))
                for name, values in made["pools"].items()
            },
        ),
        "--set",
    )


def command(asked: WhatIf, plan: Sequence[str]) -> str:
    """Return the command line that plans the same.

    Args:
        asked: what would be different.
        plan: the command that plans the workload as it is.
    """
    words = [*plan]
    changes: list[tuple[str, ServiceWhatIf | PoolWhatIf]] = [*asked.services.items(), *asked.pools.items()]
    for name, change in changes:
        for field, value in to_data(change).items():
            if value is not None:
                words += ["--set", f"{name}.{field}={_number(value)}"]
    return shlex.join(words)


def _number(value: float) -> str:
    return str(number(value))


def as_yaml(workload: Workload, asked: WhatIf) -> str:
    """Return the entries of a workload that a what-if changes, as YAML that is written over theirs."""
    services, pools = [], []
    for spec in workload.services:
        change = asked.services.get(spec.name)
        if change is not None:
            gone = change.rate == 0
            services.append(_left_out(spec.name) if gone else _entry(_changed_service(spec, change)))
    for pool in workload.gpus:
        wanted = asked.pools.get(pool.label)
        if wanted is not None:
            pools.append(_left_out(pool.label) if wanted.count == 0 else _entry(_changed_pool(pool, wanted)))
    parts = {"gpus": pools, "services": services}
    return "".join(f"{name}:\n{''.join(entries)}" for name, entries in parts.items() if entries)


def _left_out(name: str) -> str:
    return f"  # leave out {json.dumps(name, ensure_ascii=False)}\n"


def _entry(value: Value) -> str:
    """Return an entry of a list on one line, without what is as by default."""
    import yaml  # noqa: PLC0415 -- no other part of a what-if needs it

    defaults = {
        each.name: each.default for each in msgspec.structs.fields(value) if each.default is not NODEFAULT
    }
    said = {
        name: each
        for name, each in to_data(value).items()
        if name not in defaults or getattr(value, name) != defaults[name]
    }
    text = yaml.safe_dump(
        _said(said), default_flow_style=True, sort_keys=False, allow_unicode=True, width=inf
    )
    return f"  - {text}"


def _said(data: Any) -> Any:  # noqa: ANN401 -- plain data
    """Return plain data without entries that are null, and with whole numbers as such."""
    if isinstance(data, dict):
        return {name: _said(each) for name, each in data.items() if each is not None}
    if isinstance(data, list | tuple):
        return [_said(each) for each in data]
    return number(data) if isinstance(data, float) else data
