"""Speaking to an API server that is away, forgets, is silent, refuses, and changes its mind."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from msgspec import field
from tests.kubernetes_units.api_server import ApiServer

from partita.errors import InputError
from partita.kubernetes import api as module
from partita.kubernetes.api import Cache, CacheChange, RateLimit
from partita.kubernetes.connecting import open_api
from partita.kubernetes.objects import (
    ConflictError,
    ExistsError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    Kind,
    KubernetesObject,
    NoKindError,
    NotFoundError,
    RefusedByClusterError,
    ThrottledError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.kubernetes.api import KubernetesApi


class ConfigMap(KubernetesObject, frozen=True):
    """What these tests read."""

    data: dict[str, str] = field(default_factory=dict)


CONFIG_MAPS = Kind("ConfigMap", "configmaps", ConfigMap)
PATIENCE_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    found = ApiServer()
    with found.running(tmp_path):
        yield found


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[KubernetesApi]:
    assert server.up
    found = open_api(str(tmp_path / "kubeconfig"))
    yield found
    found.close()


@pytest.fixture
def cache(server: ApiServer, api: KubernetesApi) -> Iterator[Cache[ConfigMap]]:
    server.put("a", n="1")
    found = api.watch(CONFIG_MAPS, "teams").synced(PATIENCE_S)
    yield found
    found.close()


def told(cache: Cache[ConfigMap]) -> list[tuple[dict[str, str] | None, dict[str, str] | None]]:
    found: list[tuple[dict[str, str] | None, dict[str, str] | None]] = []

    def listener(change: CacheChange[ConfigMap]) -> None:
        found.append((change.old.data if change.old else None, change.new.data if change.new else None))

    cache.listen(listener)
    return found


def test_lists_page_by_page(server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    for n in range(8):
        server.put(f"n{n}")
    found = api.list_objects(CONFIG_MAPS, labels="team=a")
    assert [each.metadata.name for each in found.items] == [f"n{n}" for n in range(8)]
    assert found.version == "108"
    assert len(server.requests) == 3
    assert all("labelSelector=team%3Da" in each for each in server.requests)
    assert api.namespace == "teams"


@pytest.mark.usefixtures("server")
def test_the_context_says_where(tmp_path: Path) -> None:
    assert open_api(str(tmp_path / "kubeconfig"), context="second").namespace == "default"
    assert open_api(str(tmp_path / "kubeconfig"), namespace="mine").namespace == "mine"
    with pytest.raises(InputError, match="third"):
        open_api(str(tmp_path / "kubeconfig"), context="third")
    with pytest.raises(InputError, match="no such kubeconfig"):
        open_api(str(tmp_path / "none"))


def test_what_happens_is_told_and_waited_for(server: ApiServer, cache: Cache[ConfigMap]) -> None:
    found = told(cache)
    server.put("b", n="1")
    server.put("a", n="2")
    server.remove("b")
    assert cache.wait_for(server.version, PATIENCE_S)
    assert found == [(None, {"n": "1"}), ({"n": "1"}, {"n": "2"}), ({"n": "1"}, None)]
    assert [each.metadata.name for each in cache.values()] == ["a"]
    assert cache.get("a", "teams") == cache.get("a")
    assert cache.get("b") is None
    assert not cache.wait_for(server.version + 1, 0.01)
    assert cache.age_s < PATIENCE_S


def test_a_watch_that_is_cut_in_the_middle_of_a_line_goes_on_where_it_was(
    server: ApiServer, cache: Cache[ConfigMap]
) -> None:
    found = told(cache)
    server.cut = True
    server.put("a", n="2")
    server.put("a", n="3")
    assert cache.wait_for(server.version, PATIENCE_S)
    assert found == [({"n": "1"}, {"n": "2"}), ({"n": "2"}, {"n": "3"})]


def test_what_changed_while_the_server_was_away_and_forgot_is_told(
    server: ApiServer, cache: Cache[ConfigMap]
) -> None:
    server.put("gone")
    server.put("same")
    assert cache.wait_for(server.version, PATIENCE_S)
    found = told(cache)
    server.stop()
    assert cache.wait_until(lambda: cache.error is not None, PATIENCE_S)
    assert isinstance(cache.error, UnreachableError)
    server.put("a", n="2")
    server.remove("gone")
    server.put("new", n="1")
    server.oldest, server.log = server.version, []
    before = len(server.requests)
    server.start()
    assert cache.wait_for(server.version, PATIENCE_S)
    assert sorted(found, key=str) == sorted(
        [({"n": "1"}, {"n": "2"}), (None, {"n": "1"}), ({}, None)], key=str
    )
    assert cache.wait_until(lambda: cache.error is None, PATIENCE_S)
    assert len(server.requests) - before < 10


def test_a_server_that_is_away_is_not_asked_without_a_pause(
    server: ApiServer, cache: Cache[ConfigMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def away(*_: object) -> None:
        tries.append(time.monotonic())
        raise UnreachableError("away")

    monkeypatch.setattr(module, "_send", away)
    server.stop()
    assert cache.wait_until(lambda: len(tries) >= 4, PATIENCE_S)
    assert tries[3] - tries[0] >= 0.1 + 0.2 + 0.4  # half of 0.2, 0.4 and 0.8 s at least


def test_a_connection_that_says_nothing_any_more_is_given_up(
    server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENCE_S", 0.3)
    server.put("a", n="1")
    server.silent = True
    cache = api.watch(CONFIG_MAPS).synced(PATIENCE_S)
    server.put("a", n="2")
    assert cache.wait_until(lambda: cache.error is not None, PATIENCE_S)
    server.silent = False
    assert cache.wait_for(server.version, PATIENCE_S)
    cache.close()


def test_a_bookmark_keeps_a_quiet_watch_fresh(
    server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WATCH_S", 1)
    cache = api.watch(CONFIG_MAPS).synced(PATIENCE_S)
    server.version = 500  # something else in the cluster changed
    assert cache.wait_for(500, PATIENCE_S)
    cache.close()


def test_an_object_that_cannot_be_read_harms_no_other(server: ApiServer, cache: Cache[ConfigMap]) -> None:
    server.put_raw("odd", {"data": {"n": 1}})
    server.put("b", n="1")
    assert cache.wait_for(server.version, PATIENCE_S)
    assert cache.get("odd") is None
    assert "Expected `str`, got `int`" in cache.unreadable["teams", "odd"]
    assert cache.get("b") is not None
    server.put("odd", n="1")
    assert cache.wait_for(server.version, PATIENCE_S)
    assert not cache.unreadable


def test_a_list_with_an_object_that_cannot_be_read_has_the_others(
    server: ApiServer, api: KubernetesApi
) -> None:
    server.put("a")
    server.put_raw("odd", {"data": {"n": 1}})
    found = api.list_objects(CONFIG_MAPS)
    assert [each.metadata.name for each in found.items] == ["a"]
    assert list(found.unreadable) == [("teams", "odd")]


def test_a_token_that_rotates_is_read_anew(server: ApiServer, api: KubernetesApi, tmp_path: Path) -> None:
    api.list_objects(CONFIG_MAPS)
    server.token = "two"  # noqa: S105 -- of a test
    (tmp_path / "token").write_text("two")
    assert api.list_objects(CONFIG_MAPS).items == ()
    server.token = "three"  # noqa: S105 -- of a test
    with pytest.raises(ForbiddenError, match="does not accept"):
        api.list_objects(CONFIG_MAPS)
    before = len(server.requests)
    with pytest.raises(ForbiddenError):
        api.list_objects(CONFIG_MAPS)
    assert len(server.requests) == before + 1  # not read again at once


def test_a_busy_server_is_asked_again(
    server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: -0.5)
    busy = 429, {"reason": "TooManyRequests", "message": "busy", "details": {"retryAfterSeconds": 1}}
    server.refusals = [busy, busy]
    assert api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}).metadata.name == "a"
    server.refusals = [busy]
    with pytest.raises(ThrottledError):
        api.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, name="p", subresource="eviction")


def status(code: int, reason: str, message: str, **details: object) -> tuple[int, dict[str, object]]:
    return code, {"reason": reason, "message": message, "details": details}


QUOTA = 'pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4'
RIGHT = 'configmaps is forbidden: User "u" cannot create resource "configmaps" in API group "" in the namespace "n"'
FIELD = {"field": "data.k", "message": "Too long", "reason": "FieldValueInvalid"}


@pytest.mark.parametrize(
    ("answer", "error", "text", "hint"),
    [
        (status(403, "Forbidden", RIGHT), ForbiddenError, "no right to create configmaps", "verbs: [create]"),
        (status(403, "Forbidden", QUOTA), RefusedByClusterError, "exceeded quota: q", "quota"),
        (
            status(400, "", 'admission webhook "w" denied the request: no'),
            RefusedByClusterError,
            "denied the request: no",
            "rule",
        ),
        (
            status(422, "Invalid", "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"),
            RefusedByClusterError,
            "denied request: no",
            "rule",
        ),
        (status(422, "Invalid", "bad", causes=[FIELD]), InvalidError, "data.k: Too long", None),
        (status(409, "AlreadyExists", "there"), ExistsError, "exists already", None),
        (status(409, "Conflict", "modified"), ConflictError, "another client changed the object", None),
        (status(404, "NotFound", 'namespaces "n" not found'), NotFoundError, 'namespaces "n"', None),
        (
            status(404, "NotFound", "the server could not find the requested resource"),
            NoKindError,
            "does not know configmaps of v1",
            "too old",
        ),
        (status(410, "Expired", "too old"), ExpiredError, "too old", None),
        (
            status(500, "InternalError", "etcdserver: request timed out"),
            UnreachableError,
            "cannot answer now",
            None,
        ),
        (status(503, "ServiceUnavailable", "starting"), UnreachableError, "cannot answer now", None),
    ],
)
def test_a_refusal_says_what_and_how_to_mend_it(  # noqa: PLR0917 -- its cases
    server: ApiServer,
    api: KubernetesApi,
    answer: tuple[int, dict[str, object]],
    error: type[Exception],
    text: str,
    hint: str | None,
) -> None:
    server.refusals = [answer]
    with pytest.raises(error, match=text) as found:
        api.create(CONFIG_MAPS, {"metadata": {"name": "a"}})
    assert type(found.value) is error
    assert str(found.value).startswith("ConfigMap teams/a: ")
    told_hint = found.value.hint  # type: ignore[attr-defined]
    assert told_hint is None if hint is None else hint in told_hint


def test_an_answer_that_is_no_status_is_told_too(server: ApiServer, api: KubernetesApi) -> None:
    server.refusals = [(502, {"code": "x"})]
    with pytest.raises(UnreachableError, match="cannot answer now"):
        api.get(CONFIG_MAPS, "a")


def test_an_object_of_another_shape_is_named(server: ApiServer, api: KubernetesApi) -> None:
    server.put("a")
    with pytest.raises(InvalidError, match="ConfigMap teams/a: the object cannot be read: Expected `object`"):
        api.replace(ODD, {"metadata": {"name": "a"}, "data": {"n": "1"}})


class OddMap(KubernetesObject, frozen=True):
    """Another version's idea of a ConfigMap."""

    data: dict[str, dict[str, str]] = field(default_factory=dict)


ODD = Kind("ConfigMap", "configmaps", OddMap)


def test_writes_are_counted_and_guarded(server: ApiServer, api: KubernetesApi) -> None:
    api.create(CONFIG_MAPS, {"metadata": {"name": "a"}})
    api.apply(CONFIG_MAPS, {"metadata": {"name": "a"}}, subresource="status", force=True)

    def lost() -> None:
        raise ForbiddenError("not the leader any more")

    guarded = api.guarded(lost)
    before = len(server.requests)
    for write in (guarded.create, guarded.replace, guarded.apply):
        with pytest.raises(ForbiddenError, match="leader"):
            write(CONFIG_MAPS, {"metadata": {"name": "a"}})
    assert len(server.requests) == before
    assert guarded.list_objects(CONFIG_MAPS).items
    assert api.writes == {("create", "configmaps"): 1, ("patch", "configmaps/status"): 1}
    assert "fieldManager=partita" in server.requests[0]
    assert "force=true" in server.requests[1]


def test_no_more_requests_than_the_limit_allows() -> None:
    limit = RateLimit(100, 10)

    def take() -> None:
        for _ in range(5):
            limit.take()

    began = time.monotonic()
    threads = [threading.Thread(target=take) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert time.monotonic() - began >= 0.19  # 30 requests: 10 at once, 20 at 100 a second


def test_without_any_configuration_it_says_where_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="no kubeconfig, and this process does not run") as found:
        open_api()
    assert "--kubeconfig" in str(found.value.hint)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(InputError, match="the pod's service account cannot be used"):
        open_api()
