"""A small client of the API server for the tests, independent of the client that they test.

It uses plain dicts, keeps one connection per thread, verifies the server, and does not retry: a test that
kills the API server must see that.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN = (OSError, http.client.HTTPException)
"""What a connection to a dead or dying server raises."""

CLOSED = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
"""What a kept connection raises that the server closed."""

Object = dict[str, Any]

PATHS = {
    "nodes": "api/v1",
    "namespaces": "api/v1",
    "pods": "api/v1",
    "events": "api/v1",
    "services": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "serviceaccounts": "api/v1",
    "resourcequotas": "api/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "jobs": "apis/batch/v1",
    "deployments": "apis/apps/v1",
    "endpointslices": "apis/discovery.k8s.io/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "resourceclaims": "apis/resource.k8s.io/v1",
    "resourceclaimtemplates": "apis/resource.k8s.io/v1",
    "resourceslices": "apis/resource.k8s.io/v1",
    "deviceclasses": "apis/resource.k8s.io/v1",
    "devicetaintrules": "apis/resource.k8s.io/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "clusterroles": "apis/rbac.authorization.k8s.io/v1",
    "clusterrolebindings": "apis/rbac.authorization.k8s.io/v1",
    "customresourcedefinitions": "apis/apiextensions.k8s.io/v1",
    "validatingadmissionpolicies": "apis/admissionregistration.k8s.io/v1",
    "validatingadmissionpolicybindings": "apis/admissionregistration.k8s.io/v1",
    "mutatingadmissionpolicies": "apis/admissionregistration.k8s.io/v1",
    "mutatingadmissionpolicybindings": "apis/admissionregistration.k8s.io/v1",
    "workloads": "apis/partita.dev/v1alpha1",
    "plans": "apis/partita.dev/v1alpha1",
    "transitions": "apis/partita.dev/v1alpha1",
}
"""Where each kind is served, by its plural."""


class ApiError(Exception):
    """The server's answer was not 2xx.

    Attributes:
        code: HTTP's.
        reason: Kubernetes's, such as `Conflict`.
    """

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('reason', '')}: {status.get('message', status)}")
        self.code = code
        self.reason = str(status.get("reason", ""))


@dataclass(frozen=True)
class Event:
    """An event of a watch.

    Attributes:
        kind: `ADDED`, `MODIFIED`, `DELETED`, and `SYNCED` after each list.
        version: of the store at the event; for objects of a list, of the list.
    """

    kind: str
    object: Object
    version: int = 0


def path_of(
    plural: str, namespace: str | None = None, name: str | None = None, sub: str | None = None
) -> str:
    """Return the path of an object, or of a list without `name`."""
    parts = [PATHS[plural]]
    if namespace is not None:
        parts += ["namespaces", namespace]
    parts.append(plural)
    parts += [part for part in (name, sub) if part is not None]
    return "/" + "/".join(parts)


class Stop:
    """Ends watches by waking their readers."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPSConnection] = set()

    def is_set(self) -> bool:
        """Say whether it was set."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep until it is set or the time is over; say whether it is set."""
        return self._event.wait(seconds)

    def set(self) -> None:
        """End the watches."""
        self._event.set()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def add(self, connection: http.client.HTTPSConnection) -> None:
        """Register a connection whose reader is to be woken."""
        with self._lock:
            self._open.add(connection)
            if self._event.is_set():
                _shut(connection)

    def remove(self, connection: http.client.HTTPSConnection) -> None:
        """Forget a connection and close it."""
        with self._lock:
            self._open.discard(connection)
        connection.close()


def _shut(connection: http.client.HTTPSConnection) -> None:
    """End a connection while another thread reads from it; that thread closes the TLS state."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class Client:
    """Speaks to the server that a kubeconfig names, as the user that it names."""

    def __init__(self, kubeconfig: Path, timeout: float = 30.0) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        server = urllib.parse.urlsplit(cluster["server"])
        self.address = (str(server.hostname), server.port or 443)
        self.timeout = timeout
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        if "client-certificate" in user:
            self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._headers = {"Accept": "application/json", "User-Agent": "harness"}
        if "token" in user:
            self._headers["Authorization"] = f"Bearer {user['token']}"
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPSConnection] = set()

    def _connection(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self.address, timeout=timeout, context=self._tls)

    def raw(
        self, verb: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send a request over this thread's connection; return the status and the body."""
        headers = self._headers | ({"Content-Type": kind} if body is not None else {})
        kept: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if kept is not None:
            try:
                return self._ask(kept, verb, path, body, headers)
            except BROKEN as error:
                # Only a request on an idle connection that the server has closed may be sent again.
                if not isinstance(error, CLOSED):
                    raise
        return self._ask(self._connection(self.timeout), verb, path, body, headers)

    def _ask(
        self,
        connection: http.client.HTTPSConnection,
        verb: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> tuple[int, bytes]:
        try:
            connection.request(verb, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except BaseException:
            connection.close()
            self._local.connection = None
            with self._lock:
                self._open.discard(connection)
            raise
        self._local.connection = connection
        with self._lock:
            self._open.add(connection)
        return answer.status, content

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._open:
                connection.close()

    def call(
        self, verb: str, path: str, body: object = None, kind: str = "application/json", **query: str
    ) -> Object:
        """Send a request; return the object of the answer.

        Raises:
            ApiError: the answer is not 2xx.
            OSError: the server does not answer.
        """
        full = path + ("?" + urllib.parse.urlencode(query) if query else "")
        sent = None if body is None else json.dumps(body).encode()
        until = time.monotonic() + self.timeout
        code, content = self.raw(verb, full, sent, kind)
        while code == 429 and time.monotonic() < until:  # throttled: the server did not handle the request
            time.sleep(0.2)
            code, content = self.raw(verb, full, sent, kind)
        try:
            found = json.loads(content)
        except ValueError:
            found = {"message": content.decode(errors="replace")}
        if code >= 300:
            raise ApiError(code, found)
        return dict(found)

    def get(self, plural: str, name: str, namespace: str | None = None) -> Object:
        """Return an object."""
        return self.call("GET", path_of(plural, namespace, name))

    def find(self, plural: str, name: str, namespace: str | None = None) -> Object | None:
        """Return an object, None if there is none."""
        try:
            return self.get(plural, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def objects(self, plural: str, namespace: str | None = None, **query: str) -> list[Object]:
        """Return all objects."""
        return list(self.call("GET", path_of(plural, namespace), None, **query)["items"])

    def create(
        self, plural: str, body: Object, namespace: str | None = None, sub: str | None = None
    ) -> Object:
        """Create an object; with `sub`, its subresource (a binding, a token)."""
        name = body["metadata"]["name"] if sub else None
        return self.call("POST", path_of(plural, namespace, name, sub), body)

    def replace(self, plural: str, body: Object, sub: str | None = None) -> Object:
        """Replace an object, if it still has the given resource version."""
        about = body["metadata"]
        return self.call("PUT", path_of(plural, about.get("namespace"), about["name"], sub), body)

    def patch(
        self,
        plural: str,
        name: str,
        body: object,
        namespace: str | None = None,
        sub: str | None = None,
        *,
        kind: str = "application/merge-patch+json",
    ) -> Object:
        """Patch an object, by default with a merge patch."""
        return self.call("PATCH", path_of(plural, namespace, name, sub), body, kind)

    def delete(
        self,
        plural: str,
        name: str,
        namespace: str | None = None,
        grace: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Delete an object; one that is gone already is no error."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self.call("DELETE", path_of(plural, namespace, name), options)
        except ApiError as error:
            if error.code != 404:
                raise

    def version(self) -> int:
        """Return the resource version that the store has reached."""
        answer = self.call("GET", path_of("namespaces"), limit="1")
        return int(answer["metadata"]["resourceVersion"])

    def watch(self, plural: str, stop: Stop, namespace: str | None = None, **query: str) -> Iterator[Event]:
        """Yield all objects as `ADDED`, then `SYNCED`, then every change, until `stop`.

        A watch that breaks goes on where it was. One that cannot (410) begins anew: what went meanwhile is told as
        `DELETED` with its last known content.
        """
        path = path_of(plural, namespace)
        known: dict[str, Object] = {}
        since = ""
        while not stop.is_set():
            try:
                if not since:
                    since, events = self._relist(path, known, query)
                    yield from events
                    yield Event("SYNCED", {}, int(since))
                for event in self._stream(path, since, stop, query):
                    if event.kind == "ERROR":
                        since = ""
                        break
                    since = str(event.version)
                    if event.kind == "BOOKMARK":
                        continue
                    uid = event.object["metadata"]["uid"]
                    if event.kind == "DELETED":
                        known.pop(uid, None)
                    else:
                        known[uid] = event.object
                    yield event
            except ApiError as error:
                since = "" if error.code == 410 else since
                stop.wait(0.2)
            except (*BROKEN, ValueError):
                stop.wait(0.2)

    def _relist(self, path: str, known: dict[str, Object], query: dict[str, str]) -> tuple[str, list[Event]]:
        answer = self.call("GET", path, None, **query)
        since = str(answer["metadata"]["resourceVersion"])
        found = {each["metadata"]["uid"]: each for each in answer["items"]}
        gone = [uid for uid in known if uid not in found]
        events = [Event("DELETED", known.pop(uid), int(since)) for uid in gone]
        for uid, each in found.items():
            before = known.get(uid)
            known[uid] = each
            if before is None:
                events.append(Event("ADDED", each, int(since)))
            elif before["metadata"]["resourceVersion"] != each["metadata"]["resourceVersion"]:
                events.append(Event("MODIFIED", each, int(since)))
        return since, events

    def _stream(self, path: str, since: str, stop: Stop, query: dict[str, str]) -> Iterator[Event]:
        asked = {
            "watch": "1",
            "resourceVersion": since,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "600",
        }
        # An unreachable server is silent; otherwise bookmarks come each minute.
        connection = self._connection(90.0)
        try:
            connection.connect()
            stop.add(connection)
            connection.request(
                "GET", path + "?" + urllib.parse.urlencode(asked | query), headers=self._headers
            )
            answer = connection.getresponse()
            if answer.status != 200:
                content = answer.read()
                raise ApiError(answer.status, {"message": content.decode(errors="replace")})
            while line := answer.readline():
                told = json.loads(line)
                version = told["object"].get("metadata", {}).get("resourceVersion") or 0
                yield Event(told["type"], told["object"], int(version))
        finally:
            stop.remove(connection)
