"""Keeps the end of a job's output as it streams by, and says what the job is taken for once it has ended."""

from __future__ import annotations

from collections import deque

from partita.oom import END, OUT_OF_MEMORY, Ending, classify

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from collections.abc import Sequence


class Hearing:
    """Listens to output: only its end is kept, and nothing is looked for in it while the job runs.

    Args:
        ours: the job runs under a memory limit of ours, so that the host's memory stands for the slice's.
        patterns: regular expressions of the user's that say that memory ran out.
    """

    def __init__(self, *, ours: bool, patterns: Sequence[str] = ()) -> None:
        self._ours = ours
        self._patterns = tuple(patterns)
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self._dropped_lines = 0

    def hear(self, data: bytes) -> None:
        """Take the next part of the output."""
        self._parts.append(data)
        self._bytes += len(data)
        while self._bytes - len(self._parts[0]) >= END:
            dropped = self._parts.popleft()
            self._bytes -= len(dropped)
            self._dropped_lines += dropped.count(b"\n")

    def ending(self, code: int | None) -> Ending:
        """Return what a job that ended with this code is taken for."""
        text = b"".join(self._parts)
        before, end = text[:-END], text[-END:]
        first = 1 + self._dropped_lines + before.count(b"\n")
        return classify(code, end, first=first, host_memory=self._ours, patterns=self._patterns)

    def out_of_memory(self, code: int | None) -> bool:
        """Say whether a job that ended with this code ran out of memory."""
        return self.ending(code).verdict == OUT_OF_MEMORY
