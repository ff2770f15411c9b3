"""One candidate leads at a time, whatever happens to the others and to the API server."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from partita.kubernetes import leader as module
from partita.kubernetes.leader import Leader, LeaseSpec, LostLeadershipError
from partita.kubernetes.leader import Lease as LeaseObject
from partita.kubernetes.objects import ConflictError, ExistsError, NotFoundError, ObjectMeta, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0


class Leases:
    """The API of leases alone, which may be away for some."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lease: LeaseObject | None = None
        self.version = 0
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise UnreachableError("away")

    def get(self, _kind: Any, _name: str) -> LeaseObject:
        self._reach()
        if self.lease is None:
            raise NotFoundError("none")
        return self.lease

    def create(self, _kind: Any, body: dict[str, Any]) -> LeaseObject:
        with self.lock:
            self._reach()
            if self.lease is not None:
                raise ExistsError("there")
            return self._put(body)

    def replace(self, _kind: Any, body: dict[str, Any]) -> LeaseObject:
        with self.lock:
            self._reach()
            if (
                self.lease is None
                or self.lease.metadata.resource_version != body["metadata"]["resourceVersion"]
            ):
                raise ConflictError("changed")
            return self._put(body)

    def _put(self, body: dict[str, Any]) -> LeaseObject:
        self.version += 1
        spec = body["spec"]
        self.lease = LeaseObject(
            metadata=ObjectMeta("lease", resource_version=str(self.version)),
            spec=LeaseSpec(
                spec["holderIdentity"],
                spec["leaseDurationSeconds"],
                spec["renewTime"],
                spec["leaseTransitions"],
            ),
        )
        return self.lease

    @property
    def holder(self) -> str | None:
        return self.lease.spec.holder_identity if self.lease else None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEASE_S": 4, "_RENEW_S": 0.1, "_MARGIN_S": 1.0, "_LOOK_S": 0.05}.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def candidates(quick: None) -> Iterator[tuple[Leases, Leader, Leases, Leader]]:
    """Two candidates, each with a way of its own to one lease."""
    del quick
    shared: Any = _Shared(Leases())
    first, second = Leader(shared.first, "lease", print), Leader(shared.second, "lease", print)
    yield shared.first, first, shared.second, second
    shared.first.away = shared.second.away = False
    first.release()
    second.release()


class _Shared:
    """One lease, seen by two."""

    def __init__(self, leases: Leases) -> None:
        class Seen(Leases):
            def __init__(self) -> None:
                self.away = False

            def get(self, kind: Any, name: str) -> LeaseObject:
                self._reach()
                return leases.get(kind, name)

            def create(self, kind: Any, body: dict[str, Any]) -> LeaseObject:
                self._reach()
                return leases.create(kind, body)

            def replace(self, kind: Any, body: dict[str, Any]) -> LeaseObject:
                self._reach()
                return leases.replace(kind, body)

            @property
            def holder(self) -> str | None:
                return leases.holder

        self.first, self.second = Seen(), Seen()


def test_the_first_leads_and_lets_the_second_at_once_when_it_ends(candidates: Any) -> None:
    leases, first, _, second = candidates
    assert first.campaign(threading.Event())
    first.check()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert not second.campaign(stop)
    with pytest.raises(LostLeadershipError, match="no longer leads"):
        second.check()
    assert leases.holder == first.identity
    first.release()
    with pytest.raises(LostLeadershipError):
        first.check()
    began = time.monotonic()
    assert second.campaign(threading.Event())
    assert time.monotonic() - began < module.LEASE_S
    assert leases.holder == second.identity


def test_one_that_cannot_renew_stops_before_another_may_begin(candidates: Any) -> None:
    leases, first, _, second = candidates
    assert first.campaign(threading.Event())
    leases.away = True
    led = threading.Event()

    def follow() -> None:
        second.campaign(threading.Event())
        led.set()

    thread = threading.Thread(target=follow)
    thread.start()
    while first.leads:
        assert not led.is_set()
        time.sleep(0.01)
    assert led.wait(PATIENCE_S)
    thread.join()
    leases.away = False
    assert not first.leads
    second.check()


def test_a_lease_that_is_renewed_stays(candidates: Any) -> None:
    leases, first, _, second = candidates
    assert first.campaign(threading.Event())
    stop = threading.Event()
    threading.Timer(module.LEASE_S * 1.5, stop.set).start()
    assert not second.campaign(stop)
    assert first.leads
    assert leases.holder == first.identity


def test_one_whose_lease_another_took_ends(candidates: Any) -> None:
    leases, first, _, second = candidates
    assert first.campaign(threading.Event())
    taken = leases.get(None, "lease")
    spec = {"holderIdentity": "intruder", "leaseDurationSeconds": 4, "renewTime": "x", "leaseTransitions": 9}
    while True:
        try:
            leases.replace(
                None, {"metadata": {"resourceVersion": taken.metadata.resource_version}, "spec": spec}
            )
            break
        except ConflictError:
            taken = leases.get(None, "lease")
    until = time.monotonic() + PATIENCE_S
    while first.leads and time.monotonic() < until:
        time.sleep(0.01)
    assert not first.leads
    assert leases.holder == "intruder"
    assert second.campaign(threading.Event())  # the intruder renews nothing


def test_while_the_server_is_away_a_candidate_waits(candidates: Any) -> None:
    leases, first, _, _ = candidates
    leases.away = True
    threading.Timer(0.3, lambda: setattr(leases, "away", False)).start()
    assert first.campaign(threading.Event())


def test_a_holder_that_could_not_renew_goes_on_as_soon_as_the_server_is_back(
    candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else could take its lease, so that nobody's end need be waited for."""
    leases, first, _, _ = candidates
    monkeypatch.setattr(module, "LEASE_S", 2)
    assert first.campaign(threading.Event())
    leases.away = True
    until = time.monotonic() + PATIENCE_S
    while first.leads and time.monotonic() < until:
        time.sleep(0.01)
    first.release()
    assert leases.holder == first.identity
    monkeypatch.setattr(module, "LEASE_S", 10 * PATIENCE_S)  # longer than anybody waits
    leases.away = False
    assert first.campaign(threading.Event())
    first.check()
