"""What users write never acts on a terminal, and what libraries print never reaches stdout."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.cli.commands import Commands
from tests.jobs.queue.world import queue, served

from partita.cli import gpus
from partita.cli.drawing import SafeConsole
from partita.cli.main import main
from partita.cli.output import (
    Format,
    ProgramOutput,
    echo,
    emit,
    emit_document,
    indented_json,
    stdout,
)
from partita.cli.safe_text import inline, json_shown, shown
from partita.mig import catalogue
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.document import write_plan
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from tests.jobs.queue.world import World


HOSTILE = (
    "\x1b[2J\x1b[31mred\x1b[0m",  # clears the screen, colours
    "\x1b]52;c;ZXZpbA==\x07",  # writes into the clipboard
    "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",  # a link
    "\x9b2J\x85\x84",  # the same with C1 controls
    "a\rb\x08\x7f\x00\x0b\x0c",
    "user\u202etxt.exe\u202c\u2066x\u2069\u200f\u061c",  # turned round
    "in\u200bvis\u200dible\u2060\ufeff\u00ad\u3164\U000e0041\u034f",
    "line\u2028line\u2029line",
)


def assert_harmless(text: str, *, layout: str = "\n\t") -> None:
    bad = {
        each
        for each in text
        if each not in layout and unicodedata.category(each) in {"Cc", "Cf", "Zl", "Zp", "Cs"}
    }
    assert not bad, (bad, text)
    assert not set(text) & set("\u3164\u034f")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_escapes_that_say_what_it_was(text: str) -> None:
    assert_harmless(shown(text))
    assert_harmless(inline(f"{text}\n\t"), layout="")
    assert_harmless(json_shown(json.dumps(text, ensure_ascii=False)), layout="")
    assert json.loads(json_shown(json.dumps(text, ensure_ascii=False))) == text


def test_plain_text_in_any_script_stays_as_it_is() -> None:
    text = "größer, 大きい, أكبر, \u3000wide, 1\u00a0GiB, e\u0301, \N{GRINNING FACE}, ┌─┐"
    assert shown(text) == inline(text) == json_shown(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_way_of_writing_to_a_terminal_lets_it_through(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.table import Table  # noqa: PLC0415 -- slow to import
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=text)
    table.add_column(text)
    table.add_row(Text(text, "bold"))
    table.add_row(text)
    for what in (table, Text(text), text, f"[link=x]{text}"):
        stdout().print(what)
    echo(text)
    emit({"name": text}, Format.JSON)
    emit({"name": text}, Format.YAML)
    emit_document(lambda stream: json.dump({"name": text}, stream, ensure_ascii=False), Format.JSON)
    found = capsys.readouterr().out
    assert_harmless(found)
    assert "[link=x]" in found


@pytest.mark.parametrize("form", [Format.JSON, Format.YAML])
def test_documents_say_what_they_said(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    emit(list(HOSTILE), form)
    text = capsys.readouterr().out
    assert_harmless(text)
    assert (json.loads(text) if form is Format.JSON else yaml.safe_load(text)) == list(HOSTILE)


def test_columns_stay_columns_and_styles_where_they_were() -> None:
    from rich.table import Table  # noqa: PLC0415 -- slow to import
    from rich.text import Text  # noqa: PLC0415

    stream = io.StringIO()
    table = Table("a", "b", width=30)
    for text in HOSTILE:
        table.add_row(Text(text), "x")
    SafeConsole(file=stream, width=30).print(table)
    assert {len(line) for line in stream.getvalue().splitlines()} == {30}
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, color_system="standard", width=60)
    console.print(Text.assemble("\x1b", ("red", "red"), "\x1b"))
    assert stream.getvalue() == "\\x1b\x1b[31mred\x1b[0m\\x1b\n"


def logged(*pieces: bytes) -> str:
    output = ProgramOutput()
    return "".join(output.feed(piece) for piece in pieces) + output.end()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_jobs_output_keeps_its_colours_and_nothing_else(text: str) -> None:
    data = f"{text}\n".encode("utf-8", "surrogatepass")
    whole = logged(data)
    assert_harmless(re.sub(r"\x1b\[(31|0)m", "", whole), layout="\n\t\r")
    assert logged(*(data[i : i + 1] for i in range(len(data)))) == whole


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"10%\r20%\r\n", "10%\r20%\r\n"),
        (b"\x1b[1;38;5;8mx\x1b[m", "\x1b[1;38;5;8mx\x1b[m\x1b[0m"),
        (b"\x1b[38;2;8;8;8;49mx", "\x1b[38;2;8;8;8;49mx\x1b[0m"),
        (b"\x1b[8mhidden", "\\x1b[8mhidden"),
        (b"\x1b[38;5;1;8mhidden", "\\x1b[38;5;1;8mhidden"),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        (b"\x1b", "\\x1b"),
    ],
)
def test_what_a_program_writes_on_a_terminal(written: bytes, told: str) -> None:
    assert logged(written) == told


END = "\0"
"""No command writes it: where what one wrote to a terminal ends."""


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run a command whose stdout is a terminal."""
    monkeypatch.setattr(sys, "argv", ["partita", *words])
    outer, inner = pty.openpty()
    stream: TextIO = os.fdopen(inner, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        with pytest.raises(SystemExit):
            main()
        stream.write(END)
        stream.flush()
        text = ""
        while not text.endswith(END):  # a terminal hands on what it is given piece by piece
            text += os.read(outer, 65536).decode()
        return text.removesuffix(END)
    finally:
        monkeypatch.undo()
        stream.close()
        os.close(outer)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "state").mkdir()
    with queue(folder / "state", keep=True) as world, served(world):
        yield world


@pytest.fixture(scope="module")
def hostile_jobs(world: World) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTITA_STATE", str(world.folder))
        from partita.cli.queue import connect  # noqa: PLC0415 -- used once

        ids = []
        with connect() as daemon:

            def submit(*command: str, **more: Any) -> None:
                environment = {"PATH": os.environ["PATH"]}
                ids.append(
                    daemon.ask("submit", command=command, directory="/", environment=environment, **more)[
                        "id"
                    ]
                )

            for text in HOSTILE:
                word = text.replace("\0", "")
                submit("printf", "%s\\n", word)
                submit(f"no-such-{word}\nhint: run this", name="x")
                submit(
                    "true",
                    f"{word}\nerror: forged",
                    memory={"source": "declared", "lower": 0, "upper": 2**45},
                )
            done = ids[: len(HOSTILE) * 3]
            while daemon.ask("pending", ids=done)["pending"] > len(HOSTILE):
                pass
        return ids


COMMANDS = [
    ("queue",),
    ("queue", "-o", "json"),
    ("queue", "-o", "yaml"),
    ("history",),
    ("history", "-o", "json"),
    ("history", "-o", "yaml"),
    ("status",),
    ("forget",),
    ("forget", "-o", "json"),
    ("energy", "--by", "job"),
    ("wait", "IDS", "--timeout", "0s"),
    ("requeue", "WAITING"),
    ("cancel", "WAITING"),
    ("cancel", "\x1b[2J12"),
    ("queue", "--\x1b[2Jx\u202e"),
    ("logs", "\u202e12"),
    ("history", "\u202e12"),
    ("submit", "--name", "\x1b[2J", "--", "true"),
    ("submit", "--after", "ok:\x1b[2J", "--", "true"),
    ("submit", "--memory", "\x9b2J", "--", "true"),
    ("submit", "\x1b[2J --x"),
    ("plan", "-f", "no\u202efile\x1b[2J.yaml"),
    ("perf", "show", "no\u202efile\x1b[2J.csv"),
    ("gpus", "\x1b[2Ja100"),
    ("daemon", "--discipline", "fa\u200bir"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_shows_hostile_names_as_text(
    world: World,
    hostile_jobs: list[str],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = Commands(world.folder.parent, monkeypatch, capsys)
    assert commands.state == world.folder
    said = {"IDS": hostile_jobs, "WAITING": hostile_jobs[2::3]}
    found = commands(*(each for word in words for each in said.get(word, [word])))
    assert_harmless(found.out)
    assert_harmless(found.err)
    forged = [
        line
        for line in (found.out + found.err).splitlines()
        if line.startswith(("error: forged", "hint: run"))
    ]
    assert not forged


@pytest.mark.parametrize("name", ["[bold]", *HOSTILE[::3]])
def test_plans_with_hostile_names_are_shown_as_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(tmp_path, monkeypatch, capsys)
    hostile = f"{name}<script>x</script>"
    point = OperatingPoint("7g.80gb", 1, 1, 10.0, 5.0, "")
    placed = Instance(Placement(0, "7g.80gb"), hostile, hostile, point)
    plan = Plan(
        Objective("gpus", 1, 1),
        Solver("exact", 0, 0.0),
        (ServiceCapacity(hostile, 10.0, 10.0, 100.0),),
        (PlannedGpu(f"node-{name}/gpu-0", "a100-80gb", (placed,)),),
    )
    with (tmp_path / "plan.json").open("w", encoding="utf-8", errors="surrogatepass") as stream:
        write_plan(plan, stream)
    page = tmp_path / "page.html"
    for words in (
        ("apply", tmp_path / "plan.json", "--yes", "--clock", "simulated"),
        ("status",),
        ("status", "-o", "json"),
        ("diff", tmp_path / "plan.json", "--html", page),
        ("export", "mig-parted", tmp_path / "plan.json"),
    ):
        found = commands(*words)
        assert_harmless(found.out)
        assert_harmless(found.err)
        assert "a fault in partita itself" not in found.err
    assert page.exists() == name.isprintable()  # what cannot be printed is refused where a plan is read
    if page.exists():
        assert "<script>x" not in page.read_text()
        assert "&lt;script&gt;x" in page.read_text()


def test_logs_are_raw_in_a_pipe_and_shown_on_a_terminal(
    world: World,
    hostile_jobs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(world.folder))
    monkeypatch.setattr(sys, "argv", ["partita", "logs", hostile_jobs[0]])
    with pytest.raises(SystemExit):
        main()
    assert capfdbinary.readouterr().out == HOSTILE[0].encode() + b"\n"
    monkeypatch.setenv("PARTITA_STATE", str(world.folder))
    text = on_a_terminal(monkeypatch, "logs", hostile_jobs[0])
    assert text == "\\x1b[2J\x1b[31mred\x1b[0m\r\n\x1b[0m"


PARTITA = str(Path(sys.executable).parent / "partita")

NOISE = """
import ctypes, os, subprocess, sys, threading
from importlib.abc import MetaPathFinder

class Noise(MetaPathFinder):
    done = False
    def find_spec(self, name, path=None, target=None):
        if name == "partita.mig.catalogue" and not self.done:
            self.done = True
            library = ctypes.CDLL(None)
            print("said by print")
            os.write(1, b"said by write\\n")
            library.printf(b"said by printf\\n")  # stays in C's buffer until the process ends
            library.puts(b"said by puts")
            thread = threading.Thread(target=lambda: (print("said by a thread"), os.write(1, b"and by its C\\n")))
            thread.start()
            thread.join()
            subprocess.run(["echo", "said by a child"])

sys.meta_path.insert(0, Noise())
"""
SAID = ["print", "write", "printf", "puts", "a thread", "a child"]


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys):
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def environment(tmp_path):
    return os.environ | {"PARTITA_STATE": str(tmp_path / "state"), "COLUMNS": "120", "NO_COLOR": "1"}


@pytest.fixture
def noisy(tmp_path, environment):
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    return environment | {"PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PARTITA, *words], env=environment, check=False, capture_output=not streams, text=True, **streams
    )


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_whatever_a_library_prints_goes_to_stderr(commands, noisy, form):
    done = run(noisy, "gpus", "-o", form)
    assert done.returncode == 0
    assert [each for each in SAID if f"said by {each}\n" not in done.stderr] == []
    assert done.stdout == commands("gpus", "-o", form).out
    if form == "json":
        assert json.loads(done.stdout)
    if form == "yaml":
        assert yaml.safe_load(done.stdout)


def test_help_is_what_the_user_asked_for(noisy):
    assert "Usage: partita gpus show" in run(noisy, "gpus", "show", "--help").stdout


def test_in_one_process_too_a_library_that_prints_is_kept_apart(commands, monkeypatch):
    listed = catalogue.gpu_names

    def loud():
        print("said by a library")  # noqa: T201 -- as libraries do
        return listed()

    monkeypatch.setattr(gpus, "gpu_names", loud)
    for _ in range(2):
        done = commands("gpus", "-o", "json")
        assert json.loads(done.out)
        assert set(done.err.splitlines()) == {"said by a library"}
    sys.stdout.write("and after a command stdout is stdout again")
    assert commands("gpus", "-o", "json").out.startswith("and after")


SOLVER = """
import os, sys
{fake}
from partita.milp import new_solver
os.write(1, b"before\\n")
for _ in range(2):
    new_solver()
os.write(1, b"after\\n")
"""
FAKE = """
from types import ModuleType
class Highs:
    def __init__(self):
        os.write(1, b"Running HiGHS 9.9.9: Copyright\\nsomething else\\n")
    def setOptionValue(self, name, value):
        assert (name, value) == ("output_flag", False)
sys.modules["highspy"] = ModuleType("highspy")
sys.modules["highspy"].Highs = Highs
sys.modules["highspy"].kHighsInf = float("inf")
"""


def test_the_solver_says_nothing_of_itself(environment):
    done = subprocess.run(
        [sys.executable, "-c", SOLVER.format(fake="")], env=environment, check=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"before\nafter\n", b"")


def test_what_else_is_said_while_the_first_solver_is_made_is_passed_on(environment):
    script = SOLVER.format(fake=FAKE)
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert done.stderr == b""
    # The banner comes once a process; what comes with the second solver is none.
    assert done.stdout == b"before\nsomething else\nRunning HiGHS 9.9.9: Copyright\nsomething else\nafter\n"


def test_a_reader_that_has_read_enough_is_no_fault(environment):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        done = run(environment, "gpus", "-o", "json", stdout=stream, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_cannot_be_written_is_told(environment):
    with Path("/dev/full").open("w") as full:
        done = run(environment, "gpus", "-o", "json", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: stdout: cannot be written: No space left on device\n"


def test_a_command_without_streams_does_what_it_is_told(environment):
    words = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", PARTITA, "gpus", "-o", "json"]
    assert subprocess.run(words, env=environment, check=False).returncode == 0


UNSET = """
import os, sys
from partita.cli.output import fill_gaps
for each in (0, 1, 2):
    os.close(each)
sys.stdout = sys.stderr = None
fill_gaps()
with open(sys.argv[1], "w") as stream:
    os.write(1, b"said by a library")
    print("and more")
    sys.stderr.write("and a note")
    stream.write("the plan")
"""


def test_without_streams_no_file_takes_their_numbers(environment, tmp_path):
    out = tmp_path / "plan.json"
    subprocess.run([sys.executable, "-c", UNSET, out], env=environment, check=True)
    assert out.read_text() == "the plan"


@pytest.mark.parametrize("odd", ["plain", float("nan"), "half \udcff", "über\n\x1b"])
def test_long_json_is_indented_as_short_json_is(odd: object) -> None:
    row = {"id": "12", "after": [], "seconds": {}, "deep": [[1, 2.5, None], {"a": [True]}], "odd": odd}
    for many in (1, 3000):
        value = {"jobs": [row] * many}
        assert indented_json(value) == json.dumps(value, indent=2, ensure_ascii=False)
