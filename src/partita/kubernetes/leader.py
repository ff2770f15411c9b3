"""Leader election: only the controller that holds a Lease acts. If it is killed, another takes over within 20 s.

Clocks of different hosts are never compared. A candidate takes over once it has seen the Lease unchanged for the
whole lease duration. The holder counts that duration from before its last renewal request, and stops writing
`_MARGIN_S` before anybody else may begin.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from partita.kubernetes.objects import ConflictError, Kind, KubernetesError, KubernetesObject, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import Body

LEASE_S = 15
"""Seconds that a lease lasts without renewal."""
_RENEW_S = 3.0
_MARGIN_S = 5.0
_LOOK_S = 2.0


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Who holds a lease, since when, and for how long."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(KubernetesObject, frozen=True):
    """A lease."""

    spec: LeaseSpec = LeaseSpec()


LEASES = Kind("Lease", "leases", Lease, group="coordination.k8s.io")


class LostLeadershipError(KubernetesError):
    """This controller no longer leads: another one may be acting."""


class Leader:
    """A candidate for a Lease in the API's namespace, or its holder.

    Args:
        api: the API, without a guard.
        name: of the Lease.
        tell: called with each change, as a sentence for the log.
    """

    def __init__(self, api: KubernetesApi, name: str, tell: Callable[[str], None]) -> None:
        self.identity = f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"
        self._api = api
        self._name = name
        self._tell = tell
        self._lease: Lease | None = None
        self._seen: tuple[str, float] = ("", 0.0)  # version of another's lease, and when it was first seen
        self._until = float("-inf")  # end of our own lease on the monotonic clock, less the margin
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None
        self._acquired = ""

    @property
    def leads(self) -> bool:
        """Whether this controller may act now."""
        return time.monotonic() < self._until

    def check(self) -> None:
        """Do nothing while this controller leads.

        Raises:
            LostLeadershipError: it does not lead.
        """
        if not self.leads:
            raise LostLeadershipError(
                "this controller no longer leads and writes nothing",
                where=f"Lease {self._name}",
                hint=f"`kubectl get lease {self._name}` shows which one leads",
            )

    def campaign(self, stop: threading.Event) -> bool:
        """Wait until this controller leads; return False if it was asked to stop before that."""
        told = ""
        while not stop.is_set():
            try:
                if self._take():
                    self._over.clear()
                    self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
                    self._renewing.start()
                    self._tell(f"leading as {self.identity}")
                    return True
                holder = self._lease.spec.holder_identity if self._lease else None
                text = f"waiting: {holder} leads"
            except ConflictError:
                continue  # another candidate was faster
            except KubernetesError as error:
                text = f"the lease cannot be taken: {error}"
            if text != told:
                self._tell(text)
            told = text
            stop.wait(_LOOK_S)
        return False

    def release(self) -> None:
        """Give the Lease up, so that another controller can lead at once. From here on nothing may be written."""
        self._over.set()
        if self._renewing is not None:
            self._renewing.join()
        held, self._until = self.leads, float("-inf")
        if held and self._lease is not None:
            try:
                self._write({**self._spec(), "holderIdentity": "", "leaseDurationSeconds": 1})
            except KubernetesError as error:
                self._tell(f"the lease could not be given up and expires by itself: {error}")

    def _take(self) -> bool:
        """Read the lease, and take it if nobody holds it; say whether it is ours."""
        asked = time.monotonic()
        try:
            self._lease = found = self._api.get(LEASES, self._name)
        except NotFoundError:
            self._lease = self._api.create(LEASES, {"metadata": {"name": self._name}, "spec": self._spec()})
            self._until = asked + LEASE_S - _MARGIN_S
            return True
        spec, version = found.spec, found.metadata.resource_version
        if spec.holder_identity not in (
            None,
            "",
            self.identity,
        ):  # an identity is never used again by another
            if self._seen[0] != version:
                self._seen = version, asked
            if asked < self._seen[1] + (spec.lease_duration_seconds or LEASE_S):
                return False
        asked = time.monotonic()
        self._write(self._spec(taken=(spec.lease_transitions or 0) + 1))
        self._until = asked + LEASE_S - _MARGIN_S
        return True

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S):
            asked = time.monotonic()
            try:
                self._write(self._spec())
            except ConflictError:
                if not self._still_ours():
                    self._until = float("-inf")
                    self._tell("another controller has taken the lease")
                    return
                continue
            except KubernetesError as error:
                if not self.leads:
                    self._tell(f"the lease could not be renewed in time: {error}")
                    return
                continue
            if not self.leads:
                return  # too late: another candidate may have seen the lease end
            self._until = asked + LEASE_S - _MARGIN_S

    def _still_ours(self) -> bool:
        """Read the lease after a conflict; say whether this controller still holds it."""
        try:
            self._lease = self._api.get(LEASES, self._name)
        except KubernetesError:
            return self.leads
        return self._lease.spec.holder_identity == self.identity

    def _write(self, spec: Body) -> None:
        if self._lease is None:
            raise AssertionError("there is no lease yet")
        meta = self._lease.metadata
        body = {"metadata": {"name": self._name, "resourceVersion": meta.resource_version}, "spec": spec}
        self._lease = self._api.replace(LEASES, body)

    def _spec(self, taken: int | None = None) -> Body:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if taken is not None or not self._acquired:
            self._acquired = now
        before = self._lease.spec.lease_transitions if self._lease else None
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": now,
            "acquireTime": self._acquired,
            "leaseTransitions": taken if taken is not None else before or 0,
        }
