"""The client of the Kubernetes API server; nothing else in the program speaks to it.

Writes take plain dicts. Reads return values of the type that a `Kind` names, with only the fields that are used. The
ResourceSlices of 8,000 GPUs are 136 MB of JSON: they take 31 MiB and 0.3 s of CPU this way, 1,012 MiB as dicts, and
3.4 GiB and 42 s as the official client's models. The official client does what every client needs: kubeconfigs,
contexts, exec plugins, rotating tokens, TLS, proxies. Its informer is not used: while the API server is unreachable
it keeps a core busy, it requests no bookmarks, and it never notices that a connection was cut.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn

import msgspec

from partita.documents.codec import readable
from partita.kubernetes.objects import (
    OTHER_DEFINITION,
    ApiStatus,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KubernetesError,
    NoKindError,
    NotFoundError,
    ObjectMeta,
    T,
    UnreachableError,
    not_accepted,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubernetes.client.api_client import ApiClient
    from kubernetes.client.rest import RESTResponse

    from partita.kubernetes.objects import Body, Kind


FIELD_MANAGER = "partita"
"""The field manager of what Partita writes, as `kubectl get -o yaml --show-managed-fields` shows it."""
_PAGE = 500  # objects in one page of a list
_REQUEST_S = 30.0
_WATCH_S = 30  # after which the server ends a watch with a bookmark; the next watch begins there
_SILENCE_S = _WATCH_S + 10.0  # a watch that sends nothing for so long has lost its connection
_LONGEST_PAUSE_S = 5.0
_RENEWAL_S = 10.0  # at least, between two readings of the credentials
_TRIES = 6  # of a request that the server throttles


# Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A request to the server.

    Attributes:
        how: the body's content type.
        path: of the URL; None for the path that follows from kind, namespace, name and subresource.
    """

    verb: str
    kind: Kind[Any]
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    how: str | None = None
    path: str | None = None

    @property
    def resource(self) -> str:
        """As an RBAC rule names it: `resourceclaims/status`."""
        return "/".join(filter(None, (self.kind.plural, self.subresource)))

    @property
    def where(self) -> str:
        """The object's name in errors."""
        return self.kind.called(self.name, self.namespace)

    @property
    def url(self) -> str:
        """Path of the request."""
        return self.path or self.kind.path(self.namespace, self.name, self.subresource)


class RateLimit:
    """A token bucket: limits requests per second, and how many may be sent at once after a pause."""

    def __init__(self, a_second: float, at_once: int) -> None:
        self._a_second = a_second
        self._at_once = at_once
        self._left = float(at_once)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Block until the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            self._left = min(float(self._at_once), self._left + (now - self._at) * self._a_second) - 1
            self._at = now
            wait = -self._left / self._a_second
        if wait > 0:
            time.sleep(wait)


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, Generic[T]):
    metadata: _ListMeta
    items: list[T] | None = None


class _RawPage(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Named(msgspec.Struct, frozen=True):
    metadata: ObjectMeta


@cache
def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 -- a type, or a generic one with its parameter
    return msgspec.json.Decoder(readable(wanted))


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """All objects of a kind at one moment.

    Attributes:
        version: the list's resource version, from which a watch can continue.
        unreadable: why an object could not be decoded, by namespace and name.
    """

    items: tuple[T, ...]
    version: str
    unreadable: Mapping[tuple[str, str], str]


class _Connection:
    """The official client, shared by all `KubernetesApi` values of one server."""

    def __init__(self, connect: Callable[[], ApiClient]) -> None:
        self.client = connect()
        self._connect = connect
        self._renewed = float("-inf")
        self._lock = threading.Lock()

    def close(self) -> None:
        client: Any = self.client  # untyped
        client.close()

    def renew(self, refused: ApiClient) -> bool:
        """Read the credentials again, since the server did not accept those of `refused`; say whether to retry."""
        with self._lock:
            if self.client is refused:
                if time.monotonic() < self._renewed + _RENEWAL_S:
                    return False
                self.client = self._connect()
                self._renewed = time.monotonic()
            return True


class KubernetesApi:
    """An API server; safe to use from any number of threads.

    All methods raise the errors of `objects.py`, such as `UnreachableError` and `ForbiddenError`. A write that raises
    has not happened, except after `UnreachableError`: then it may have happened.

    Args:
        connect: makes the official client from a configuration of address and credentials. It is called again when
            the server no longer accepts the credentials, because their files may have changed.
        namespace: of objects for which no namespace is given.
        rate: limits the requests.

    Attributes:
        writes: writes sent so far, by verb and resource (`resourceclaims/status`).
    """

    def __init__(self, connect: Callable[[], ApiClient], namespace: str, rate: RateLimit) -> None:
        self.namespace = namespace
        self.writes: Counter[tuple[str, str]] = Counter()
        self._connection = _Connection(connect)
        self._rate = rate
        self._guard: Callable[[], None] | None = None

    def guarded(self, guard: Callable[[], None]) -> KubernetesApi:
        """Return this API with a guard, which is called before each write and raises to prevent it."""
        guarded = copy.copy(self)
        guarded._guard = guard  # noqa: SLF001 -- of this class
        return guarded

    def within(self, namespace: str) -> KubernetesApi:
        """Return this API with another default namespace."""
        found = copy.copy(self)
        found.namespace = namespace
        return found

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # Reading

    def get(self, kind: Kind[T], name: str, namespace: str | None = None) -> T:
        """Return an object."""
        return self._read(
            kind, self._ask(_Request(verb="get", kind=kind, namespace=namespace or self.namespace, name=name))
        )

    def read_bytes(
        self,
        kind: Kind[Any],
        name: str,
        namespace: str | None = None,
        *,
        subresource: str,
        query: Mapping[str, str],
    ) -> bytes:
        """Return a subresource that is text, such as a pod's log, or a whole object, as it is.

        Args:
            kind: the object's.
            name: the object's.
            namespace: the object's.
            subresource: for example `log`; empty for the object itself.
            query: its parameters, for example `{"tailLines": "100"}`.
        """
        request = _Request(
            verb="get",
            kind=kind,
            namespace=namespace or self.namespace,
            name=name,
            subresource=subresource,
            query=query,
        )
        return self._ask(request)

    def list_objects(
        self, kind: Kind[T], namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listed[T]:
        """Return all objects of a kind, page by page.

        Args:
            kind: of the objects.
            namespace: of the objects; None for all namespaces.
            labels: a label selector, as of `kubectl get -l`.
            fields: a field selector, as of `kubectl get --field-selector`.

        Raises:
            ExpiredError: the server dropped the list's version before the last page; list again.
        """
        items: list[T] = []
        unreadable: dict[tuple[str, str], str] = {}
        query = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields}
        while True:
            page = _page(
                kind,
                self._ask(_Request(verb="list", kind=kind, namespace=namespace, query=query)),
                unreadable,
            )
            items += page.items or []
            query["continue"] = page.metadata.continue_
            if not page.metadata.continue_:
                return Listed(tuple(items), page.metadata.resource_version, unreadable)

    def watch(
        self, kind: Kind[T], namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Cache[T]:
        """Return a cache of all objects of a kind, up to date until it is closed; arguments as of `list_objects`."""
        return Cache(self, kind, namespace, labels, fields)

    # Writing

    def create(
        self, kind: Kind[T], body: Body, *, name: str | None = None, subresource: str | None = None
    ) -> T:
        """Create an object.

        Args:
            kind: the object's.
            body: the object; without a namespace it is created in this API's.
            name: of the object that a subresource is created for (a pod, for `eviction`).
            subresource: to be created instead of an object.

        Raises:
            ExistsError: an object of that name exists.
        """
        namespace = self._namespace(body)
        called = name or body.get("metadata", {}).get("name")
        sent = _whole(kind, body)
        path = kind.path(namespace, name, subresource)
        request = _Request(
            verb="create",
            kind=kind,
            namespace=namespace,
            name=called,
            subresource=subresource,
            body=sent,
            path=path,
        )
        return self._read(kind, self._write(request))

    def replace(self, kind: Kind[T], body: Body, *, subresource: str | None = None) -> T:
        """Replace an object by another version of it.

        Raises:
            ConflictError: the object has changed since the version in `metadata.resourceVersion`.
        """
        namespace, name = self._namespace(body), body["metadata"]["name"]
        sent = _whole(kind, body)
        request = _Request(
            verb="update", kind=kind, namespace=namespace, name=name, subresource=subresource, body=sent
        )
        return self._read(kind, self._write(request))

    def patch(
        self,
        kind: Kind[T],
        name: str,
        changes: Body | list[Body],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> T:
        """Change some fields.

        Args:
            kind: the object's.
            name: the object's.
            changes: a merge patch as a dict (None removes a field), or a JSON patch as a list of operations.
            namespace: the object's.
            subresource: to be changed instead of the object itself.

        Raises:
            ConflictError: the object has changed since the version in the patch's `metadata.resourceVersion`.
        """
        how = "application/json-patch+json" if isinstance(changes, list) else "application/merge-patch+json"
        request = _Request(
            verb="patch",
            kind=kind,
            namespace=namespace or self.namespace,
            name=name,
            subresource=subresource,
            body=changes,
            how=how,
        )
        return self._read(kind, self._write(request))

    def apply(self, kind: Kind[T], body: Body, *, subresource: str | None = None, force: bool = False) -> T:
        """Set the given fields of an object by server-side apply; create the object if it does not exist.

        Fields that were applied before and are absent now are removed.

        Args:
            kind: the object's.
            body: the object's name and the fields to set.
            subresource: to be changed instead of the object itself.
            force: take over fields that other managers own.

        Raises:
            ConflictError: another manager owns one of the fields; the text names it.
        """
        request = _Request(
            verb="patch",
            kind=kind,
            namespace=self._namespace(body),
            name=body["metadata"]["name"],
            subresource=subresource,
            query={"force": "true"} if force else {},
            body=_whole(kind, body),
            how="application/apply-patch+yaml",
        )
        return self._read(kind, self._write(request))

    def delete(
        self,
        kind: Kind[T],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_s: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
    ) -> bool:
        """Delete an object; return False if it does not exist.

        Args:
            kind: the object's.
            name: the object's.
            namespace: the object's.
            uid: delete only the object with this uid, not one that has replaced it.
            grace_s: seconds that a pod has to end.
            propagation: what happens to the objects that it owns.

        Raises:
            ConflictError: the object has another uid.
        """
        body = {
            "preconditions": {"uid": uid} if uid else None,
            "gracePeriodSeconds": grace_s,
            "propagationPolicy": propagation,
        }
        options = {key: value for key, value in body.items() if value is not None}
        place = namespace or self.namespace
        try:
            self._write(_Request(verb="delete", kind=kind, namespace=place, name=name, body=options))
        except NoKindError:
            raise
        except NotFoundError:
            return False
        return True

    # Sending

    def _namespace(self, body: Body) -> str:
        namespace: str = body.get("metadata", {}).get("namespace") or self.namespace
        return namespace

    def _read(self, kind: Kind[T], answer: bytes) -> T:
        try:
            value: T = _decoder(kind.type).decode(answer)
        except msgspec.ValidationError as error:
            name = _decoder(_Named).decode(answer).metadata
            where = kind.called(name.name, name.namespace)
            hint = OTHER_DEFINITION if kind.group == "partita.dev" else None
            raise InvalidError(f"the object cannot be read: {error}", where=where, hint=hint) from None
        return value

    def _write(self, request: _Request) -> bytes:
        if self._guard is not None:
            self._guard()
        self.writes[request.verb, request.resource] += 1
        query = {**request.query, **({} if request.verb == "delete" else {"fieldManager": FIELD_MANAGER})}
        if request.kind.strict and request.verb in {"create", "update"}:
            query["fieldValidation"] = "Strict"
        return self._ask(replace(request, query=query, how=request.how or "application/json"))

    def _ask(self, request: _Request) -> bytes:
        """Send a request, and again where the server throttles it or the credentials change; return the answer."""
        for tried in range(1, _TRIES + 1):
            self._rate.take()
            client = self._connection.client
            response = _send(client, request, _REQUEST_S)
            answer = _body(response, request.where)
            if response.status < 300:
                return answer
            status = _status(answer, response.status)
            if not_accepted(status) and self._connection.renew(client):
                continue
            if status.code != 429 or request.subresource == "eviction" or tried == _TRIES:
                break
            asked = status.details.retry_after_seconds if status.details else 0
            time.sleep((asked or 1) * (0.5 + random.random()))
        raise _refused(request, status)

    def events(
        self, kind: Kind[Any], namespace: str | None, query: Mapping[str, str], stop: Callable[[Any], None]
    ) -> Iterator[_Event]:
        """Yield the events of a watch; `stop` is called with the response, so that another thread can end it."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 -- of the extra

        how = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_S)}
        request = _Request(verb="watch", kind=kind, namespace=namespace, query={**query, **how})
        self._rate.take()
        client = self._connection.client
        response = _send(client, request, _SILENCE_S)
        try:
            if response.status >= 300:
                status = _status(_body(response, request.where), response.status)
                if not_accepted(status):
                    self._connection.renew(client)
                raise _refused(request, status)
            stop(response.response)
            rest = b""
            for piece in response.response.stream(1 << 16):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event: _Event = _decoder(_Event).decode(line)
                    if event.type == "ERROR":
                        raise _refused(request, _status(event.object, 500))
                    yield event
        except (HTTPError, OSError) as error:
            _away(error, request.where)
        finally:
            response.response.close()


def _refused(request: _Request, status: ApiStatus) -> KubernetesError:
    return refusal(status, request.verb, request.kind, request.resource, request.where)


def _whole(kind: Kind[Any], body: Body) -> Body:
    return {"apiVersion": kind.api_version, "kind": kind.name, **body}


def _send(client: ApiClient, request: _Request, silence_s: float) -> RESTResponse:
    """Send a request; `silence_s` is how long the server may send nothing."""
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 -- of the extra
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    headers = {"Accept": "application/json", **({"Content-Type": request.how} if request.how else {})}
    applied = request.how is not None and "yaml" in request.how
    try:
        ready = client.param_serialize(
            _METHODS[request.verb],
            request.url,
            query_params=[(key, value) for key, value in request.query.items() if value],
            header_params=headers,
            body=msgspec.json.encode(request.body) if applied else request.body,
            auth_settings=["BearerToken"],
        )
        return client.call_api(*ready, _request_timeout=(_REQUEST_S, silence_s))
    except (HTTPError, OSError) as error:
        _away(error, request.where)
    except ApiException as error:  # of TLS
        reason = str(error.reason).splitlines()[-1]
        hint = "check the certificates in the kubeconfig"
        raise UnreachableError(reason, where=request.where, hint=hint) from None


def _body(response: Any, where: str) -> bytes:  # noqa: ANN401 -- the client's, untyped
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 -- of the extra

    try:
        answer: bytes = response.read()
    except (HTTPError, OSError) as error:
        _away(error, where)
    return answer


_METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}


def _status(answer: bytes | msgspec.Raw, code: int) -> ApiStatus:
    try:
        found: ApiStatus = _decoder(ApiStatus).decode(answer)
    except msgspec.DecodeError:
        return ApiStatus(bytes(answer)[:200].decode(errors="replace").strip(), "", code)
    return msgspec.structs.replace(found, code=found.code or code)


def _away(error: Exception, where: str) -> NoReturn:
    """Report a failed connection.

    Raises:
        UnreachableError: always.
    """
    said = str(getattr(error, "reason", None) or error).rpartition("object at 0x")[2].partition(">: ")
    raise UnreachableError(f"no answer from the API server: {said[2] or said[0]}", where=where) from None


def _page(kind: Kind[T], answer: bytes, unreadable: dict[tuple[str, str], str]) -> _Page[T]:
    try:
        page: _Page[T] = _decoder(_Page[kind.type]).decode(answer)  # type: ignore[name-defined]
    except msgspec.ValidationError:
        raw: _RawPage = _decoder(_RawPage).decode(answer)
        items: list[T] = []
        for each in raw.items or []:
            try:
                items.append(_decoder(kind.type).decode(each))
            except msgspec.ValidationError as error:
                found = _decoder(_Named).decode(each).metadata
                unreadable[found.namespace, found.name] = str(error)
        return _Page(raw.metadata, items)
    return page


# Watching


@dataclass(frozen=True, slots=True)
class CacheChange(Generic[T]):
    """What happened to an object: `old` is None if it is new, `new` is None if it is gone."""

    old: T | None
    new: T | None


class Cache(Generic[T]):
    """The objects of a kind, kept up to date by a thread of its own (an informer).

    It survives connection failures. A watch that ended is resumed at its last version. A watch that is silent for
    40 s counts as cut. If the server no longer has that version, the cache lists all objects again and reports what
    has changed since. Objects are values, so readers hold no lock.

    Attributes:
        unreadable: why an object could not be decoded, by namespace and name. Such objects are not in the cache.
        error: why the last list or watch failed; None if it did not.
    """

    def __init__(
        self, api: KubernetesApi, kind: Kind[T], namespace: str | None, labels: str, fields: str
    ) -> None:
        self.kind = kind
        self.unreadable: dict[tuple[str, str], str] = {}
        self.error: KubernetesError | None = None
        self._api = api
        self._namespace = namespace
        self._labels, self._fields = labels, fields
        self._objects: dict[tuple[str, str], T] = {}
        self._version = 0
        self._from = ""  # where the next watch begins; empty: list first
        self._heard = float("-inf")
        self._listeners: list[Callable[[CacheChange[T]], None]] = []
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._response: Any = None
        self._thread = threading.Thread(target=self._run, name=f"watch {kind.plural}", daemon=True)
        self._thread.start()

    def get(self, name: str, namespace: str | None = None) -> T | None:
        """Return an object, None if there is none."""
        place = (namespace or self._api.namespace) if self.kind.namespaced else ""
        return self._objects.get((place, name))

    def values(self) -> tuple[T, ...]:
        """Return all objects."""
        with self._changed:
            return tuple(self._objects.values())

    @property
    def version(self) -> int:
        """The resource version up to which the cache is complete; 0 before the first list."""
        return self._version

    @property
    def age_s(self) -> float:
        """Seconds since the server's last answer: normally at most 30, infinite before the first list."""
        return time.monotonic() - self._heard

    def wait_for(self, version: str | int, timeout_s: float) -> bool:
        """Wait until the cache includes a version; say whether it does.

        Args:
            version: `metadata.resource_version` of the answer to a write.
            timeout_s: seconds to wait at most.
        """
        wanted = int(version)
        return self.wait_until(lambda: self._version >= wanted, timeout_s)

    def wait_until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait until a condition holds, which is evaluated after each change; say whether it holds or was closed."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._closed.is_set() or condition(), timeout_s))

    def synced(self, timeout_s: float) -> Cache[T]:
        """Wait for the first list; return this cache.

        Raises:
            KubernetesError: the list did not come in time; raised at once if the rights or the kind are missing.
        """

        def decided() -> bool:
            return self._version > 0 or isinstance(self.error, ForbiddenError | NoKindError)

        if not self.wait_until(decided, timeout_s) or not self._version:
            raise self.error or UnreachableError(
                "the API server did not answer in time", where=self.kind.plural
            )
        return self

    def listen(self, listener: Callable[[CacheChange[T]], None]) -> None:
        """Call a listener for each change from now on, in the cache's thread. It must be fast and must not raise."""
        self._listeners.append(listener)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._interrupt()
        self._thread.join(timeout=_SILENCE_S)

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if not self._from:
                    self._list()
                self._follow()
                if (
                    self.kind.custom
                ):  # a watch can miss a change that comes as its definition is replaced (1.37.2)
                    self._from = ""
            except ExpiredError as error:
                self._from = ""
                self._fail(error)
            except KubernetesError as error:
                self._fail(error)
                failures += 1
                longest = min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures, 10))
                self._closed.wait(longest * (0.5 + random.random() / 2))
            else:
                failures = 0
                if time.monotonic() - began < 1:
                    self._closed.wait(
                        1
                    )  # a server that ends each watch at once must not be asked in a busy loop

    def _list(self) -> None:
        found = self._api.list_objects(self.kind, self._namespace, labels=self._labels, fields=self._fields)
        now = {(each.metadata.namespace, each.metadata.name): each for each in found.items}
        before = self._objects
        with self._changed:
            self._objects = now
            self.unreadable = dict(found.unreadable)
        for key, each in now.items():
            was = before.get(key)
            if was is None or was.metadata.resource_version != each.metadata.resource_version:
                self._tell(CacheChange(was, each))
        for key in before.keys() - now.keys():
            self._tell(CacheChange(before[key], None))
        self._from = found.version
        self._hear(int(found.version))

    def _follow(self) -> None:
        query = {"resourceVersion": self._from, "labelSelector": self._labels, "fieldSelector": self._fields}
        for event in self._api.events(self.kind, self._namespace, query, self._began):
            named: ObjectMeta = _decoder(_Named).decode(event.object).metadata
            if event.type != "BOOKMARK":
                self._take(event, named)
            self._from = named.resource_version
            self._hear(int(named.resource_version))

    def _began(self, response: Any) -> None:  # noqa: ANN401 -- urllib3's
        self._response = response
        self._fail(None)
        if self._closed.is_set():
            self._interrupt()

    def _interrupt(self) -> None:
        if self._response is not None:
            with suppress(ValueError, OSError):  # it has ended by itself
                self._response.shutdown()

    def _take(self, event: _Event, named: ObjectMeta) -> None:
        key = named.namespace, named.name
        new: T | None = None
        self.unreadable.pop(key, None)
        if event.type != "DELETED":
            try:
                new = _decoder(self.kind.type).decode(event.object)
            except msgspec.ValidationError as error:
                self.unreadable[key] = str(error)
        with self._changed:
            old = self._objects.pop(key, None) if new is None else self._objects.get(key)
            if new is not None:
                self._objects[key] = new
        if old is not None or new is not None:
            self._tell(CacheChange(old, new))

    def _tell(self, change: CacheChange[T]) -> None:
        for listener in self._listeners:
            listener(change)

    def _fail(self, error: KubernetesError | None) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def _hear(self, version: int) -> None:
        with self._changed:
            self._version = version
            self._heard = time.monotonic()
            self._changed.notify_all()
