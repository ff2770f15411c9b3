"""What an ended process is taken for: every text of the corpus, and the rules that the texts follow from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Thread

import pytest

from partita.jobs.run.watcher import OomDetector
from partita.oom import DONE, FAILED, OUT_OF_MEMORY, Ending, checked_pattern, classify
from partita.perf.measure.model_process import ran_out

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "corpus.jsonl").read_text().splitlines()]
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    main()\n'
OOM = TRACEBACK + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row["source"])
def test_every_text_is_heard_alike_on_every_driver(row):
    right = (OUT_OF_MEMORY if row["want"] == "oom" else FAILED, row["sure"])
    found = classify(row["exit"], row["text"])
    assert (found.verdict, found.sure) == right
    real = OomDetector(ours=False)
    real.add(row["text"].encode())
    assert (real.ending(row["exit"]).verdict == OUT_OF_MEMORY) is (row["want"] == "oom")
    simulated = OomDetector(ours=True)
    simulated.add(row["text"].encode())
    # There the host's memory stands for the slice's, and a process that dies of it has run out.
    if (simulated.ending(row["exit"]).verdict == OUT_OF_MEMORY) is not (row["want"] == "oom"):
        assert simulated.ending(row["exit"]).why == "out of the memory that stands for the slice's"


@pytest.mark.parametrize(
    "row", [row for row in CORPUS if "Traceback" not in row["text"]], ids=lambda row: row["source"]
)
def test_the_simulated_driver_is_no_kinder_where_no_program_died_of_the_hosts_memory(row):
    found = classify(row["exit"] if row["exit"] != 134 else 1, row["text"], host_memory=True)
    assert found.verdict == (OUT_OF_MEMORY if row["want"] == "oom" else FAILED)


def test_what_onnx_runtime_raises_is_told_apart_as_elsewhere():
    for row in CORPUS:
        if "\n" not in row["text"] and row["sure"] and "device:CPU" not in row["text"]:
            message = row["text"].partition(": ")[2] if "Error: " in row["text"] else row["text"]
            heard = classify(1, f"{TRACEBACK}RuntimeError: {message}").verdict == OUT_OF_MEMORY
            assert ran_out(RuntimeError(message), on_host=False) is heard
    assert ran_out(MemoryError(), on_host=True)
    assert not ran_out(MemoryError(), on_host=False)
    assert ran_out(
        RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 9"), on_host=False
    )
    assert not ran_out(ValueError("the model has 2 inputs"), on_host=True)


@pytest.mark.parametrize("code", [137, -9, 143, -15])
def test_who_was_killed_did_not_run_out_of_its_gpus_memory(code):
    found = classify(code, "CUDA out of memory")
    assert (found.verdict, found.line) == (FAILED, None)


def test_done_is_done_whatever_was_caught():
    assert classify(0, OOM).verdict == DONE


def test_the_line_that_decided_is_told_by_number_and_fit_to_be_printed():
    found = classify(
        1, "one\ntwo\n\x1b[31mCUDA error: out of memory\x1b[0m \x07\x9b2J\nexiting with status 1\n", first=100
    )
    assert found.line == 102
    assert found.text is not None
    assert found.text.isprintable()
    assert found.text.startswith("CUDA error: out of memory")
    assert len(classify(1, "CUDA out of memory " + "x" * 10_000).text or "") <= 300


def test_memory_that_was_seen_settles_what_words_leave_open():
    unsure = classify(
        1, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    )
    assert not unsure.sure
    assert unsure.beside(None, 100.0) is unsure
    assert unsure.beside(50.0, 100.0) is unsure
    assert unsure.beside(96.0, 100.0).sure
    bare = classify(1, "Error: out of memory")
    assert bare.verdict == FAILED
    assert bare.beside(50.0, 100.0).verdict == FAILED
    assert bare.beside(99.0, 100.0).verdict == OUT_OF_MEMORY
    # The host's is the host's, however full the GPU was, and so is another error.
    for text in (TRACEBACK + "MemoryError", TRACEBACK + "ValueError: labels must be in [0, 9]"):
        assert classify(1, text).beside(99.0, 100.0).verdict == FAILED


def test_what_another_process_says_between_does_not_hide_it():
    mixed = "\n".join(
        part
        for pair in zip(
            [f"[rank0]: {line}" for line in OOM.splitlines()],
            ["[rank1]: waiting"] * len(OOM.splitlines()),
            strict=True,
        )
        for part in pair
    )
    assert classify(1, mixed).verdict == OUT_OF_MEMORY


def test_a_pattern_of_the_users_is_heard_unless_the_program_went_on():
    patterns = [r"tile (\d+): no room", "VRAM-7"]
    found = classify(1, "ok\ntile 12: no room\nbye", patterns=patterns)
    assert (found.verdict, found.line) == (OUT_OF_MEMORY, 2)
    assert (
        classify(1, "tile 12: no room\nstep 13 loss 0.1\nstep 14 loss 0.1", patterns=patterns).verdict
        == FAILED
    )
    assert classify(0, "tile 12: no room", patterns=patterns).verdict == DONE


def test_a_pattern_that_never_ends_is_left_out():
    began = time.process_time()
    found = classify(1, OOM + "\n" + "a" * 60 + "!", patterns=["(a+)+$"])
    assert found.verdict == OUT_OF_MEMORY  # by the words
    assert time.process_time() - began < 20.0
    heard: list[Ending] = []
    thread = Thread(target=lambda: heard.append(classify(1, "no room", patterns=["no room"])))
    thread.start()
    thread.join()
    assert heard[0].verdict == FAILED  # nothing is searched where it could not be interrupted


@pytest.mark.parametrize("pattern", ["", "(", "x" * 201, ".*", "a?", "(?P<n>", "\\"])
def test_what_is_no_pattern_is_refused_with_a_reason(pattern):
    assert checked_pattern(pattern)
    assert checked_pattern("no room on the card") is None


def test_a_long_log_is_judged_in_a_moment():
    lines = [
        f"E0101 10:00:00.000000 1 a.cc:1] could not allocate {n} bytes of memory on GPU" for n in range(3000)
    ]
    began = time.process_time()
    assert classify(1, "\n".join(lines)).verdict == OUT_OF_MEMORY
    classify(1, "failed to allocate " * 10_000)
    classify(1, "cuda " * 50_000)
    assert time.process_time() - began < 20.0
