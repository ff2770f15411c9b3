"""What a controller's dashboard shows of its Workloads' gateways: pages by HTTP, some of which hang or restart."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes_units.test_dash_searches import keeper

from partita.dash.fleet import FleetState
from partita.dash.gateway import GatewayPage, together
from partita.dash.gateway_watch import GatewayWatch
from partita.dash.samples import FLEET, samples, service_series
from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance, ObservedReplica
from partita.kubernetes.dash_source import ControllerSource
from partita.kubernetes.objects import EndpointSlice, ForbiddenError, ObjectMeta, SliceEndpoint
from partita.kubernetes.rates import OPEN
from partita.kubernetes.resources import GatewayRates, RatesSource
from partita.mig.layout import Placement
from partita.serve.dispatching.query import PendingQuery, QueryOutcome, RefusalReason
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.statistics import (
    GatewaySnapshot,
    ServiceCounters,
    ServiceView,
    WorkerStatus,
    WorkerView,
)
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.dash.source import Look

INSTANCE = "resnet50-0/gpu-0/3g.20gb@0"
PATIENCE_S = 30.0


def until(told: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not told():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Gateway:
    """A gateway that answers queries at a rate, 4 of 5 in time, and whose page is read by HTTP."""

    def __init__(self, host: str, port: int = 0, rate: int = 100) -> None:
        self.rate = rate
        self.hangs = False
        self.reads = 0
        self._released = threading.Event()
        self.restart()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.reads += 1
                if outer.hangs:
                    outer._released.wait()
                    return
                body = outer.page()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def restart(self, in_time: int = 4) -> None:
        """Count from zero; of five answers, so many are in time."""
        self._counters = ServiceCounters(0.1)
        self._in_time = in_time
        self._began, self._asked = time.monotonic(), 0

    def page(self) -> bytes:
        asked = int((time.monotonic() - self._began) * self.rate)
        for number in range(self._asked, asked):
            took = 0.01 if number % 5 < self._in_time else 0.4
            self._counters.answered(PendingQuery(1, 0.0, 0.1), took)
        self._asked = asked
        view = ServiceView("resnet50", 3, 2, self._counters.statistics(0, asked), 0, 0.1, 0.95)
        busy = (time.monotonic() - self._began) / 4
        worker = WorkerView(
            "resnet50",
            INSTANCE,
            (INSTANCE, "GPU-0", "1", "3g.20gb"),
            1,
            WorkerStatus.BUSY,
            1,
            1,
            busy,
            9,
            1.0,
        )
        return Metrics(lambda: GatewaySnapshot((view,), (worker,), draining=False)).page()[0]

    def refuse(self, count: int) -> None:
        for _ in range(count):
            self._counters.failed(PendingQuery(1, 0.0, 0.1), 0.2, QueryOutcome.REFUSED, RefusalReason.LATE)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


class Api:
    """An API server that knows the addresses of the Service `gw`; or, forbidden, tells nobody."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.forbidden = addresses, False

    def within(self, namespace: str) -> Api:
        assert namespace == "shop"
        return self

    def list_objects(self, _kind: object, _namespace: str, *, labels: str) -> Any:
        assert labels == "kubernetes.io/service-name=gw"
        if self.forbidden:
            raise ForbiddenError("may not list endpointslices")
        ends = tuple(SliceEndpoint((each,)) for each in self.addresses)
        return SimpleNamespace(items=[EndpointSlice(metadata=ObjectMeta(name="gw"), endpoints=ends)])


def workload(gateway: GatewayRates | None) -> Any:
    """Return a keeper of a Workload of one service, with a replica."""
    made = keeper(300, 2)
    made.jobs = None
    made.loaded.spec = made.loaded.spec.replace(
        rates=None if gateway is None else RatesSource(gateway=gateway)
    )
    replica = ObservedReplica(Replica("resnet50", "resnet50", 8, 1, 330.0, 15.0), ready=True)
    place = ObservedInstance(Placement(0, "3g.20gb"), Identity("GPU", None, None, "uid"), True, replica)
    gpu = ObservedGpu("resnet50-0/gpu-0", "GPU-0", "a100-40gb", True, False, (place,))
    made.facts = SimpleNamespace(
        observation=Observation((gpu,)), services=made.facts.services, promises={}, jobs=()
    )
    return made


class Shown:
    """A controller's source, and the fleet as the API has it by it."""

    def __init__(self, api: Api, **keepers: Any) -> None:
        self.controller = SimpleNamespace(
            keepers={("shop", name): each for name, each in keepers.items()},
            caches=(), leader=SimpleNamespace(leads=True), log=None, api=api, gateways=OPEN,
        )  # fmt: skip
        self.source = ControllerSource(self.controller)  # type: ignore[arg-type]
        self.fleet = FleetState()

    def look(self) -> Look:
        seen = self.source.look()
        self.fleet.update(seen)
        return seen

    @property
    def busy(self) -> tuple[int | None, ...]:
        self.look()
        return self.fleet.load().busy

    @property
    def service(self) -> Any:
        self.look()
        return self.fleet.services["resnet50"]


def reading() -> list[threading.Thread]:
    """Return the threads that read a gateway each."""
    return [each for each in threading.enumerate() if each.name == "gateway"]


@contextmanager
def gateways() -> Iterator[tuple[Gateway, Gateway]]:
    first = Gateway("127.0.0.1", rate=60)
    second = Gateway("127.0.0.2", first.port, rate=40)
    try:
        yield first, second
    finally:
        first.close()
        second.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read all the time, and look for gateways all the time."""
    monkeypatch.setattr("partita.dash.gateway_watch.EVERY_S", 0.02)
    monkeypatch.setattr("partita.kubernetes.dash_gateways._FIND_S", 0.02)
    monkeypatch.setattr("partita.kubernetes.dash_gateways._EACH_S", 0.0)


def test_what_two_gateways_measure_is_added_up_while_a_third_one_hangs() -> None:
    with gateways() as (first, second):
        hung = Gateway("127.0.0.3", first.port)
        hung.hangs = True
        api = Api("127.0.0.1", "127.0.0.2", "127.0.0.3")
        shown = Shown(api, serving=workload(GatewayRates("gw", first.port)))
        with closing(shown.source), closing(hung):
            until(lambda: 90 <= (shown.service.rate or 0) <= 110, "both rates add up")
            until(lambda: shown.service.attainment == pytest.approx(0.8, abs=0.02), "it is measured")
            found = shown.service
            assert (found.queue, found.in_flight) == (6, 4)
            assert found.required == 600.0  # what the controller knows itself stays
            assert found.where == {"a100-40gb 3g.20gb": 1}
            assert 5.0 <= found.p50_ms <= 10.0
            assert 250.0 <= found.p99_ms <= 500.0
            first.refuse(5)
            second.refuse(2)
            until(lambda: shown.service.refused == {"late": 7}, "refusals are told by their reason")
            # Each gateway's worker is busy for a quarter of the time, and they are one instance.
            until(lambda: shown.busy == pytest.approx((500,), abs=50), "it is busy")
            assert shown.fleet.load().attainment[0] is not None
            points = samples(shown.fleet)
            assert points[service_series("resnet50")]["refused"] == 7
            assert points[FLEET]["working"] is not None
            assert [each.split()[0] for each in shown.source.notes] == ["watts"]
            assert hung.reads == 1  # it is waited for still


def test_a_gateway_that_is_started_again_hides_nothing_of_its_past() -> None:
    with gateways() as (first, second):
        shown = Shown(Api("127.0.0.1", "127.0.0.2"), serving=workload(GatewayRates("gw", first.port)))
        with closing(shown.source):
            until(lambda: (shown.service.rate or 0) > 80, "both rates are known")
            for each in (first, second):
                until(lambda each=each: each._asked > 20, "there is something to reset")  # type: ignore[misc]
            refused = 11
            second.refuse(refused)
            until(lambda: shown.service.refused == {"late": refused}, "refusals are counted")
            rates = []
            second.restart(in_time=0)
            reads = second.reads
            while second.reads < reads + 40:
                rates.append(shown.service.rate)
                time.sleep(0.02)
            assert min(rates) > 40, "the first one's and a part of its own"
            found = shown.service
            assert found.refused == {"late": refused}
            assert 0 < found.attainment < 0.8


def test_a_gateway_that_is_listed_no_more_does_not_count_and_one_that_is_new_does() -> None:
    with gateways() as (first, second):
        api = Api("127.0.0.1")
        shown = Shown(api, serving=workload(GatewayRates("gw", first.port)))
        with closing(shown.source):
            until(lambda: 50 <= (shown.service.rate or 0) <= 70, "the first is read")
            api.addresses = ("127.0.0.1", "127.0.0.2")
            until(lambda: 90 <= (shown.service.rate or 0) <= 110, "the second is found")
            api.addresses = ("127.0.0.2",)
            until(lambda: shown.service.queue == 3, "the first is forgotten")
            assert shown.service.rate < 60
            api.forbidden = True
            until(lambda: "may not list" in "".join(shown.source.notes), "it says so")
            assert shown.service.queue == 3  # what was known of addresses holds
            api.forbidden, api.addresses = False, ()
            until(lambda: shown.service.rate is None, "nobody measures any more")
            found = shown.service
            assert (found.queue, found.attainment, found.refused) == (None, None, {})
            assert shown.busy == (None,)
            assert "the Service has no endpoints" in shown.source.notes[0]
            reads = first.reads
            until(lambda: second.reads > 0, "it was read")
            assert first.reads == reads


def test_a_workload_without_gateways_says_so_and_what_is_unknown_stays_unknown() -> None:
    shown = Shown(Api(), serving=workload(None))
    with closing(shown.source):
        found = shown.service
        assert (found.rate, found.queue, found.attainment) == (None, None, None)
        assert "are not measured of Workload shop/serving" in shown.source.notes[0]
        assert not shown.look().services


def test_a_workload_that_is_gone_is_read_no_more() -> None:
    with gateways() as (first, _):
        shown = Shown(Api("127.0.0.1"), serving=workload(GatewayRates("gw", first.port)))
        with closing(shown.source):
            until(lambda: (shown.service.queue or 0) == 3, "it is read")
            shown.controller.keepers.clear()
            shown.look()
            until(lambda: not shown.source._gateways.latest(), "it is forgotten")
            until(lambda: not reading(), "its thread has ended")


def test_no_rate_falls_while_a_new_gateway_is_not_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.dash.gateway.RATE_S", 0.3)
    monkeypatch.setattr("partita.dash.gateway_watch._UNKNOWN_S", 1e9)
    with gateways() as (first, second):
        page = GatewayPage(first.url)
        with closing(GatewayWatch([page])) as watch:

            def rate() -> float:
                found = watch.latest().services.get("resnet50")
                return 0.0 if found is None or found.rate is None else found.rate

            until(lambda: rate() > 40, "the first is read")
            second.hangs = True
            watch.follow([page, GatewayPage(second.url)])
            before, reads = rate(), first.reads
            first.restart()
            first.rate = 5  # its queries go to the other one now
            while first.reads < reads + 30:
                assert rate() >= before
                time.sleep(0.01)
            now = together([page]).services["resnet50"].rate
            assert now is not None
            assert now < before
            monkeypatch.setattr("partita.dash.gateway_watch._UNKNOWN_S", 0.0)
            until(lambda: rate() < before, "not for ever")
