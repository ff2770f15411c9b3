from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from partita.cli.commands import RegisteredCommands
from partita.cli.main import CommandLine, app, command_line
from partita.registry import names

if TYPE_CHECKING:
    from pathlib import Path

NAMES = list(command_line().commands)
OUTSIDE = '''
def other(name: str = ")") -> None:
    return None

def greet(name: str) -> None:
    """Greet somebody.

    At length.
    """
    from partita.cli.output import echo
    echo(f"hello {name}")
'''


@pytest.mark.parametrize("name", NAMES)
def test_the_line_of_each_command_is_the_first_of_its_own_help(name: str) -> None:
    line: Any = command_line()
    told = line.get_command(None, name).help
    assert line.commands[name].callback is None, "the line is known without the command"
    line.load(name)
    command = line.commands[name]
    assert " ".join(command.help.split("\n\n")[0].split()) == told
    assert "\n" not in command.help.replace("\n\n", ""), "a paragraph is broken where the terminal is not"
    assert command.name == name


def test_commands_stand_in_the_order_in_which_they_are_met() -> None:
    assert [*CommandLine.order] == NAMES, "a command of Partita's that has no place in the order"
    assert set(NAMES) == set(names("commands"))


@pytest.mark.parametrize("name", NAMES)
def test_no_terminal_breaks_a_choice_or_takes_a_word_of_help_for_markup(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = command_line()
    line.load(name)
    waiting: list[tuple[tuple[str, ...], Any]] = [((name,), line.commands[name])]
    while waiting:
        path, command = waiting.pop()
        if isinstance(command, RegisteredCommands):
            command.load_all()
        waiting += [((*path, each), below) for each, below in getattr(command, "commands", {}).items()]
        help_text = CliRunner().invoke(app, [*path, "--help"]).stdout
        texts = [command.help or "", command.epilog or ""]
        for parameter in command.params:
            texts.append(getattr(parameter, "help", None) or "")
            for choice in getattr(parameter.type, "choices", ()):
                assert re.search(rf"[<| ]{re.escape(choice)}[>| ]", help_text), (path, choice)
        assert not [text for text in texts if re.search(r"(?<!\\)\[[a-z#/@]", text)]


def test_a_command_imports_no_other_command() -> None:
    code = (
        "import sys; sys.argv = ['partita', 'logs', '--help']\n"
        "from partita.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in sys.modules if m.startswith('partita')], file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "'partita.cli.queue'" in loaded
    for other in ("plan", "submit", "perf", "gpus"):
        assert f"'partita.cli.{other}'" not in loaded


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, str]:
    """Environment in which another package with a command is installed."""
    (tmp_path / "greeting.py").write_text(OUTSIDE)
    about = tmp_path / "greeting-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[partita.commands]\ngreet = greeting:greet\n[partita.planners]\nlucky = greeting:Lucky\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "80"}


def run(environment: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "partita", *words]
    return subprocess.run(
        program, env={**environment, **more}, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_command_of_another_package_is_in_the_help_and_runs(outside: dict[str, str]) -> None:
    assert "greet     Greet somebody." in run(outside, "--help").stdout
    assert run(outside, "greet", "you").stdout == "hello you\n"
    assert "At length." in run(outside, "greet", "--help").stdout


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ('import sys; sys.exit("imported")\ndef greet():\n  """Greet\n  all."""', "Greet all."),
        ('def greet(\n    name: str = "(:",\n) -> None:\n    """Greet one."""', "Greet one."),
        ('def greet():\n    return 1\n\ndef other():\n    """Other."""', ""),
        (
            "import typer\ngreet = typer.Typer(help='Greet by hand.')\n@greet.callback()\ndef all(): ...",
            "Greet by hand.",
        ),
    ],
)
def test_the_line_of_a_command_is_read_and_where_there_is_none_the_command_is_imported(
    outside: dict[str, str], tmp_path: Path, source: str, told: str
) -> None:
    (tmp_path / "greeting.py").write_text(source)
    line = next(each for each in run(outside, "--help").stdout.splitlines() if each.startswith("│ greet "))
    assert line.strip("│ ").removeprefix("greet").strip() == told


def test_a_planner_of_another_package_is_in_the_help_of_the_option_and_completed(
    outside: dict[str, str],
) -> None:
    told = run(outside, "plan", "--help", COLUMNS="200").stdout
    assert "<exact | genetic | greedy | mcts | mix | ones | whole | lucky>" in told
    refused = run(outside, "plan", "-f", "-", "--planner", "lukcy")
    assert refused.returncode == 2
    assert "'lucky'" in refused.stderr


def test_the_help_of_plan_needs_no_solver() -> None:
    code = (
        "import sys; sys.argv = ['partita', 'plan', '--help']\n"
        "from partita.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(list(sys.modules), file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    for heavy in ("numpy", "highspy", "numba"):
        assert f"'{heavy}'" not in loaded


def test_a_broken_command_of_another_package_stops_nothing_else(
    outside: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "greeting.py").write_text("import nothing_of_that_name")
    assert "the command 'greet' of greeting 1.0 cannot be used" in run(outside, "--help").stdout
    assert run(outside, "schema", "--help").returncode == 0
    told = run(outside, "greet", "you")
    assert told.returncode == 1
    assert "No module named 'nothing_of_that_name'" in told.stderr


def test_an_unknown_command_names_the_nearest(outside: dict[str, str]) -> None:
    told = run(outside, "gret")
    assert told.returncode == 2
    assert "Did you mean 'greet'" in told.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("partita pla", ["plan"]),
        ("partita gr", ["greet"]),
        ("partita plan --planner gre", ["greedy"]),
        ("partita gpus sh", ["show"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(
    outside: dict[str, str], words: str, told: list[str]
) -> None:
    asked = {"_PARTITA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert run(outside, **asked).stdout.split() == told


@pytest.mark.parametrize("words", [("--help",), ("plan", "--help"), ("--version",)])
def test_a_full_disk_and_a_reader_who_leaves_are_told_of_help_as_of_all_else(words: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "partita", *words]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        told = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (told.returncode, told.stderr) == (
        1,
        "error: stdout: cannot be written: No space left on device\n",
    )
    end, start = os.pipe()
    os.close(end)
    left = subprocess.run(program, stdout=start, stderr=subprocess.PIPE, text=True, check=False)
    os.close(start)
    assert (left.returncode, left.stderr) == (141, "")
