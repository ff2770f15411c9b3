"""Entry point of the command `partita`: global options, errors and exit codes."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita import __version__
from partita.cli.commands import RegisteredCommands, finish
from partita.cli.json_log import json_stderr, tell, wants_json
from partita.cli.options import GpusFile, hoisted, use_gpu_files
from partita.cli.output import ReaderGoneError, echo, fill_gaps, guard_stdout
from partita.cli.safe_text import is_shown, shown
from partita.errors import InputError, PartitaError
from partita.interrupts import follows_interrupt
from partita.registry import package_at_fault, require_current

if TYPE_CHECKING:
    from collections.abc import Callable


class CommandLine(RegisteredCommands):
    """All commands: first Partita's, from planning to what is read off, and then those of other packages."""

    group = "commands"
    order = (
        "plan", "diff", "apply", "run", "pause", "resume", "status", "adopt", "explain", "simulate", "serve",
        "gateway", "picker", "worker", "dash", "top", "controller", "mig-manager", "daemon", "submit", "queue",
        "logs", "cancel", "wait", "requeue", "history", "classify", "memory", "forget", "energy", "doctor", "schema",
        "demo", "export", "import", "perf", "gpus",
    )  # fmt: skip


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
    finish(root)
    line: CommandLine = root
    return line


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
    _run(command_line, "partita")


def kubectl_plugin() -> None:
    """Run the commands of `kubectl partita`, likewise: kubectl finds a program of that name on the PATH."""
    _run(_plugin, "kubectl partita")


def _plugin() -> Any:  # noqa: ANN401 -- typer has no public type
    from partita.cli import kubectl  # noqa: PLC0415 -- with numpy and HiGHS, which `partita --help` needs not

    return kubectl.command_line()


def _run(make: Callable[[], Any], name: str) -> None:
    arguments, debug = _debug(sys.argv[1:])
    fill_gaps()
    guard_stdout()
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(
            errors="backslashreplace"
        )  # a terminal that cannot show a name still shows the rest
    as_json = wants_json(arguments)
    with json_stderr() if as_json else nullcontext():
        _carry_out(make, name, arguments, debug=debug, as_json=as_json)


_Refusal: Any = typer.BadParameter.__mro__[2]
"""What typer raises where the words of a command are wrong; it has no public name."""


def _carry_out(
    make: Callable[[], Any], name: str, arguments: list[str], *, debug: bool, as_json: bool
) -> None:
    report = partial(_report, as_json=as_json)
    try:
        _require_shown(arguments)
        require_current()
        settings = {"auto_envvar_prefix": "PARTITA", "prog_name": name}
        # For people, typer tells what is wrong with the words, and ends the process.
        code = make()(hoisted(arguments), standalone_mode=not as_json, **settings)
        sys.exit(code if isinstance(code, int) else 0)
    except PartitaError as error:
        if debug:
            raise
        report(error.what, where=error.where, hint=error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGoneError:
        sys.exit(141)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of what we tell is gone
        sys.exit(141)
    except typer.Abort:
        report("aborted: nobody answers what was asked")
        sys.exit(1)
    except _Refusal as error:
        path = getattr(getattr(error, "ctx", None), "command_path", name)
        report(error.format_message(), where=path, hint=f"{path} --help")
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if follows_interrupt(error):
            sys.exit(130)
        package = package_at_fault(error)
        makers = f" to its makers, or: pip uninstall {package.split()[0]}" if package else ""
        report(
            f"a fault in {package or 'partita itself'}: {type(error).__name__}: {error}",
            hint=f"run it again with --debug and report the traceback{makers}",
        )
        sys.exit(1)


def _report(what: str, *, where: str | None = None, hint: str | None = None, as_json: bool) -> None:
    text = f"{where}: {what}" if where else what
    if as_json:
        tell("error", text, where=where or None, hint=hint or None)
        return
    _write("error", text)
    if hint:
        _write("hint", hint)


def _write(kind: str, text: str) -> None:
    """Write a message; no line of it can be taken for another one's first."""
    first, *more = shown(text).split("\n")
    lines = [f"{kind}: {first}", *(each if each.startswith("  ") else f"  {each}" for each in more)]
    sys.stderr.write("\n".join(lines) + "\n")
