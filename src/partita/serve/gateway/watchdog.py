"""Tells workers that hang from those that are slow, and ends the ones that hang.

Three things look alike from a queue: a worker that computes for longer than predicted, one that hangs, and one that
is gone. They are told apart so:

- *gone*: its connection ends; the kernel closes it when the process ends;
- *hangs*: it gives no sign of life, though a thread of its own has nothing else to do (stopped, deadlocked, a call
  that holds the interpreter and waits), or runs a batch whose queries are all past their deadlines;
- *slow*: everything else. A process that gives no signs of life but uses the CPU computes, as a call does that holds
  the interpreter; it is slow until its batch is past its deadlines.

Time passes here only while this process looks: one that was itself stopped, or out of breath, blames nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from partita.process.peer import ThreadTimes
    from partita.serve.gateway.link import Link

LOOK_S = 0.1
"""Seconds between two looks, at least."""
_MOST_STEP_S = 0.2
_BEATS = 4
"""Signs of life that a worker may miss before nothing more is sent to it."""
_BUSY = 0.2
"""Share of a core's time from which a process computes. Threads that wait for the interpreter use a hundredth."""
_EAGER = 0.9
"""Share of the time from which a thread computes that ran or would have, if a busy host had let it."""
_SAMPLE_S = 0.25
"""Seconds between two looks at what a process does, at least."""


class LivenessReport(NamedTuple):
    """What a look found.

    Attributes:
        silent: gave their last sign of life too long ago.
        heard: were silent, and are no longer.
        hung: hang, with the reason.
    """

    silent: list[Link]
    heard: list[Link]
    hung: list[tuple[Link, str]]


class _Pulse:
    """What is known of one worker's life; seconds are those in which this process looked."""

    __slots__ = ("sample", "silent", "silent_s", "stuck_s", "unheard_s")

    def __init__(self) -> None:
        self.silent = False
        self.unheard_s = 0.0  # since anything came
        self.silent_s = 0.0  # since anything came, without the time in which it computed
        self.stuck_s = 0.0  # with a batch that nobody waits for
        self.sample: tuple[float, ThreadTimes] | None = None  # seconds unheard, and what it had done by then


class Watchdog:
    """Looks after the workers' lives."""

    def __init__(self) -> None:
        self._pulses: dict[Link, _Pulse] = {}
        self._suspects: dict[Link, _Pulse] = {}  # at the last look
        self._looked: float | None = None

    def watch(self, link: Link) -> None:
        """Look after a connection from now on."""
        self._pulses[link] = _Pulse()

    def forget(self, link: Link) -> None:
        """Look after a connection no longer."""
        self._pulses.pop(link, None)
        self._suspects.pop(link, None)

    def left_s(self, service: str) -> float:
        """Return the seconds until those of a service's workers that hang are ended, at most; 0 if none hangs."""
        return max(
            (
                _limit(link) - max(pulse.silent_s, pulse.stuck_s)
                for link, pulse in self._suspects.items()
                if link.service == service
            ),
            default=0.0,
        )

    def look(self, now: float) -> LivenessReport:
        """Look at all workers; one that hangs is told each time, until it is forgotten."""
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
                found.hung.append((link, f"it runs a batch whose deadlines are past by {_limit(link):g} s"))
        self._suspects = {
            link: pulse for link, pulse in self._pulses.items() if pulse.silent or pulse.stuck_s
        }
        return found


def _limit(link: Link) -> float:
    """Return the seconds after which a worker that does not live hangs."""
    return link.worker.hello.hang_timeout_s if link.worker is not None else HANG_TIMEOUT_S


def _count_silence(link: Link, pulse: _Pulse, step: float, found: LivenessReport) -> None:
    """Count the silence of a worker that sent nothing since the last look."""
    beat_s = link.worker.hello.beat_s if link.worker is not None else LOOK_S
    if not beat_s:
        return  # of an earlier version: it gives none
    pulse.unheard_s += step
    pulse.silent_s += step
    if pulse.unheard_s > 2 * beat_s and _computes(link, pulse):
        pulse.silent_s = 0.0
    if not pulse.silent and pulse.silent_s > _BEATS * beat_s:
        pulse.silent = True
        if link.worker is not None:
            found.silent.append(link)
    if pulse.silent_s > _limit(link):
        said = "gave no sign of life" if link.worker is not None else "did not say what it is"
        found.hung.append((link, f"it {said} for {_limit(link):g} s"))


def _computes(link: Link, pulse: _Pulse) -> bool:
    """Return whether a worker uses the CPU, or would, for a batch whose deadlines are not past."""
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
