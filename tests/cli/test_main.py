"""The command line as a whole: its help, commands of other packages, and every kind of bad input through it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from partita.cli.commands import RegisteredCommands, choices
from partita.cli.main import CommandLine, app, command_line, main
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
def test_help_fits_80_columns_with_no_word_broken_or_taken_for_markup(
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
        assert max(map(cell_len, help_text.splitlines())) <= 80, path
        assert "…" not in help_text, (path, "a word or a value is cut")
        cut = " ".join(help_text.replace("│", " ").split())
        for parameter in command.params:
            for word in (getattr(parameter, "help", None) or "").split():
                assert word in cut, (path, parameter.name, word)
        texts = [command.help or "", command.epilog or ""]
        for parameter in command.params:
            texts.append(getattr(parameter, "help", None) or "")
            for choice in choices(parameter):
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
    assert re.search(r"│ greet +Greet somebody\.", run(outside, "--help").stdout)
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


WORKLOAD = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus:
  - {model: a100-40gb, count: 2}
services:
  - name: a
    model: small
    rate: 10
    slo: {latency_ms: 100}
"""

TABLE = """\
model,gpu,profile,batch,processes,throughput,latency_ms,quantile
small,a100-40gb,1g.5gb,1,1,20,50,0.9
small,a100-40gb,7g.40gb,1,1,90,10,0.9
large,a100-40gb,7g.40gb,1,1,9,20,0.9
"""


# Bad input through the command: what it says, how it exits, and that it leaves nothing behind.


@dataclass(frozen=True)
class Case:
    """What is replaced in a sound input, and what the command says of it: exit code, place, words, hint."""

    old: str
    new: str
    where: str
    says: str
    code: int = 2


WORKLOADS = {
    "zero rate": Case("rate: 10", "rate: 0", r"w\.yaml:9: services\[0\]\.rate", "above 0"),
    "negative rate": Case("rate: 10", "rate: -1", r"w\.yaml:9: services\[0\]\.rate", "above 0"),
    "NaN": Case("rate: 10", "rate: .nan", r"w\.yaml:9: services\[0\]\.rate", "finite"),
    "infinity": Case("rate: 10", "rate: .inf", r"w\.yaml:9: services\[0\]\.rate", "must be"),
    "text for a number": Case("rate: 10", "rate: '10'", r"w\.yaml:9: services\[0\]\.rate", "without quotes"),
    "boolean for a number": Case("rate: 10", "rate: true", r"w\.yaml:9: services\[0\]\.rate", "a number"),
    "nothing for a number": Case("rate: 10", "rate:", r"w\.yaml:9: services\[0\]\.rate", "not nothing"),
    "missing field": Case("    rate: 10\n", "", r"w\.yaml:7: services\[0\]", "rate is missing"),
    "unknown key": Case("rate: 10", "rat: 10", r"w\.yaml:9: services\[0\]\.rat", "did you mean rate?"),
    "repeated key": Case("rate: 10", "rate: 10\n    rate: 20", r"w\.yaml:10", "already on line 9"),
    "repeated service": Case("rate: 10", "rate: 10\n  - name: a", r"w\.yaml", "missing"),
    "zero latency": Case("latency_ms: 100", "latency_ms: 0", r"w\.yaml:10: .*latency_ms", "above 0"),
    "quantile": Case("100}", "100, quantile: 1}", r"w\.yaml:10: .*quantile", "below 1"),
    "absent quantile": Case(
        "100}", "100, quantile: 0.99}\n    arrivals: constant", r"w\.yaml:10: .*quantile", "only 0.9"
    ),
    "unknown model": Case(
        "model: small", "model: smal", r"w\.yaml:8: services\[0\]\.model", "did you mean small"
    ),
    "unknown GPU": Case("a100-40gb", "a100-40g", r"w\.yaml:5: gpus\[0\]\.model", "did you mean a100-40gb?"),
    "no GPUs in a node": Case("count: 2", "per_node: 0", r"w\.yaml:5: gpus\[0\]\.per_node", "at least 1"),
    "no GPUs": Case("count: 2", "count: 0", r"w\.yaml:5: gpus\[0\]\.count", "at least 1"),
    "cost without prices": Case(
        "services:", "objective: cost\nservices:", r"w\.yaml:5: gpus\[0\]", "cost_per_hour"
    ),
    "watts without power": Case(
        "services:", "objective: watts\nservices:", r"w\.yaml:6: objective", "power_w"
    ),
    "unknown profile": Case(
        "rate: 10", "rate: 10\n    profiles: [9g]", r"w\.yaml:10: .*profiles\[0\]", "'9g'"
    ),
    "bad combination": Case(
        "services:", "limits: {forbid: [4g]}\nservices:", r"w\.yaml:6: .*forbid", "4g+3g"
    ),
    "newer version": Case("partita/v1", "partita/v2", r"w\.yaml:1: apiVersion", "newer than this partita"),
    "other kind": Case("kind: Workload", "kind: Plan", r"w\.yaml:2: kind", "Workload"),
    "syntax": Case("gpus:", "gpus: [", r"w\.yaml:\d", "not YAML"),
    "a list": Case(WORKLOAD, "- a\n", r"w\.yaml:1", "a list, not a mapping"),
    "a scalar": Case(WORKLOAD, "words\n", r"w\.yaml:1", "not a mapping"),
    "empty": Case(WORKLOAD, "", r"w\.yaml:1", "empty"),
    "truncated JSON": Case(WORKLOAD, '{"apiVersion": "partita/v1",', r"w\.yaml:1", "ends in the middle"),
    "no services": Case(
        WORKLOAD[WORKLOAD.index("services:") :], "services: []\n", r"w\.yaml:6: services", "empty"
    ),
    "no table": Case("perf.csv", "other.csv", r"w\.yaml:3: performance\[0\]", "no file other.csv"),
    "table is a directory": Case("perf.csv", ".", r"w\.yaml:3: performance\[0\]", "directory"),
    "SLO no profile meets": Case("100}", "5}", r"w\.yaml:7: services\[0\]", "at least 10", code=4),
    "fits no slice it may use": Case(
        "model: small", "model: large\n    profiles: [1g]", r"w\.yaml:7: services\[0\]", "did not fit", code=4
    ),
    "too few GPUs": Case("rate: 10", "rate: 1000", "", "GPUs", code=4),
    "more nodes than there are": Case("rate: 10", "rate: 10\n    spread: 3", "", "", code=4),
}

ROW = "small,a100-40gb,1g.5gb,1,1,20,50,0.9"
TABLES = {
    "negative throughput": Case("1,1,20,50", "1,1,-20,50", r"perf\.csv:2", "throughput is"),
    "NaN throughput": Case("1,1,20,50", "1,1,nan,50", r"perf\.csv:2", "throughput is"),
    "zero latency": Case("1,1,20,50", "1,1,20,0", r"perf\.csv:2", "latency_ms"),
    "text for a number": Case("1,1,20,50", "1,1,fast,50", r"perf\.csv:2", "throughput is"),
    "zero batch": Case("1,1,20,50", "0,1,20,50", r"perf\.csv:2", "batch"),
    "bad quantile": Case("20,50,0.9", "20,50,most", r"perf\.csv:2", "quantile"),
    "unknown GPU": Case("small,a100-40gb,1g", "small,a100-4gb,1g", r"perf\.csv:2", "a100-40gb"),
    "unknown profile": Case("1g.5gb", "1g.6gb", r"perf\.csv:2", "1g.5gb"),
    "repeated row": Case(ROW, f"{ROW}\n{ROW}", r"perf\.csv:3", "perf.csv:2"),
    "short row": Case("20,50,0.9", "20", r"perf\.csv:2", "fields"),
    "missing column": Case("latency_ms,", "", r"perf\.csv:", ""),
    "unknown column": Case("latency_ms", "latencyms", r"perf\.csv:1", "latency_ms"),
    "header alone": Case(TABLE, TABLE.splitlines()[0] + "\n", r"perf\.csv:1", "rows"),
    "empty": Case(TABLE, "", r"perf\.csv", "empty"),
    "binary": Case(TABLE, "\0\1\2", r"perf\.csv", "text"),
}

PLAN = {"apiVersion": "partita/v1", "kind": "Plan"}
PLANS = {
    "truncated": ('{"apiVersion": "partita/v1", "kind": "Plan",\n "gpus": [', r"plan\.json:"),
    "newer": (json.dumps({**PLAN, "apiVersion": "partita/v2"}), r"plan\.json"),
    "other kind": (json.dumps({**PLAN, "kind": "Workload"}), r"plan\.json"),
    "fields missing": (json.dumps(PLAN), r"plan\.json"),
    "a list": ("[]", r"plan\.json"),
    "empty": ("", r"plan\.json"),
    "binary": ("\0", r"plan\.json"),
}


@dataclass(frozen=True)
class Result:
    code: object
    stdout: str
    stderr: str


class Command:
    """The command `partita` in this process, in a folder of its own."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        self.write("w.yaml", WORKLOAD)
        self.write("perf.csv", TABLE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def run(self, *arguments: str) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["partita", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self._capsys.readouterr()
        return Result(left.value.code, out, err)

    def refused(self, code: int, where: str, says: str, *arguments: str) -> str:
        before = self.files()
        result = self.run(*arguments)
        assert result.code == code, result.stderr
        assert "Traceback" not in result.stderr
        assert "fault in partita itself" not in result.stderr
        assert result.stderr.startswith("error: ") or "Usage:" in result.stderr
        assert re.search(where, result.stderr), result.stderr
        assert says in result.stderr, result.stderr
        assert not result.stdout
        assert self.files() == before
        return result.stderr


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


MAKE = ("plan", "-f", "w.yaml", "--out", "plan.json")


def test_the_sound_input_makes_a_plan(partita: Command) -> None:
    partita.run(*MAKE)
    assert json.loads((partita.folder / "plan.json").read_text(encoding="utf-8"))["kind"] == "Plan"


@pytest.mark.parametrize("case", WORKLOADS.values(), ids=WORKLOADS.keys())
def test_a_bad_workload_is_refused_with_its_line_and_a_hint(partita: Command, case: Case) -> None:
    assert case.old in WORKLOAD
    partita.write("w.yaml", WORKLOAD.replace(case.old, case.new, 1))
    said = partita.refused(case.code, case.where, case.says, *MAKE)
    assert "hint: " in said


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES.keys())
def test_a_bad_table_is_refused_with_its_line(partita: Command, case: Case) -> None:
    assert case.old in TABLE
    partita.write("perf.csv", TABLE.replace(case.old, case.new, 1))
    partita.refused(case.code, case.where, case.says, *MAKE)


@pytest.mark.parametrize(("text", "where"), PLANS.values(), ids=PLANS.keys())
def test_a_bad_plan_is_refused_with_its_place(partita: Command, text: str, where: str) -> None:
    partita.write("plan.json", text)
    partita.refused(2, where, "", "plan", "-f", "w.yaml", "--check", "plan.json")


@pytest.mark.parametrize("name", ["nowhere.yaml", "folder"])
def test_a_workload_that_cannot_be_read_is_refused(partita: Command, name: str) -> None:
    (partita.folder / "folder").mkdir()
    partita.refused(2, name, "", "plan", "-f", name, "--out", "plan.json")


@pytest.mark.parametrize("name", ["nowhere.json", "folder"])
def test_a_plan_that_cannot_be_read_is_refused(partita: Command, name: str) -> None:
    (partita.folder / "folder").mkdir()
    partita.refused(2, name, "", "plan", "-f", "w.yaml", "--check", name)


@pytest.mark.parametrize("place", ["folder", "nowhere/plan.json"])
def test_a_place_that_cannot_be_written_is_refused(partita: Command, place: str) -> None:
    (partita.folder / "folder").mkdir()
    partita.refused(2, place.partition("/")[0], "", "plan", "-f", "w.yaml", "--out", place)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-f", "w.yaml", "--planner", "none"),
        ("-f", "w.yaml", "--time-limit", "-1"),
        ("-f", "w.yaml", "-x"),
    ],
    ids=["no workload", "unknown planner", "negative time", "unknown option"],
)
def test_a_wrong_command_line_is_refused_with_the_usage(partita: Command, arguments: tuple[str, ...]) -> None:
    partita.refused(2, "Usage:", "", "plan", *arguments)


def test_several_faults_are_told_at_once(partita: Command) -> None:
    partita.write("w.yaml", WORKLOAD.replace("rate: 10", "rate: -1").replace("count: 2", "count: 0"))
    said = partita.refused(2, r"w\.yaml: 2 faults", "services[0].rate", *MAKE)
    assert "gpus[0].count" in said


def test_an_older_plan_stays_as_it_was_when_planning_fails(partita: Command) -> None:
    partita.write("plan.json", "old")
    partita.write("w.yaml", WORKLOAD.replace("rate: 10", "rate: 1000"))
    partita.refused(4, "", "", *MAKE)
    assert (partita.folder / "plan.json").read_text(encoding="utf-8") == "old"


def test_a_workload_from_stdin_is_refused_as_such(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from partita.cli.main import main; main()", "plan", "-f", "-"]
    done = subprocess.run(
        program,
        input=WORKLOAD.replace("rate: 10", "rate: 0"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: <stdin>:9: services[0].rate: must be above 0")
    assert not done.stdout
