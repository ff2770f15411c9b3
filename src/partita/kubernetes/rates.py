"""Measures the rates of services in a cluster: from the gateways' counters, or by a Prometheus query."""

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
    from collections.abc import Callable, Iterable, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import EndpointSlice
    from partita.kubernetes.resources import GatewayRates, PrometheusRates, RatesSource

_EVERY_S = 15.0
_TIMEOUT_S = 5.0
_UNKNOWN_S = 60.0
"""Seconds for which a gateway without a reading may hold rates up."""
_LARGEST_ANSWER = 16 << 20


class KeptRates:
    """Rates that are read from a source every 15 s (control's `Rates`); if it fails, the last rates hold.

    Attributes:
        fault: why the last reading failed; None if it did not.

    Args:
        ask: returns items/s by service, or raises `PartitaError`.
        clock: returns seconds.
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
        """Return the last measured rates; services without a measurement are absent."""
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
    """Credentials for the gateways' metrics pages.

    Attributes:
        token: bearer token; None if gateways require none.
        ca: file of the certificate authority of the gateways; None for plain HTTP.
    """

    token: str | None = None
    ca: str | None = None


OPEN = GatewayAccess()
"""For gateways that require neither token nor TLS."""


def rates_from(
    source: RatesSource | None, api: KubernetesApi, namespace: str, access: GatewayAccess = OPEN
) -> KeptRates:
    """Return the rates of a Workload's source; without a source, nothing is measured."""
    if source is None:
        return KeptRates(dict)
    if source.prometheus is not None:
        asked = source.prometheus
        return KeptRates(lambda: prometheus_rates(asked))
    if source.gateway is None:
        raise AssertionError("a source is a gateway or a Prometheus")
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
    """Return items/s by service, from an instant query to a Prometheus.

    Raises:
        InputError: it does not answer, refuses the query, or its answer is no vector with the label.
    """
    where = f"Prometheus {source.url}"
    body = _fetch(f"{source.url.rstrip('/')}/api/v1/query", where, {"query": source.query})
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
        hint = "check that this is the address of a Prometheus"
        raise InputError(f"this is no answer of a Prometheus: {error}", where=where, hint=hint) from None
    if not samples:
        raise InputError("the query has an empty result", where=where, hint="try the query in its UI")
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
    """Return a sample's value, None if it is no rate (Prometheus answers NaN for 0/0)."""
    value = float(text)
    return value if math.isfinite(value) and value >= 0 else None


class GatewayCounters:
    """Derives rates from the item counters of all pods of a gateway's Service, and adds them up.

    A new pod counts from its second reading on. A counter that has fallen was reset, and counts from zero. While a
    pod is new or does not answer, part of the load is unknown: for up to a minute, no rate falls below the last one.
    A pod that the Service no longer lists does not count.
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
        self._unknown: dict[str, float] = {}  # pods without a rate, by address: since when
        self._last: Mapping[str, float] = {}

    def rates(self) -> dict[str, float]:
        """Return items/s by service since the last reading; empty at the first reading.

        Raises:
            InputError: no gateway answers.
            KubernetesError: the gateways' addresses cannot be read.
        """
        source = self._source
        addresses = gateway_addresses(self._api, self._namespace, source.service)
        where = f"Service {self._namespace}/{source.service}"
        found: defaultdict[str, float] = defaultdict(float)
        self._before = {each: known for each, known in self._before.items() if each in addresses}
        now: dict[str, tuple[float, Mapping[str, float]]] = {}
        known: set[str] = set()
        fault: InputError | None = None
        for address in addresses:
            try:
                page = _fetch(metrics_url(address, source.port, self._access), where, {}, self._access)
            except InputError as error:
                fault = error
                continue
            at, items = time.monotonic(), items_counted(page.decode("utf-8", "replace"))
            now[address] = at, items
            if address in self._before:
                known.add(address)
                then, before = self._before[address]
                for name, count in items.items():
                    more = count - before.get(name, 0.0)
                    found[name] += (more if more >= 0 else count) / max(at - then, 1e-3)
        self._before |= now
        if fault is not None and not now:
            raise fault
        ended = time.monotonic()
        self._unknown = {each: self._unknown.get(each, ended) for each in addresses if each not in known}
        if any(ended - since < _UNKNOWN_S for since in self._unknown.values()):
            for name, rate in self._last.items():
                found[name] = max(found[name], rate)
        self._last = dict(found)
        return dict(found)


def gateway_addresses(api: KubernetesApi, namespace: str, service: str) -> list[str]:
    """Return an address of each pod of a gateway's Service.

    Raises:
        InputError: it has none.
        KubernetesError: they cannot be read.
    """
    slices = api.list_objects(ENDPOINT_SLICE, namespace, labels=f"kubernetes.io/service-name={service}")
    found = _one_of_each_pod(slices.items)
    if not found:
        where = f"Service {namespace}/{service}"
        raise InputError("the Service has no endpoints", where=where, hint="name the gateways' Service")
    return found


def metrics_url(address: str, port: int, access: GatewayAccess) -> str:
    """Return the URL of a gateway's metrics page."""
    host = f"[{address}]" if ":" in address else address
    return f"{'http' if access.ca is None else 'https'}://{host}:{port}/metrics"


def _one_of_each_pod(slices: Iterable[EndpointSlice]) -> list[str]:
    """Return an address of each pod: with two address families, a pod is in two slices."""
    found: dict[str, str] = {}
    for each in slices:
        for end in each.endpoints or ():
            for address in end.addresses[:1]:
                pod = end.target_ref.name if end.target_ref is not None else address
                found[pod] = min(address, found.get(pod, address))
    return sorted(found.values())


def items_counted(page: str) -> dict[str, float]:
    """Return a gateway's counters of offered items by service, from its metrics page; refused items count too."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 -- of the extra

    return {
        sample.labels["service"]: float(sample.value)
        for family in text_string_to_metric_families(page)
        if family.name == "partita_offered_items"
        for sample in family.samples
        if sample.name == "partita_offered_items_total"
    }


def _fetch(url: str, where: str, fields: Mapping[str, str], access: GatewayAccess = OPEN) -> bytes:
    """Return the body of a server's answer to GET.

    Raises:
        InputError: it does not answer, or answers with an error.
    """
    import urllib3  # noqa: PLC0415 -- of the extra

    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    # Pods are addressed by IP, and certificates name the Service.
    tls: dict[str, Any] = {} if access.ca is None else {"ca_certs": access.ca, "assert_hostname": False}
    try:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S, **tls) as pool:
            answer: Any = pool.request(
                "GET", url, fields=dict(fields), headers=headers, preload_content=False
            )
            body: bytes = answer.read(_LARGEST_ANSWER)
            answer.release_conn()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise InputError(f"no answer: {error}", where=where, hint="check its address") from None
    if answer.status >= 300:
        raise InputError(f"the server answers {answer.status}: {_said(body)}", where=where)
    return body


def _said(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    said = found.get("error") if isinstance(found, dict) else None
    return str(said or body[:200].decode("utf-8", "replace")).strip()
