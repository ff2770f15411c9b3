"""Rates that are measured in a cluster: counted by gateways, or answered by a Prometheus."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from partita.control.reconciler import Demand
from partita.documents.codec import readable
from partita.errors import InputError, PartitaError
from partita.kubernetes.objects import ENDPOINT_SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.resources import GatewayRates, PrometheusRates, RatesSource

_EVERY_S = 15.0
_TIMEOUT_S = 5.0
_LARGEST_ANSWER = 16 << 20


class KeptRates:
    """Rates asked of a source now and then (control's `Rates`); while it fails, what it said last holds.

    Attributes:
        fault: why the source failed the last time; None if it did not.

    Args:
        ask: returns items/s by service, and raises what it raises.
        clock: seconds.
    """

    def __init__(
        self, ask: Callable[[], Mapping[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.fault: PartitaError | None = None
        self._ask = ask
        self._clock = clock
        self._last: Mapping[str, float] = {}
        self._next = float("-inf")

    def measured(self) -> Demand:
        """Return what was measured last; services that nobody measures are left out."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY_S
            try:
                self._last = {**self._last, **self._ask()}
                self.fault = None
            except PartitaError as error:
                self.fault = error
        return Demand(dict(self._last))


class GatewayAccess(NamedTuple):
    """How gateways are asked.

    Attributes:
        token: that they ask for, None for none.
        ca: file of the authority that signed their certificates; None for plain text.
    """

    token: str | None = None
    ca: str | None = None


OPEN = GatewayAccess()
"""Of gateways that ask for nothing."""


def rates_from(
    source: RatesSource | None, api: KubernetesApi, namespace: str, access: GatewayAccess = OPEN
) -> KeptRates:
    """Return what asks a Workload's source of rates; without one, nothing is measured."""
    if source is None:
        return KeptRates(dict)
    if source.prometheus is not None:
        asked = source.prometheus
        return KeptRates(lambda: prometheus_rates(asked))
    if source.gateway is None:
        raise AssertionError("a source is either")
    return KeptRates(GatewayCounters(api, namespace, source.gateway, access).rates)


class _Sample(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Result(msgspec.Struct, rename="camel"):
    result_type: str
    result: msgspec.Raw


class _Answer(msgspec.Struct, rename="camel"):
    status: str
    data: _Result | None = None
    error: str = ""
    error_type: str = ""


def prometheus_rates(source: PrometheusRates) -> dict[str, float]:
    """Return items/s by service, as a Prometheus answers a query now.

    Raises:
        InputError: it does not answer, refuses the query, or answers something else.
    """
    where = f"Prometheus {source.url}"
    body = _fetch("GET", f"{source.url.rstrip('/')}/api/v1/query", where, {"query": source.query})
    try:
        answer = msgspec.json.decode(body, type=readable(_Answer))
        if answer.status != "success" or answer.data is None:
            raise InputError(
                f"{answer.error_type}: {answer.error}", where=where, hint="try the query in its UI"
            )
        if answer.data.result_type != "vector":
            what = f"the query is answered with a {answer.data.result_type}, not a vector"
            hint = f"one number for each value of {source.label!r}: sum by ({source.label}) (rate(...))"
            raise InputError(what, where=where, hint=hint)
        samples = msgspec.json.decode(answer.data.result, type=readable(list[_Sample]))
    except msgspec.DecodeError as error:
        hint = "is this the address of a Prometheus?"
        raise InputError(f"this is no answer of a Prometheus: {error}", where=where, hint=hint) from None
    if not samples:
        raise InputError("the query has no result now", where=where, hint="try the query in its UI")
    found: dict[str, float] = {}
    for sample in samples:
        name, rate = sample.metric.get(source.label), _number(sample.value[1])
        if name is None:
            hint = f"its labels are {', '.join(sorted(sample.metric)) or 'none'}; name one as rates.prometheus.label"
            raise InputError(f"a result has no label {source.label!r}", where=where, hint=hint)
        if rate is not None:
            found[name] = rate
    return found


def _number(text: str) -> float | None:
    """Return a sample's value if it is a rate: Prometheus writes 0/0 as NaN."""
    value = float(text)
    return value if math.isfinite(value) and value >= 0 else None


class GatewayCounters:
    """Counts the items of all pods of a gateway's Service.

    A pod that is new counts from its second reading on; one that started anew counts from zero.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        source: GatewayRates,
        access: GatewayAccess = OPEN,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._source = source
        self._access = access
        self._before: dict[str, tuple[float, Mapping[str, float]]] = {}

    def rates(self) -> dict[str, float]:
        """Return items/s by service since the last reading; nothing at the first.

        Raises:
            InputError: no gateway answers.
            KubernetesError: its addresses cannot be found.
        """
        source = self._source
        labels = f"kubernetes.io/service-name={source.service}"
        slices = self._api.list_objects(ENDPOINT_SLICE, self._namespace, labels=labels)
        addresses = {
            address for each in slices.items for end in each.endpoints or () for address in end.addresses
        }
        where = f"Service {self._namespace}/{source.service}"
        if not addresses:
            raise InputError("it has no endpoints", where=where, hint="name the gateways' Service")
        found: defaultdict[str, float] = defaultdict(float)
        now: dict[str, tuple[float, Mapping[str, float]]] = {}
        fault: InputError | None = None
        for address in sorted(addresses):
            host = f"[{address}]" if ":" in address else address
            try:
                scheme = "http" if self._access.ca is None else "https"
                page = _fetch("GET", f"{scheme}://{host}:{source.port}/metrics", where, {}, self._access)
            except InputError as error:
                fault = error
                continue
            at, items = time.monotonic(), items_counted(page.decode("utf-8", "replace"))
            now[address] = at, items
            if address in self._before:
                then, before = self._before[address]
                for name, count in items.items():
                    more = count - before.get(name, 0.0)
                    found[name] += (more if more >= 0 else count) / max(at - then, 1e-3)
        self._before = now
        if fault is not None and not now:
            raise fault
        return dict(found)


def items_counted(page: str) -> dict[str, float]:
    """Return the counter of items offered, by service, of a gateway's metrics page; refused ones count."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 -- of the extra

    return {
        sample.labels["service"]: float(sample.value)
        for family in text_string_to_metric_families(page)
        if family.name == "partita_offered_items"
        for sample in family.samples
        if sample.name == "partita_offered_items_total"
    }


def _fetch(
    method: str, url: str, where: str, fields: Mapping[str, str], access: GatewayAccess = OPEN
) -> bytes:
    """Return what a server answers.

    Raises:
        InputError: it does not answer, or with an error.
    """
    import urllib3  # noqa: PLC0415 -- of the extra

    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    # Pods are asked by their addresses, which no certificate names.
    tls: dict[str, Any] = {} if access.ca is None else {"ca_certs": access.ca, "assert_hostname": False}
    try:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S, **tls) as pool:
            answer: Any = pool.request(
                method, url, fields=dict(fields), headers=headers, preload_content=False
            )
            body: bytes = answer.read(_LARGEST_ANSWER)
            answer.release_conn()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise InputError(f"no answer: {error}", where=where, hint="is its address right?") from None
    if answer.status >= 300:
        raise InputError(f"it answers {answer.status}: {_said(body)}", where=where)
    return body


def _said(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    said = found.get("error") if isinstance(found, dict) else None
    return str(said or body[:200].decode("utf-8", "replace")).strip()
