"""`partita classify`."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

from partita.cli.main import command_line


def run(capsys, *arguments: str) -> str:
    command_line()(["classify", *arguments], standalone_mode=False)
    return str(capsys.readouterr().out)


def test_it_tells_the_verdict_and_the_line_that_decided(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("step 1\n\x1b]0;title\x07Error: out of memory in ops.cu\nexiting with code 1\n")
    found = json.loads(run(capsys, str(log), "--exit", "1", "-o", "json"))
    assert found == {
        "verdict": "out-of-memory",
        "sure": True,
        "why": "out of GPU memory",
        "line": 2,
        "text": "Error: out of memory in ops.cu",
    }
    shown = run(capsys, str(log), "--exit", "1")
    assert shown == "out-of-memory\n  why: out of GPU memory\n  line 2: Error: out of memory in ops.cu\n"
    assert json.loads(run(capsys, str(log), "--exit", "0", "-o", "json"))["verdict"] == "done"


def test_lines_of_a_long_log_are_numbered_from_its_beginning(monkeypatch, capsys):
    text = b"a line of output\n" * 300_000 + b"CUDA out of memory\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    found = json.loads(run(capsys, "-", "--exit", "1", "-o", "json"))
    assert (found["verdict"], found["line"]) == ("out-of-memory", 300_001)


def test_patterns_and_simulated_instances_are_as_for_the_queue(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("no room on the card\n")
    assert run(capsys, str(log), "--exit", "1").startswith("failed\n")
    assert run(capsys, str(log), "--exit", "1", "--oom-pattern", "no room").startswith("out-of-memory\n")
    log.write_text("Traceback (most recent call last):\nMemoryError\n")
    assert run(capsys, str(log), "--exit", "1").startswith("failed\n")
    assert run(capsys, str(log), "--exit", "1", "--simulated").startswith("out-of-memory\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["nowhere"], "it cannot be read"), ([".", "--oom-pattern", "("], "no regular expression")],
)
def test_what_cannot_be_done_is_told(arguments, what, capsys):
    from partita.errors import InputError  # noqa: PLC0415 -- used once

    with pytest.raises(InputError, match=what):
        run(capsys, *arguments, "--exit", "1")
