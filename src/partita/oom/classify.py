"""What an ended attempt would be taken for: the one place that decides it, for every driver and for measurements."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager

from partita.oom import log, words

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

END = 256 * 1024
"""Bytes before the end of an output that are looked at."""

DONE, OUT_OF_MEMORY, FAILED = "done", "out-of-memory", "failed"

NEAR = 0.95
"""The share of a slice's memory from which on it counts as nearly full."""

MOST_TEXT = 300
"""Characters of the line that decided which are kept."""

MOST_PATTERN = 200
MOST_PATTERNS = 16
_PATTERN_S = 1.0

_ALIVE = 3
"""Lines of progress after an exception that nobody handled, which tell that it was handled all the same: other ranks
and threads write on for a moment."""

_KILLS = {9: "SIGKILL", 15: "SIGTERM"}


class Ending:
    """How an attempt ended.

    Attributes:
        verdict: `done`, `out-of-memory` or `failed`.
        sure: whether nothing else is a likely cause; a verdict that is not sure is worth one larger slice at most.
        line: number of the line that decided, from 1; None if none did.
        text: of that line, shortened, and fit to be printed.
        why: in a few words.
        unclear: memory ran out, and nothing says whose: a slice that was nearly full would tell.
    """

    __slots__ = ("line", "sure", "text", "unclear", "verdict", "why")

    def __init__(
        self,
        verdict: str,
        why: str,
        *,
        sure: bool = True,
        unclear: bool = False,
        line: int | None = None,
        text: str | None = None,
    ) -> None:
        self.verdict, self.why, self.sure, self.unclear = verdict, why, sure, unclear
        self.line, self.text = line, text

    def beside(self, peak: float | None, limit: float | None) -> Ending:
        """Return the ending beside what was seen of memory: a nearly full slice settles what words leave open.

        Args:
            peak: most bytes that were seen in use; None where nobody looked.
            limit: bytes of its slice.
        """
        if peak is None or not limit or peak < NEAR * limit:
            return self
        if self.unclear:
            return self._again(OUT_OF_MEMORY, "out of memory, and its slice was nearly full")
        if self.verdict == OUT_OF_MEMORY and not self.sure:
            return self._again(OUT_OF_MEMORY, f"{self.why}, and its slice was nearly full")
        return self

    def _again(self, verdict: str, why: str) -> Ending:
        return Ending(verdict, why, line=self.line, text=self.text)


def _ending(
    verdict: str, why: str, event: log.Event | None, *, sure: bool = True, unclear: bool = False
) -> Ending:
    if event is None:
        return Ending(verdict, why, sure=sure, unclear=unclear)
    text = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in event.text[:MOST_TEXT]
    )
    return Ending(verdict, why, sure=sure, unclear=unclear, line=event.line, text=text)


def classify(
    code: int | None,
    output: str | bytes,
    *,
    first: int = 1,
    host_memory: bool = False,
    patterns: Sequence[str] = (),
) -> Ending:
    """Return what a process that ended so is taken for.

    The last error decides: an out-of-memory that the program went on from was caught, and one that another error
    followed was not what ended it. An exception that was raised from an out-of-memory counts as one.

    Args:
        code: its exit code; 128 + n, or -n, after signal n; None if nobody saw it.
        output: the end of what it wrote.
        first: number of the first line of that.
        host_memory: the memory of its slice is that of the host, as on a simulated instance and where a CPU is
            measured.
        patterns: regular expressions of the user's; a line in which one is found says that memory ran out.
    """
    if code == 0:
        return Ending(DONE, "exit code 0")
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    found = log.events(text, first)
    fault = next((event for event in found if event.kind == log.FAULT), None)
    if fault is not None:
        return _ending(FAILED, "a fault of the GPU (Xid)", fault)
    killed = _KILLS.get(-code if code is not None and code < 0 else (code or 0) - 128)
    if killed is not None:
        host = ", as the host does when its own memory runs out" if killed == "SIGKILL" else ""
        return Ending(FAILED, f"killed ({killed}){host}")
    mine = _by_patterns(text, first, patterns)
    if mine is not None and not _went_on(found, mine):
        return _ending(OUT_OF_MEMORY, "a pattern of the user's", mine)
    return _by_words(found, text, first, host_memory=host_memory, aborted=code in (134, -6))


def _by_words(found: list[log.Event], text: str, first: int, *, host_memory: bool, aborted: bool) -> Ending:
    progress = 0
    vague: log.Event | None = None
    for at in range(len(found) - 1, -1, -1):
        event = found[at]
        if event.kind == log.PROGRESS:
            progress += 1
        elif progress >= (_ALIVE if event.raised else 1) and event.kind != log.ERROR:
            return _caught(event, found[at + 1 :], vague)
        elif event.kind == log.VAGUE and event.cause is None:
            vague = vague or event
        else:
            return _decided(event, found[: at + 1], text, first, host_memory=host_memory, aborted=aborted)
    return _ending(FAILED, "an error that is no out-of-memory" if vague else "no error was recognised", vague)


def _caught(event: log.Event, after: list[log.Event], vague: log.Event | None) -> Ending:
    if event.kind != log.MEMORY:
        return _ending(FAILED, "an error that is no out-of-memory", vague or event)
    went_on = next(each for each in after if each.kind == log.PROGRESS)
    return _ending(FAILED, f"out of memory in line {event.line} was caught: it went on", vague or went_on)


def _decided(
    event: log.Event, until: list[log.Event], text: str, first: int, *, host_memory: bool, aborted: bool
) -> Ending:
    """Return what the last error says that has a cause of its own."""
    if event.kind == log.MEMORY:
        return _of_memory(event, until, text, first, host_memory=host_memory, aborted=aborted)
    root, direct = event, True
    while root.cause is not None:
        root, direct = root.cause, direct and root.direct
        if root.kind == log.MEMORY:
            found = _of_memory(root, until, text, first, host_memory=host_memory, aborted=aborted)
            if found.verdict == OUT_OF_MEMORY and not (direct or event.kind == log.VAGUE):
                found.sure, found.why = False, "another error came while an out-of-memory was handled"
            return found
    return _ending(FAILED, "an error that is no out-of-memory", event)


def _of_memory(
    event: log.Event, until: list[log.Event], text: str, first: int, *, host_memory: bool, aborted: bool
) -> Ending:
    says = {each.says for each in _burst(until) if each.kind == log.MEMORY} | {event.says}
    if words.OOM in says or (words.BARE in says and log.near(text, event.line, first)):
        return _ending(OUT_OF_MEMORY, "out of GPU memory", event)
    if words.UNSURE in says:
        return _ending(
            OUT_OF_MEMORY, "perhaps out of GPU memory: this has other causes, too", event, sure=False
        )
    # A process that is held to the slice's memory, and dies of it by itself.
    if host_memory and (event.raised or aborted):
        return _ending(OUT_OF_MEMORY, "out of the memory that stands for the slice's", event)
    if words.BARE in says and _speaks_of_gpus(text):
        return _ending(
            OUT_OF_MEMORY, "out of memory, and it does not say that it is the GPU's", event, sure=False
        )
    whose = "it does not say whose" if words.BARE in says else "the host's"
    return _ending(FAILED, f"out of memory, {whose}", event, unclear=words.BARE in says or host_memory)


def _burst(until: list[log.Event]) -> Iterator[log.Event]:
    """Yield the events of the last error, from the last back to where the program still went on."""
    for event in reversed(until):
        if event.kind in (log.PROGRESS, log.ERROR):
            return
        yield event


def _speaks_of_gpus(text: str) -> bool:
    return any(words.named(line) for line in text[-16384:].splitlines())


def _went_on(found: list[log.Event], mine: log.Event) -> bool:
    return any(event.kind == log.PROGRESS and event.line > mine.line for event in found)


def checked_pattern(pattern: str) -> str | None:
    """Return why a pattern of a user's cannot be one; None if it can."""
    if not 0 < len(pattern) <= MOST_PATTERN:
        return f"a pattern has 1 to {MOST_PATTERN} characters"
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{pattern!r} is no regular expression: {error}"
    return "it is found in every line" if found.search("") else None


def _by_patterns(text: str, first: int, patterns: Sequence[str]) -> log.Event | None:
    """Return the last line in which a user's pattern is found; None if none is, or it takes too long to say so."""
    if not patterns:
        return None
    try:
        with _within(_PATTERN_S):
            tried = [re.compile(each) for each in patterns[:MOST_PATTERNS]]
            lines = list(enumerate(text.split("\n"), first))
            for number, line in reversed(lines):
                if any(each.search(line[: log.MOST_LINE]) for each in tried):
                    return log.Event(number, line[: log.MOST_LINE].strip(), log.MEMORY, words.OOM)
    except (TimeoutError, re.error):
        return None
    return None


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where a block computes for longer, even in the middle of one search.

    Python looks for signals while it searches. Another thread than the first cannot be interrupted, and nothing is
    tried there.
    """

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError

    try:
        before = signal.signal(signal.SIGVTALRM, late)
    except ValueError:  # another thread
        raise TimeoutError from None
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
