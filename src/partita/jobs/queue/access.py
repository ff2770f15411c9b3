"""Who may do what; the kernel identifies the caller."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import DeniedError, InputError
from partita.files import user_name
from partita.jobs.queue.record import Submitter
from partita.jobs.run.runner import JobUser

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.jobs.queue.record import JobRecord

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a socket, as the kernel reports it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def caller_of(peer: socket.socket) -> Caller:
    """Return who connected a Unix socket."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Caller(*_CREDENTIALS.unpack(raw))


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one daemon.

    Attributes:
        daemon_uid: the user of the daemon; root serves all users, another one only itself.
        admins: users who may do all that root may, except submit as someone else.
        admin_groups: groups of such users.
    """

    daemon_uid: int
    admins: frozenset[int] = frozenset()
    admin_groups: frozenset[int] = frozenset()

    def admit(self, caller: Caller) -> None:
        """Refuse a caller that this daemon does not serve.

        Raises:
            DeniedError: it does not serve them.
        """
        if self.daemon_uid != 0 and caller.uid not in (0, self.daemon_uid):
            raise DeniedError(
                f"this daemon belongs to user {user_name(self.daemon_uid)} and serves no other users",
                hint="start your own, with PARTITA_STATE set to a folder of yours: partita daemon",
            )

    def is_admin(self, caller: Caller) -> bool:
        """Return whether a caller may act on all users' jobs."""
        if caller.uid in (0, self.daemon_uid) or caller.uid in self.admins:
            return True
        return bool(self.admin_groups) and not self.admin_groups.isdisjoint(_groups(caller.uid, caller.gid))

    def may(self, caller: Caller, job: JobRecord) -> bool:
        """Say whether a caller may read and change a job."""
        return caller.uid == job.submitter.uid or self.is_admin(caller)

    def require(self, caller: Caller, job: JobRecord, what: str) -> None:
        """Refuse what a caller may not do.

        Raises:
            DeniedError: the job is another user's.
        """
        if not self.may(caller, job):
            raise DeniedError(
                f"job {job.id} belongs to {job.submitter.name}; only they and the daemon's admins may {what}"
            )


def submitter(caller: Caller, user: str | None) -> Submitter:
    """Return the owner of a job: its caller, or the user that root names.

    Raises:
        DeniedError: a caller other than root names another user.
        InputError: there is no such user.
    """
    if caller.uid != 0 and user not in (None, user_name(caller.uid)):
        raise DeniedError("only root submits as another user", where="--user")
    return named(caller, user)


def named(caller: Caller, user: str | None) -> Submitter:
    """Return the user of a name, the caller if there is no name.

    Raises:
        InputError: there is no such user.
    """
    if user is None or user == user_name(caller.uid):
        return Submitter(caller.uid, caller.gid, user_name(caller.uid))
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise InputError(f"there is no user {user}", where="--user") from None
    return Submitter(entry.pw_uid, entry.pw_gid, entry.pw_name)


def owner(who: Submitter) -> JobUser:
    """Return the user that a job's processes run as, with their current groups."""
    return JobUser(who.uid, who.gid, _groups(who.uid, who.gid), who.name)


def admins(names: Iterable[str]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the users and groups of names such as `alice` and `@operators`.

    Raises:
        InputError: there is no such user or group.
    """
    users, groups = set(), set()
    for name in names:
        try:
            if name.startswith("@"):
                groups.add(grp.getgrnam(name[1:]).gr_gid)
            else:
                users.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            kind = "group" if name.startswith("@") else "user"
            raise InputError(f"there is no {kind} {name.lstrip('@')}", where="--admin") from None
    return frozenset(users), frozenset(groups)


def _groups(uid: int, gid: int) -> tuple[int, ...]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return (gid,)
    return tuple(os.getgrouplist(entry.pw_name, gid))
