"""The endpoints of what is seen: the index, the fleet, GPUs, services, events; and all endpoints together."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

from partita import __version__
from partita.dash.asked import ASKED
from partita.dash.endpoint import Call, Endpoint, SearchPage
from partita.dash.model import (
    EventPage,
    Fault,
    Fleet,
    Gpu,
    GpuHistory,
    GpuPage,
    Index,
    Load,
    Part,
    Series,
    Service,
    ServicePage,
)
from partita.dash.refusal import RequestFault
from partita.dash.samples import FLEET, service_series
from partita.documents.codec import Meta, Value
from partita.errors import nearest

if TYPE_CHECKING:
    from partita.dash.state import ApiState, Encoded


_DAY_S = 86_400.0


def _index(api: ApiState, call: Call) -> Index:
    source = api.source
    return Index(
        __version__,
        source.cluster,
        source.workload,
        api.fleet.at or time.time(),
        call.role,
        api.parts,
        api.state(),
        api.stream.last,
        None if api.fault is None else Fault(api.fault.what, api.fault.where, api.fault.hint),
        _notes(api),
    )


def _notes(api: ApiState) -> tuple[str, ...]:
    fault = api.history.fault
    return (*api.source.notes, *(() if fault is None else (fault,)))


def _index_etag(api: ApiState, call: Call) -> str:
    """Return what changes when the index does, but for its clock and the number of the newest event."""
    told = (api.state(), call.role, api.parts, str(api.fault), _notes(api))
    return blake2b(repr(told).encode(), digest_size=9).hexdigest()


def _fleet(api: ApiState, _: Call) -> Encoded:
    version = api.fleet.version
    return api.encoded("fleet", version, api.fleet.fleet())


def _load(api: ApiState, _: Call) -> Encoded:
    version = api.fleet.load_version
    return api.encoded("load", version, api.fleet.load())


def _gpus(api: ApiState, call: Call) -> GpuPage:
    query: SearchPage = call.query
    return GpuPage(*api.fleet.page(query.after, query.limit, query.q.lower()))


def _gpu(api: ApiState, call: Call) -> Gpu:
    found = api.fleet.gpu(call.path["id"])
    if found is None:
        raise RequestFault(
            404, f"there is no GPU {call.path['id']!r}", where="id", hint="GET /api/v1/gpus?q="
        )
    return found


def _gpu_history(api: ApiState, call: Call) -> GpuHistory:
    gpu = _gpu(api, call)
    with api.lock:
        found = api.source.history(gpu.id)
    if api.on_demand is None or Part.ENERGY not in api.parts:
        return found
    return found.replace(energy=api.on_demand.energy(max(0.0, api.fleet.at - _DAY_S), gpu.id).rows)


def _services(api: ApiState, call: Call) -> ServicePage:
    query: SearchPage = call.query
    wanted = query.q.lower()
    found = [each for name, each in api.fleet.services.items() if wanted in name.lower()]
    rest = found if query.after is None else [each for each in found if each.name > query.after]
    more = len(rest) > query.limit
    page = tuple(rest[: query.limit])
    return ServicePage(page, len(found), page[-1].name if more else None)


def _service(api: ApiState, call: Call) -> Service:
    name = call.path["name"]
    found = api.fleet.services.get(name)
    if found is None:
        close = nearest(name, list(api.fleet.services))
        raise RequestFault(
            404,
            f"there is no service {name!r}",
            where="name",
            hint=f"did you mean {close}?" if close else "GET /api/v1/services lists them",
        )
    return found


class EventQuery(Value):
    """The query of events."""

    after: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,18}(\.[0-9]{1,18}){2}$", description="Cursor: `next` of the page before."
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most events of the page.")] = 100


class SeriesQuery(Value):
    """The query of a series."""

    seconds: Annotated[
        float, Meta(gt=0, le=30 * 86_400, description="How far back; beyond a day, points are minutes.")
    ] = 3600.0
    until: (
        Annotated[
            float, Meta(ge=0, le=1e12, description="Up to when, on the cluster's clock; by default now.")
        ]
        | None
    ) = None
    points: Annotated[
        int, Meta(ge=1, le=2000, description="Most points; each is then the mean of several.")
    ] = 360


def _fleet_series(api: ApiState, call: Call) -> Series:
    return _series(api, call.query, FLEET)


def _service_series(api: ApiState, call: Call) -> Series:
    return _series(api, call.query, service_series(_service(api, call).name))


def _series(api: ApiState, query: SeriesQuery, name: str) -> Series:
    until = api.fleet.at if query.until is None else query.until
    return api.history.series(name, max(0.0, until - query.seconds), until, query.points)


def _events(api: ApiState, call: Call) -> EventPage:
    query: EventQuery = call.query
    with api.lock:
        return api.source.events(query.after, query.limit)


SEEN = (
    Endpoint(
        "GET", "", Index, _index, "What this API is, and what the caller may do.", slow=True,
        etag=_index_etag,
    ),
    Endpoint(
        "GET", "/fleet", Fleet, _fleet, "All GPUs and how they are cut, in columns.",
        etag=lambda api, _: api.fleet.version,
    ),
    Endpoint(
        "GET", "/fleet/load", Load, _load, "What all instances do now, in columns.",
        etag=lambda api, _: api.fleet.load_version,
    ),
    Endpoint("GET", "/gpus", GpuPage, _gpus, "GPUs with their instances, by page.", query=SearchPage),
    Endpoint(
        "GET", "/gpus/{id:path}/history", GpuHistory, _gpu_history, "A GPU's cuts, events and energy.",
        slow=True,
    ),
    Endpoint("GET", "/gpus/{id:path}", Gpu, _gpu, "A GPU with its instances."),
    Endpoint(
        "GET", "/services", ServicePage, _services, "Services, by page.", query=SearchPage,
        part=Part.SERVICES,
    ),
    Endpoint(
        "GET", "/services/{name:path}/series", Series, _service_series,
        "A service over time: rate, attainment, latency in ms, queue, capacity, floor.",
        part=Part.SERVICES, query=SeriesQuery, slow=True,
    ),
    Endpoint(
        "GET", "/fleet/series", Series, _fleet_series,
        "The fleet over time: GPUs and those in use, shares held and at work, watts, instances.",
        query=SeriesQuery, slow=True,
    ),
    Endpoint("GET", "/services/{name:path}", Service, _service, "A service.", part=Part.SERVICES),
    Endpoint("GET", "/events", EventPage, _events, "What happened, newest first.", query=EventQuery, slow=True),
)  # fmt: skip
"""What is seen."""

ALL: tuple[Endpoint, ...] = (*ASKED, *SEEN)
"""All endpoints, in the order in which paths are matched."""
