"""Distinguishes workers that hang from those that are slow.

A worker that does not answer may be gone, hung or slow:

- *gone*: its connection has ended, since the kernel closes it with the process;
- *hung*: it sends no signs of life, although a thread of it has nothing else to do (the process is stopped,
  deadlocked, or waits in a call that holds the interpreter), or it runs a batch that is past all its deadlines;
- *slow*: everything else. A process that sends no signs of life but uses the CPU is computing, in a call that holds
  the interpreter; it counts as slow until its batch is past its deadlines.

Only the time in which this process itself runs normally is counted, so a stall of this process blames no worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from partita.process.peer import ThreadTimes
    from partita.serve.gateway.link import Link

LOOK_S = 0.1
"""Seconds between two checks."""
_MOST_STEP_S = 0.2
_BEATS = 4
"""Signs of life that a worker may miss before nothing more is sent to it."""
_BUSY = 0.2
"""Share of a core's time from which a process counts as computing. Threads that wait for the interpreter use 1 %."""
_EAGER = 0.9
"""Share of the time, running or runnable, from which a thread counts as computing even on a busy host."""
_SAMPLE_S = 0.25
"""Minimum seconds between two samples of a process's CPU time."""


class LivenessReport(NamedTuple):
    """The result of a check.

    Attributes:
        silent: workers that have just become silent.
        heard: workers that were silent and no longer are.
        hung: workers that hang, with the reason.
    """

    silent: list[Link]
    heard: list[Link]
    hung: list[tuple[Link, str]]


class _Pulse:
    """Liveness of one worker; only seconds in which this process ran normally are counted."""

    __slots__ = ("sample", "silent", "silent_s", "stuck_s", "unheard_s")

    def __init__(self) -> None:
        self.silent = False
        self.unheard_s = 0.0  # since its last message
        self.silent_s = 0.0  # since its last message, without the time in which it computed
        self.stuck_s = 0.0  # with a batch that was given up
        self.sample: tuple[float, ThreadTimes] | None = (
            None  # `unheard_s` and thread times at the last sample
        )


class Watchdog:
    """Watches the liveness of workers."""

    def __init__(self) -> None:
        self._pulses: dict[Link, _Pulse] = {}
        self._suspects: dict[Link, _Pulse] = {}  # at the last check
        self._looked: float | None = None

    def watch(self, link: Link) -> None:
        """Watch a connection from now on."""
        self._pulses[link] = _Pulse()

    def forget(self, link: Link) -> None:
        """Stop watching a connection."""
        self._pulses.pop(link, None)
        self._suspects.pop(link, None)

    def left_s(self, service: str) -> float:
        """Return the seconds until all suspects of a service will count as hung; 0 without suspects."""
        return max(
            (
                _limit(link) - max(pulse.silent_s, pulse.stuck_s)
                for link, pulse in self._suspects.items()
                if link.service == service
            ),
            default=0.0,
        )

    def look(self, now: float) -> LivenessReport:
        """Check all workers; a hung one is reported each time until it is forgotten."""
        found = LivenessReport([], [], [])
        step = 0.0 if self._looked is None else min(now - self._looked, _MOST_STEP_S)
        self._looked = now
        for link, pulse in self._pulses.items():
            if link.heard:
                link.heard = False
                pulse.unheard_s = pulse.silent_s = 0.0
                pulse.sample = None
                if pulse.silent:
                    pulse.silent = False
                    found.heard.append(link)
            else:
                _count_silence(link, pulse, step, found)
            if link.worker is None or not any(batch.stuck for batch in link.worker.running.values()):
                pulse.stuck_s = 0.0
                continue
            pulse.stuck_s += step
            if pulse.stuck_s > _limit(link):
                found.hung.append(
                    (link, f"it has run a batch for {_limit(link):g} s after the batch was given up")
                )
        self._suspects = {
            link: pulse for link, pulse in self._pulses.items() if pulse.silent or pulse.stuck_s
        }
        return found


def _limit(link: Link) -> float:
    """Return the seconds without a sign of life after which a worker counts as hung."""
    return link.worker.hello.hang_timeout_s if link.worker is not None else HANG_TIMEOUT_S


def _count_silence(link: Link, pulse: _Pulse, step: float, found: LivenessReport) -> None:
    """Count the silence of a worker that has sent nothing since the last check."""
    beat_s = link.worker.hello.beat_s if link.worker is not None else LOOK_S
    if not beat_s:
        return  # a worker of an earlier version, which sends no signs of life
    pulse.unheard_s += step
    pulse.silent_s += step
    if pulse.unheard_s > 2 * beat_s and _computes(link, pulse):
        pulse.silent_s = 0.0
    if not pulse.silent and pulse.silent_s > _BEATS * beat_s:
        pulse.silent = True
        if link.worker is not None:
            found.silent.append(link)
    if pulse.silent_s > _limit(link):
        said = "gave no sign of life" if link.worker is not None else "did not send HELLO"
        found.hung.append((link, f"it {said} for {_limit(link):g} s"))


def _computes(link: Link, pulse: _Pulse) -> bool:
    """Return whether a worker uses the CPU, or is runnable, for batches that have not been given up."""
    if link.peer is None or link.worker is None or not link.worker.running:
        return False
    if any(batch.stuck for batch in link.worker.running.values()):
        return False
    before = pulse.sample
    if before is not None and pulse.unheard_s - before[0] < _SAMPLE_S:
        return False
    work = link.peer.work()
    if work is None:
        return False
    pulse.sample = pulse.unheard_s, work
    return before is not None and _worked(before[1], work, pulse.unheard_s - before[0])


def _worked(before: ThreadTimes, after: ThreadTimes, seconds: float) -> bool:
    return after.cpu_s - before.cpu_s > _BUSY * seconds or any(
        runnable_s - before.runnable_s.get(thread, runnable_s) > _EAGER * seconds
        for thread, runnable_s in after.runnable_s.items()
    )
