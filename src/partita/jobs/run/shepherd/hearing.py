"""Hears out-of-memory and GPU faults in a job's output as it streams by."""

from __future__ import annotations

import re

from partita.jobs import words

END = 256 * 1024
"""Bytes before the end of the output that count as its end: what is caught and survived earlier does not."""

_HINTS = (b"emory", b"MEMORY", b"bad_alloc", b"Xid")
_OVERLAP = 512


class Hearing:
    """Looks for words in output.

    Args:
        ours: the job runs under a memory limit of ours, so that the host's words count.
    """

    def __init__(self, *, ours: bool) -> None:
        pattern = f"{words.OUT_OF_MEMORY}|{words.HOST_OUT_OF_MEMORY}" if ours else words.OUT_OF_MEMORY
        self._memory = re.compile(pattern.encode())
        self._xid = re.compile(words.XID.encode())
        self._before = b""
        self._heard = 0
        self._last: int | None = None
        self._fault = False

    def hear(self, data: bytes) -> None:
        """Take the next part of the output."""
        text = self._before + data
        # Searching for plain words first makes this a hundred times as fast as the patterns.
        if any(hint in text for hint in _HINTS):
            for found in self._memory.finditer(text):
                self._last = self._heard - len(self._before) + found.end()
            self._fault = self._fault or self._xid.search(text) is not None
        self._heard += len(data)
        self._before = text[-_OVERLAP:]

    def out_of_memory(self, code: int) -> bool:
        """Say whether a job that ended with this code ran out of memory."""
        said = self._last is not None and self._heard - self._last <= END
        return code != 0 and said and not self._fault
