"""Entry point of the command `partita`: global options, errors and exit codes."""

from __future__ import annotations

import os
import re
import sys
from functools import partial, wraps
from io import TextIOWrapper
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from partita import __version__
from partita.cli.options import GpusFile, hoisted, use_gpu_files
from partita.cli.output import ReaderGoneError, apart, echo, fill_gaps, guard_stdout, is_shown, shown
from partita.errors import InputError, PartitaError
from partita.registry import registered

if TYPE_CHECKING:
    from collections.abc import Callable

_COMMANDS = {
    "plan": (
        "partita.cli.plan:plan",
        "Plan the fewest GPUs that meet the services of a workload, and prove how good the plan is.",
    ),
    "diff": (
        "partita.cli.diff:diff",
        "Show what lies between two deployments: what moves, how long it takes, and what each service keeps.",
    ),
    "apply": (
        "partita.cli.apply:apply",
        "Bring the cluster to a plan, with no service falling under its floor on the way.",
    ),
    "run": ("partita.cli.run:run", "Keep a cluster to a workload, until told to stop."),
    "status": (
        "partita.cli.status:status",
        "Show the cluster: GPUs, services and jobs on them, who acts on it, how far that is, and the journal.",
    ),
    "adopt": (
        "partita.cli.apply:adopt",
        "Take over instances that someone else made: from then on a plan may use, move and destroy them.",
    ),
    "explain": (
        "partita.cli.explain:explain",
        "Say for each service what binds it, what a change would do, and the next best way to run it.",
    ),
    "simulate": (
        "partita.cli.simulate:simulate",
        "Simulate one service's queries on unlike slices: attainment, latencies, use.",
    ),
    "serve": (
        "partita.cli.serve:app",
        "Serve a workload's models over HTTP and gRPC (Open Inference Protocol v2).",
    ),
    "daemon": ("partita.cli.daemon:daemon", "Run the queue of jobs on a cluster, until told to stop."),
    "submit": (
        "partita.cli.submit:app",
        "Submit a job: partita submit --memory 12GiB -- python train.py. Prints its id.",
    ),
    "queue": (
        "partita.cli.queue:queue",
        "Show the jobs that run and wait, each with its reason and when it is expected to start.",
    ),
    "logs": ("partita.cli.queue:logs", "Show what a job has written, stdout and stderr as they came."),
    "cancel": ("partita.cli.queue:cancel", "Cancel jobs, whole arrays, or tasks of one; or all of yours."),
    "wait": ("partita.cli.queue:wait", "Wait until jobs are over: done, failed or cancelled."),
    "requeue": (
        "partita.cli.queue:requeue",
        "Have jobs run again under their ids, with all attempts kept: those that are over, and those that run.",
    ),
    "history": (
        "partita.cli.history:history",
        "Show the attempts of jobs: instance, seconds, exit code, verdict, peak memory and energy.",
    ),
    "classify": (
        "partita.cli.forecast:classify",
        "Say what an ended attempt would be taken for, and which line decided: partita classify log --exit 1.",
    ),
    "memory": (
        "partita.cli.forecast:memory",
        "Say how much GPU memory a model is forecast to need: partita memory hf-folder --with batch=8,tokens=8192.",
    ),
    "forget": (
        "partita.cli.history:forget",
        "Show what is believed of jobs from those before them, or, with names, forget it.",
    ),
    "energy": (
        "partita.cli.history:energy",
        "Show the energy of jobs and services, and of what nobody holds.",
    ),
    "doctor": (
        "partita.cli.gpus:doctor",
        "Look at driver, MIG mode, cuts and rivals, and say what mends each fault; change nothing.",
    ),
    "schema": (
        "partita.cli.convert:schema",
        "Print the JSON schema of a document, with what each field means.",
    ),
    "demo": (
        "partita.cli.demo:demo",
        "A day of five services on 24 simulated GPUs: plan, apply, and change twice with the services running.",
    ),
    "export": ("partita.cli.convert:export", "Write a plan in the format of another tool."),
    "import": ("partita.cli.convert:importing", "Read the config of another tool."),
    "perf": (
        "partita.cli.perf:perf",
        "Performance tables: what a model does on a slice. Check, show, import, estimate and measure them.",
    ),
    "gpus": ("partita.cli.gpus:gpus", "GPUs that are known, and what each can be cut into."),
}
"""Where each command is, and its line in `partita --help`; the module is imported when the command is called."""


_LINE_END = re.compile(r"(?<=\S)\n(?=[\w`'\"(~&])")
"""An end of a line inside a paragraph: rich would keep it, and the terminal breaks lines at its own width."""


class CommandLine(TyperGroup):
    """All commands, each imported when it is called, or when its own help is asked."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 -- typer's own
        super().__init__(**settings)
        self._places: dict[str, Callable[[], object]] = {}
        self._complete = False
        for name, (place, line) in _COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=line)
            self._places[name] = partial(resolve_name, place)

    def load(self, name: str) -> None:
        """Put the command itself in the place of its line, unless it is there already."""
        place = self._places.pop(name, None)
        if place is not None:
            with apart():  # libraries print while they are imported, too
                found = place()
            self.commands[name] = _command(name, found)

    def load_all(self) -> None:
        """Load every command: for the documentation."""
        for name in self.list_commands():
            self.load(name)

    def list_commands(self, ctx: object = None) -> list[str]:
        """Return the names of all commands; those of other packages are last."""
        del ctx
        self._add_outside()
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 -- typer has no public type
        """Return a command, or the line of one that is not loaded."""
        if cmd_name not in self.commands:
            self._add_outside()
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 -- as above
        """Return the command that is called, by its name, and the words after it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            self.load(name)
            command = self.commands[name]
        return name, command, rest

    def _add_outside(self) -> None:
        """Add the commands of other packages, each a function that typer makes a command of, or a `typer.Typer`.

        Their modules are imported for their help. One that is broken says so when it is called.
        """
        if self._complete:
            return
        self._complete = True
        for name, each in registered("commands").items():
            if name in self.commands:
                continue
            try:
                self.commands[name] = _command(name, each.load())
            except PartitaError as error:
                self.commands[name] = TyperCommand(name, help=error.what)
                self._places[name] = each.load


def _command(name: str, found: Any) -> Any:  # noqa: ANN401 -- as above
    """Return the command that a function or a family is.

    Help leaves out the environment variables that every option has. What a command writes is kept apart from what
    libraries print.
    """
    shell = typer.Typer(add_completion=False)
    shell.callback()(lambda: None)
    if not isinstance(found, typer.Typer):
        shell.command(name)(found)
    elif found.registered_callback or found.registered_groups or len(found.registered_commands) > 1:
        shell.add_typer(found, name=name)
    else:  # a command that has settings of its own
        (alone,) = found.registered_commands
        alone.name = name
        shell.registered_commands.append(alone)
    whole: Any = typer.main.get_command(shell)
    made = whole.commands[name]
    waiting = [made]
    while waiting:
        command = waiting.pop()
        waiting.extend(getattr(command, "commands", {}).values())
        command.callback = command.callback and _kept_apart(command.callback)
        if command.help and "\b" not in command.help:  # that is how a help says that its lines stay
            command.help = _LINE_END.sub(" ", command.help)
        for parameter in command.params:
            parameter.show_envvar = False
    return made


app = typer.Typer(
    cls=CommandLine,
    help="Cut Multi-Instance GPUs to fit the work: the fewest GPUs for your services, with a proof.",
    epilog="Start with `partita demo`. Exit codes: 0 done, 1 failed, 2 usage, 3 changes found, 4 infeasible, "
    "5 the cluster moved, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:  # noqa: FBT001 -- typer calls it with the flag
    if value:
        echo(f"partita {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    gpus_file: GpusFile = None,
) -> None:
    del debug, version  # --debug is read in main()
    use_gpu_files(gpus_file or ())


def command_line() -> CommandLine:
    """Return the whole command line."""
    root: Any = typer.main.get_command(app)
    root.callback = _kept_apart(root.callback)
    for parameter in root.params:
        parameter.show_envvar = False
    line: CommandLine = root
    return line


def _kept_apart(body: Callable[..., object]) -> Callable[..., object]:
    """Return a command that keeps what it writes apart, but not while its words are read: they may ask for help."""

    @wraps(body)
    def run(*words: object, **options: object) -> object:
        with apart():
            return body(*words, **options)

    return run


def _debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--debug` out from wherever it stands before a `--`: it must be known even when parsing fails."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    mine = [word for word in arguments[:end] if word != "--debug"]
    return mine + arguments[end:], len(mine) < end or bool(os.environ.get("PARTITA_DEBUG"))


def _require_shown(arguments: list[str]) -> None:
    """Refuse option names that no terminal shows: they are none of ours, and would be told as they are.

    Raises:
        InputError: there is one.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for word in arguments[:end]:
        name = word.partition("=")[0]
        if word.startswith("-") and not is_shown(name):
            raise InputError(f"there is no option {name}")


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    arguments, debug = _debug(sys.argv[1:])
    fill_gaps()
    guard_stdout()
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(
            errors="backslashreplace"
        )  # a terminal that cannot show a name still shows the rest
    try:
        _require_shown(arguments)
        command_line()(hoisted(arguments), auto_envvar_prefix="PARTITA", prog_name="partita")
    except PartitaError as error:
        if debug:
            raise
        _report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGoneError:
        sys.exit(141)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of what we tell is gone
        sys.exit(141)
    except Exception as error:
        if debug:
            raise
        _tell("error", f"a fault in partita itself: {type(error).__name__}: {error}")
        _tell("hint", "run it again with --debug and report the traceback")
        sys.exit(1)


def _report(error: PartitaError) -> None:
    where = f"{error.where}: " if error.where else ""
    _tell("error", f"{where}{error.what}")
    if error.hint:
        _tell("hint", error.hint)


def _tell(kind: str, text: str) -> None:
    """Write a message; no line of it can be taken for another one's first."""
    first, *more = shown(text).split("\n")
    lines = [f"{kind}: {first}", *(each if each.startswith("  ") else f"  {each}" for each in more)]
    sys.stderr.write("\n".join(lines) + "\n")
