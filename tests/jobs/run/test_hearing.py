"""What is heard in a job's output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.jobs.ladder import End, recognise
from partita.jobs.run.shepherd.hearing import END, Hearing

SAID = [
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n",
    b"RuntimeError: cudaErrorMemoryAllocation\n",
    b"CUDA_ERROR_OUT_OF_MEMORY\n",
    b"RESOURCE_EXHAUSTED: ran Out of memory\n",
    b"Failed to allocate memory for requested buffer of size 1\n",
]
HOST = [
    b"MemoryError\n",
    b"numpy._core._exceptions._ArrayMemoryError: Unable to allocate\n",
    b"terminate called after throwing an instance of 'std::bad_alloc'\n",
    b"fork: Cannot allocate memory\n",
]


@given(st.sampled_from(SAID), st.lists(st.integers(1, 40), max_size=20), st.binary(max_size=2000))
def test_words_are_heard_wherever_the_output_is_cut(said: bytes, cuts: list[int], before: bytes) -> None:
    hearing, text = Hearing(ours=False), before.replace(b"Xid", b"") + b"\n" + said
    for length in cuts:
        hearing.hear(text[:length])
        text = text[length:]
    hearing.hear(text)
    assert hearing.out_of_memory(1)
    assert not hearing.out_of_memory(0)


@pytest.mark.parametrize("said", HOST)
def test_the_hosts_words_count_under_a_limit_of_ours_alone(said: bytes) -> None:
    for ours in (True, False):
        hearing = Hearing(ours=ours)
        hearing.hear(said)
        assert hearing.out_of_memory(134) is ours


@pytest.mark.parametrize("said", SAID)
def test_what_is_heard_is_what_the_ladder_recognises(said: bytes) -> None:
    assert recognise(1, said.decode()) is End.OUT_OF_MEMORY


def test_only_the_end_of_the_output_counts() -> None:
    hearing = Hearing(ours=False)
    hearing.hear(SAID[0] + b"x" * (END - 100))
    assert hearing.out_of_memory(1)
    hearing.hear(b"x" * 100)
    assert not hearing.out_of_memory(1)


def test_a_fault_of_the_gpu_is_no_out_of_memory() -> None:
    hearing = Hearing(ours=False)
    hearing.hear(b"NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus\n" + SAID[0])
    assert not hearing.out_of_memory(1)
