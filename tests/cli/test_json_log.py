"""With `--log-format json` each line on stderr is a JSON object, from the first to the last, whoever writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.commands import Commands

from partita.cli.json_log import wants_json

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60.0


def logged(*words: str, code: int, folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=folder,
        env={**os.environ, "PARTITA_STATE": str(folder / "state")},
    )
    assert done.returncode == code, done.stderr
    return lines(done.stderr)


def lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of what was logged, a line each."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= each.keys() for each in found)
    return found


NOISY = textwrap.dedent("""
    import ctypes, logging, os, subprocess, sys, threading, warnings
    from partita.cli import main
    from partita.errors import InputError
    from partita.serve.gateway.server import logged

    CHILD = "import os, time; os.write(2, b'half a line'); os.write(1, b'.'); time.sleep(600)"

    def command(*_, **__):
        sys.stderr.write("the first\\n")
        with logged(as_json=True):
            logging.getLogger("partita.serve").info("of Partita", extra={"event": "told"})
            logging.getLogger("some.library").warning("of a library")
            warnings.warn("of Python", stacklevel=1)
            os.write(1, b"of C on stdout\\n")
            os.write(2, b"of C, \\xff\\n{not json\\n[1]\\n")
            os.write(2, b'{"n": NaN}\\n{"of": "a child"}\\n' + b'{"deep":' * 5000 + b"\\n")
            child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
            child.stdout.read(1)
            child.kill()
            child.wait()
            child.stdout.close()
            os.write(2, b", and ours\\n")
            os.write(2, b"x" * 300_000 + b"\\n")
            subprocess.run(["sh", "-c", "echo of a child >&2"], check=True)
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        LAST

    sys.argv = ["partita", "serve", "--log-format=json", *sys.argv[1:]]
    main._run(lambda: __import__("partita.cli.commands").cli.commands._kept_apart(command), "partita")
""")


@pytest.mark.parametrize(
    ("last", "words", "code", "end"),
    [
        ("os.write(2, b'without an end of line')", (), 0, ("info", "without an end of line")),
        (
            "raise InputError('it is wrong', where='FILE', hint='mend it')",
            (),
            2,
            ("error", "FILE: it is wrong"),
        ),
        ("raise ValueError('a fault')", ("--debug",), 1, ("error", "ValueError: a fault")),
        ("raise KeyboardInterrupt", (), 130, ("error", "ZeroDivisionError: division by zero")),
        ("raise ZeroDivisionError('é')", (), 1, None),
    ],
)
def test_every_line_is_json(
    last: str, words: tuple[str, ...], code: int, end: tuple[str, str] | None, tmp_path: Path
) -> None:
    found = logged("-c", NOISY.replace("LAST", last), *words, code=code, folder=tmp_path)
    said = {each["message"]: each for each in found}
    assert found[0]["message"] == "the first"
    assert said["of Partita"]["event"] == "told"
    assert said["of a library"]["level"] == "warning"
    assert any("UserWarning: of Python" in each["message"] for each in found)
    assert {"of C on stdout", "of C, \\xff", "{not json", "[1]", "of a child"} <= said.keys()
    assert {'{"n": NaN}', '{"of": "a child"}', '{"deep":' * 5000, "half a line, and ours"} <= said.keys()
    assert "x" * 300_000 in said
    thread = said["ZeroDivisionError: division by zero"]
    assert thread["exception"].startswith("Traceback (most recent call last):\n")
    if end is not None:
        assert (found[-1]["level"], found[-1]["message"]) == end


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("serve --log-format json", ("partita serve", "Missing option '-f' / '--file'.")),
        ("serve --log-format=json --no-such", ("partita serve", "No such option: --no-such")),
        ("run -f w.yaml --log-format json --clock moon", ("partita run", "Invalid value for '--clock'")),
        ("daemon --log-format json extra", ("partita daemon", "Got unexpected extra argument")),
        ("dash --log-format json --port many", ("partita dash", "Invalid value for '--port'")),
        ("controller --log-format json --no-such", ("partita controller", "No such option: --no-such")),
        ("no-such-command --log-format json", ("partita", "No such command 'no-such-command'.")),
        ("serve --log-format json -f missing.yaml", ("missing.yaml", "no such file")),
        ("daemon --log-format json --keep long", ("--keep", "'long' is not a time")),
        ("dash --log-format json --\u0007=1", (None, "there is no option")),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_error_before_a_command_runs_is_one_object(
    words: str,
    expected: tuple[str | None, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    where, told = expected
    monkeypatch.chdir(tmp_path)
    with open(2, "w", closefd=False) as stderr:  # the descriptor itself, as in a process
        monkeypatch.setattr(sys, "stderr", stderr)
        done = Commands(tmp_path, monkeypatch, capfd)(*words.split())
    assert done.code == 2, done.err
    (found,) = lines(done.err)
    assert found["level"] == "error"
    assert told in found["message"]
    assert found.get("where") == where
    assert found.get("hint") or where is None


QUIET = textwrap.dedent(r"""
    import logging, subprocess, sys, textwrap, warnings
    from partita.cli import main

    CHILD = '''
    import os, traceback
    try:
        try: 1 / 0
        except ZeroDivisionError as error: raise ValueError("a consequence") from error
    except ValueError:
        os.write(2, traceback.format_exc().encode())  # at once, however slow the machine is
    '''

    def command(*_, **__):
        logging.getLogger("some.library").warning("of %s", "a library")
        warnings.warn("of Python", stacklevel=1)
        subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD)], check=False)
        print("after it", file=sys.stderr)
        LAST

    sys.argv = ["partita", "run", "--log-format=json", *sys.argv[1:]]
    main._run(lambda: command, "partita")
""")


@pytest.mark.parametrize(
    ("last", "words", "code", "end"),
    [
        ("pass", (), 0, None),
        ("raise KeyboardInterrupt", (), 130, None),
        ("raise ValueError('a fault')", (), 1, "a fault in partita itself: ValueError: a fault"),
        ("raise ValueError('a fault')", ("--debug",), 1, "ValueError: a fault"),
        ("raise __import__('typer').Abort", (), 1, "aborted: nobody answers what was asked"),
        ("return 3", (), 3, None),
    ],
    ids=["done", "interrupted", "fault", "fault with a traceback", "aborted", "told by its code"],
)
def test_where_nobody_listens_to_loggers_each_thing_is_one_object_of_its_level(
    last: str, words: tuple[str, ...], code: int, end: str | None, tmp_path: Path
) -> None:
    found = logged("-c", QUIET.replace("LAST", last), *words, code=code, folder=tmp_path)
    told = [(each["level"], each["logger"], each["message"]) for each in found]
    assert told[:4] == [
        ("warning", "some.library", "of a library"),
        ("warning", "partita", "of Python"),
        ("error", "stderr", "ValueError: a consequence"),
        ("info", "stderr", "after it"),
    ]
    assert "direct cause" in found[2]["exception"]
    assert told[4:] == ([] if end is None else [("error", "partita", end)])


def test_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wants_json(["serve", "--log-format", "json"])
    assert wants_json(["serve", "--log-format=json", "-f", "x"])
    assert not wants_json(["serve", "--log-format"])
    assert not wants_json(["serve", "--log-format", "text"])
    assert not wants_json(["submit", "--", "other", "--log-format", "json"])
    monkeypatch.setenv("PARTITA_MIG_MANAGER_LOG_FORMAT", "json")
    assert wants_json(["mig-manager"])
    assert not wants_json(["serve"])
    assert not wants_json([])


def test_a_reader_that_is_slow_or_has_left_cuts_no_line(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    noise = "import os\nfrom partita.cli.json_log import json_stderr\nwith json_stderr():\n"
    noise += "    for each in range(40): os.write(2, str(each).encode() * 10_000 + b'\\n')\n"
    with subprocess.Popen([sys.executable, "-c", noise], stderr=write, cwd=tmp_path) as process:
        os.close(write)
        time.sleep(0.2)
        with os.fdopen(read, "rb") as reader:
            found = lines(reader.read().decode())
            assert process.wait(PATIENCE_S) == 0
    assert [each["message"] for each in found] == [str(each) * 10_000 for each in range(40)]
    read, write = os.pipe()
    os.close(read)
    try:
        assert (
            subprocess.run([sys.executable, "-c", noise], stderr=write, cwd=tmp_path, check=False).returncode
            == 0
        )
    finally:
        os.close(write)
