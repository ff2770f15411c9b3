"""Starts the job's own process: as its owner, alone in its session, with nothing of the watcher's."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import signal

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory

if TYPE_CHECKING:
    from typing import Any, NoReturn


NO_START = 125
"""Exit code where Partita could not prepare the job, as with `docker run`; 126 and 127 are the shell's."""

_SET_DEATH_SIGNAL, _SET_NAME, _SET_SUBREAPER = 1, 15, 36  # prctl(2)
_OOM_SCORE = b"500"  # jobs go before services when the host's memory runs out
_libc = ctypes.CDLL(None, use_errno=True)


class NotStartedError(Exception):
    """The job could not be started.

    Args:
        why: in words.
        code: the exit code that tells it.
    """

    def __init__(self, why: str, code: int = NO_START) -> None:
        super().__init__(why)
        self.why = why
        self.code = code


def become_watcher() -> None:
    """Take in the processes that the job leaves behind, and bear a name of our own."""
    _libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_SET_NAME, b"partita-watcher", 0, 0, 0)


def start_job(launch: dict[str, Any], output: int) -> int:
    """Start a job with its output to a pipe; return its pid.

    Raises:
        NotStartedError: it cannot be.
    """
    _require_owner(launch["owner"])
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _be_the_job(launch, output, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        fault = stream.read().decode()
    if fault:
        os.waitpid(pid, 0)
        step, _, number = fault.rpartition(":")
        raise _not_started(launch, step, int(number))
    return pid


def _require_owner(owner: dict[str, Any]) -> None:
    if owner["uid"] == os.geteuid():
        return
    if os.geteuid() != 0:
        raise NotStartedError(f"the daemon may start no job of {owner['name']}: it does not run as root")
    try:
        known = pwd.getpwuid(owner["uid"]).pw_name
    except KeyError:
        known = None
    if known != owner["name"]:
        raise NotStartedError(f"there is no user {owner['name']} with id {owner['uid']} any more")


def _be_the_job(launch: dict[str, Any], output: int, tell: int) -> NoReturn:
    step = "prepare"
    try:
        os.setsid()
        _wire(output)
        os.umask(launch["umask"])
        _limit(launch["limit_bytes"])
        step = "user"
        _drop(launch["owner"])
        # After the change of user, which clears it; and the watcher may be gone already.
        _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launch["watcher"]:
            os._exit(NO_START)
        step = "directory"
        os.chdir(launch["directory"])
        step = "command"
        _close_all_but(tell)
        _execute(launch["command"], launch["environment"])
    except OSError as error:
        os.write(tell, f"{step}:{error.errno}".encode())
    except BaseException:  # noqa: BLE001 -- a forked watcher must never go on as a watcher
        os.write(tell, f"{step}:{errno.EINVAL}".encode())
    finally:
        os._exit(NO_START)


def _wire(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for each in range(1, signal.NSIG):
        if each not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # the last two are the C library's own
            signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(limit_bytes: int | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limit_bytes is not None:
        # Private writable memory; RLIMIT_AS would count what is only mapped, libraries above all.
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    try:
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(handle, _OOM_SCORE)
    except OSError:
        return  # the host is not to fail a job for this


def _drop(owner: dict[str, Any]) -> None:
    if os.geteuid() == 0:
        os.setgroups(owner["groups"])
        os.setresgid(owner["gid"], owner["gid"], owner["gid"])
        os.setresuid(owner["uid"], owner["uid"], owner["uid"])


def _close_all_but(kept: int) -> None:
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _execute(command: list[str], environment: dict[str, str]) -> None:
    """Become the command, found as execvp(3) does; os.execvpe would import something, which the user may not."""
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


def _not_started(launch: dict[str, Any], step: str, number: int) -> NotStartedError:
    said = os.strerror(number)
    command = launch["command"][0]
    if step == "user":
        return NotStartedError(f"cannot become {launch['owner']['name']}: {said}")
    if step == "directory":
        return NotStartedError(f"its directory {launch['directory']} cannot be entered: {said}")
    if step != "command":
        return NotStartedError(f"cannot be prepared: {said}")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotStartedError(f"{command}: no such command", 127)
    if number == errno.ENOEXEC:
        return NotStartedError(
            f"{command}: no program, and a script needs a first line such as #!/bin/sh", 126
        )
    return NotStartedError(f"{command}: cannot be executed: {said}", 126)
