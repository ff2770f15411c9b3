"""What is kept of a job's output, and what it is taken for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import partita
from partita.jobs.run.watcher import OomDetector
from partita.oom import END, OUT_OF_MEMORY

ROOT = Path(partita.__file__).parents[1]
SAID = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n"
HOST = [
    b"Traceback (most recent call last):\nMemoryError\n",
    b"Traceback (most recent call last):\nnumpy._core._exceptions._ArrayMemoryError: Unable to allocate 1 GiB\n",
    b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
    b"Traceback (most recent call last):\nOSError: [Errno 12] Cannot allocate memory\n",
]


@given(st.lists(st.integers(1, 40), max_size=20), st.lists(st.integers(0, 30), max_size=20))
def test_words_are_heard_wherever_the_output_is_cut(cuts: list[int], lines: list[int]) -> None:
    detector, text = OomDetector(ours=False), b"".join(b"x" * each + b"\n" for each in lines) + SAID
    for length in cuts:
        detector.add(text[:length])
        text = text[length:]
    detector.add(text)
    assert detector.ending(1).verdict == OUT_OF_MEMORY
    assert detector.ending(0).verdict != OUT_OF_MEMORY
    assert detector.ending(1).line == len(lines) + 1


@pytest.mark.parametrize("said", HOST)
def test_the_hosts_words_count_under_a_limit_of_ours_alone(said: bytes) -> None:
    for ours in (True, False):
        detector = OomDetector(ours=ours)
        detector.add(said)
        assert (detector.ending(134).verdict == OUT_OF_MEMORY) is ours


@pytest.mark.parametrize("piece", [1000, END, 4 * END])
def test_only_the_end_of_the_output_counts_and_lines_are_numbered_from_its_beginning(piece: int) -> None:
    before = b"a line\n" * 200_000
    detector = OomDetector(ours=False)
    for at in range(0, len(before), piece):
        detector.add(before[at : at + piece])
    detector.add(SAID)
    assert detector.ending(1).line == 200_001
    detector.add(b"x" * (END - 100))
    assert detector.ending(1).verdict == OUT_OF_MEMORY
    detector.add(b"x" * 100)
    assert detector.ending(1).verdict != OUT_OF_MEMORY


def test_a_fault_of_the_gpu_is_no_out_of_memory() -> None:
    detector = OomDetector(ours=False)
    detector.add(b"NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus\n" + SAID)
    assert detector.ending(1).verdict != OUT_OF_MEMORY


def test_a_users_pattern_is_heard() -> None:
    detector = OomDetector(ours=False, patterns=["no room on the card"])
    detector.add(b"fatal: no room on the card for 3 tiles\n")
    assert detector.ending(3).verdict == OUT_OF_MEMORY


def test_the_watcher_imports_next_to_nothing() -> None:
    script = (
        f"import sys; sys.path.append({str(ROOT)!r}); import partita.jobs.run.watcher; print(*sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"pathlib", "dataclasses", "typing", "threading", "subprocess", "hashlib", "logging", "tempfile"}
    assert not heavy & set(found)
    assert {name for name in found if name.startswith("partita.")} == {
        "partita.jobs",
        "partita.jobs.run",
        "partita.jobs.run.folder",
        "partita.jobs.run.watcher",
        "partita.oom",
        "partita.process",
        "partita.process.launch",
        "partita.process.logs",
        "partita.process.table",
    }
