"""Starts a process as another user, with limits, in a session of its own, without its parent's files and signals.

It forks, so the parent must have one thread only; the child is killed when the parent ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import signal

TYPE_CHECKING = False  # typing is a tenth of a watcher's memory
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

NO_START = 125
"""Exit code if a process could not be prepared, as with `docker run`; 126 and 127 are as in a shell."""

_SET_DEATH_SIGNAL, _SET_NAME, _SET_SUBREAPER = 1, 15, 36  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


class NotStartedError(Exception):
    """A process could not be started.

    Args:
        why: the reason.
        code: the exit code that stands for it.
    """

    def __init__(self, why: str, code: int = NO_START) -> None:
        super().__init__(why)
        self.why = why
        self.code = code


class User:
    """The user that a process runs as."""

    __slots__ = ("gid", "groups", "name", "uid")

    def __init__(self, uid: int, gid: int, groups: Sequence[int], name: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.name = name


def become_subreaper(name: str) -> None:
    """Become the parent of orphaned descendants, and set the name of this process (prctl(2))."""
    _libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_SET_NAME, name.encode(), 0, 0, 0)


def start_as(
    command: list[str],
    environment: Mapping[str, str],
    *,
    directory: str,
    user: User,
    umask: int,
    output: int,
    data_bytes: int | None,
    oom_score: int,
) -> int:
    """Start a process that is killed when this one ends; return its pid.

    Args:
        command: the program, found in the environment's PATH, and its arguments.
        environment: all of its environment.
        directory: its working directory.
        user: the user it runs as; another user than the current one needs root.
        umask: its umask.
        output: descriptor for its output.
        data_bytes: most private writable memory (RLIMIT_DATA); None for no limit.
        oom_score: 0 to 1000; the higher, the likelier the kernel kills it when the host's memory runs out.

    Raises:
        NotStartedError: it cannot be started.
    """
    _require(user)
    parent = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        step = "prepare"
        try:
            os.setsid()
            _wire(output)
            os.umask(umask)
            _limit(data_bytes, oom_score)
            step = "user"
            _become(user)
            # After the change of user, which would clear it.
            _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before the call above
                os._exit(NO_START)
            step = "directory"
            os.chdir(directory)
            step = "command"
            os.closerange(3, tell)
            os.closerange(tell + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            _execute(command, environment)
        except OSError as error:
            os.write(tell, f"{step}:{error.errno}".encode())
        except BaseException:  # noqa: BLE001 -- a fork of the parent must never go on as the parent
            os.write(tell, f"{step}:{errno.EINVAL}".encode())
        finally:
            os._exit(NO_START)
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        fault = stream.read().decode()
    if fault:
        os.waitpid(pid, 0)
        step, _, number = fault.rpartition(":")
        raise _not_started(command[0], directory, user, step, int(number))
    return pid


def _require(user: User) -> None:
    if user.uid == os.geteuid():
        return
    if os.geteuid() != 0:
        raise NotStartedError(f"nothing can be started as {user.name}: only root may become another user")
    try:
        known = pwd.getpwuid(user.uid).pw_name
    except KeyError:
        known = None
    if known != user.name:
        raise NotStartedError(f"there is no longer a user {user.name} with id {user.uid}")


def _wire(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for each in range(1, signal.NSIG):
        if each not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # the C library reserves 32 and 33
            signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(data_bytes: int | None, oom_score: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if data_bytes is not None:
        # Not RLIMIT_AS, which also counts mapped files such as libraries.
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    try:
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(handle, str(oom_score).encode())
    except OSError:
        return  # the process starts without it


def _become(user: User) -> None:
    if os.geteuid() == 0:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)


def _execute(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Execute the command, found as by execvp(3). os.execvpe would import a module that the user may not read."""
    if "/" in command[0]:
        os.execve(command[0], command, environment)  # noqa: S606 -- its purpose
    refused: OSError = FileNotFoundError(errno.ENOENT, command[0])
    for folder in environment.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{folder or '.'}/{command[0]}", command, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error
    raise refused


def _not_started(command: str, directory: str, user: User, step: str, number: int) -> NotStartedError:
    reason = os.strerror(number)
    if step == "user":
        return NotStartedError(f"cannot become {user.name}: {reason}")
    if step == "directory":
        return NotStartedError(f"its directory {directory} cannot be entered: {reason}")
    if step != "command":
        return NotStartedError(f"cannot be prepared: {reason}")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotStartedError(f"{command}: no such command", 127)
    if number == errno.ENOEXEC:
        return NotStartedError(
            f"{command}: not a program; a script needs a first line such as #!/bin/sh", 126
        )
    return NotStartedError(f"{command}: cannot be executed: {reason}", 126)
